"""Fused attention on a matrix core: blocks of 512 queries and keys, what the diagonal cuts computed whole.

The array multiplies, the vector unit makes the softmax of the scores beside it, block by block: the slower of
the two says how long it takes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._systolic import CONSTANTS, OF_A_SCORE, padded, roofline, softmax_beside
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
    operations: ArrayLike = 0.0,
    dtype: str = "bf16",
    causal: bool = True,
    tile: tuple[int, int] | None = None,
    direction: str = "fwd",
) -> Estimate:
    """Return the time of one fused attention call; see ``costmodel.kernels.attention``.

    The vector unit has the softmax of all scores that are computed, or so many `operations` where the layer
    counts more: blocks of a few keys have O scaled more often.
    """
    sizes = as_arrays(batch, heads, kv_heads, seq, head_dim, seq_kv, value_dim)
    batch, heads, kv_heads, seq, head_dim, seq_kv, value_dim = sizes
    rows, cols = (float(side) for side in tile or _BLOCK)
    blocks = ceil_div(seq, rows) * ceil_div(seq_kv, cols)
    if causal:
        blocks = causal_blocks(seq, 1.0, rows, cols, seq_kv, window)
    key, value = padded(head_dim, device.array_side), padded(value_dim, device.array_side)
    # QKᵀ and PV; backward dK and dV in one kernel and dQ in another, QKᵀ and dP again in each (JAX's splash
    # attention, unless told otherwise). Operands move three times: Q, K, V and dO twice, then the gradients.
    passes, widths, moved = (2.0, 4 * key + 3 * value, 3.0) if direction == "bwd" else (1.0, key + value, 1.0)
    tokens = heads * seq + kv_heads * (seq_kv if held is None else np.asarray(held, dtype=np.float64))
    traffic = moved * dtypes.dtype(dtype).bytes * batch * tokens * (head_dim + value_dim)
    # Forward, a row of O is scaled once a block, by an exp of how far its maximum rose.
    scaled = np.zeros_like(value_dim) if direction == "bwd" else value_dim + 1
    met = batch * heads * blocks * rows
    softmax = np.maximum(met * (passes * OF_A_SCORE * cols + scaled), operations)
    products = roofline(device, constants, dtype, 2 * met * cols * widths, traffic)
    return softmax_beside(device, constants, products, softmax)
