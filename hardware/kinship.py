"""Rank devices whose fitted constants suit a device that has none of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable

from costmodel.arguments import typed
from costmodel.hardware.device import Device
from costmodel.hardware.tables import Family, families


def rank(device: Device, candidates: Iterable[Device]) -> list[tuple[str, str]]:
    """Return name and relation of the related devices among candidates, best first.

    Parameters
    ----------
    device : Device
        The device without constants of its own.
    candidates : iterable of Device
        The devices with constants; the device itself is skipped.

    Returns
    -------
    list of (str, str)
        The relation is ``sibling`` (same family), ``generation`` (a family listed as nearest in
        ``families.yaml``, in its order), ``vendor`` (any other of the same vendor) or ``foreign`` (a family
        listed as nearest, of another vendor: last of all). Devices of equal relation are ordered by
        similarity in speed, bandwidth and units. Other devices of other vendors are not related.
    """
    own, foreign = nearest_families(device), foreign_families(device)
    ranked = []
    for other in candidates:
        if other.base_name == device.base_name:
            continue
        if other.family in own:
            order = own.index(other.family)
            relation = "generation" if order else "sibling"
        elif other.vendor == device.vendor:
            order, relation = len(own), "vendor"
        elif other.family in foreign:
            order, relation = len(own) + 1 + foreign.index(other.family), "foreign"
        else:
            continue
        ranked.append((order, _distance(device, other), other.name, relation))
    return [(name, relation) for _, _, name, relation in sorted(ranked)]


@typed
def nearest_families(device: Device) -> tuple[str, ...]:
    """Return the families of the same vendor whose kernels are most similar, the device's own first."""
    return (device.family, *(f for f in _listed(device) if _vendor(f) == device.vendor))


@typed
def foreign_families(device: Device) -> tuple[str, ...]:
    """Return the families of other vendors whose kernels are most similar to the device's."""
    return tuple(f for f in _listed(device) if _vendor(f) != device.vendor)


def _listed(device: Device) -> tuple[str, ...]:
    return families().get(device.family, Family(device.vendor, ())).nearest


def _vendor(family: str) -> str:
    return families()[family].vendor


def _distance(one: Device, other: Device) -> float:
    """Return the distance of two devices: the sum of the log-ratios of bandwidth, units and speed."""
    pairs = [(one.hbm_bandwidth, other.hbm_bandwidth), (one.units, other.units), (_speed(one), _speed(other))]
    return sum(abs(math.log(a / b)) for a, b in pairs)


def _speed(device: Device) -> float:
    dtype = device.native_16bit or "fp32"
    return device.peak(dtype) if device.has(dtype) else device.hbm_bandwidth
