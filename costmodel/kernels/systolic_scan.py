"""Scans and chunked linear attention on a matrix-core chip: bytes, arithmetic by engine, or the chain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._systolic import CONSTANTS, in_turn, roofline, side_by_side
from costmodel.kernels.base import Estimate, as_arrays

__all__ = ["CONSTANTS", "seconds"]

#: Latency of a dependent multiply and add in the vector unit [cycles]. It is assumed, between the few cycles
#: of the pipeline and the tens of a loop iteration.
_LANE_CYCLES = 12.0


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    chains: ArrayLike,  # noqa: ARG001 - one pipeline interleaves them: their work is the arithmetic
    steps: ArrayLike,
    traffic: ArrayLike,
    again: ArrayLike = 0.0,
    matrix_flops: ArrayLike = 0.0,
    vector_flops: ArrayLike = 0.0,
    special_flops: ArrayLike = 0.0,
    launches: ArrayLike = 1.0,
    dtype: str = "bf16",
    blocks: bool = False,
) -> Estimate:
    """Return the time of one scan kernel; see ``costmodel.kernels.scan``.

    A step of a chain of chunks waits for the preceding products, a step of a lane for an instruction.
    Independent chains hide each other's latency in one pipeline. The vector unit computes special functions.
    """
    steps, traffic, again, matrix, vector, special, launches = as_arrays(
        steps, traffic, again, matrix_flops, vector_flops, special_flops, launches
    )
    by_vector = roofline(device, constants, "fp32", vector + special, traffic + again, engine="vector")
    both = by_vector
    if np.any(matrix > 0):
        both = side_by_side(by_vector, roofline(device, constants, dtype, matrix, traffic + again))
    start = by_vector.terms["launch"]
    answer = Estimate(
        seconds=both.seconds + (launches - 1) * start, terms={**both.terms, "launch": launches * start}
    )
    return in_turn(device, answer, steps, None if blocks else _LANE_CYCLES / device.clock_hz)
