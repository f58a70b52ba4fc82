"""Families of architectures: one file each; the folder is searched for them."""

from __future__ import annotations

import copyreg
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from costmodel.models._family import Family

__all__ = ["Family", "by_type"]


@cache
def by_type() -> dict[str, Family]:
    """Return the family of every known ``model_type``."""
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, Family):
                found |= dict.fromkeys(value.types, value)
    return dict(sorted(found.items()))


def _of_type(model_type: str) -> Family:
    return by_type()[model_type]


def _found_again(family: Family) -> tuple[Callable[[str], Family], tuple[str]]:
    """Return how to unpickle a family: by name, because default functions of fields cannot be pickled."""
    return _of_type, (family.types[0],)


copyreg.pickle(Family, _found_again)
