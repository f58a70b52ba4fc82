"""Families of architectures: one file each, found by looking in this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from costmodel.models._family import Family

__all__ = ["Family", "by_type"]


@cache
def by_type() -> dict[str, Family]:
    """Return the family of every ``model_type`` that configurations give."""
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, Family):
                found |= dict.fromkeys(value.types, value)
    return dict(sorted(found.items()))
