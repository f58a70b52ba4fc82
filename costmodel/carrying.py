"""Translate fitted constants to another device, or to another framework's kernel."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from statistics import median

from costmodel import calibration, hardware, implementations, kernels
from costmodel.calibration import Section, Wanted
from costmodel.hardware.tables import families

#: Power that a board draws for each of its units whatever these compute [W], and the largest share of its
#: limit that goes to it: 86 W of an A100. Of 0, 0.5, 0.8 and 1 W, constants of other devices predict best
#: with the last two (validation/DIARY.md, "What units draw without arithmetic").
_UNIT_W, _MOST_DRAWN = 0.8, 0.7
#: Slowdown of tensor cores from which they are read as cut: GeForce's to half rate, H20's to a quarter. Where
#: the architectures differ, a slowdown beyond the second number is another design besides.
_CUT, _DESIGNED = 1.5, 2.5
#: Constant for the share of the memory bandwidth that a kernel reaches; the kernel model of passes over
#: tables.
_BANDWIDTH_SHARE, _STREAM = "bandwidth_share", "stream"
#: Constant for the largest working set, over the cache's capacity, that a repeated call still finds there.
_CACHE_SHARE = "cache_share"
#: A unit that can load this many times its share of the memory bandwidth keeps memory busy.
_SATURATING = 2.0
#: Share of a kernel's start-up time that does not scale with the units' clock: the launch itself and the
#: memory latency.
_UNCLOCKED = 0.25
#: Architectures whose libraries load the tiles of products and attention with the tensor memory accelerator
#: ("NVIDIA H100 Tensor Core GPU Architecture"), not with threads; and the kernel models this applies to.
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
    """Return a related device's constants, adjusted to another device.

    Constants of another framework's kernel are first `translated`. Then each group of constants is adjusted:

    - ``CLOCKED`` (times that are cycles) scale with the device's clock. Of a kernel's start (``STARTS``) only
      a part does.
    - ``RATES`` (bytes per cycle that caches and memory deliver to a unit) stay the same per second on another
      architecture, because caches and memory have clocks of their own.
    - ``MADE`` (what depends on the manufacturing process) change as other constants were seen to change from
      the relative's generation to the device's. On tensor cores they also scale with the square of the clock
      that peaks are stated for, because voltage scales with the clock.
    - ``PEAK_SHARES`` rise where the device's tensor cores are cut, as GeForce's are (half rate with fp32
      accumulation) and H20's: the rest of a step takes as long as before and hides behind longer arithmetic.
    - ``FEEDS`` (what a unit takes in) keep memory as busy as on the relative: kernels keep as many bytes in
      flight as that needs.
    - How much a partitioned cache keeps says nothing about a unified one, which is taken to hold all of its
      capacity.
    - On graphics memory (GDDR), a kernel reaches no more of the bandwidth than passes over tables reach on
      some such device. On any memory the share is at most 1.

    Parameters
    ----------
    constants : mapping
        Values by name: those of the section's constants that suit the operation.
    section : Section
        The calibration section they come from.
    relative : str
        The device they were fitted on.
    device : Device
        The device that runs the kernel.
    wanted : Wanted
        The kernel they are used for.
    own : bool
        Whether constants fitted on the device itself may be used to see how generations differ.
    """
    without = () if own else (device.base_name,)
    found, fitted_on = translated(constants, section, wanted, without), hardware.load(relative)
    clocks = device.clock_hz / fitted_on.clock_hz
    feeds = found.keys() & set(kernels.group(section.kernel, "FEEDS"))
    least = {
        name: min(found[name] / _bandwidth_per_unit(fitted_on), _SATURATING) * _bandwidth_per_unit(device)
        for name in feeds
    }
    for name in found.keys() & set(kernels.group(section.kernel, "CLOCKED")):
        found[name] /= clocks
    for name in found.keys() & set(kernels.group(section.kernel, "STARTS")):
        found[name] *= 1 - _UNCLOCKED + _UNCLOCKED * clocks
    for name in found.keys() & set(kernels.group(section.kernel, "RATES")):
        found[name] *= _rate_factor(section.kernel, wanted.dtype, fitted_on, device)
    for name in feeds:
        found[name] = max(found[name], least[name])
    for name in found.keys() & set(kernels.group(section.kernel, "MADE")):
        found[name] *= _energy_factor(fitted_on, device, wanted.dtype)
        found[name] *= _generation_factor(name, wanted, fitted_on, device, without)
    cut = _tensor_rate_factor(device, fitted_on, wanted.dtype)
    if cut >= _CUT and (device.family == fitted_on.family or cut <= _DESIGNED):
        for name in found.keys() & set(kernels.group(section.kernel, "PEAK_SHARES")):
            found[name] = _share_with_cut(found[name], cut)
    if _CACHE_SHARE in found and _partitioned(fitted_on) and not _partitioned(device):
        found[_CACHE_SHARE] = 1.0  # a partitioned cache keeps copies; a unified one holds its full capacity
    of_hbm = device.graphics_memory and not fitted_on.graphics_memory
    if of_hbm and _BANDWIDTH_SHARE in found and section.kernel != _STREAM:
        # Decoding steps reach 0.96 of A100's HBM bandwidth, all of H200's, but only 0.81 to 0.84 of L40S's
        # GDDR6.
        found[_BANDWIDTH_SHARE] = min(found[_BANDWIDTH_SHARE], _largest_gddr_share(without))
    if _BANDWIDTH_SHARE in found:
        # Fits of kernels that memory does not limit may exceed 1.
        found[_BANDWIDTH_SHARE] = min(found[_BANDWIDTH_SHARE], 1.0)
    return found


def _rate_factor(kernel: str, dtype: str, fitted_on: hardware.Device, device: hardware.Device) -> float:
    """Return the bytes per cycle that caches and memory deliver to a unit, relative to those of `fitted_on`.

    Within an architecture they are equal: its caches run at the units' clock, and their rates are stated per
    cycle ("NVIDIA A100 Tensor Core GPU Architecture": 5,120 B). Between architectures the bytes per second
    are equal, except that a tensor memory accelerator loads no less per cycle than threads do.
    """
    if fitted_on.family == device.family:
        return 1.0
    times = fitted_on.clock_hz / device.clock_hz
    if kernel in _OF_TILES and _tensors(dtype, fitted_on, device):
        before, after = (each.family in _BY_ACCELERATOR for each in (fitted_on, device))
        if before != after:
            return max(times, 1.0) if after else min(times, 1.0)
    return times


def _partitioned(device: hardware.Device) -> bool:
    """Return whether the last-level cache is partitioned, each part keeping copies of what its units read."""
    return device.llc_distinct < device.llc_capacity


def _bandwidth_per_unit(device: hardware.Device) -> float:
    """Return one unit's share of the memory bandwidth [B/cycle]."""
    return device.hbm_bandwidth / (device.units * device.clock_hz)


