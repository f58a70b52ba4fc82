"""Memory-bound kernels: softmax, norms, activations and elementwise arithmetic.

A pass over a rows × cols table is limited by the largest of three times: that of the bytes it moves (less
what the last-level cache still holds from the previous replay), that of its instructions, and, where rows are
reduced, that of a row's chain of dependent loads and reductions, times the waves of rows that the units can
hold. Repeated reads of a row (layer norm reads it twice, a long softmax three times) hit the cache as long as
all rows in flight fit there, and otherwise go to memory. ``_rows`` says how rows are mapped to threads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.errors import unknown_name
from costmodel.hardware import Device
from costmodel.kernels._cache import misses
from costmodel.kernels._join import HOST, OVERLAP, hosted, joined
from costmodel.kernels._rows import Layout, layout
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "bandwidth_share": Constant(0.85, 0.3, 1.0, "1", "share of the memory bandwidth that long passes reach"),
    "warm_share": Constant(
        0.1, 0.0, 1.0, "1", "share of the last-level cache that still holds data of the last replay"
    ),
    "cache_share": Constant(
        1.0,
        0.05,
        2.0,
        "1",
        "largest working set that hits on replay, over the cache's capacity for distinct data",
    ),
    "cache_bytes": Constant(20.0, 2.0, 128.0, "B/cycle", "bandwidth of the last-level cache per unit"),
    "element_cycles": Constant(
        2.0, 0.0, 500.0, "cycles", "instructions per element, on a unit's 64 integer lanes"
    ),
    "row_s": Constant(4e-6, 0.0, 5e-5, "s", "latency of a row: first load, reductions, last store"),
    "iteration_s": Constant(5e-7, 0.0, 2e-5, "s", "latency of each further dependent load of a row"),
    "resident_share": Constant(
        1.0, 0.05, 3.0, "1", "most bytes of rows in flight that still hit, relative to the cache's capacity"
    ),
    "straddling": Constant(0.0, 0.0, 0.5, "1", "relative extra traffic of rows that begin inside a sector"),
    "overlap": OVERLAP,
    "occupancy": Constant(
        1.0, 0.25, 1.0, "1", "share of a unit's threads that a row kernel can use, given its registers"
    ),
    "start_s": Constant(2e-6, 1e-7, 1e-5, "s", "start and end of an empty kernel"),
    **HOST,
    "slow_clock": Constant(
        1.0, 1.0, 3.0, "1", "harness: factor on the time of instructions before the clock was raised"
    ),
    "slow_host": Constant(1.0, 0.5, 2.0, "1", "harness: factor on the dispatch before the clock was raised"),
    "slow_rows": Constant(
        0.0,
        0.0,
        2e4,
        "rows",
        "harness: number of rows below which shapes were measured before the clock was raised",
    ),
}
#: Constants of the harness, not of the device; they do not carry over to another host.
HARNESS = (*HOST, "slow_clock", "slow_host", "slow_rows")
#: The kernel is mostly memory-bound: constants of a device with the same kind of memory are preferred.
MEMORY_BOUND = True
#: Constants fitted in seconds that are cycles on any device; a relative's are scaled with the clock.
CLOCKED = ("start_s", "row_s", "iteration_s")

PATTERNS = ("elementwise", "gated", "softmax", "norm", "rmsnorm")

#: Most threads resident on a unit (CUDA programming guide, compute capabilities); 2048 elsewhere.
_THREADS = {"turing": 1024.0, "ampere-ga10x": 1536.0, "ada": 1536.0, "blackwell-rtx": 1536.0}
#: Granularity of memory accesses [B] (NVIDIA, "Kernel Profiling Guide"; also 32 on AMD).
_SECTOR = 32.0
#: Lanes of a unit for addresses and integers, which limit passes rather than the fp32 lanes: NVIDIA's units
#: with 64 and with 128 fp32 lanes process elements equally fast (softmax elements per cycle: P4 1.2, V100
#: 1.1, P100 1.1).
_LANES = 64.0


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    rows: ArrayLike,
    cols: ArrayLike,
    reads: ArrayLike = 1.0,
    writes: ArrayLike = 1.0,
    dtype: str = "fp32",
    pattern: str = "elementwise",
) -> Estimate:
    """Return the time of one pass over a rows × cols table.

    Parameters
    ----------
    rows, cols : array_like
        Sizes of the table [elements].
    reads, writes : array_like
        Elements read and written per element of the table: 1 and 1 for softmax, 2 and 1 for an addition or a
        gated activation.
    dtype : str
        Number format of the table.
    pattern : str
        ``elementwise`` (rows do not matter), ``softmax``, ``norm`` (layer norm), or vLLM's kernels with one
        block of up to 1024 threads per row: ``rmsnorm`` and ``gated`` (silu·mul).

    Returns
    -------
    Estimate
        Terms ``hbm``, ``l2``, ``vector:fp32`` (instructions), ``depth`` (chains of rows), ``launch``.
        Not counted: gains and biases of a norm, masks.

    Raises
    ------
    UnknownNameError
        If there is no such pattern or dtype.
    """
    if pattern not in PATTERNS:
        raise unknown_name("pattern", pattern, PATTERNS)
    c = filled(CONSTANTS, constants)
    width = dtypes.dtype(dtype).bytes
    rows, cols, reads, writes = as_rows(rows, cols, reads, writes)
    elements = rows * cols
    passes = elements * (reads + writes) * width
    cold = misses(passes, c["cache_share"] * device.llc_distinct)
    traffic = np.maximum(0.0, cold * (passes - c["warm_share"] * device.llc_distinct))
    chain, issued = np.zeros_like(elements), elements
    if pattern != "elementwise":
        how = layout(pattern, cols, width, amd=device.vendor.lower() == "amd")
        chain, again = _row_wise(device, c, how, rows, cols * reads * width)
        straddled = np.where((cols * width) % _SECTOR == 0, 1.0, 1.0 + c["straddling"])
        traffic, issued = (traffic + again) * straddled, elements * how.issued

    # Harnesses measured shapes in the order of their rows, and clock and host speed changed meanwhile.
    early = rows < c["slow_rows"]
    clock, host = np.where(early, c["slow_clock"], 1.0), np.where(early, c["slow_host"], 1.0)
    reached = c["bandwidth_share"] * device.hbm_bandwidth
    hbm = traffic / reached
    # A share fitted on a relative's cache may exceed all of this one, which serves no more than its capacity.
    hbm = np.maximum(hbm, (passes - device.llc_capacity) / device.hbm_bandwidth)
    fed = device.units * device.clock_hz * c["cache_bytes"]
    if pattern == "elementwise":
        # Plain passes saturate memory on any device, even if a relative's cache rate per unit is too low for
        # that: A100's would limit B200's additions to 5.8 of 8 TB/s. Row-wise blocks may be slower than
        # memory.
        fed = max(fed, reached)
    cached = passes / fed
    chain = chain * clock
    issue = issued * c["element_cycles"] / (device.units * _LANES * device.clock_hz) * clock
    kernel = joined(c["overlap"], np.maximum(hbm, cached), chain, issue) + c["start_s"]
    launch = np.full_like(elements, c["start_s"]) + (c["dispatch_s"] + c["record_s"]) * host
    return Estimate(
        seconds=hosted(c["dispatch_s"] * host, kernel, c["record_s"] * host),
        terms={"hbm": hbm, "l2": cached, "vector:fp32": issue, "depth": chain, "launch": launch},
    )


def _row_wise(
    device: Device, c: Mapping[str, float], how: Layout, rows: Array, row_bytes: Array
) -> tuple[Array, Array]:
    """Return the time of the rows' dependence chains [s], and the repeated reads that miss the cache [B]."""
    blocks = np.ceil(rows / how.block_rows)
    slots = device.units * np.floor(_THREADS.get(device.family, 2048.0) / how.threads)
    waves = np.maximum(1.0, blocks / (slots * c["occupancy"]))
    in_flight = np.minimum(blocks, slots) * how.block_rows * row_bytes
    missed = misses(in_flight, c["resident_share"] * device.llc_capacity)
    return waves * (c["row_s"] + how.loads * c["iteration_s"]), how.rereads * rows * row_bytes * missed
