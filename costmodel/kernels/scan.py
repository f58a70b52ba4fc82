"""Recurrences without recurrent weight matrices: scans, state-space and linear-attention kernels.

Such a kernel streams its operands once and runs independent chains of dependent steps. In an elementwise
recurrence (SRU, Mamba, RWKV) a chain is a lane: one thread, whose step is a few instructions on registers. In
the chunked forms of linear attention a chain is a head's state: one thread block, whose step is the products
of one chunk of tokens. The time is that of the limiting resource: bytes, instructions of an engine, or the
chains, in waves of as many as fit on the device. The parallel part of a chunked form has no chain. Without a
fused kernel (a scan written in a framework) the same bytes pass through memory again for every level, and
every level is a launch.

A block's constants (`block_s`, `unit_bytes`) are from posted times of flash-linear-attention on B200
(``validation/posted/linear_fitted.csv``); the others are assumed. The gated delta net has its own model
(`costmodel.kernels.delta`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._cache import warm_seconds
from costmodel.kernels._join import OVERLAP, joined
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "start_s": Constant(2e-6, 5e-7, 2e-5, "s", "start and end of an empty kernel"),
    "bandwidth_share": Constant(0.8, 0.3, 1.0, "1", "share of the memory bandwidth that long passes reach"),
    "unit_bytes": Constant(
        16.0, 4.0, 64.0, "B/cycle", "bytes that a unit's blocks load and store: what they keep under way"
    ),
    "cache_share": Constant(
        0.7, 0.05, 2.0, "1", "largest traffic that hits on replay, relative to the cache's capacity"
    ),
    "cache_speed": Constant(
        2.5, 1.0, 12.0, "1", "bandwidth of the last-level cache relative to that of memory"
    ),
    "matrix_share": Constant(0.2, 0.005, 1.0, "1", "share of the matrix peak that products of a chunk reach"),
    # A combine is 3 FLOP in 2 instructions, a selective scan's step 7 in 5; the peak assumes 2 in 1.
    "vector_share": Constant(
        0.7, 0.05, 1.0, "1", "share of the vector peak: not all are fused multiply-adds"
    ),
    "special_share": Constant(
        0.9, 0.05, 1.0, "1", "share of the special functions' rate, at one per instruction"
    ),
    "lane_cycles": Constant(
        12.0, 4.0, 100.0, "cycles", "a step of a lane: a dependent multiply and add, with loop overhead"
    ),
    "block_s": Constant(
        7e-7, 2e-7, 2e-5, "s", "a step of a block: the products of a chunk, with synchronisation"
    ),
    "lanes_per_unit": Constant(1024.0, 32.0, 2048.0, "lanes", "lanes that a unit processes concurrently"),
    "blocks_per_unit": Constant(1.0, 0.25, 8.0, "blocks", "blocks that a unit processes concurrently"),
    "overlap": OVERLAP,
}


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    chains: ArrayLike,
    steps: ArrayLike,
    traffic: ArrayLike,
    again: ArrayLike = 0.0,
    matrix_flops: ArrayLike = 0.0,
    vector_flops: ArrayLike = 0.0,
    special_flops: ArrayLike = 0.0,
    exponentials: ArrayLike = 0.0,
    launches: ArrayLike = 1.0,
    dtype: str = "bf16",
    blocks: bool = False,
) -> Estimate:
    """Return the time of one fused scan kernel, or of all launches of an unfused one.

    Parameters
    ----------
    chains, steps : array_like
        Independent chains; dependent steps of each.
    traffic, again : array_like
        Bytes moved, and bytes read again, which a cache may still hold [B].
    matrix_flops, vector_flops, special_flops : array_like
        Arithmetic by engine [FLOP].
    exponentials : array_like
        Exponentials that kernels of their own take, before or after the rest [FLOP].
    launches : array_like
        Kernel launches, one after the other.
    dtype : str
        Format of the products.
    blocks : bool
        Whether a chain is a thread block that steps over chunks, not a lane.

    Returns
    -------
    Estimate
        Terms ``hbm``, ``matrix:<dtype>``, ``vector:fp32``, ``special:fp32`` (those with arithmetic for which
        the device has a rate), ``depth``, ``launch``.
    """
    c = filled(CONSTANTS, constants)
    chains, steps, traffic, again, matrix, vector, special, exps, launches = as_rows(
        chains, steps, traffic, again, matrix_flops, vector_flops, special_flops, exponentials, launches
    )

    under_way = c["unit_bytes"] * device.units * device.clock_hz if blocks else np.inf
    memory, cache = warm_seconds(
        traffic,
        traffic + again,
        capacity=c["cache_share"] * device.llc_capacity,
        bandwidth=min(c["bandwidth_share"] * device.hbm_bandwidth, under_way),
        cache_bandwidth=c["cache_speed"] * device.hbm_bandwidth,
    )
    # The cache's bandwidth is taken as a multiple of the memory's, so both count as ``hbm``.
    terms: dict[str, Array] = {"hbm": np.maximum(memory, cache)}
    if np.any(matrix > 0):
        terms[f"matrix:{dtype}"] = matrix / (c["matrix_share"] * device.peak(dtype))
    for engine, flops in (("vector", vector), ("special", special)):
        if np.any(flops > 0) and device.has("fp32", engine):
            terms[f"{engine}:fp32"] = flops / (c[f"{engine}_share"] * device.peak("fp32", engine))

    at_once = device.units * c["blocks_per_unit" if blocks else "lanes_per_unit"]
    step = c["block_s"] if blocks else c["lane_cycles"] / device.clock_hz
    terms["depth"] = np.maximum(1.0, np.ceil(chains / at_once)) * steps * step
    work = joined(c["overlap"], *terms.values())
    if np.any(exps > 0) and device.has("fp32", "special"):
        alone = exps / (c["special_share"] * device.peak("fp32", "special"))
        terms["special:fp32"] = terms.get("special:fp32", 0.0) + alone
        work = work + alone
    terms["launch"] = launches * c["start_s"]
    return Estimate(seconds=terms["launch"] + work, terms=terms)
