"""Attention of one new token over cached latents (multi-head latent attention, absorbed), as a decoding step.

A thread block takes a tile of heads and a part of a sequence's keys. Latents are keys and values at once, so
that a key of c + d_r numbers takes 2·(2c + d_r) FLOP per head of the tile: full tiles of 128 heads are
limited by arithmetic, fewer heads by memory or by how fast a unit steps through the keys. Partial outputs of
c numbers are written and merged in fp32.

FlashMLA: Li and Liu, 2025. How libraries partition the step is in `costmodel.kernels._flash_latent`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels import _flash as flash
from costmodel.kernels import _flash_latent as cut
from costmodel.kernels import _replay as replay
from costmodel.kernels._join import byte_time, miss_share, norm
from costmodel.kernels._tiling import makespan
from costmodel.kernels.base import Array, Estimate

#: Order of the norm that combines the time of the thread blocks and that of memory, as in other decoding.
_JOIN = 2.5
#: Sharpness of the transition from latents that stay in L2 between replays to latents that do not.
_MISS_ORDER = 16.0


def seconds(
    device: Device,
    given: Mapping[str, float],
    *,
    batch: Array,
    heads: Array,
    keys: Array,
    width: Array,
    flops: Array,
    passing: Array,
    dtype: str,
    kv_dtype: str,
    kernel: str | None,
    listed: Array | None = None,
    held: Array | None = None,
) -> Estimate:
    """Return the time of one decoding step's attention over latents.

    Parameters
    ----------
    device : Device
        The device that runs it.
    given : mapping of str to float
        Constants of `costmodel.kernels.decode`.
    batch, heads, keys : array
        Sequences, heads (times new tokens of each), cached positions.
    width : array
        Numbers of a cached position: c + d_r.
    flops : array
        FLOPs of both products: 2·batch·heads·keys·(2c + d_r).
    passing : array
        Bytes that other kernels move through L2 between two steps [B].
    dtype, kv_dtype : str
        Format of queries and outputs, and of the cache.
    kernel : str, optional
        ``triton``; any other name gives the architecture's (`costmodel.kernels._flash_latent`).
    listed : array, optional
        Places of each sequence's list of keys, filled or not; `keys` of them are. Default: no list.
    held : array, optional
        Keys that all lists together choose from, if sequences share them (the tokens of a prompt); they come
        from memory once, and again from L2. Default ``batch·keys``.

    Returns
    -------
    Estimate
        Terms as those of `costmodel.kernels.decode.seconds`.
    """
    kernel = cut.kernel_on(device, kernel)
    plan = cut.partition(
        device, kernel, batch=batch, heads=heads, keys=keys, width=width, listed=listed,
        dtype=dtype, kv_dtype=kv_dtype,
    )  # fmt: skip
    cycle, units = 1 / device.clock_hz, device.units
    size, kv_size = dtypes.dtype(dtype).bytes, dtypes.dtype(kv_dtype).bytes
    per_score = flops / (batch * heads * keys)
    outputs = per_score / 2 - width

    # Time of one key for a thread block's heads, and of the block.
    product = plan.rows * per_score * units / (device.product_peak(plan.dtype) * plan.share)
    key = np.maximum(product, plan.step_cycles * cycle)
    moved_rows = size * np.minimum(heads, plan.rows) * (width + outputs)
    row_rate = np.maximum(given["row_bytes_per_cycle"], np.where(plan.bulk, given["l2_unit_bytes"], 0.0))
    once = (given["block_cycles"] + moved_rows / row_rate) * cycle
    block = plan.part_keys * key + once
    jobs = plan.jobs * plan.parts
    tiles = makespan(jobs, units, block, block, jobs, given["stagger_cycles"] * cycle)
    tiles = np.where(plan.even & (jobs > units), jobs / units * block + once, tiles)

    split = plan.parts > 1
    rows = batch * heads
    partial = np.where(split, 8 * plan.parts * rows * outputs, 0.0)
    once_read = batch * keys if held is None else np.minimum(held, batch * keys)
    moved = kv_size * once_read * width + size * rows * (width + outputs) + partial
    miss = miss_share(device, given["cache_share"], np.maximum(moved, passing), _MISS_ORDER)
    rate = byte_time(device, given, miss)
    again = kv_size * (batch * keys - once_read) * width * byte_time(device, given, np.zeros_like(miss))
    memory = moved * rate + again
    parts_merged = given["merge_work_cycles"] + given["merge_split_cycles"] * plan.parts
    merge = np.where(split, given["merge_cycles"] + parts_merged, 0.0) * cycle
    # Kernels over a list are planned once for all layers of a step.
    planned = flash.preparation(kernel) if listed is None else 0.0
    looked_up = given["sequence_cycles"] * batch if kernel in flash.LOOKING_UP and listed is None else 0.0
    launch = (given["launch_cycles"] + looked_up + planned) * cycle
    prepared = plan.prepared * (flash.START_CYCLES * cycle + 2 * size * rows * width * rate)
    ramp = miss * given["ramp_cycles"] * cycle

    computed = plan.jobs * plan.keys * product / units
    terms = {
        f"{device.engine(dtype)}:{dtype}": computed,
        "hbm": moved * rate * miss + ramp,
        "l2": moved * rate * (1 - miss) + again,
        "depth": np.maximum(tiles - computed, 0.0),
        "launch": launch + prepared + merge,
    }
    total = np.asarray(norm(_JOIN, tiles, memory) + ramp + launch + prepared + merge)
    return replay.shown(device, given, total, terms)
