"""Fused attention over whole sequences (prefill, encoders): FlashAttention and its relatives.

A thread block takes a block of query rows of one head (or of a packed group of heads) and steps over the
keys. A causal kernel skips the tiles above the diagonal, and only those. A step takes its two matrix products
and its softmax, overlapped as far as the library does so, and no less than a latency. Tiles that the diagonal
or the last key cuts are masked, which takes longer. A thread block also takes a prologue and the time to load
and store its rows. Thread blocks are list-scheduled on the units in the library's order
(`costmodel.kernels._tiling.makespan`). Where a library splits the keys, partial outputs are written in fp32
and merged. Memory traffic overlaps this: the compulsory bytes, served by the cache as far as the previous
replay left them there. A serving framework's causal call also stores K and V to a cache in a separate kernel.

FlashAttention-2: Dao, 2023, arXiv:2307.08691. FlashAttention-3: Shah et al., 2024,
arXiv:2407.08608. FlashInfer: Ye et al., 2025, arXiv:2501.01005. Left out: dropout, sequences of unequal
length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels import _flash as flash
from costmodel.kernels import _flash_backward as backward
from costmodel.kernels import _replay as replay
from costmodel.kernels._flash_splits import prefill_splits
from costmodel.kernels._join import CACHE_SHARE, L2_UNIT_BYTES, RAMP_CYCLES, byte_time, miss_share, norm
from costmodel.kernels._power import droop
from costmodel.kernels._tiling import STAGGER_CYCLES, causal_blocks, ceil_div, makespan
from costmodel.kernels.base import Array, Constant, Estimate, as_arrays, filled

CONSTANTS = {
    "matrix_efficiency": Constant(
        0.75, 0.3, 1.08, "1", "share of the dense peak, at its stated clock, that the steps' products reach"
    ),
    "softmax_cost": Constant(
        1.2,
        0.0,
        6.0,
        "1",
        "time of a tile's softmax, relative to its exponentials at the special-function rate",
    ),
    "mask_cost": Constant(0.5, 0.0, 6.0, "1", "time of masking a tile, relative to its softmax"),
    "step_cycles": Constant(
        1000.0, 0.0, 8000.0, "cycles", "least time of a step on a KV tile (of 128 keys, with producer warps)"
    ),
    "block_cycles": Constant(
        4000.0, 0.0, 30000.0, "cycles", "prologue and epilogue of a thread block, independent of sizes"
    ),
    "stagger_cycles": STAGGER_CYCLES,
    "row_bytes_per_cycle": Constant(
        60.0, 4.0, 512.0, "B/cycle", "rate at which a unit loads the rows of Q and stores those of O"
    ),
    "bandwidth_share": Constant(0.75, 0.3, 1.0, "1", "share of the memory bandwidth that is reached"),
    "ramp_cycles": RAMP_CYCLES,
    "cache_share": CACHE_SHARE,
    "l2_unit_bytes": L2_UNIT_BYTES,
    "energy_j": Constant(
        1.3e-12, 1e-13, 1e-11, "J", "total energy per operation: long kernels slow down to the power limit"
    ),
    "token_cycles": Constant(
        4000.0,
        0.0,
        60000.0,
        "cycles",
        "time of a thread block that stores one token's K and V (vLLM's kernel)",
    ),
    "merge_cycles": Constant(5000.0, 0.0, 40000.0, "cycles", "launch of the kernel that merges splits"),
    "launch_cycles": Constant(
        11000.0, 2000.0, 60000.0, "cycles", "harness: launch overhead of a call in a replayed graph"
    ),
    **replay.CONSTANTS,
}
#: Constants that are shares of the tensor cores' peak, which the rest of a step keeps from being reached.
PEAK_SHARES = ("matrix_efficiency",)
#: Constants that are rates between a unit and caches or memory.
RATES = ("row_bytes_per_cycle", "l2_unit_bytes")
#: Constants of the harness and the library's host side, not of the device.
HARNESS = ("launch_cycles", *replay.CONSTANTS)

#: Duration at which half of the slow-down has set in [s]: the time scale of the power limit.
_DROOP_S = 1e-2
#: Order of the norm that combines times that overlap in part: a step and its latency, tiles and memory. Order
#: 1 would add them, and a high order would take the largest.
_JOIN = 2.0
#: Order of the norm of a backward step's products and the shared memory that feeds them. The open tables do
#: not tell it: of 2, 3, 4, 5 and 8, posted times of H200, B200 and GB300 are nearest to 4.
_FEED = 4.0
#: Most threads resident on a unit, and most threads that vLLM's cache write uses per token.
_THREADS, _TOKEN_THREADS = 2048.0, 512.0


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    seq: ArrayLike,
    head_dim: ArrayLike,
    seq_kv: ArrayLike | None = None,
    held: ArrayLike | None = None,
    window: ArrayLike | None = None,
    value_dim: ArrayLike | None = None,
    dtype: str = "bf16",
    causal: bool = True,
    kernel: str | None = None,
    cache_write: str = "none",
    tile: tuple[int, int] | None = None,
    direction: str = "fwd",
) -> Estimate:
    """Return the time of one fused attention call.

    Parameters
    ----------
    batch, heads, kv_heads, seq, head_dim : array_like
        Sizes, broadcast together; `heads` is a multiple of `kv_heads`.
    seq_kv : array_like, optional
        Keys; a causal call's queries are the last of them. Default: as many as queries.
    held : array_like, optional
        Keys and values that exist, where a mask leaves each row block `seq_kv` of them on average; default:
        `seq_kv`.
    window : array_like, optional
        Keys that a query of a causal call sees: its own and those right before it; default: all.
    value_dim : array_like, optional
        Width of a value; default: that of a key.
    dtype : str
        Format of Q, K, V and O; products accumulate in fp32.
    causal : bool
        Whether tiles above the diagonal are skipped.
    kernel : str, optional
        One of `costmodel.kernels._flash.KERNELS`; default by architecture: fa3 on Hopper, trtllm on
        Blackwell, ck on AMD's CDNA, fa2 elsewhere.
    cache_write : {"none", "bytes", "token"}
        Whether K and V are also written to a cache: not at all, at memory speed (SGLang), or by one thread
        block per token (vLLM), whichever of the two takes longer.
    tile : (int, int), optional
        Rows of Q and rows of K in a tile; default: the kernel's own.
    direction : {"fwd", "bwd"}
        Backward recomputes the scores and does four products with them in the same blocks, no faster than
        shared memory feeds them (`costmodel.kernels._flash_backward`). It takes as long for the softmax's
        derivative as for the softmax, and moves twice the operands. dQ is summed in fp32, which another
        kernel converts. Its constants are those of forward, as there is no open table of it.

    Returns
    -------
    Estimate
        Terms: ``matrix:<dtype>`` or ``vector:<dtype>`` (products), ``special:fp32`` (softmax), ``depth``
        (latency, masks, prologues and partly filled waves), ``hbm``, ``l2`` (including the merge),
        ``launch``.

    Raises
    ------
    UnknownNameError
        If there is no such kernel or dtype.
    """
    kernel = flash.check(kernel or flash.default_kernel(device))
    given = filled(CONSTANTS, constants)
    sizes = as_arrays(batch, heads, kv_heads, seq, head_dim, seq if seq_kv is None else seq_kv)
    batch, heads, kv_heads, seq, head_dim, seq_kv = sizes
    back = direction == "bwd"
    causal = causal and (not back or backward.skips_masked(device, dtype))
    width, cycle, units = dtypes.dtype(dtype).bytes, 1 / device.clock_hz, device.units
    values = head_dim if value_dim is None else np.asarray(value_dim, dtype=np.float64)
    cut = _retiled(flash.prefill(device, kernel, seq, heads / kv_heads, head_dim, seq_kv, causal), tile)
    size, value_size = flash.padded(head_dim, kernel), flash.padded(values, kernel)
    # Widths of the products of a step: QKᵀ and PV; backward QKᵀ again, dP, dV, dQ and dK. Backward also moves
    # twice the operands, and computes the softmax's derivative after the exponentials.
    widths, again = (3 * size + 2 * value_size, 2.0) if back else (size + value_size, 1.0)

    packed_heads = heads / cut.group
    row_blocks = ceil_div(seq * cut.group, cut.rows)
    steps, blocks, ragged = _tiles(cut, seq, seq_kv, window, causal=causal)
    jobs = batch * packed_heads * row_blocks
    splits, merged = (
        backward.SPLITS
        if back
        else prefill_splits(kernel, units, batch, packed_heads * row_blocks, seq_kv, blocks)
    )

    # Time of one step, alone on the unit, and with the thread blocks that share it.
    flops = 2 * cut.rows * cut.cols * widths
    shared = backward.shared_cycles(device, kernel, size, value_size, width, causal) if back else 0.0
    product, special = _step(device, given, cut, kernel, direction, dtype, flops, shared, again)
    busy = norm(flash.softmax_order(kernel), product, special)
    sharing = np.clip(np.ceil(jobs * splits / units), 1.0, cut.slots)
    least = given["step_cycles"] * flash.step_share(kernel, cut) * cycle
    step = norm(_JOIN, sharing * busy, least * widths / (size + value_size))
    rows = flash.moved_rows(kernel, cut, seq * cut.group / row_blocks) * flash.row_share(kernel, heads)
    once = (given["block_cycles"] + 2 * width * rows * size / given["row_bytes_per_cycle"]) * cycle
    per_row = steps / row_blocks / splits
    ragged = np.minimum(ragged, per_row) * flash.mask_share(kernel, heads / kv_heads)
    masked = given["mask_cost"] * ragged * special * sharing
    mean = per_row * step + masked + once / np.where(jobs * splits > units, cut.overlapping, 1.0)
    longest = ceil_div(blocks, splits) * step + masked + once
    last = splits * (flash.after_longest(cut, packed_heads, row_blocks) if causal else jobs)
    tiles = makespan(jobs * splits, units * cut.slots, mean, longest, last, given["stagger_cycles"] * cycle)

    out = batch * heads * seq * (head_dim + values) / 2
    keys = batch * kv_heads * (seq_kv if held is None else np.asarray(held)) * (head_dim + values) / 2
    written = 0.0 if cache_write == "none" else 2 * width * batch * kv_heads * seq * head_dim
    # Partial outputs are fp32, written and read back.
    partial = (
        backward.summed_bytes(batch * heads * seq * head_dim, width)
        if back
        else np.where(splits > 1, 8 * splits * out, 0.0)
    )
    miss = miss_share(device, given["cache_share"], 2 * width * (out + keys) + written + partial)
    rate = byte_time(device, given, miss)
    memory = again * 2 * width * (out + keys) * rate
    ideal, core = batch * packed_heads * steps / units, norm(_JOIN, tiles, memory)
    slower = _slower(device, given["energy_j"] * ideal * units * flops, core)
    ramp = miss * given["ramp_cycles"] * cycle
    merge = np.where(merged, given["merge_cycles"] * cycle, 0.0) + partial * rate
    waves = _token_waves(units, batch * seq, kv_heads * head_dim) if cache_write == "token" else 0.0
    store = norm(3.0, 2 * written * rate, given["token_cycles"] * cycle * waves)
    launch = np.asarray((given["launch_cycles"] + flash.preparation(kernel)) * cycle)

    terms = {
        f"{device.engine(dtype)}:{dtype}": ideal * product * slower,
        "special:fp32": ideal * special * slower,
        "depth": np.maximum(tiles - ideal * busy, 0.0) * slower,
        "hbm": (memory + store) * miss + ramp,
        "l2": (memory + store) * (1 - miss) + merge,
        "launch": launch,
    }
    total = core * slower + ramp + merge + store + launch
    return replay.shown(device, given, total, terms)


def _retiled(cut: flash.Tiling, tile: tuple[int, int] | None) -> flash.Tiling:
    """Return the tiling with the rows and keys asked for, or as it is if none were."""
    if tile is None:
        return cut
    return replace(cut, rows=np.asarray(float(tile[0])), cols=np.asarray(float(tile[1])))


def _step(
    device: Device,
    given: Mapping[str, float],
    cut: flash.Tiling,
    kernel: str,
    direction: str,
    dtype: str,
    flops: Array,
    shared: Array | float,
    again: float,
) -> tuple[Array, Array]:
    """Return the time of a step's products and of its softmax, alone on a unit [s].

    `shared` is the time of a score in shared memory, which feeds the products of a backward step [cycles];
    `again` is how often the softmax's operations are done.
    """
    scores, units = cut.rows * cut.cols, device.units
    peak = device.product_peak(dtype) * flash.peak_share(device, kernel) * given["matrix_efficiency"]
    product = norm(_FEED, flops * units / peak, scores * shared * (1 / device.clock_hz))
    exponentials = scores * units / flash.exponential_rate(device, kernel, direction)
    return product, again * given["softmax_cost"] * exponentials


def _slower(device: Device, joules: Array, core: Array) -> Array:
    """Return the slow-down factor of work with that energy [J] that would take `core` seconds."""
    return np.asarray(1 + droop(device, joules / core) * core / (core + _DROOP_S))


def _tiles(
    cut: flash.Tiling, seq: Array, seq_kv: Array, window: ArrayLike | None, *, causal: bool
) -> tuple[Array, Array, Array | float]:
    """Return the tiles of one head, those of its longest row block, and those masked per row block."""
    blocks, masked = ceil_div(seq_kv, cut.cols), flash.masked_tiles(cut, causal)
    if not causal:
        return ceil_div(seq * cut.group, cut.rows) * blocks, blocks, masked
    steps = causal_blocks(seq, cut.group, cut.rows, cut.cols, seq_kv, window)
    if window is None:
        return steps, blocks, masked
    # A row block meets only the keys in its queries' windows; the tiles in which windows begin are masked,
    # too.
    widest = np.asarray(window, dtype=np.float64) - 1 + cut.rows / cut.group
    cut_by_it = np.where(widest < seq_kv, ceil_div(cut.rows, cut.group * cut.cols), 0.0)
    return steps, np.minimum(blocks, np.floor((widest - 2) / cut.cols) + 2), masked + cut_by_it


def _token_waves(units: float, tokens: Array, width: Array) -> Array:
    """Return the number of waves of the cache write, with one thread block per token of K and V."""
    resident = _THREADS / np.minimum(width, _TOKEN_THREADS)
    return np.asarray(tokens / (units * resident))
