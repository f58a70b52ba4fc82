"""Kernel models: one file each, found by looking in this folder.

A kernel model turns sizes, a device and a few constants into seconds. Its module has ``CONSTANTS`` and a
function ``seconds(device, constants, **sizes, **options)`` that returns an `Estimate`. Constants that are not
given have their defaults, and sizes broadcast. A model that does not cover all devices and options also has a
function ``check(device, **options)`` that refuses the others.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from inspect import signature
from typing import Any

from costmodel.errors import unknown_name
from costmodel.hardware import Device

__all__ = ["available", "check", "group", "model", "on", "plainer", "taken"]


@cache
def available() -> tuple[str, ...]:
    """Return the names of all kernel models."""
    return tuple(
        m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and not m.name.startswith("_")
    )


@cache
def model(name: str) -> Any:
    """Return the module of a kernel model.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    if name not in available():
        raise unknown_name("kernel model", name, available())
    return importlib.import_module(f"{__name__}.{name}")


def group(name: str, of: str) -> tuple[str, ...]:
    """Return a named group of a kernel model's constants (such as ``HARNESS``); empty if it has none."""
    return tuple(getattr(model(name), of, ()))


def refuse(name: str, device: Device, options: Mapping[str, Any], *, by: str = "check") -> None:
    """Let a kernel model refuse a device or options before any size is known.

    Parameters
    ----------
    name : str
        The kernel model.
    device, options : Device, mapping
        The device that runs the phase, and the phase's static options.
    by : {"check", "runs"}
        Which function of the model to call: ``check`` refuses what it does not model, ``runs`` what the
        device cannot run at all.

    Raises
    ------
    UnavailableError
        If it refuses.
    """
    says = getattr(model(name), by, None)
    if says is not None:
        says(device, **options)


#: Kinds of processor with kernel models of their own → prefix of these models' names.
_OWN = {"core": "cpu_", "TensorCore": "systolic_", "MME": "systolic_"}
#: Kernel models that exist for GPUs only → the one whose sizes and options they extend, and which stands in
#: on other processors.
_PLAINER = {"experts": "gemm"}


def on(name: str, device: Device) -> str:
    """Return the kernel model for a device: CPUs and matrix-core chips have some of their own."""
    prefix = _OWN.get(device.spec.units.kind)
    if prefix is None:
        return name
    own = f"{prefix}{_PLAINER.get(name, name)}"
    return own if own in available() else name


def plainer(kernel: str, wanted: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a phase that a kernel model takes: all, unless it stands in.

    Parameters
    ----------
    kernel, wanted : str
        The kernel model that times the phase, and the one that the phase names.
    given : mapping
        The options that the phase has.
    """
    if wanted not in _PLAINER:
        return dict(given)
    return taken(kernel, wanted, given)


def taken(kernel: str, wanted: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a kernel model takes: all, or, of another processor's model, what the named one shares.

    Only GPUs have kernels that read a list of keys to its end, for instance.
    """
    if kernel == wanted:
        return dict(given)
    return {
        name: value for name, value in given.items() if name in signature(model(kernel).seconds).parameters
    }
