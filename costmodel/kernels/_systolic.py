"""What the models of matrix cores share: TPU TensorCores and Gaudi's matrix engines.

A chip has one or two large cores that a compiler schedules ahead of time: operands stream from memory
while the array computes, and there are no waves of thread blocks. What is left is a roofline with
the array's padding and an efficiency each way. No open measurement of such a chip says more: the
constants are assumed. The chain of a recurrent layer has the GPUs' model (``recurrence``): weights that stay
on the chip, and a step that waits for all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from costmodel.hardware import Device
from costmodel.kernels.base import Array, Constant, Estimate, filled

CONSTANTS = {
    "peak_share": Constant(0.85, 0.3, 1.0, "1", "share of an engine's peak that padded work reaches"),
    "bandwidth_share": Constant(0.85, 0.3, 1.0, "1", "share of the memory bandwidth that long streams reach"),
    "start_s": Constant(2e-6, 1e-7, 1e-4, "s", "start and end of a fused operation"),
}
#: Rows that stream through the array together (Jouppi et al., ISCA 2023; the scaling-book's TPU chapter).
ROWS = 8.0
#: Operations of the vector unit for each score, as layers count them. Forward: maximum, subtract, exp, sum.
#: Backward: subtract the log-sum-exp, exp, subtract D, multiply.
OF_A_SCORE = 4.0


def padded(size: Array | float, multiple: float) -> Array:
    """Return a size rounded up to what the array takes."""
    return np.asarray(np.ceil(np.asarray(size, dtype=np.float64) / multiple) * multiple)


def roofline(
    device: Device,
    constants: Mapping[str, float],
    dtype: str,
    flops: Array | float,
    traffic: Array,
    *,
    engine: str = "matrix",
) -> Estimate:
    """Return the larger of an engine's arithmetic and traffic, each at its share, after the start [s]."""
    c = filled(CONSTANTS, constants)
    rate = device.peak(dtype, None if engine == "matrix" else engine)
    arithmetic = np.asarray(flops / (c["peak_share"] * rate), dtype=np.float64)
    memory = np.asarray(traffic / (c["bandwidth_share"] * device.hbm_bandwidth), dtype=np.float64)
    arithmetic, memory = np.broadcast_arrays(arithmetic, memory)
    start = np.full(memory.shape, c["start_s"])
    terms = {f"{engine}:{dtype}": arithmetic, "hbm": memory, "launch": start}
    return Estimate(seconds=np.maximum(arithmetic, memory) + start, terms=terms)


def side_by_side(*engines: Estimate) -> Estimate:
    """Return what several engines take that compute at once: as long as the one that takes longest."""
    return Estimate(
        seconds=reduce(np.maximum, (one.seconds for one in engines)),
        terms={name: term for one in engines for name, term in one.terms.items()},
    )


def softmax_beside(
    device: Device, constants: Mapping[str, float], products: Estimate, operations: Array
) -> Estimate:
    """Return attention's products with so many operations of its softmax beside them, in the vector unit.

    While the array multiplies a block, the vector unit is at the scores of the one before. An exponential
    counts as one operation, an assumption: where its own pipeline takes one in the time that the lanes need
    for a score's three others, it hides behind them. Without a vector rate in the spec the term is absent.
    """
    if not device.has("fp32", "vector"):
        return products
    softmax = roofline(device, constants, "fp32", operations, np.zeros(()), engine="vector")
    return side_by_side(softmax, products)


def in_turn(device: Device, of: Estimate, steps: Array, step_s: float | None = None) -> Estimate:
    """Return an estimate whose work takes at least so many steps one after another.

    Parameters
    ----------
    device : Device
        Where it runs.
    of : Estimate
        The same with nothing waiting, its start among the terms.
    steps : array
        Steps of which each waits for the one before.
    step_s : float, optional
        Time of one [s]; default that of the device's spec, in which pipelines drain.
    """
    chain = np.asarray(steps * (device.step_s if step_s is None else step_s), dtype=np.float64)
    seconds = np.maximum(of.seconds, chain + of.terms["launch"])
    return Estimate(seconds, {**of.terms, "depth": np.broadcast_to(chain, seconds.shape)})
