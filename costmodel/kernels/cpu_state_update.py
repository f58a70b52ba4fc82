"""Update of recurrent states on a CPU: a fused loop over the tokens, as any scan there."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels import cpu_scan
from costmodel.kernels.base import Estimate
from costmodel.kernels.cpu_scan import CONSTANTS, HARNESS

__all__ = ["CONSTANTS", "HARNESS", "seconds"]


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    states: ArrayLike,  # noqa: ARG001 - the caches' model knows a call by its traffic
    traffic: ArrayLike,
    steps: ArrayLike = 1.0,
    vector_flops: ArrayLike = 0.0,
    dtype: str = "fp32",
) -> Estimate:
    """Return the time of one call that updates states; see ``costmodel.kernels.state_update``.

    A token's update has more numbers than a core has lanes, so that no chain limits it.
    """
    return cpu_scan.seconds(
        device,
        constants,
        chains=1.0,
        steps=steps,
        traffic=traffic,
        vector_flops=vector_flops,
        dtype=dtype,
        blocks=True,
    )
