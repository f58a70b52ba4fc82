"""Update of recurrent states on a matrix-core chip: vector arithmetic on states from memory."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._systolic import CONSTANTS, in_turn, roofline
from costmodel.kernels.base import Estimate, as_arrays

__all__ = ["CONSTANTS", "seconds"]


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    states: ArrayLike,  # noqa: ARG001 - no cache holds them between calls: the traffic says it all
    traffic: ArrayLike,
    steps: ArrayLike = 1.0,
    vector_flops: ArrayLike = 0.0,
    dtype: str = "bf16",  # noqa: ARG001 - vector units compute in fp32
) -> Estimate:
    """Return the time of one call that updates states; see ``costmodel.kernels.state_update``."""
    traffic, steps, vector = as_arrays(traffic, steps, vector_flops)
    return in_turn(device, roofline(device, constants, "fp32", vector, traffic, engine="vector"), steps - 1)