def _largest_gddr_share(without: Sequence[str]) -> float:
    """Return the largest share of the bandwidth that passes over tables reach on any device with GDDR."""
    shares = [
        s.constants[_BANDWIDTH_SHARE]
        for name in calibration.calibrated_devices()
        if name not in without and hardware.load(name).graphics_memory
        for s in calibration.load(name)
        if s.kernel == _STREAM and _BANDWIDTH_SHARE in s.constants
    ]
    return max(shares, default=1.0)


def _tensor_rate_factor(device: hardware.Device, fitted_on: hardware.Device, dtype: str) -> float:
    """Return the tensor-core operations per unit and cycle of `fitted_on`, over those of `device`.

    1 where either has no tensor cores for the format, or where the families differ and the device is not a
    GeForce board.
    """
    alike = device.family == fitted_on.family or device.raised > 1
    if not alike or not _tensors(dtype, device, fitted_on):
        return 1.0
    rates = [each.peak(dtype) / (each.units * each.clock_hz) for each in (fitted_on, device)]
    return rates[0] / rates[1]


def _share_with_cut(share: float, cut: float) -> float:
    """Return the share of the peak reached if arithmetic takes `cut` times as long and the rest is the same.

    Arithmetic and the rest of a step overlap in part, by a norm of order 2: 1/share² = 1 + rest².
    """
    rest = math.sqrt(max(1 / share**2 - 1, 0.0))
    return max(share, 1 / math.hypot(1.0, rest / cut))


