"""Kernel models: one file each, found by looking in this folder.

A kernel model turns sizes, a device and a few constants into seconds. Its
module has ``CONSTANTS`` and a function ``seconds(device, constants, **sizes,
**options)`` that returns an `Estimate`: on that device, with these values of
``CONSTANTS`` and the defaults of those not given, of sizes that broadcast. One
that does not time all devices and options has a function
``check(device, **options)`` too, that refuses the others.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from costmodel.errors import unknown_name
from costmodel.hardware import Device

__all__ = ["available", "check", "group", "model", "on"]


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


def group(name: str, of: str) -> tuple[str, ...]:
    """Return the constants of a kernel model listed under a name there (``HARNESS``), if any are."""
    return tuple(getattr(model(name), of, ()))


def refuse(name: str, device: Device, options: Mapping[str, Any], *, by: str = "check") -> None:
    """Let a kernel model refuse, before any size is known, what it says it does.

    Parameters
    ----------
    name : str
        The kernel model.
    device, options : Device, mapping
        Where, and the static choices of the phase.
    by : {"check", "runs"}
        What it does not time, or what the device cannot run at all.

    Raises
    ------
    UnavailableError
        If it refuses.
    """
    says = getattr(model(name), by, None)
    if says is not None:
        says(device, **options)


#: Kinds of processor that have models of their own, and what their names begin with.
_OWN = {"core": "cpu_", "TensorCore": "systolic_", "MME": "systolic_"}


def on(name: str, device: Device) -> str:
    """Return the model that times a kernel on a device: not every chip has GPU units, waves and tiles."""
    own = f"{_OWN.get(device.spec.units.kind, '')}{name}"
    return own if own in available() else name
