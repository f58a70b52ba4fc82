"""What the CPU kernel models share: threads, and the cost of a byte by where it comes from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._cache import misses
from costmodel.kernels.base import Array, Constant, Estimate

#: Elements below which ATen does not wake another thread (``at::internal::GRAIN_SIZE``).
GRAIN = 32768.0

#: Constants of the memory levels, the same for every kernel model of a CPU.
MEMORY = {
    "l2_bytes_cycle": Constant(20.0, 2.0, 96.0, "B/cycle", "bandwidth of a core's own caches"),
    "l3_bytes_cycle": Constant(12.0, 1.0, 64.0, "B/cycle", "bandwidth of a core from the shared cache"),
    "bandwidth_share": Constant(0.8, 0.2, 1.2, "1", "share of the memory bandwidth that all cores reach"),
    "l2_share": Constant(
        0.7, 0.1, 2.0, "1", "largest working set that stays in a core's own cache, relative to its size"
    ),
    "page_s": Constant(
        1.6e-6, 1e-9, 5e-5, "s", "a thread's time to map a page of a result that is too large for the heap"
    ),
    "l3_share": Constant(
        0.7, 0.1, 2.0, "1", "largest working set that stays in the shared cache, relative to its size"
    ),
    "warm_share": Constant(
        1.0, 0.0, 1.0, "1", "share of what caches can hold that the previous call left there"
    ),
}
#: Constants that measurements of copies determine; ``warm_share`` is not a property of the machine.
LEVELS = tuple(name for name in MEMORY if name != "warm_share")
#: Size above which glibc's malloc maps and unmaps each block (``DEFAULT_MMAP_THRESHOLD_MAX``); page size [B].
_MAPPED, PAGE = 32 * 2.0**20, 4096.0
#: Sharpness of the transitions between cache levels.
_L2_ORDER, _L3_ORDER = 3.0, 4.0


def seconds_per_byte(
    device: Device, c: dict[str, float], working_set: Array, threads: Array
) -> tuple[Array, Array]:
    """Return the time per byte of a working set, for all threads together, in caches and in memory [s/B].

    Parameters
    ----------
    device : Device
        A CPU; its L2 is the sum over cores.
    c : dict of str to float
        Values of ``MEMORY``.
    working_set : array
        Bytes that a repeated call accesses.
    threads : array
        Number of threads that share the work.

    Returns
    -------
    cached, memory : array
        Average time per byte in caches and in main memory; their sum is the total.
    """
    beyond_l2 = misses(working_set / threads, c["l2_share"] * device.l2_capacity / device.units, _L2_ORDER)
    beyond_l3 = misses(working_set, c["l3_share"] * device.llc_capacity, _L3_ORDER)
    beyond_l2, beyond_l3 = (1 - c["warm_share"] * (1 - beyond) for beyond in (beyond_l2, beyond_l3))
    own = 1 / (c["l2_bytes_cycle"] * device.clock_hz * threads)
    shared = 1 / (c["l3_bytes_cycle"] * device.clock_hz * threads)
    # Few threads do not reach the full bandwidth: what a core loads passes through its caches.
    memory = np.maximum(1 / (c["bandwidth_share"] * device.hbm_bandwidth), shared)
    cached = (1 - beyond_l2) * own + beyond_l2 * (1 - beyond_l3) * shared
    return np.asarray(cached), np.asarray(beyond_l2 * beyond_l3 * memory)


def sooner(device: Device, with_threads: Callable[[float], Estimate]) -> Estimate:
    """Return the faster of the estimates with one thread and with all threads, row by row."""
    each = [with_threads(threads) for threads in sorted({1.0, device.units})]
    first = np.argmin(np.stack([estimate.seconds for estimate in each]), axis=0)
    terms = {name: np.choose(first, [estimate.terms[name] for estimate in each]) for name in each[0].terms}
    return Estimate(np.choose(first, [estimate.seconds for estimate in each]), terms)


def mapping_seconds(c: dict[str, float], result: Array, threads: ArrayLike) -> Array:
    """Return the time to map a large new result [s]: a page fault per page.

    Threads take page faults in parallel (from Linux 6.4 on, which has per-mapping locks). A result of exactly
    the threshold is taken to stay mapped: it does once the heap has grown by more than that.
    """
    return np.where(result > _MAPPED, result / PAGE * c["page_s"] / np.asarray(threads), 0.0)
