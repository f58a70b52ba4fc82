"""Causal depthwise convolution on a matrix-core chip: a roofline of the vector unit and memory."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._systolic import CONSTANTS, roofline
from costmodel.kernels.base import Estimate, as_arrays
from costmodel.kernels.conv import moved

__all__ = ["CONSTANTS", "seconds"]


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    seq: ArrayLike,
    channels: ArrayLike,
    width: ArrayLike = 4.0,
    dtype: str = "bf16",
    decode: bool = False,
) -> Estimate:
    """Return the time of one causal convolution; see ``costmodel.kernels.conv``."""
    batch, seq, channels, width = as_arrays(batch, seq, channels, width)
    distinct, window = moved(batch, seq, channels, width, dtype, decode)
    arithmetic = 2 * batch * seq * channels * width
    return roofline(device, constants, "fp32", arithmetic, distinct + window, engine="vector")
