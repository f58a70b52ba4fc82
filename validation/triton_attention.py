"""Attention in Triton with selectable tile sizes: the schedules that the traffic model describes.

It is not meant to be fast. FA-2 (Dao, arXiv 2307.08691, Algorithm 1) and FA-1 (Dao et al., arXiv 2205.14135,
Algorithm 1) are implemented as in their papers, so that modelled bytes can be compared with measured ones for
each tile size. The module imports torch and Triton, and is imported only when a case needs it.
"""

# Triton has no type stubs, and interprets annotations of its kernels' parameters itself.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _fa2(
    q,
    k,
    v,
    out,
    lse,
    n,
    group,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Keep one block of Q, loop over blocks of K and V; write O and the log-sum-exp once."""
    block = tl.program_id(0)
    base = tl.program_id(1).to(tl.int64) * n
    base_kv = (tl.program_id(1) // group).to(tl.int64) * n
    rows = block * ROWS + tl.arange(0, ROWS)
    wide = tl.arange(0, D)
    inside = rows < n
    places = (base + rows)[:, None] * D + wide[None, :]
    queries = tl.load(q + places, mask=inside[:, None], other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, D], tl.float32)
    last = n
    if CAUSAL:
        last = tl.minimum(n, (block + 1) * ROWS)
    for start in range(0, last, COLS):
        cols = start + tl.arange(0, COLS)
        seen = cols < last
        there = (base_kv + cols)[:, None] * D + wide[None, :]
        keys = tl.load(k + there, mask=seen[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        allowed = seen[None, :]
        if CAUSAL:
            allowed = allowed & (cols[None, :] <= rows[:, None])
        scores = tl.where(allowed, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        fade = tl.exp(top - higher)
        values = tl.load(v + there, mask=seen[:, None], other=0.0)
        sums = sums * fade[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        total = total * fade + tl.sum(weights, 1)
        top = higher
    tl.store(out + places, (sums / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(lse + base + rows, top + tl.log(total), mask=inside)


@triton.jit
def _fa1(
    q,
    k,
    v,
    out,
    sums,
    tops,
    n,
    group,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Keep one block of K and V, loop over blocks of Q; O, l and m pass through memory every time."""
    base = tl.program_id(0).to(tl.int64) * n
    base_kv = (tl.program_id(0) // group).to(tl.int64) * n
    wide = tl.arange(0, D)
    for start in range(0, n, COLS):
        cols = start + tl.arange(0, COLS)
        seen = cols < n
        there = (base_kv + cols)[:, None] * D + wide[None, :]
        keys = tl.load(k + there, mask=seen[:, None], other=0.0)
        values = tl.load(v + there, mask=seen[:, None], other=0.0)
        first_row = 0
        if CAUSAL:
            first_row = start  # earlier rows see none of these keys
        for first in range(first_row, n, ROWS):
            rows = first + tl.arange(0, ROWS)
            inside = rows < n
            # For the first block of K there is nothing to read yet.
            before = inside & (start > 0)
            places = (base + rows)[:, None] * D + wide[None, :]
            queries = tl.load(q + places, mask=inside[:, None], other=0.0)
            total = tl.load(sums + base + rows, mask=before, other=0.0)
            top = tl.load(tops + base + rows, mask=before, other=float("-inf"))
            so_far = tl.load(out + places, mask=before[:, None], other=0.0).to(tl.float32)
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
            allowed = seen[None, :]
            if CAUSAL:
                allowed = allowed & (cols[None, :] <= rows[:, None])
            scores = tl.where(allowed, scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            weights = tl.exp(scores - higher[:, None])
            fade = tl.exp(top - higher)
            more = total * fade + tl.sum(weights, 1)
            product = tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
            joined = (so_far * (total * fade)[:, None] + product) / more[:, None]
            tl.store(out + places, joined.to(out.dtype.element_ty), mask=inside[:, None])
            tl.store(sums + base + rows, more, mask=inside)
            tl.store(tops + base + rows, higher, mask=inside)
        # Stores have to be visible to other warps in the next iteration.
        tl.debug_barrier()


def attention(
    q: Any, k: Any, v: Any, *, schedule: str, tile: tuple[int, int], causal: bool = False, precision: str
) -> Any:
    """Return softmax(Q Kᵀ/√d) V.

    Parameters
    ----------
    q : Tensor, shape (batch, heads, seq, head_dim)
    k, v : Tensor, shape (batch, kv_heads, seq, head_dim)
        Contiguous, on CUDA (or on the CPU under Triton's interpreter); ``head_dim`` a power of 2.
    schedule : str
        ``fa1`` or ``fa2``.
    tile : (int, int)
        Rows of Q and of K in a tile: powers of 2, at least 16.
    causal : bool
        Query i sees keys 0 … i; tiles wholly above the diagonal are skipped.
    precision : str
        ``ieee`` or ``tf32``, for fp32 operands.

    Raises
    ------
    RuntimeError
        If tiles do not fit into the device's shared memory (Triton's ``OutOfResources``).
    """
    batch, heads, n, width = q.shape
    rows, cols = tile
    out = q.new_empty(q.shape)
    statistics = [q.new_empty((batch, heads, n), dtype=torch.float32) for _ in range(2)]
    common = {
        "D": width,
        "ROWS": rows,
        "COLS": cols,
        "CAUSAL": causal,
        "PRECISION": precision,
        "num_warps": 8 if rows >= 128 else 4,
    }
    group, scale = heads // k.shape[1], width**-0.5
    if schedule == "fa2":
        grid = (triton.cdiv(n, rows), batch * heads)
        _fa2[grid](q, k, v, out, statistics[0], n, group, scale, **common)
    else:
        _fa1[(batch * heads,)](q, k, v, out, *statistics, n, group, scale, **common)
    return out
