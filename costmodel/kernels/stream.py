"""Memory-bound kernels: softmax, norms, activations and elementwise arithmetic.

A pass over a rows × cols table is limited by the largest of four things: the bytes it moves
(less what the last-level cache still holds of the replay before), its instructions, and — where a
row is reduced — the chain of dependent loads and reductions of one row, times the waves of rows
that the units can hold at once. A row that is read again (layer norm twice, a long softmax three
times) is read from the cache as long as all rows in flight fit there, and from memory beyond.

How rows are laid out over threads is a fact about PyTorch: softmax up to 1024 columns is one warp
a row (``PersistentSoftmax.cuh``), longer rows one block (``SoftMax.cu``: 128-bit loads, a scalar
tail of up to one load a thread and value of the vector); layer norm is one block of 128 threads a
row, its loop unrolled by four (``layer_norm_kernel.cu``). On AMD the long rows are those of
PyTorch 2.4, which keeps aligned ones in shared memory. vLLM's RMS norm and gated
activation are one block a row, loading single values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.errors import unknown_name
from costmodel.hardware import Device
from costmodel.kernels.base import Array, Constant, Estimate

CONSTANTS = {
    "bandwidth_share": Constant(0.85, 0.3, 1.0, "1", "share of the memory bandwidth that long passes reach"),
    "warm_share": Constant(
        0.1, 0.0, 1.0, "1", "share of the last-level cache still valid from the last replay"
    ),
    "cache_share": Constant(
        0.7, 0.05, 2.0, "1", "working set, over cache capacity, up to which a replay finds it there"
    ),
    "cache_speed": Constant(
        2.5, 1.0, 6.0, "1", "bandwidth of the last-level cache over that reached of memory"
    ),
    "element_cycles": Constant(2.0, 0.0, 500.0, "cycles", "lane cycles of instructions for each element"),
    "row_s": Constant(4e-6, 0.0, 5e-5, "s", "latency of a row: first load, reductions, last store"),
    "iteration_s": Constant(5e-7, 0.0, 2e-5, "s", "latency of a further dependent load of a row"),
    "resident_share": Constant(
        1.0, 0.05, 3.0, "1", "bytes of rows in flight, over cache capacity, that still hit"
    ),
    "overlap": Constant(
        3.0, 1.0, 12.0, "1", "order of the norm that joins the limits: 1 adds them, 12 is max"
    ),
    "tail_waves": Constant(0.5, 0.0, 1.0, "1", "waves lost to a last one that is not full"),
    "misaligned": Constant(
        0.1, 0.0, 0.6, "1", "further traffic of short rows that start inside a 32-byte sector"
    ),
    "start_s": Constant(2e-6, 1e-7, 1e-5, "s", "start and end of a kernel that does nothing"),
    "dispatch_s": Constant(0.0, 0.0, 2e-4, "s", "harness: from the start event to the kernel's launch"),
    "record_s": Constant(
        0.0, 0.0, 2e-4, "s", "harness: from there to the end event, hidden by longer kernels"
    ),
    "slow_clock": Constant(
        1.0, 1.0, 3.0, "1", "harness: slow-down of instructions before the clock was raised"
    ),
    "slow_rows": Constant(
        0.0, 0.0, 2e4, "rows", "harness: below these, measured before the clock was raised"
    ),
}
#: Which of them belong to the harness, not the device: not carried to another host.
HARNESS = ("dispatch_s", "record_s", "slow_clock", "slow_rows")

PATTERNS = ("elementwise", "gated", "softmax", "norm", "rmsnorm")

#: Threads that a unit holds (CUDA programming guide, compute capabilities); 2048 elsewhere.
_THREADS = {"turing": 1024.0, "ampere-ga10x": 1536.0, "ada": 1536.0, "blackwell-rtx": 1536.0}
#: Sharpness of the change from hits to misses, and of the change from host- to kernel-bound.
_MISS_ORDER, _HOST_ORDER = 8.0, 12.0


@dataclass(frozen=True)
class _Layout:
    """Rows over threads: threads a block, rows a block, dependent loads and further reads of a row."""

    threads: Array
    block_rows: Array
    loads: Array
    rereads: Array
    short: Array


def _softmax(cols: Array, width: float, amd: bool) -> _Layout:
    lanes, vector = 64.0 if amd else 32.0, 16.0 / width
    padded = 2.0 ** np.ceil(np.log2(np.maximum(cols, 1.0)))
    short = cols <= 1024
    block_rows = 128.0 / np.minimum(padded, lanes) * np.where(padded <= 128, 2.0, 1.0)
    aligned = cols % vector == 0
    if amd:
        block = np.full_like(cols, 1024.0)
    else:
        half = np.minimum(cols / vector, 1024.0) / 2
        block = np.maximum(2.0 ** np.ceil(np.log2(np.maximum(half, 1.0))), lanes)
    full = np.floor(cols / (vector * block))
    scalar = np.ceil((cols - full * vector * block) / block)
    # A row that starts inside a vector has one scalar load more: of an odd number of fp32 columns 3 rows in 4.
    shift = np.where(aligned, 0.0, np.where((cols % 2 == 0) & (vector == 4), 0.5, 0.75))
    loads = full + scalar + (0.0 if amd else shift)
    rereads = np.full_like(cols, 2.0)
    if amd:  # aligned rows are kept in shared memory, and loaded by vectors throughout
        loads = np.where(aligned, np.ceil(cols / (vector * block)), loads)
        rereads = np.where(aligned, 0.0, rereads)
    return _Layout(
        threads=np.where(short, 128.0, block),
        block_rows=np.where(short, block_rows, 1.0),
        loads=np.where(short, 1.0, loads),
        rereads=np.where(short, 0.0, rereads),
        short=short,
    )


def _norm(cols: Array, amd: bool) -> _Layout:
    vectors = cols / 4.0
    loads = np.ceil(vectors / 128.0)
    # Unrolled by 4: a warp of which some lanes have 4k loads and some 4k − 1 runs both loops.
    split = (loads % 4 == 0) & (vectors % (64.0 if amd else 32.0) != 0)
    one = np.ones_like(cols)
    return _Layout(128.0 * one, one, (loads + 3.0 * split) / 2, one, np.zeros(cols.shape, dtype=bool))


def _block(cols: Array, rereads: float) -> _Layout:
    threads = np.minimum(np.ceil(cols / 32.0) * 32.0, 1024.0)
    one = np.ones_like(cols)
    return _Layout(threads, one, np.ceil(cols / threads), rereads * one, np.zeros(cols.shape, dtype=bool))


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
    device : Device
        Where it runs.
    constants : mapping of str to float
        Values of ``CONSTANTS``; those not given have their defaults.
    rows, cols : array_like
        Sizes of the table [elements].
    reads, writes : array_like
        Elements read and written for each element of the table: 1 and 1 for softmax, 2 and 1
        for an addition or a gated activation.
    dtype : str
        Number format of the table.
    pattern : str
        ``elementwise`` (rows do not matter), ``softmax``, ``norm`` (layer norm), or, as vLLM
        has them, one block of up to 1024 threads a row: ``rmsnorm`` and ``gated`` (silu·mul).

    Returns
    -------
    Estimate
        Terms ``hbm``, ``vector:fp32`` (instructions), ``depth`` (chains of rows), ``launch``.
        Not counted: gains and biases of a norm, masks.

    Raises
    ------
    UnknownNameError
        If there is no such pattern or dtype.
    """
    if pattern not in PATTERNS:
        raise unknown_name("pattern", pattern, PATTERNS)
    c = {name: float(constants.get(name, constant.default)) for name, constant in CONSTANTS.items()}
    width = dtypes.dtype(dtype).bytes
    rows, cols, reads, writes = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (rows, cols, reads, writes))
    )
    cache = device.llc_capacity

    elements = rows * cols
    traffic = elements * (reads + writes) * width
    cold = _misses(traffic, c["cache_share"] * cache)
    traffic = np.maximum(cold * (traffic - c["warm_share"] * cache), traffic / c["cache_speed"])
    chain = np.zeros_like(elements)
    if pattern != "elementwise":
        layout = _layout(device, pattern, cols, width)
        blocks = np.ceil(rows / layout.block_rows)
        slots = device.units * np.floor(_THREADS.get(device.family, 2048.0) / layout.threads)
        waves = np.maximum(1.0, blocks / slots + c["tail_waves"] * (blocks > slots))
        passes = layout.rereads + 1.0 if pattern == "softmax" else 1.0
        chain = waves * (c["row_s"] + layout.loads * passes * c["iteration_s"])
        in_flight = np.minimum(blocks, slots) * layout.block_rows * cols * reads * width
        traffic = traffic + layout.rereads * elements * reads * width * _misses(
            in_flight, c["resident_share"] * cache
        )
        traffic = traffic * (1.0 + c["misaligned"] * (layout.short & (cols * width % 32 != 0)))

    slow = np.where(rows < c["slow_rows"], c["slow_clock"], 1.0)
    hbm = traffic / (c["bandwidth_share"] * device.hbm_bandwidth)
    chain = chain * slow
    # A lane does one multiply-add, 2 FLOP, a cycle.
    issue = elements * c["element_cycles"] / (device.peak("fp32", "vector") / 2) * slow
    order = c["overlap"]
    kernel = (hbm**order + chain**order + issue**order) ** (1 / order) + c["start_s"]
    total = c["dispatch_s"] + (kernel**_HOST_ORDER + c["record_s"] ** _HOST_ORDER) ** (1 / _HOST_ORDER)
    launch = np.full_like(elements, c["start_s"] + c["dispatch_s"] + c["record_s"])
    return Estimate(seconds=total, terms={"hbm": hbm, "vector:fp32": issue, "depth": chain, "launch": launch})


def _layout(device: Device, pattern: str, cols: Array, width: float) -> _Layout:
    amd = device.vendor.lower() == "amd"
    if pattern == "softmax":
        return _softmax(cols, width, amd)
    if pattern == "norm":
        return _norm(cols, amd)
    return _block(cols, rereads=1.0 if pattern == "rmsnorm" else 0.0)


def _misses(size: Array, capacity: float) -> Array:
    """Return the share of re-reads that a cache of that capacity does not serve."""
    if capacity <= 0:
        return np.ones_like(size)
    ratio = np.minimum(size / capacity, 1e6) ** _MISS_ORDER
    return ratio / (1.0 + ratio)
