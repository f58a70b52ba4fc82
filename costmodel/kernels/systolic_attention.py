"""Fused attention on a matrix core: blocks of 512 queries and keys; those on the diagonal computed whole.

The array computes the products and the vector unit concurrently the softmax, block by block; the slower of
the two limits.
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

#: Rows of Q and of K in a block, as in kernels for these chips.
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

    The vector unit computes the softmax of all computed scores, or `operations` if the layer counts more:
    with blocks of few keys, O is rescaled more often.
    """
    sizes = as_arrays(batch, heads, kv_heads, seq, head_dim, seq_kv, value_dim)
    batch, heads, kv_heads, seq, head_dim, seq_kv, value_dim = sizes
    rows, cols = (float(side) for side in tile or _BLOCK)
    blocks = ceil_div(seq, rows) * ceil_div(seq_kv, cols)
    if causal:
        blocks = causal_blocks(seq, 1.0, rows, cols, seq_kv, window)
    key, value = padded(head_dim, device.array_side), padded(value_dim, device.array_side)
    # QKᵀ and PV; backward has dK and dV in one kernel and dQ in another, each of which recomputes QKᵀ and dP
    # (JAX's splash attention by default). Operands move three times: Q, K, V and dO twice, then the
    # gradients.
    passes, widths, moved = (2.0, 4 * key + 3 * value, 3.0) if direction == "bwd" else (1.0, key + value, 1.0)
    tokens = heads * seq + kv_heads * (seq_kv if held is None else np.asarray(held, dtype=np.float64))
    traffic = moved * dtypes.dtype(dtype).bytes * batch * tokens * (head_dim + value_dim)
    # Forward, a row of O is rescaled once per block by the exponential of its maximum's increase.
    scaled = np.zeros_like(value_dim) if direction == "bwd" else value_dim + 1
    met = batch * heads * blocks * rows
    softmax = np.maximum(met * (passes * OF_A_SCORE * cols + scaled), operations)
    products = roofline(device, constants, dtype, 2 * met * cols * widths, traffic)
    return softmax_beside(device, constants, products, softmax)
