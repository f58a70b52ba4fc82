"""Attention of one new token per sequence over its KV cache (decoding).

The keys and values of a KV head are read once for all query heads that share it, which are packed into the
rows of one tile. A thread block streams its part of the keys: a fixed cost, then tile after tile, limited by
the rate at which one unit can load. With fewer KV heads than units, libraries split the keys and merge
partial outputs in a second kernel. The number of splits, and whether that kernel is launched even if it may
have nothing to merge, is the library's choice (`costmodel.kernels._flash_decode`). Memory traffic overlaps
this: K, V, Q and O once, served by L2 as far as the previous replay left them there.

Flash-decoding: Dao, Haziza, Massa and Sizov, 2023. FlashInfer: Ye et al., 2025, arXiv:2501.01005.
Left out: prefixes shared by sequences, speculative tokens, sequences of unequal length.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels import _flash as flash
from costmodel.kernels import _flash_decode as cut
from costmodel.kernels import _latent as latent
from costmodel.kernels import _replay as replay
from costmodel.kernels._join import CACHE_SHARE, L2_UNIT_BYTES, RAMP_CYCLES, byte_time, miss_share, norm
from costmodel.kernels._tiling import STAGGER_CYCLES, ceil_div, makespan
from costmodel.kernels.base import Constant, Estimate, as_arrays, filled

CONSTANTS = {
    "bandwidth_share": Constant(0.88, 0.3, 1.0, "1", "share of the memory bandwidth that is reached"),
    "cache_share": CACHE_SHARE,
    "l2_unit_bytes": L2_UNIT_BYTES,
    "ramp_cycles": RAMP_CYCLES,
    "stagger_cycles": STAGGER_CYCLES,
    "block_cycles": Constant(3000.0, 0.0, 30000.0, "cycles", "prologue and epilogue of a thread block"),
    "row_bytes_per_cycle": Constant(
        60.0, 1.0, 512.0, "B/cycle", "rate at which a unit loads rows of Q and its first keys, and stores O"
    ),
    "stream_bytes_per_cycle": Constant(
        40.0, 5.0, 256.0, "B/cycle", "rate at which a single unit loads K and V"
    ),
    "reduce_bytes_per_cycle": Constant(
        20.0, 1.0, 512.0, "B/cycle", "rate at which a thread block reduces its group's outputs (trtllm)"
    ),
    "sequence_cycles": Constant(
        10.0, 0.0, 200.0, "cycles", "extra time per sequence: the scheduler's look-up of its length"
    ),
    "merge_cycles": Constant(5000.0, 0.0, 30000.0, "cycles", "launch of the kernel that merges splits"),
    "merge_work_cycles": Constant(
        3000.0, 0.0, 30000.0, "cycles", "fixed work of the merging kernel if there are splits to merge"
    ),
    "merge_block_cycles": Constant(
        5.0, 0.0, 30.0, "cycles", "time between thread blocks of the merging kernel (flash-attention 3)"
    ),
    "merge_split_cycles": Constant(
        150.0, 0.0, 2000.0, "cycles", "time of the merging kernel per split that it reads"
    ),
    "copy_cycles": Constant(
        9000.0, 0.0, 30000.0, "cycles", "two kernels that rearrange Q and O (FlashAttention-2)"
    ),
    "return_cycles": Constant(
        2400.0,
        0.0,
        30000.0,
        "cycles",
        "copy of O to its destination where heads became rows (FlashAttention-2)",
    ),
    "launch_cycles": Constant(
        11000.0, 2000.0, 60000.0, "cycles", "harness: launch overhead of a call in a replayed graph"
    ),
    **replay.CONSTANTS,
}
#: The kernel is mostly memory-bound: constants of a device with the same kind of memory are preferred.
MEMORY_BOUND = True
#: Constants of the harness and the library's host side, not of the device.
HARNESS = ("launch_cycles", *replay.CONSTANTS)
#: Constants that are rates between a unit and caches or memory.
RATES = ("l2_unit_bytes", "row_bytes_per_cycle", "stream_bytes_per_cycle")
#: Constants that are load rates of one unit: with more memory bandwidth per unit, kernels keep more in
#: flight.
FEEDS = ("stream_bytes_per_cycle",)

#: Order of the norm that combines the time of the thread blocks and that of memory.
_JOIN = 2.5
#: Sharpness of the transition from a KV cache that stays in L2 between replays to one that does not.
_MISS_ORDER = 16.0


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
    passing: ArrayLike = 0.0,
    listed: ArrayLike | None = None,
    held: ArrayLike | None = None,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
    kernel: str | None = None,
) -> Estimate:
    """Return the time of one decoding step's attention.

    Parameters
    ----------
    batch, heads, kv_heads, seq_kv, head_dim : array_like
        Sizes, broadcast together; `seq_kv` counts the new token, `heads` is a multiple of `kv_heads`.
    flops : array_like, optional
        FLOPs of both products, where keys and values are the same numbers (MLA's latents,
        `costmodel.kernels._latent`); then ``2·head_dim`` is the width of a cached position. Default
        ``4·batch·heads·seq_kv·head_dim``, at the peak.
    passing : array_like
        Bytes that other kernels move through L2 between two steps [B].
    listed, held : array_like, optional
        With `flops`: places of a list of keys, and keys that the lists choose from; see
        `costmodel.kernels._latent`.
    dtype, kv_dtype : str
        Format of Q and O, and of the cache (default: the same format).
    kernel : str, optional
        One of `costmodel.kernels._flash.KERNELS`; default by architecture: fa3 on Hopper, trtllm on
        Blackwell, fa2 elsewhere, also for the libraries of AMD's CDNA.

    Returns
    -------
    Estimate
        Terms: ``matrix:<dtype>`` or ``vector:<dtype>``, ``hbm``, ``l2``, ``depth`` (latency of a thread
        block, and partly filled waves), ``launch`` (including look-ups, merging and copying).

    Raises
    ------
    UnknownNameError
        If there is no such kernel or dtype.
    """
    named = None if kernel is None else flash.check(kernel)
    given = filled(CONSTANTS, constants)
    batch, heads, kv_heads, seq_kv, head_dim = as_arrays(batch, heads, kv_heads, seq_kv, head_dim)
    if flops is not None:
        flops, passing = as_arrays(flops, passing)
        listed, held = (None if one is None else as_arrays(one)[0] for one in (listed, held))
        return latent.seconds(
            device, given,
            batch=batch, heads=heads, keys=seq_kv, width=2 * head_dim, flops=flops, passing=passing,
            dtype=dtype, kv_dtype=kv_dtype or dtype, kernel=named, listed=listed, held=held,
        )  # fmt: skip
    kernel = flash.decoding(named or flash.default_kernel(device))
    width, kv_width = dtypes.dtype(dtype).bytes, dtypes.dtype(kv_dtype or dtype).bytes
    cycle = 1 / device.clock_hz
    plan = cut.decode(device, kernel, batch, kv_heads, heads / kv_heads, seq_kv, head_dim)

    splits = plan.splits.parts
    blocks = ceil_div(ceil_div(seq_kv, plan.cols), splits)
    keys = blocks * plan.cols
    stream = 2 * kv_width * head_dim * keys / given["stream_bytes_per_cycle"]
    opening = 0.0 if kernel in flash.AHEAD else 2 * kv_width * plan.cols
    rows = 2 * width * plan.rows + opening
    ends = rows * head_dim / given["row_bytes_per_cycle"]
    reduction = 4 * plan.reduced * head_dim / given["reduce_bytes_per_cycle"]
    fixed, jobs = given["block_cycles"] + ends + reduction, plan.jobs * splits
    mean = stream + fixed / np.where(jobs > device.units, plan.overlapping, 1.0)
    tiles = makespan(jobs, device.units, mean, stream + fixed, jobs, given["stagger_cycles"]) * cycle

    out = batch * heads * head_dim
    cache = 2 * kv_width * batch * kv_heads * seq_kv * head_dim
    split = splits > 1
    # Partial outputs in fp32, written and read back.
    moved = cache + 2 * width * out + np.where(split, 8 * splits * out, 0.0)
    miss = miss_share(device, given["cache_share"], np.maximum(moved, passing), _MISS_ORDER)
    rate = byte_time(device, given, miss)
    launched = given["merge_cycles"] if kernel in flash.MERGING else 0.0
    blocked = given["merge_block_cycles"] * cut.merge_blocks(kernel, batch, heads, head_dim)
    begun = given["merge_work_cycles"] if kernel in flash.MERGING else 0.0
    work = np.where(split, begun + given["merge_split_cycles"] * splits, 0.0)
    merge = (np.where(plan.splits.merged, launched + blocked, 0.0) + work) * cycle
    # Each of the two copies reads and writes Q or O.
    copy = plan.copies * (given["copy_cycles"] * cycle + 4 * width * out * rate)
    copy = copy + plan.returned * given["return_cycles"] * cycle
    looked_up = given["sequence_cycles"] * cut.looked_up(kernel, batch, plan.splits)
    launch = given["launch_cycles"] + flash.preparation(kernel) + looked_up
    ramp = miss * given["ramp_cycles"] * cycle
    arithmetic = 4 * batch * heads * seq_kv * head_dim / device.product_peak(dtype)
    terms = {
        f"{device.engine(dtype)}:{dtype}": arithmetic,
        "hbm": moved * rate * miss + ramp,
        "l2": moved * rate * (1 - miss),
        "depth": tiles,
        "launch": launch * cycle + merge + copy,
    }
    core = norm(_JOIN, np.maximum(tiles, arithmetic), moved * rate) + ramp
    total = np.asarray(core + launch * cycle + merge + copy)
    return replay.shown(device, given, total, terms)
