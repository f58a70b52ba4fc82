"""Attention of one new token on a matrix core: the cache streams once, rows are padded to the array."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._systolic import CONSTANTS, OF_A_SCORE, ROWS, padded, roofline, softmax_beside
from costmodel.kernels.base import Estimate, as_arrays

__all__ = ["CONSTANTS", "seconds"]


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    seq_kv: ArrayLike,
    head_dim: ArrayLike,
    flops: ArrayLike | None = None,
    operations: ArrayLike = 0.0,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
) -> Estimate:
    """Return the time of one decoding step's attention; see ``costmodel.kernels.decode``.

    Query heads that share keys are the rows of one product. Keys are not split, as one core has the whole
    sequence. The vector unit computes the softmax, as in prefill.
    """
    batch, heads, kv_heads, seq_kv, head_dim = as_arrays(batch, heads, kv_heads, seq_kv, head_dim)
    width, kv_width = dtypes.dtype(dtype).bytes, dtypes.dtype(kv_dtype or dtype).bytes
    rows = padded(heads / kv_heads, ROWS)
    scores = batch * kv_heads * rows * padded(seq_kv, device.array_side)
    covered = 4 * scores * padded(head_dim, device.array_side)
    products = covered if flops is None else np.maximum(covered, flops)
    cache = 2 * kv_width * batch * kv_heads * seq_kv * head_dim
    traffic = cache + 2 * width * batch * heads * head_dim
    softmax = np.maximum(OF_A_SCORE * scores, operations)
    return softmax_beside(device, constants, roofline(device, constants, dtype, products, traffic), softmax)
