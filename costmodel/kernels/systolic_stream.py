"""Memory-bound passes on a matrix-core chip: bytes at the memory bandwidth; rows stay on the chip."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._systolic import CONSTANTS, roofline
from costmodel.kernels.base import Estimate, as_arrays

__all__ = ["CONSTANTS", "seconds"]


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    rows: ArrayLike,
    cols: ArrayLike,
    reads: ArrayLike = 1.0,
    writes: ArrayLike = 1.0,
    dtype: str = "bf16",
    pattern: str = "elementwise",  # noqa: ARG001 - rows are reduced on the chip, at no further traffic
) -> Estimate:
    """Return the time of one pass over a rows × cols table; see ``costmodel.kernels.stream``."""
    rows, cols, reads, writes = as_arrays(rows, cols, reads, writes)
    traffic = dtypes.dtype(dtype).bytes * rows * cols * (reads + writes)
    answer = roofline(device, constants, device.native_16bit or "fp32", 0.0, traffic)
    return Estimate(answer.seconds, {name: answer.terms[name] for name in ("hbm", "launch")})
