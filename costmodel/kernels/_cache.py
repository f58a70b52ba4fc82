"""Model how much of a kernel's traffic the last-level cache serves, and how fast shared memory is."""

from __future__ import annotations

import numpy as np

from costmodel.hardware import Device
from costmodel.kernels.base import Array

#: Shared-memory bandwidth of a unit [B/cycle] where it is not 128 (32 banks of 4 bytes): NVIDIA's whitepaper
#: on Ampere GA102 (2021), which doubles it.
_SHARED_BYTES = {"turing": 64.0}
#: Powers up to this order are computed by multiplication.
_MOST_PRODUCTS = 32.0


def misses(size: Array, capacity: float, order: float = 8.0) -> Array:
    """Return the share of accesses to a working set that a cache does not serve.

    It is a smooth step: one half at ``capacity`` and, at the default order, below 0.4 % at half of it and
    above 99.6 % at twice.

    Parameters
    ----------
    size : array
        Working set [B].
    capacity : float
        Part of the cache that it may use [B]; 0 without a cache.
    order : float
        Sharpness of the step: low where reuse distances differ.
    """
    if capacity <= 0:
        return np.ones_like(size)
    ratio = power(np.minimum(size / capacity, 1e6), order)
    return ratio / (1.0 + ratio)


def power(base: Array, order: float) -> Array:
    """Return base^order, by products and a square root where possible, which is several times faster."""
    whole, half = divmod(order, 1.0)
    if half not in (0.0, 0.5) or not 0 < order <= _MOST_PRODUCTS:
        return base**order
    found, square, left = np.sqrt(base) if half else None, base, int(whole)
    while left:
        if left & 1:
            found = square if found is None else found * square
        left >>= 1
        if left:
            square = square * square
    return base if found is None else found


def warm_seconds(
    size: Array, traffic: Array, *, capacity: float, bandwidth: float, cache_bandwidth: float
) -> tuple[Array, Array]:
    """Return the times [s] of memory and of the cache for a working set that replays access again.

    All traffic passes the cache; memory serves what the cache does not hold. The longer of the two times
    limits.

    Parameters
    ----------
    size, traffic : array
        Distinct bytes of the working set, and bytes moved (more, if some are updated in place).
    capacity : float
        Part of the cache that a working set may fill and still be found there [B].
    bandwidth, cache_bandwidth : float
        Bandwidth reached of main memory and of the cache [B/s].
    """
    return misses(size, capacity) * traffic / bandwidth, traffic / cache_bandwidth


def shared_bytes_per_cycle(device: Device) -> float:
    """Return the bandwidth of a unit's shared memory [B/cycle]."""
    return _SHARED_BYTES.get(device.family, 128.0)
