"""Layers: one module per family, discovered by searching this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from costmodel.arguments import typed
from costmodel.errors import UnknownNameError, unknown_name
from costmodel.layers._base import Layer
from costmodel.layers._elsewhere import is_captured, meant_by
from costmodel.layers._options import option_text

__all__ = ["Layer", "available", "classes", "get", "option_text"]


@cache
def classes() -> dict[str, type[Layer]]:
    """Return all layer classes, keyed by their command-line name (``tiled-attention``)."""
    found: dict[str, type[Layer]] = {}
    for module in _modules():
        found |= _inside(module)
    return dict(sorted(found.items()))


def _modules() -> list[str]:
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in names if not name.startswith("_")]


def _inside(module: str) -> dict[str, type[Layer]]:
    """Return the layer classes that one module defines."""
    values = vars(importlib.import_module(f"{__name__}.{module}")).values()
    return {v.name: v for v in values if isinstance(v, type) and issubclass(v, Layer) and "name" in vars(v)}


def available() -> list[str]:
    """Return the names of all layers."""
    return list(classes())


@typed
@cache
def get(name: str) -> type[Layer]:
    """Return the layer class with this name (``lstm``, ``tiled-attention``).

    Raises
    ------
    UnknownNameError
        If no layer has this name; the message suggests the nearest one.
    """
    # Import only the modules that mention the name: a single prediction then starts a tenth faster.
    for module in _modules():
        if f'"{name}"' in (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"):
            found = _inside(module)
            if name in found:
                return found[name]
    said = {one: (kind.__doc__ or "").partition("\n")[0] for one, kind in classes().items()}
    if is_captured(name):
        raise UnknownNameError(
            f"unknown layer {name!r}; capture the torch module with cm.from_torch, in Python"
        )
    raise unknown_name("layer", name, said, about=said, meant=meant_by(name))
