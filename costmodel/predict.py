"""Prediction of a layer's time on a device: the arguments are checked here and make a `Prediction`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from costmodel import calibration, hardware
from costmodel.arguments import typed
from costmodel.errors import SizeError, unknown_name
from costmodel.evaluate import Number, bind
from costmodel.harness import HARNESSES
from costmodel.implementations import check_kernel
from costmodel.layers import Layer
from costmodel.plan import Implementation, make_plan
from costmodel.prediction import Prediction
from costmodel.symbols import DEVICE_SIZES
from costmodel.units import render

RUNGS = ("bound", "kernel", "calibrated")
STATES = ("warm", "cold")


def as_device(device: hardware.Device | str | Path) -> hardware.Device:
    """Return the device of that name or spec file, or the device itself."""
    return device if isinstance(device, hardware.Device) else hardware.load(device)


def several(
    devices: hardware.Device | str | Path | Iterable[hardware.Device | str | Path],
) -> Iterable[hardware.Device | str | Path]:
    """Return one or several devices as an iterable."""
    return [devices] if isinstance(devices, (hardware.Device, str, Path)) else devices


def check_rung(rung: str | None) -> None:
    """Raise UnknownNameError unless it is a rung, or None for the best available."""
    if rung is not None and rung not in RUNGS:
        raise unknown_name("rung", rung, RUNGS)


def together(grounds: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return the lowest rung of several predictions, and the origins of the constants of all of them.

    Parameters
    ----------
    grounds : iterable of (str, str)
        Each prediction's `rung` and `constants_from`; at least one.
    """
    rungs, texts = zip(*grounds, strict=True)
    origins = {name for text in texts for name in text.split(", ")}
    return min(rungs, key=RUNGS.index), ", ".join(sorted(origins))


def check_implementation(framework: str | None, harness: str | None = None) -> None:
    """Raise UnknownNameError if the framework or the harness is unknown."""
    calibration.check_framework(framework)
    if harness is not None and harness not in HARNESSES:
        raise unknown_name("harness", harness, HARNESSES)


@typed
def predict(
    layer: Layer,
    device: hardware.Device | str | Path,
    sizes: Mapping[str, ArrayLike] | None = None,
    *,
    rung: str | None = None,
    state: ArrayLike = "warm",
    framework: str | None = None,
    harness: str | None = None,
    kernel: str | None = None,
    **shapes: ArrayLike,
) -> Prediction:
    """Predict the time of a layer on a device.

    Parameters
    ----------
    layer : Layer
        What runs, with its options: ``cm.LSTM(dtype="fp16")``, a model, a captured torch module.
    device : Device, str or Path
        A device, its name (``cm.hardware.available()`` lists them), or its spec file.
    sizes : mapping, optional
        Sizes by name, in addition to those given as keywords. A size named like another parameter
        (``state``) can be given here.
    rung : {"bound", "kernel", "calibrated"}, optional
        What the prediction uses: ``bound`` the datasheet; ``kernel`` also models of how kernels work;
        ``calibrated`` also constants fitted on this device. Default: the last of these that is available.
    state : {"warm", "cold"}
        Whether inputs lie in the last-level cache, as far as they fit, or in main memory. Rung ``bound`` is
        always cold. A number is taken as the size `state`; to give both, put the size into `sizes`.
    framework, kernel : str, optional
        The framework whose kernels are meant (``pytorch``, ``trtllm``, ``vllm``, …), if constants of several
        are known, and the kernel (``fa2``, ``fa3``, …; for matrix products a tile).
    harness : {"graph-replay", "kernel-time", "eager-events", "host-wall", "perf_counter-median"}, optional
        The kind of measurement to predict. The last three include the host's time.
    **shapes : int, float or array
        The layer's sizes, positive whole numbers; arrays broadcast against each other.

    Returns
    -------
    Prediction
        Its numbers are scalars, or arrays of the sizes' broadcast shape.

    Raises
    ------
    UnknownNameError
        If the device, rung, state, framework or harness is unknown, or the layer has no such size.
    SizeError
        If a size is missing, not a whole number of at least 1, or inconsistent with the others; or if a
        given tile does not fit into the memory of one of the GPU's units (not at ``bound``).
    UnavailableError
        If the rung needs constants that do not exist, or the device lacks the number format.
    CostmodelError
        If an argument is of a wrong type, or a kernel's name fits none of the layer's kernels.
    """
    check_implementation(framework, harness)
    as_named = (framework, harness, kernel)
    found = measured_as(as_named, layer, device, sizes, rung=rung, state=state, **shapes)
    if kernel is not None:
        free = [part.kernel for part in found.plan.phases if part.phase.library in ("", kernel)]
        check_kernel(kernel, free, found.device)
    return found


def measured_as(
    implementation: Implementation,
    layer: Layer,
    device: hardware.Device | str | Path,
    sizes: Mapping[str, ArrayLike] | None = None,
    *,
    rung: str | None = None,
    state: ArrayLike = "warm",
    **shapes: ArrayLike,
) -> Prediction:
    """Predict as `predict` does, for any implementation: measurements may name unknown ones."""
    machine = as_device(device)
    check_rung(rung)
    if not isinstance(state, str):
        shapes, state = {**shapes, "state": state}, "warm"
    if state not in STATES:
        raise unknown_name("state", state, STATES)
    bound = bind_on(machine, layer, {**sizes, **shapes} if sizes else shapes)
    if rung != "bound":
        _check_on_chip(layer, machine, bound)
    plan = make_plan(layer, machine, rung, state, implementation)
    return Prediction(plan=plan, shapes=bound)


def bind_on(device: hardware.Device, layer: Layer, sizes: Mapping[str, ArrayLike]) -> dict[str, Number]:
    """Return the sizes of a layer as `bind` does, with those of the device's memories."""
    bound = bind(layer, sizes)
    return bound | {name: _device_size(device, name) for name in DEVICE_SIZES if name not in bound}


def _device_size(device: hardware.Device, name: str) -> float:
    """Return the on-chip memory available to a tile or a persistent kernel [bytes]."""
    if name == "onchip":
        return max(1.0, device.onchip_capacity)
    # Without a known size of unit-private memory, assume that of the smallest shipped GPU.
    return device.shared_per_unit or 48 * 1024.0


def _check_on_chip(layer: Layer, device: hardware.Device, sizes: Mapping[str, Number]) -> None:
    """Refuse tiles that exceed a GPU unit's registers and shared memory, its only on-chip room."""
    shared, registers = device.shared_per_unit, device.registers_per_unit
    need = np.max(layer.on_chip(sizes))
    if registers and need > shared + registers:
        tile, first, second = (render(float(n), "bytes", 4) for n in (need, shared, registers))
        raise SizeError(
            f"{layer.label} needs {tile} on the chip at once; a unit of {device.name} has {first} of shared "
            f"memory and {second} of registers: take a smaller tile"
        )
