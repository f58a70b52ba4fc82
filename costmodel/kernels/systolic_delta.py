"""Gated delta net on a matrix core: products within a chunk use the array, chunks are sequential."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._systolic import CONSTANTS, in_turn, padded, roofline
from costmodel.kernels.base import Estimate, as_arrays
from costmodel.kernels.delta import CHUNK, moved

__all__ = ["CONSTANTS", "seconds"]


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
    dtype: str = "bf16",
    kernel: str = "chunked",  # noqa: ARG001 - one program, however a library of GPUs divides the work
) -> Estimate:
    """Return the time of the core of one gated-delta-net layer; see ``costmodel.kernels.delta``.

    Each product of a chunk is padded to the array; the state between chunks and a forward pass's intermediate
    results stay on the chip. Not counted: exponentials.
    """
    value_dim = head_dim if value_dim is None else value_dim
    *sizes, walks, work = as_arrays(batch, seq, heads, value_heads, head_dim, value_dim, walks, work)
    batch, seq, heads, value_heads, head_dim, value_dim = sizes
    keys, values, states = moved(dtype, *sizes)
    traffic = keys + values + states if traffic is None else np.asarray(traffic, dtype=np.float64)
    chunks = np.ceil(seq / CHUNK)
    key, value = padded(head_dim, device.array_side), padded(value_dim, device.array_side)
    depth = padded(CHUNK, device.array_side)
    # QKᵀ, KKᵀ and W: C × C × d; U and A·V: C × C × d_v; W·S, Q·S and the state's update: C × d × d_v.
    pair, state = depth * (3 * key + 2 * value), 3 * key * value
    flops = work * 2 * batch * value_heads * chunks * CHUNK * (pair + state)
    return in_turn(device, roofline(device, constants, dtype, flops, traffic), walks * chunks)
