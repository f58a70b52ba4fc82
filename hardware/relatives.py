"""Whose fitted constants suit a device that has none of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable

from costmodel.errors import UnavailableError
from costmodel.hardware.device import Device
from costmodel.hardware.tables import Family, families


def rank(device: Device, candidates: Iterable[Device]) -> list[tuple[str, str]]:
    """Return name and relation of the candidates that are related to a device, best first.

    Parameters
    ----------
    device : Device
        Which has no constants of its own.
    candidates : iterable of Device
        Which have; the device itself is passed over.

    Returns
    -------
    list of (str, str)
        The relation is ``sibling`` (same family), ``generation`` (a family listed as
        nearest in ``families.yaml``, in its order) or ``vendor`` (any other of the same
        vendor). Among equals, the most alike in speed and bandwidth comes first. Devices
        of other vendors are no relatives.
    """
    nearest = nearest_families(device)
    ranked = []
    for other in candidates:
        if other.name.rstrip("*") == device.name.rstrip("*") or other.vendor != device.vendor:
            continue
        order = nearest.index(other.family) if other.family in nearest else len(nearest)
        relation = "vendor" if order == len(nearest) else "generation" if order else "sibling"
        ranked.append((order, _distance(device, other), other.name, relation))
    return [(name, relation) for _, _, name, relation in sorted(ranked)]


def nearest_families(device: Device) -> tuple[str, ...]:
    """Return the families whose kernels work most like a device's, its own first."""
    family = families().get(device.family, Family(device.vendor, ()))
    return (device.family, *family.nearest)


def _distance(one: Device, other: Device) -> float:
    """Return how far apart two devices are, in factors of e over speed, bandwidth and units."""
    pairs = [(one.hbm_bandwidth, other.hbm_bandwidth), (one.units, other.units), (_speed(one), _speed(other))]
    return sum(abs(math.log(a / b)) for a, b in pairs)


def _speed(device: Device) -> float:
    try:
        return device.peak(device.native_16bit or "fp32")
    except UnavailableError:
        return device.hbm_bandwidth
