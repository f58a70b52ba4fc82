"""Causal depthwise convolution on a CPU: a loop of multiply-adds over the tokens of each channel."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels import cpu_scan
from costmodel.kernels.base import Estimate, as_arrays
from costmodel.kernels.conv import moved
from costmodel.kernels.cpu_scan import CONSTANTS, HARNESS

__all__ = ["CONSTANTS", "HARNESS", "seconds"]


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    seq: ArrayLike,
    channels: ArrayLike,
    width: ArrayLike = 4.0,
    dtype: str = "fp32",
    decode: bool = False,
) -> Estimate:
    """Return the time of one causal convolution; see ``costmodel.kernels.conv``.

    No chain limits it: tokens of a sequence are independent of each other.
    """
    batch, seq, channels, width = as_arrays(batch, seq, channels, width)
    distinct, window = moved(batch, seq, channels, width, dtype, decode)
    return cpu_scan.seconds(
        device,
        constants,
        chains=1.0,
        steps=0.0,
        traffic=distinct + window,
        vector_flops=2 * batch * seq * channels * width,
        dtype=dtype,
    )
