"""Kernel models: one file each, found by looking in this folder.

A kernel model turns sizes, a device and a few constants into seconds. Its
module has ``CONSTANTS`` and a function ``seconds(device, constants, **sizes,
**options)`` that returns an `Estimate`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from costmodel.errors import unknown_name
from costmodel.hardware import Device

__all__ = ["available", "model", "on"]


@cache
def available() -> tuple[str, ...]:
    """Return the names of all kernel models."""
    return tuple(
        m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and not m.name.startswith("_")
    )


@cache
def model(name: str) -> Any:
    """Return the module of that kernel model.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    if name not in available():
        raise unknown_name("kernel model", name, available())
    return importlib.import_module(f"{__name__}.{name}")


#: Kinds of processor that have models of their own, and what their names begin with.
_OWN = {"core": "cpu_", "TensorCore": "systolic_", "MME": "systolic_"}


def on(name: str, device: Device) -> str:
    """Return the model that times a kernel on a device: not every chip has GPU units, waves and tiles."""
    own = f"{_OWN.get(device.spec.units.kind, '')}{name}"
    return own if own in available() else name
