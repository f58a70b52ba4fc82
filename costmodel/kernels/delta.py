"""Gated delta net: a matrix-valued state per head, S ← α S (I − β k kᵀ) + β v kᵀ, o = S q.

Prefill processes chunks of 64 tokens (Yang et al., arXiv 2412.06464): within a chunk everything is matrix
products, and the state passes from chunk to chunk. There are two implementations. ``fused`` (FlashInfer's)
assigns each value head of each sequence to one block, which steps over its chunks with the state on chip: the
time is waves of blocks × chunks. ``chunked`` (the Triton kernels of flash-linear-attention) computes the
parallel part in separate kernels, which write and read their intermediates, and steps over the chunks in a
kernel that does only the recurrence.

Decoding is an update of the states (`costmodel.kernels.state_update`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.errors import unknown_name
from costmodel.hardware import Device
from costmodel.kernels import _replay as replay
from costmodel.kernels._cache import misses
from costmodel.kernels._join import joined
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "start_cycles": Constant(
        8000.0, 1000.0, 120000.0, "cycles", "start and end of a call's kernels without work"
    ),
    "block_cycles": Constant(
        14000.0, 0.0, 100000.0, "cycles", "a block's load of its state, its first chunk, and its store"
    ),
    "stagger_cycles": Constant(
        0.0, 0.0, 200.0, "cycles", "time between starts of consecutive blocks in the first wave"
    ),
    "token_cycles": Constant(
        450.0, 0.0, 4000.0, "cycles", "one of the sequential rows of the triangular solve inside a chunk"
    ),
    "chunk_cycles": Constant(
        5000.0, 400.0, 40000.0, "cycles", "a dependent step of the recurrence: one chunk"
    ),
    "part_cycles": Constant(
        0.0,
        0.0,
        40000.0,
        "cycles",
        "a chunk of a head of 128 on a unit, in the parallel ones of the chunked kernels",
    ),
    "head_units": Constant(
        2.0, 1.0, 4.0, "1", "units that a head's recurrence keeps busy in the chunked kernel"
    ),
    "bandwidth_share": Constant(0.8, 0.4, 1.0, "1", "share of the memory bandwidth that long passes reach"),
    "cache_share": Constant(
        1.0, 0.4, 2.0, "1", "largest working set that hits, relative to the cache's capacity"
    ),
    "cache_bytes": Constant(20.0, 2.0, 128.0, "B/cycle", "bandwidth of the last-level cache per unit"),
    "extra_passes": Constant(
        20.0, 0.0, 60.0, "1", "intermediates written or read, in units of the values' size"
    ),
    "overlap": Constant(
        2.0, 1.0, 12.0, "1", "order of the norm that joins the limits: 1 adds them, 12 is max"
    ),
    "droop": Constant(0.1, 0.0, 0.3, "1", "relative slow-down of long work on all units (power, clock)"),
    "droop_s": Constant(1e-3, 1e-4, 2e-2, "s", "duration at which half of the droop has set in"),
    **replay.CONSTANTS,
}
#: Constants of a kernel's start, and rates from the cache to a unit.
STARTS, RATES = ("start_cycles",), ("cache_bytes",)
#: Constants of the harness, not of the device.
HARNESS = tuple(replay.CONSTANTS)

KERNELS = ("fused", "chunked")

#: Tokens of a chunk in all kernels; size of an element of the fp32 state [B].
CHUNK, STATE_BYTES = 64.0, 4.0
#: Width of the heads that constants are fitted on.
_MEASURED = 128.0
#: Sharpness of the cache's transition: low, as the chunked kernels' reuse distances range from one
#: intermediate tensor to all of them.
_REUSE_ORDER = 1.5


def moved(
    dtype: str, batch: Array, seq: Array, heads: Array, value_heads: Array, head_dim: Array, value_dim: Array
) -> tuple[Array, Array, Array]:
    """Return the sizes of q and k together, of v and o together, and of the states [B]."""
    rows = 2 * batch * seq * dtypes.dtype(dtype).bytes
    states = batch * value_heads * head_dim * value_dim * STATE_BYTES
    return rows * heads * head_dim, rows * value_heads * value_dim, states


def products(
    batch: Array, seq: Array, value_heads: Array, head_dim: Array | float, value_dim: Array | float
) -> Array:
    """Return the products of a forward pass over whole chunks, without the triangular solve [FLOP].

    KKᵀ, QKᵀ and W take 2·C·d per token and value head, U and A·V 2·C·d_v, W·S, Q·S and the state's update
    2·d·d_v (C tokens per chunk; arXiv 2412.06464, section 4).
    """
    return batch * seq * value_heads * (CHUNK * (6 * head_dim + 4 * value_dim) + 6 * head_dim * value_dim)


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
    dtype: str = "bf16",
    kernel: str = "fused",
) -> Estimate:
    """Return the time of the core of one gated-delta-net layer, without projections and convolution.

    Other passes of the chunked kernels (backward, or with a decay for each channel) are told by what they
    have more of; their units take as long for the same products.

    Parameters
    ----------
    batch, seq, heads, value_heads, head_dim, value_dim : array_like
        Sizes. Query/key heads and value heads may differ, and their widths (`value_dim` is by default
        `head_dim`, as in all that was measured).
    walks : array_like
        How often the chunks are walked, one walk after another.
    work : array_like
        Products of all chunks, relative to those of a forward pass (`products`).
    traffic : array_like, optional
        Bytes that the chunked kernels move [B]; by default those of a forward pass, of which
        ``extra_passes`` were fitted.
    exponentials : array_like
        Exponentials that kernels of their own take [FLOP].
    dtype : str
        Format of q, k, v and o; the state is fp32.
    kernel : str
        ``fused`` or ``chunked``.

    Returns
    -------
    Estimate
        Terms ``matrix:<dtype>``, ``hbm``, ``depth`` (sequential chunks), ``launch``; ``special:fp32`` where
        there are exponentials and the device has a rate for them.

    Raises
    ------
    UnknownNameError
        If there is no such kernel or dtype.
    """
    if kernel not in KERNELS:
        raise unknown_name("delta-net kernel", kernel, KERNELS)
    c = filled(CONSTANTS, constants)
    value_dim = head_dim if value_dim is None else value_dim
    *sizes, walks, work, exps = as_rows(
        batch, seq, heads, value_heads, head_dim, value_dim, walks, work, exponentials
    )
    batch, seq, heads, value_heads, head_dim, value_dim = sizes
    width = dtypes.dtype(dtype).bytes
    keys, values, states = moved(dtype, *sizes)
    compulsory = keys + values + 2 * states
    bandwidth = device.hbm_bandwidth * c["bandwidth_share"]
    cached = device.units * device.clock_hz * c["cache_bytes"]
    capacity = c["cache_share"] * device.llc_distinct
    cycle = 1 / device.clock_hz
    launch = np.full_like(states, c["start_cycles"] * cycle)

    chunks = np.ceil(seq / CHUNK)
    blocks = batch * value_heads / device.units
    flops = work * products(batch, seq, value_heads, head_dim, value_dim)
    matrix = flops / device.product_peak(dtype)
    solve = c["token_cycles"] * cycle * np.minimum(seq, CHUNK)
    walk = (c["block_cycles"] + walks * chunks * c["chunk_cycles"]) * cycle
    if kernel == "fused":
        waves = np.ceil(blocks)
        hbm = compulsory / bandwidth
    else:
        waves = np.maximum(1.0, c["head_units"] * blocks)
        # Parts take as long as their products: all that was measured has heads of 128.
        measured = products(batch, seq, value_heads, _MEASURED, _MEASURED)
        matrix = np.maximum(matrix, flops / measured * chunks * blocks * c["part_cycles"] * cycle)
        passed = c["extra_passes"] * values / 2 + 2 * chunks * states * width / STATE_BYTES
        moving = compulsory + passed if traffic is None else np.asarray(traffic, dtype=np.float64)
        missed = misses(2 * values + states, capacity, _REUSE_ORDER)
        hbm = moving * np.maximum(missed / bandwidth, 1 / cached)
    chain = waves * walk + np.minimum(blocks, 1.0) * device.units * c["stagger_cycles"] * cycle
    busy = joined(c["overlap"], chain, hbm, matrix)
    total = launch + solve + busy * _droop(c, busy, np.minimum(1.0, blocks))
    terms = {f"matrix:{dtype}": matrix, "hbm": hbm, "depth": chain + solve, "launch": launch}
    if np.any(exps > 0) and device.has("fp32", "special"):
        terms["special:fp32"] = exps / device.peak("fp32", "special")
        total = total + terms["special:fp32"]
    return replay.shown(device, c, total, terms, replay.SCANS)


def _droop(c: Mapping[str, float], work: Array, units: Array) -> Array:
    """Return the slow-down factor of long work on a share `units` of the units."""
    return 1.0 + c["droop"] * units * work / (work + c["droop_s"])