def translated(
    constants: Mapping[str, float], section: Section, wanted: Wanted, without: Sequence[str] = ()
) -> dict[str, float]:
    """Return constants of one framework's kernel, scaled to another framework's kernel.

    Each constant is multiplied by the median ratio between the two frameworks on devices where both are
    fitted. It is left as it is where no device has both, for kernels that frameworks share (those outside
    ``OWN_KERNELS``), and where it belongs to the harness.
    """
    found, model = dict(constants), kernels.model(section.kernel)
    if section.kernel not in implementations.OWN_KERNELS or wanted.framework in (None, section.framework):
        return found
    pairs = []
    for device in calibration.calibrated_devices():
        alike = {
            s.framework: s.constants
            for s in calibration.load(device)
            if device not in without and _all_but_framework(s) == _all_but_framework(section)
        }
        if {section.framework, wanted.framework} <= alike.keys():
            pairs.append((alike[section.framework], alike[wanted.framework]))
    for name in constants.keys() - set(model.HARNESS):
        times = [b[name] / a[name] for a, b in pairs if a.get(name, 0.0) > 0 and b.get(name, 0.0) > 0]
        if times:
            plausible = model.CONSTANTS[name]
            found[name] = min(max(constants[name] * median(times), plausible.low), plausible.high)
    return found


def _all_but_framework(section: Section) -> tuple[str, ...]:
    """Return what distinguishes a section from the others of a file, except the framework."""
    return (section.kernel, section.op, section.dtype, section.harness, section.direction)


def _generation_factor(
    name: str, wanted: Wanted, before: hardware.Device, after: hardware.Device, without: Sequence[str]
) -> float:
    """Return the ratio of a constant in the family of `after` to that in the family of `before`.

    The ratio is of medians, taken at one clock where the constant scales with it. Families of the same
    manufacturing process count as one (``process``). It is taken from the section nearest to what is wanted
    among those fitted in both families, of any format; 1 if there is none, or if both have the same process.
    """
    made = _same_process(before.family), _same_process(after.family)
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
            s.constants[name] * (_energy_factor(of, after, s.dtype) if one_clock else 1.0)
            for of, s in found[nearest]
        )
        for found in (here, there)
    )
    return mine / theirs


def _energy_factor(of: hardware.Device, to: hardware.Device, dtype: str) -> float:
    """Return an operation's energy at the clock of `to`'s stated peaks, over that at the clock of `of`'s.

    On tensor cores energy scales with the square of the voltage, and voltage with the clock
    (`costmodel.kernels._power`). Fits take the whole power limit to be arithmetic's: of a lower limit, units
    without work draw a larger part. CUDA cores at their power limit run at the lowest voltage at any clock,
    so the ratio is 1.
    """
    if not _tensors(dtype, of, to):
        return 1.0
    return (to.matrix_clock_hz / of.matrix_clock_hz) ** 2 * _computing(of) / _computing(to)


def _computing(device: hardware.Device) -> float:
    """Return the share of the power limit that is left to arithmetic; 1 if no limit is known."""
    if device.tdp_w is None:
        return 1.0
    return 1 - min(_UNIT_W * device.units / device.tdp_w, _MOST_DRAWN)


def _tensors(dtype: str, *devices: hardware.Device) -> bool:
    """Return whether all the devices multiply a format on tensor (matrix) cores."""
    return all(dtype in each.matrix_dtypes for each in devices)


def _same_process(family: str) -> frozenset[str]:
    """Return the families with the same manufacturing process as a family, itself included."""
    known = families()
    process = known[family].process
    return frozenset(
        {family, *(name for name, other in known.items() if process and other.process == process)}
    )


def _fitted(
    name: str, kernel: str, of: Container[str], without: Sequence[str]
) -> dict[tuple[str, ...], list[tuple[hardware.Device, Section]]]:
    """Return the sections of some families' devices that have a constant, grouped by `Section.cell`."""
    found: dict[tuple[str, ...], list[tuple[hardware.Device, Section]]] = {}
    for device in calibration.calibrated_devices():
        if device not in without and hardware.family_of(device) in of:
            for s in calibration.load(device):
                if s.kernel == kernel and name in s.constants:
                    found.setdefault(s.cell, []).append((hardware.load(device), s))
    return found
