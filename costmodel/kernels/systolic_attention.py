"""Fused attention on a matrix core: blocks of 512 queries and keys, what the diagonal cuts computed whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._systolic import ARRAY, CONSTANTS, padded, roofline
from costmodel.kernels._tiling import causal_blocks, ceil_div
from costmodel.kernels.base import Estimate, as_arrays

__all__ = ["CONSTANTS", "seconds"]

#: Rows of Q and of K in a block, as kernels for these chips take them.
_BLOCK = (512, 512)


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    seq: ArrayLike,
    head_dim: ArrayLike,
    seq_kv: ArrayLike,
    value_dim: ArrayLike,
    held: ArrayLike | None = None,
    window: ArrayLike | None = None,
    dtype: str = "bf16",
    causal: bool = True,
    tile: tuple[int, int] | None = None,
    direction: str = "fwd",
) -> Estimate:
    """Return the time of one fused attention call; see ``costmodel.kernels.attention``."""
    sizes = as_arrays(batch, heads, kv_heads, seq, head_dim, seq_kv, value_dim)
    batch, heads, kv_heads, seq, head_dim, seq_kv, value_dim = sizes
    rows, cols = (float(side) for side in tile or _BLOCK)
    blocks = ceil_div(seq, rows) * ceil_div(seq_kv, cols)
    if causal:
        blocks = causal_blocks(seq, 1.0, rows, cols, seq_kv, window)
    key, value = padded(head_dim, ARRAY), padded(value_dim, ARRAY)
    # QKᵀ and PV; backward QKᵀ again, dP, dV, dQ and dK, and twice the operands moved.
    widths, moved = (3 * key + 2 * value, 2.0) if direction == "bwd" else (key + value, 1.0)
    tokens = heads * seq + kv_heads * (seq_kv if held is None else np.asarray(held, dtype=np.float64))
    traffic = moved * dtypes.dtype(dtype).bytes * batch * tokens * (head_dim + value_dim)
    return roofline(device, constants, dtype, 2 * batch * heads * blocks * rows * cols * widths, traffic)
