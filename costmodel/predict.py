"""Where a layer meets a device: what is asked, checked; the answer is a `Prediction`."""

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
    """Return devices, one or several as they may be given, as several."""
    return [devices] if isinstance(devices, (hardware.Device, str, Path)) else devices


def check_rung(rung: str | None) -> None:
    """Raise UnknownNameError unless it is a rung, or None for the best there is."""
    if rung is not None and rung not in RUNGS:
        raise unknown_name("rung", rung, RUNGS)


def check_implementation(framework: str | None, harness: str | None = None) -> None:
    """Raise UnknownNameError if nothing is known of that framework, or no measurement is taken so."""
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
        Sizes by name, beside those given as keywords: for a size whose name is one of the other
        parameters' (``state``).
    rung : {"bound", "kernel", "calibrated"}, optional
        How much the prediction knows: the datasheet; also how kernels work; also constants measured on
        this device. Default the last of them that there is.
    state : {"warm", "cold"}
        Whether inputs lie in the last-level cache, as far as it holds them, or in main memory. At
        ``bound`` always cold. A number is taken for the size `state`; to give both, put the size into
        `sizes`.
    framework, kernel : str, optional
        Whose kernels are meant (``pytorch``, ``trtllm``, ``vllm``, …), where constants of several are
        known, and which of them (``fa2``, ``fa3``, …; of products a tile).
    harness : {"graph-replay", "kernel-time", "eager-events", "host-wall", "perf_counter-median"}, optional
        How the measurement is taken that is to be estimated: the last three time the host too.
    **shapes : int, float or array
        The layer's sizes, positive whole numbers; arrays broadcast against each other.

    Returns
    -------
    Prediction
        Its numbers are scalars, or arrays of the shape that the sizes broadcast to.

    Raises
    ------
    UnknownNameError
        If there is no such device, rung, state, framework or harness, or the layer has no such size.
    SizeError
        If a size is missing, not a whole number of at least 1, or does not go with the others; or if a
        tile that was given does not fit into the memory of a GPU's unit (not at ``bound``).
    UnavailableError
        If the rung needs constants that there are none of, or the device has no such dtype.
    CostmodelError
        If an argument is of another kind, or a kernel's name says nothing of the layer's kernels.
    """
    check_implementation(framework, harness)
    as_named = (framework, harness, kernel)
    found = measured_as(as_named, layer, device, sizes, rung=rung, state=state, **shapes)
    if kernel is not None:
        check_kernel(kernel, [part.kernel for part in found.plan.phases])
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
    """Predict as `predict` does, whatever the implementation: measurements name what nothing is known of."""
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
    """Return the sizes of a layer as `bind` does, those of the device's memories among them."""
    bound = bind(layer, sizes)
    return bound | {name: _device_size(device, name) for name in DEVICE_SIZES if name not in bound}


def _device_size(device: hardware.Device, name: str) -> float:
    """Return the on-chip memory that a tile, or a persistent kernel, may use [bytes]."""
    if name == "onchip":
        return max(1.0, device.onchip_capacity)
    # Where no unit-private memory is known, a tile may at least use what the smallest GPU here has.
    return device.shared_per_unit or 48 * 1024.0


def _check_on_chip(layer: Layer, device: hardware.Device, sizes: Mapping[str, Number]) -> None:
    """Refuse what no unit holds: of a GPU, whose registers and shared memory are all the room there is."""
    shared, registers = device.shared_per_unit, device.registers_per_unit
    need = np.max(layer.on_chip(sizes))
    if registers and need > shared + registers:
        tile, first, second = (render(float(n), "bytes", 4) for n in (need, shared, registers))
        raise SizeError(
            f"{layer.label} needs {tile} on the chip at once; a unit of {device.name} has {first} of shared "
            f"memory and {second} of registers: take a smaller tile"
        )
