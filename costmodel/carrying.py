"""What fitted constants become on another device, or of another framework's kernel."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from statistics import median

from costmodel import calibration, hardware, implementations, kernels
from costmodel.calibration import Section, Wanted
from costmodel.hardware.tables import families

#: How many times slower tensor cores are that are taken to be cut to a half, and not of another make.
_CUT = (1.5, 2.5)
#: What kernel models call the share of the memory's bandwidth that they reach; that of passes over tables.
_REACHED, _PASSES = "bandwidth_share", "stream"
#: What they call the working set, over what the cache holds, that is still found there.
_HELD = "cache_share"
#: A unit that takes in so many times its part of the memory's bandwidth keeps memory busy.
_AHEAD = 2.0
#: Share of a kernel's start that goes with no clock of the units: what starts it, and the memory's latency.
_UNCLOCKED = 0.25
#: Architectures whose libraries load the tiles of products and attention by a unit's tensor memory
#: accelerator ("NVIDIA H100 Tensor Core GPU Architecture"), not by threads; and the kernel models of these.
_BY_ACCELERATOR, _OF_TILES = ("hopper", "blackwell"), ("gemm", "attention", "decode")


def carried(
    constants: Mapping[str, float],
    section: Section,
    relative: str,
    device: hardware.Device,
    wanted: Wanted,
    *,
    own: bool,
) -> dict[str, float]:
    """Return a relative's constants as they are on a device.

    Those of another framework's kernel go as `translated`. Times that are cycles (``CLOCKED``) go by the
    device's clock, but for a part of a kernel's start (``STARTS``), and bytes that caches and memory give a
    unit in a cycle (``RATES``) are as many in a second on another architecture: latencies and caches keep
    clocks of their own. What goes with how chips are made (``MADE``) does by what came of it from the
    relative's generation to the device's, and on tensor cores by the square of the clock that peaks are
    stated for, as voltage goes with the clock. Shares of the peak (``PEAK_SHARES``) rise where the device's
    tensor cores are cut, as GeForce's are (half rate with fp32 accumulation): what else a step takes is as
    long, and hides behind more of it. What a unit takes in (``FEEDS``) keeps memory as busy as on the
    relative: kernels have as much under way as that needs. What a cache in parts keeps is not what a whole
    one does. Of graphics memory no kernel reaches more than passes over tables do of some, and of none more
    than all.

    Parameters
    ----------
    constants : mapping
        Values by name, of those of the section that suit the operation.
    section : Section
        Where they are from.
    relative : str
        The device whose they are.
    device : Device
        Where the kernel runs.
    wanted : Wanted
        Which kernel.
    own : bool
        Whether what was fitted on the device itself may tell of its generation.
    """
    without = () if own else (device.base_name,)
    found, lender = translated(constants, section, wanted, without), hardware.load(relative)
    clocks = device.clock_hz / lender.clock_hz
    feeds = found.keys() & set(kernels.group(section.kernel, "FEEDS"))
    least = {name: min(found[name] / _part(lender), _AHEAD) * _part(device) for name in feeds}
    for name in found.keys() & set(kernels.group(section.kernel, "CLOCKED")):
        found[name] /= clocks
    for name in found.keys() & set(kernels.group(section.kernel, "STARTS")):
        found[name] *= 1 - _UNCLOCKED + _UNCLOCKED * clocks
    for name in found.keys() & set(kernels.group(section.kernel, "RATES")):
        found[name] *= _taken_in(section.kernel, wanted.dtype, lender, device)
    for name in feeds:
        found[name] = max(found[name], least[name])
    for name in found.keys() & set(kernels.group(section.kernel, "MADE")):
        found[name] *= _voltage(lender, device, wanted.dtype)
        found[name] *= _progress(name, wanted, lender, device, without)
    cut = _cut(device, lender, wanted.dtype)
    if _CUT[0] <= cut <= _CUT[1]:
        for name in found.keys() & set(kernels.group(section.kernel, "PEAK_SHARES")):
            found[name] = _uncovered(found[name], cut)
    if _HELD in found and _divided(lender) and not _divided(device):
        found[_HELD] = 1.0  # how parts keep copies tells nothing of a whole cache, which holds what it holds
    of_hbm = device.graphics_memory and not lender.graphics_memory
    if of_hbm and _REACHED in found and section.kernel != _PASSES:
        # Steps of decoding reach 0.96 of A100's HBM and all of H200's, and 0.81 to 0.84 of L40S's GDDR6.
        found[_REACHED] = min(found[_REACHED], _of_graphics_memory(without))
    if _REACHED in found:
        found[_REACHED] = min(found[_REACHED], 1.0)  # fits of what memory does not limit go beyond
    return found


def _taken_in(kernel: str, dtype: str, lender: hardware.Device, device: hardware.Device) -> float:
    """Return the bytes that caches and memory give a unit in a cycle, over those of a relative's unit.

    Of one architecture as many: its caches go with its units' clock, and their rates are stated by the cycle
    ("NVIDIA A100 Tensor Core GPU Architecture": 5,120 B). Of another as many in a second, but a unit's tensor
    memory accelerator takes in no less in a cycle than threads do.
    """
    if lender.family == device.family:
        return 1.0
    times = lender.clock_hz / device.clock_hz
    if kernel in _OF_TILES and _tensors(dtype, lender, device):
        before, after = (each.family in _BY_ACCELERATOR for each in (lender, device))
        if before != after:
            return max(times, 1.0) if after else min(times, 1.0)
    return times


def _divided(device: hardware.Device) -> bool:
    """Return whether the largest cache is in parts that each keep what the units beside them read."""
    return device.llc_distinct < device.llc_capacity


def _part(device: hardware.Device) -> float:
    """Return what one unit's part of the memory's bandwidth is [B/cycle]."""
    return device.hbm_bandwidth / (device.units * device.clock_hz)


def _of_graphics_memory(without: Sequence[str]) -> float:
    """Return the most of its bandwidth that passes over tables reach on a device with graphics memory."""
    shares = [
        s.constants[_REACHED]
        for name in calibration.calibrated_devices()
        if name not in without and hardware.load(name).graphics_memory
        for s in calibration.load(name)
        if s.kernel == _PASSES and _REACHED in s.constants
    ]
    return max(shares, default=1.0)


def _cut(device: hardware.Device, lender: hardware.Device, dtype: str) -> float:
    """Return the operations of a unit of a relative's tensor cores in a cycle, over those of the device.

    1 where either multiplies elsewhere, or they are of another family, unless the device is a GeForce board.
    """
    alike = device.family == lender.family or device.raised > 1
    if not alike or not _tensors(dtype, device, lender):
        return 1.0
    rates = [each.peak(dtype) / (each.units * each.clock_hz) for each in (lender, device)]
    return rates[0] / rates[1]


def _uncovered(share: float, cut: float) -> float:
    """Return a share of the peak where arithmetic takes `cut` times as long, beside the same rest of a step.

    The two overlap in part, as the norm of order 2 has it: 1/share² = 1 + rest².
    """
    rest = math.sqrt(max(1 / share**2 - 1, 0.0))
    return max(share, 1 / math.hypot(1.0, rest / cut))


def translated(
    constants: Mapping[str, float], section: Section, wanted: Wanted, without: Sequence[str] = ()
) -> dict[str, float]:
    """Return one framework's constants as another's: as many times as where both are fitted on a device.

    As they are where none has both, of kernels that frameworks have in common (``OWN_KERNELS`` are not), and
    what is the harness's.
    """
    found, model = dict(constants), kernels.model(section.kernel)
    if section.kernel not in implementations.OWN_KERNELS or wanted.framework in (None, section.framework):
        return found
    pairs = []
    for device in calibration.calibrated_devices():
        alike = {
            s.framework: s.constants
            for s in calibration.load(device)
            if device not in without and _whose_ever(s) == _whose_ever(section)
        }
        if {section.framework, wanted.framework} <= alike.keys():
            pairs.append((alike[section.framework], alike[wanted.framework]))
    for name in constants.keys() - set(model.HARNESS):
        times = [b[name] / a[name] for a, b in pairs if a.get(name, 0.0) > 0 and b.get(name, 0.0) > 0]
        if times:
            plausible = model.CONSTANTS[name]
            found[name] = min(max(constants[name] * median(times), plausible.low), plausible.high)
    return found


def _whose_ever(section: Section) -> tuple[str, ...]:
    """Return what tells a section from the others of a file, but for the framework."""
    return (section.kernel, section.op, section.dtype, section.harness, section.direction)


def _progress(
    name: str, wanted: Wanted, before: hardware.Device, after: hardware.Device, without: Sequence[str]
) -> float:
    """Return how many times its value in one family a constant is in another, where both have it fitted.

    At one clock, where it goes with that. Families that are made alike (``process``) speak for one another.
    In the kernel nearest to what is wanted among those fitted in both, whatever their format; 1 if there is
    none, or both are made alike.
    """
    made = _made_alike(before.family), _made_alike(after.family)
    if made[0] == made[1]:
        return 1.0
    there, here = (_fitted(name, wanted.kernel, families, without) for families in made)
    both = [cell for cell in here if cell in there]
    if not both:
        return 1.0
    nearest = min(both, key=lambda cell: wanted.distance(here[cell][0][1]))
    one_clock = _tensors(wanted.dtype, before, after)
    mine, theirs = (
        median(
            s.constants[name] * (_voltage(of, after, s.dtype) if one_clock else 1.0)
            for of, s in found[nearest]
        )
        for found in (here, there)
    )
    return mine / theirs


def _voltage(of: hardware.Device, to: hardware.Device, dtype: str) -> float:
    """Return what an operation draws at the clock of one device's stated peaks, over that at another's.

    Energy goes with the square of the voltage, and that with the clock, as `costmodel.kernels._power` has it
    of tensor cores; CUDA cores at their power limit are at the least voltage, whatever the clock.
    """
    return (to.matrix_clock_hz / of.matrix_clock_hz) ** 2 if _tensors(dtype, of, to) else 1.0


def _tensors(dtype: str, *devices: hardware.Device) -> bool:
    """Return whether all of some devices multiply a format on tensor (matrix) cores."""
    return all(dtype in each.matrix_dtypes for each in devices)


def _made_alike(family: str) -> frozenset[str]:
    """Return the families whose chips are made as a family's are, itself among them."""
    known = families()
    process = known[family].process
    return frozenset(
        {family, *(name for name, other in known.items() if process and other.process == process)}
    )


def _fitted(
    name: str, kernel: str, of: Container[str], without: Sequence[str]
) -> dict[tuple[str, ...], list[tuple[hardware.Device, Section]]]:
    """Return the sections of some families' devices that hold a constant, by what tells them apart."""
    found: dict[tuple[str, ...], list[tuple[hardware.Device, Section]]] = {}
    for device in calibration.calibrated_devices():
        if device not in without and hardware.family_of(device) in of:
            for s in calibration.load(device):
                if s.kernel == kernel and name in s.constants:
                    found.setdefault(s.cell, []).append((hardware.load(device), s))
    return found
