"""What the models of matrix-core chips share: TPU TensorCores and Gaudi's matrix engines.

A chip has one or two large cores that a compiler schedules ahead of time: operands stream from memory while
the array computes, and there are no waves of thread blocks. The model is therefore a roofline with sizes
padded to the array and one efficiency each for arithmetic and memory. The start is that of the smallest
product posted of a TPU v7 (``validation/posted/products.csv``); the shares are assumed, and large products
posted of TPUs reach 0.79 to 0.97 of the peak. The chain of a recurrent layer uses the GPUs' model
(``recurrence``): weights stay on the chip, and each step waits for the whole chip.
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
    "start_s": Constant(1.6e-6, 1e-7, 1e-4, "s", "start and end of a fused operation"),
}
#: A product's rows are padded to a multiple of this (Jouppi et al., ISCA 2023; the scaling-book's TPU
#: chapter).
ROWS = 8.0
#: Operations of the vector unit per score, as layers count them. Forward: maximum, subtract, exp, sum.
#: Backward: subtract the log-sum-exp, exp, subtract D, multiply.
OF_A_SCORE = 4.0


def padded(size: Array | float, multiple: float) -> Array:
    """Return a size rounded up to a multiple of the array's."""
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
    """Return the start plus the larger of an engine's arithmetic and the memory time, at their shares."""
    c = filled(CONSTANTS, constants)
    rate = device.peak(dtype, None if engine == "matrix" else engine)
    arithmetic = np.asarray(flops / (c["peak_share"] * rate), dtype=np.float64)
    memory = np.asarray(traffic / (c["bandwidth_share"] * device.hbm_bandwidth), dtype=np.float64)
    arithmetic, memory = np.broadcast_arrays(arithmetic, memory)
    start = np.full(memory.shape, c["start_s"])
    terms = {f"{engine}:{dtype}": arithmetic, "hbm": memory, "launch": start}
    return Estimate(seconds=np.maximum(arithmetic, memory) + start, terms=terms)


def side_by_side(*engines: Estimate) -> Estimate:
    """Return the estimate of several engines that compute concurrently: the longest of their times."""
    return Estimate(
        seconds=reduce(np.maximum, (one.seconds for one in engines)),
        terms={name: term for one in engines for name, term in one.terms.items()},
    )


def softmax_beside(
    device: Device, constants: Mapping[str, float], products: Estimate, operations: Array
) -> Estimate:
    """Return attention's products with its softmax computed concurrently in the vector unit.

    While the array multiplies one block, the vector unit processes the scores of the previous one. An
    exponential counts as one operation. This is an assumption: it hides where its own pipeline computes one
    in the time that the lanes need for a score's three other operations. Without a vector rate in the spec
    the term is left out.
    """
    if not device.has("fp32", "vector"):
        return products
    softmax = roofline(device, constants, "fp32", operations, np.zeros(()), engine="vector")
    return side_by_side(softmax, products)


def in_turn(device: Device, of: Estimate, steps: Array, step_s: float | None = None) -> Estimate:
    """Return an estimate with a chain of dependent steps as a further lower limit.

    Parameters
    ----------
    device : Device
        The device that runs it.
    of : Estimate
        The estimate without dependences; its start is the term ``launch``.
    steps : array
        Number of steps, each of which waits for the previous one.
    step_s : float, optional
        Time of one step [s]; default that of the device's spec, the time in which pipelines drain.
    """
    chain = np.asarray(steps * (device.step_s if step_s is None else step_s), dtype=np.float64)
    seconds = np.maximum(of.seconds, chain + of.terms["launch"])
    return Estimate(seconds, {**of.terms, "depth": np.broadcast_to(chain, seconds.shape)})
