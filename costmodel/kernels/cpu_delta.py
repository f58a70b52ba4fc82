"""Gated delta net on a CPU: products of chunks, one after another, with the state in a cache."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels import cpu_scan
from costmodel.kernels.base import Estimate, as_arrays
from costmodel.kernels.cpu_scan import CONSTANTS, HARNESS
from costmodel.kernels.delta import CHUNK, moved, products

__all__ = ["CONSTANTS", "HARNESS", "seconds"]


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    seq: ArrayLike,
    heads: ArrayLike,
    value_heads: ArrayLike,
    head_dim: ArrayLike = 128.0,
    value_dim: ArrayLike | None = None,
    walks: ArrayLike = 1.0,
    work: ArrayLike = 1.0,
    traffic: ArrayLike | None = None,
    exponentials: ArrayLike = 0.0,
    dtype: str = "fp32",
    kernel: str = "chunked",  # noqa: ARG001 - one program, however a library of GPUs divides the work
) -> Estimate:
    """Return the time of the core of one gated-delta-net layer; see ``costmodel.kernels.delta``."""
    value_dim = head_dim if value_dim is None else value_dim
    *sizes, walks, work = as_arrays(batch, seq, heads, value_heads, head_dim, value_dim, walks, work)
    batch, seq, heads, value_heads, head_dim, value_dim = sizes
    keys, values, states = moved(dtype, *sizes)
    return cpu_scan.seconds(
        device,
        constants,
        chains=batch * value_heads,
        steps=walks * np.ceil(seq / CHUNK),
        traffic=keys + values + states if traffic is None else traffic,
        matrix_flops=work * products(batch, seq, value_heads, head_dim, value_dim),
        special_flops=exponentials,
        dtype=dtype,
        blocks=True,
    )
