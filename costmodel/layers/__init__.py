"""Layers: one file a family, found by looking in this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from costmodel.errors import unknown_name
from costmodel.layers._base import Layer

__all__ = ["Layer", "available", "classes", "get"]


@cache
def classes() -> dict[str, type[Layer]]:
    """Return every layer class by its name on the command line (``tiled-attention``)."""
    found: dict[str, type[Layer]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Layer) and "name" in vars(value):
                found[value.name] = value
    return dict(sorted(found.items()))


def available() -> list[str]:
    """Return the names of all layers."""
    return list(classes())


def get(name: str) -> type[Layer]:
    """Return the class of that name (``lstm``, ``tiled-attention``).

    Raises
    ------
    UnknownNameError
        If there is none; the text offers the nearest.
    """
    if name not in classes():
        raise unknown_name("layer", name, classes())
    return classes()[name]
