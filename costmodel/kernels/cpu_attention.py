"""Tiled attention on a CPU, as in ATen's ``FlashAttentionKernel.cpp``.

Blocks of 32, 64 or 256 queries (depending on the sequence's length) are combined with blocks of 512 keys by
two products and an online softmax. Under a causal mask, key blocks wholly above the diagonal are skipped, and
the others computed whole. Every query head reads its keys on its own, even if heads share them, and finds
them in a cache as far as one head's fit. Blocks of queries are distributed over the threads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._cpu import MEMORY, seconds_per_byte
from costmodel.kernels._join import joined
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "peak_share": Constant(0.85, 0.1, 1.0, "1", "share of the peak that the blocks' products reach"),
    "score_cycles": Constant(3.0, 0.1, 60.0, "cycles", "online softmax, per score"),
    "block_s": Constant(
        1e-6, 0.0, 1e-4, "s", "overhead of calls per pair of query and key blocks, without packing"
    ),
    "pack_cycles": Constant(0.6, 0.0, 20.0, "cycles", "packing, per element of K and V that a block uses"),
    "start_s": Constant(
        1e-5, 1e-7, 3e-4, "s", "harness: dispatch of a call from Python, including allocation of its result"
    ),
    "fork_s": Constant(5e-6, 1e-7, 5e-4, "s", "waking the other threads and waiting for the last"),
    "overlap": Constant(2.0, 1.0, 8.0, "1", "order of the norm that joins arithmetic and bytes"),
    **MEMORY,
}
#: Constants of the harness, not of the device.
HARNESS = ("start_s",)

_KEYS = 512.0
#: Work relative to the forward pass: backward computes five products, forward two.
_PASSES = {"fwd": 1.0, "bwd": 2.5}


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    seq: ArrayLike,
    seq_kv: ArrayLike,
    head_dim: ArrayLike,
    value_dim: ArrayLike | None = None,
    held: ArrayLike | None = None,
    window: ArrayLike | None = None,
    dtype: str = "fp32",
    causal: bool = False,
    tile: tuple[int, int] | None = None,
    direction: str = "fwd",
) -> Estimate:
    """Return the time of one attention call.

    Parameters
    ----------
    batch, heads, kv_heads, seq, seq_kv, head_dim, value_dim : array_like
        Sizes.
    held : array_like, optional
        Keys and values that exist, where a mask leaves queries `seq_kv` of them on average; default:
        `seq_kv`.
    window : array_like, optional
        Keys that a query of a causal call sees: its own and those right before it; default: all.
    dtype : str
        Format of operands and result.
    causal : bool
        Whether key blocks above the diagonal are skipped.
    tile : (int, int), optional
        Queries and keys of a block; default: the library's.
    direction : str
        ``fwd`` or ``bwd``.

    Returns
    -------
    Estimate
        Terms ``vector:<dtype>`` (products), ``special:fp32`` (softmax), ``depth`` (calls per block, and
        threads waiting for the last one), ``l2`` (caches), ``hbm``, ``launch``.
    """
    c = filled(CONSTANTS, constants)
    value_dim = head_dim if value_dim is None else value_dim
    there, seen = (seq_kv if held is None else held), (np.inf if window is None else window)
    sizes = as_rows(batch, heads, kv_heads, seq, seq_kv, head_dim, value_dim, there, seen)
    batch, heads, kv_heads, seq, seq_kv, head_dim, value_dim, there, seen = sizes
    rows = (
        np.select([seq >= 768, seq >= 192], [256.0, 64.0], 32.0)
        if tile is None
        else np.full(seq.shape, tile[0])
    )
    cols = _KEYS if tile is None else float(tile[1])
    row_blocks = np.ceil(seq / rows)
    keys = _causal_keys(seq, seq_kv, rows, cols, seen) if causal else seq_kv
    jobs = batch * heads * row_blocks
    threads = np.clip(jobs, 1.0, device.units)
    waves = np.ceil(jobs / threads) * threads / jobs
    passes = _PASSES[direction]

    scores = batch * heads * seq * keys
    rate = device.peak(dtype) / device.units * threads
    products = passes * 2 * scores * (head_dim + value_dim) / (rate * c["peak_share"])
    softmax = scores * c["score_cycles"] / (threads * device.clock_hz)
    met = jobs * keys * (head_dim + value_dim)
    packing = passes * met * c["pack_cycles"] / (threads * device.clock_hz)
    calls = passes * jobs * np.ceil(keys / cols) * c["block_s"] / threads

    width = dtypes.dtype(dtype).bytes
    distinct = batch * (heads * seq + kv_heads * there) * (head_dim + value_dim) * width * passes
    again = np.maximum(0.0, met * width - distinct)
    cached, memory = seconds_per_byte(device, c, distinct, threads)
    # Keys and values are reused head by head, so only one head's have to stay in the cache, for each thread.
    one_head = keys * (head_dim + value_dim) * width
    cached_again, memory_again = seconds_per_byte(device, c, one_head * threads, threads)
    from_caches = distinct * cached + again * cached_again
    from_memory = distinct * memory + again * memory_again
    launch = c["start_s"] + np.where(threads > 1, c["fork_s"], 0.0)
    arithmetic = (products + softmax + packing + calls) * waves
    body = joined(c["overlap"], arithmetic, from_caches + from_memory)
    return Estimate(
        seconds=launch + body,
        terms={
            f"vector:{dtype}": products + packing,
            "special:fp32": softmax,
            "depth": calls + arithmetic * (1 - 1 / waves),
            "l2": from_caches,
            "hbm": from_memory,
            "launch": launch,
        },
    )


def _causal_keys(
    seq: Array, seq_kv: Array, rows: Array, cols: float, window: Array | float = np.inf
) -> Array:
    """Return the average number of keys that a block of queries computes: whole blocks, window to diagonal.

    The queries are the last of the keys. Each sees itself and the keys right before it, `window` in all.
    """
    blocks, before = np.ceil(seq / rows), np.maximum(seq_kv - seq, 0.0)
    total = np.zeros_like(seq)
    # Row blocks skip a block of keys that begins after their last query, or ends before their windows begin.
    for start in np.arange(0.0, float(seq_kv.max()), cols):
        early = np.clip(np.floor((start - before) / rows), 0.0, blocks)
        late = np.clip(np.ceil((start + cols - 1 + window - before) / rows), early, blocks)
        total += (late - early) * np.clip(seq_kv - start, 0.0, cols)
    return np.asarray(total / blocks)
