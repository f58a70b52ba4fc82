"""Combine times that overlap, and estimate what a replay still finds in the cache."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._cache import misses
from costmodel.kernels.base import Array, Constant

#: Sharpness of the transition from a working set that stays in L2 between replays to one that does not.
_MISS_ORDER = 6.0
#: Sharpness of the transition from a time that the host limits to one that the kernel limits.
_HOST_ORDER = 12.0

#: Constants that several kernel models have, with the same range and default.
CACHE_SHARE = Constant(
    1.0,
    0.3,
    2.0,
    "1",
    "largest working set that hits on replay, over the cache's capacity for distinct data",
)
L2_UNIT_BYTES = Constant(20.0, 4.0, 128.0, "B/cycle", "bandwidth of L2 per unit, with all units at work")
RAMP_CYCLES = Constant(
    0.0, 0.0, 20000.0, "cycles", "extra time of a call whose operands come from memory, for any size"
)
OVERLAP = Constant(3.0, 1.0, 12.0, "1", "order of the norm that joins the limits: 1 adds them, 12 is max")
#: The two times of `hosted`.
HOST = {
    "dispatch_s": Constant(0.0, 0.0, 2e-4, "s", "harness: from the start event to the kernel's launch"),
    "record_s": Constant(
        0.0, 0.0, 2e-4, "s", "harness: from the launch to the end event, hidden by longer kernels"
    ),
}


def norm(order: float, one: ArrayLike, other: ArrayLike) -> Array:
    """Return the norm of two times: their sum at order 1, nearly their maximum at a high order."""
    high, low = np.maximum(one, other), np.minimum(one, other)
    return np.asarray(high * (1 + (low / np.maximum(high, 1e-30)) ** order) ** (1 / order))


def joined(order: float, *times: Array | float) -> Array:
    """Return the norm of overlapping times: order 1 adds them, a high order approaches the largest."""
    total: Array = sum((time**order for time in times), np.zeros_like(times[0]))
    return np.asarray(total ** (1 / order))


def hosted(dispatch: Array | float, kernel: Array, record: Array | float) -> Array:
    """Return the time between a harness's two events around a kernel [s].

    It is the time from the first event to the launch, and then the longer of the kernel and the second
    event's way to the device.
    """
    return np.asarray(dispatch + joined(_HOST_ORDER, kernel, record))


def miss_share(device: Device, cache_share: float, working_set: Array, order: float = _MISS_ORDER) -> Array:
    """Return the share of its bytes that a replay misses in the L2 of `device`.

    Parameters
    ----------
    device : Device
        The device that runs it.
    cache_share : float
        Working set, relative to the capacity of L2, at which half of it hits.
    working_set : array
        Bytes that one call accesses.
    order : float
        Sharpness of the transition between all and none.
    """
    return misses(working_set, cache_share * device.llc_distinct, order)


def byte_time(device: Device, constants: Mapping[str, float], miss: Array) -> Array:
    """Return the time per byte [s/B] if a share comes from memory and the rest from L2.

    Parameters
    ----------
    device : Device
        The device that runs it.
    constants : mapping of str to float
        ``bandwidth_share`` and ``l2_unit_bytes``; L2 is taken to be no slower than memory.
    miss : array
        Share that comes from memory.
    """
    memory = constants["bandwidth_share"] * device.hbm_bandwidth
    cache = max(constants["l2_unit_bytes"] * device.units * device.clock_hz, memory)
    return miss / memory + (1 - miss) / cache
