"""Choice of the fitted constants for a prediction: the device's own, a related device's, another format's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import median

from costmodel import calibration, dtypes, hardware, implementations, kernels, spreads
from costmodel.calibration import Section, Spread, Wanted
from costmodel.carrying import carried, translated
from costmodel.hardware.whatif import clocked
from costmodel.harness import DISPATCH, HOSTED, as_timed

#: Formats that run at the same speed in the same kernel.
SAME_SPEED = {"bf16": "fp16", "fp16": "bf16"}


@dataclass(frozen=True)
class Choice:
    """The constants used to predict one kernel.

    Attributes
    ----------
    origin : str
        ``self``, the name of a related device, or ``none`` (the kernel model's defaults).
    section : Section or None
        The calibration section they come from.
    constants : mapping
        Values by name; empty: all defaults.
    spread : tuple of Spread
        Error of predictions with these constants on held-out rows. For the device's own constants, that of
        their section; for constants of another device, kernel or format, as wide as such transfers have
        been (`costmodel.spreads`).
    fitted : str
        The format they were fitted in, if it is not the kernel's own.
    raised : float
        Factor on the device's stated clock at which the constants apply. Boards run above their stated clock
        by different factors (`Device.raised`); constants in cycles carry the related device's factor over.
    """

    origin: str
    section: Section | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    spread: tuple[Spread, ...] = ()
    fitted: str = ""
    raised: float = 1.0

    @property
    def whose(self) -> str:
        """The origin in words: ``nvidia/a40``, or ``nvidia/a40 (bf16)`` if fitted in another format."""
        return f"{self.origin} ({self.fitted})" if self.fitted else self.origin


def choose(
    device: hardware.Device, wanted: Wanted, *, own: bool = True, apart_from: str | None = None
) -> Choice:
    """Return the constants for a kernel on a device: its own, its nearest relative's, or another format's.

    The device's own constants go first even if they were fitted on another framework: they predict it better
    than constants of the very kernel on another device (validation/DIARY.md). The exception is a framework
    whose kernel is another algorithm, with constants of its own; then a relative's constants for the same
    algorithm go first. Another vendor's constants go last, after those of another format: with H200's, FP8
    products on MI300X were predicted at 0.58 of the posted time.

    Parameters
    ----------
    device : Device
        The device that runs the kernel.
    wanted : Wanted
        The kernel; if it names no framework, the first of ``DEFAULT_FRAMEWORKS`` that is available.
    own : bool
        Whether the device's own constants may be used.
    apart_from : str, optional
        A framework whose constants on this device must not be used: those that are being fitted.
    """
    mine = [s for s in calibration.own(device) if s.framework != apart_from] if own else []
    return (
        _of_itself([s for s in mine if _serves(s, wanted, device)], device, wanted)
        or _from_relative(device, wanted, alike=True, own=own)
        or _of_itself(mine, device, wanted)
        or _from_relative(device, wanted, alike=False, own=own)
        or _of_another_format(device, wanted, mine, own=own)
        or _from_relative(device, wanted, alike=True, own=own, foreign=True)
        or _from_relative(device, wanted, alike=False, own=own, foreign=True)
        or _of_another_format(device, wanted, (), own=own, foreign=True)
        or _by_default(wanted.kernel, device)
    )


def _by_default(kernel: str, device: hardware.Device) -> Choice:
    """Return a kernel model's defaults, with the errors of their predictions if they were fitted."""
    residuals = getattr(kernels.model(kernel), "RESIDUALS", None)
    if residuals is None:
        return Choice("none")
    there = device.family in kernels.group(kernel, "FITTED_ON")
    return Choice("none", spread=spreads.of_defaults(kernel, *residuals, fitted_there=there))


def elsewhere(choice: Choice, device: hardware.Device) -> bool:
    """Return whether the constants, if there are any, come from another device."""
    return choice.origin not in ("self", device.base_name)


def timed(choice: Choice, wanted: Wanted, device: hardware.Device, *, own: bool = True) -> Choice:
    """Return the constants with the dispatch cost that the harness measures; for `own` see `host`."""
    section, names = choice.section, kernels.group(wanted.kernel, "HARNESS")
    carried_over = elsewhere(choice, device)
    own_host = section is not None and not carried_over and section.harness in HOSTED
    dispatch = {} if own_host else host(device, wanted, own=own)
    if dispatch:
        kept = {name: value for name, value in choice.constants.items() if name not in names}
        return replace(choice, constants=kept | dispatch)
    if section is None:
        return choice
    hostless = carried_over or (wanted.framework is None and own and _without_host(device, wanted.kernel))
    constants = as_timed(choice.constants, names, section.harness, wanted.harness, elsewhere=hostless)
    return replace(choice, constants=constants)


def _without_host(device: hardware.Device, kernel: str) -> bool:
    """Return whether any of a device's own constants for a kernel model were timed without the host.

    If so, all of them are used without the host's dispatch: a sum of kernels with and without it would be
    something that no harness measures.
    """
    mine = calibration.own(device)
    return any(section.kernel == kernel and section.harness not in HOSTED for section in mine)


def host(device: hardware.Device, wanted: Wanted, *, own: bool = True) -> dict[str, float]:
    """Return the host's dispatch constants (``DISPATCH``) as a harness measures them; else nothing.

    Each is the median over all fits from one source. The sources are tried in order: this device's own host,
    hosts of the vendor's other devices (they share a driver; nothing in a spec describes a host), then any
    host. Within a source, fits of the same operation go first. Empty if the harness does not time the host,
    or if no fit is known.

    Parameters
    ----------
    device : Device
        The device that runs the kernel.
    wanted : Wanted
        The kernel and the harness.
    own : bool
        Whether this device's own fits may be used.
    """
    described = kernels.model(wanted.kernel).CONSTANTS
    if wanted.harness not in HOSTED or not set(DISPATCH) <= set(described):
        return {}
    vendor = device.name.partition("/")[0]
    others = [name for name in calibration.calibrated_devices() if name != device.base_name]
    kin = [name for name in others if name.partition("/")[0] == vendor]
    # On one host, both harnesses that time it see much the same dispatch.
    mine = calibration.own(device) if own else ()
    near, any_other = ([s for name in place for s in calibration.load(name)] for place in (kin, others))
    places = ((mine, HOSTED), (near, (wanted.harness,)), (any_other, (wanted.harness,)))
    for sections, harnesses in places:
        timed = [s for s in sections if s.kernel == wanted.kernel and s.harness in harnesses]
        alike = [s.constants for s in timed if s.op == wanted.op] or [s.constants for s in timed]
        if alike:
            return {n: median(c.get(n, described[n].default) for c in alike) for n in DISPATCH}
    return {}


def _of_itself(sections: Sequence[Section], device: hardware.Device, wanted: Wanted) -> Choice | None:
    """Return the constants of the best-fitting one of a device's own sections, or None."""
    section = _nearest(sections, device, wanted, device)
    if section is None:
        return None
    # What-if devices use the constants of the device they were made from.
    origin = "self" if device.name == device.base_name else device.base_name
    constants = translated(_constants(section, wanted), section, wanted)
    return Choice(origin, section, constants, spreads.own(section, wanted, device))


def _of_another_format(
    device: hardware.Device, wanted: Wanted, mine: Sequence[Section], *, own: bool, foreign: bool = False
) -> Choice | None:
    """Return the constants of the nearest other format, on this device or else on a related one; or None.

    For matrix products and kernels built on them, only formats of the same engine qualify. For memory-bound
    kernels, and for constants that hold in every format (``EVERY_FORMAT``), all do. The nearest format is the
    one closest in width. Where algorithms have constants of their own, those of the same one go first.
    """
    engine, width = device.engine(wanted.dtype), dtypes.dtype(wanted.dtype).bytes
    untried = [name for name in device.formats if name not in _same_speed(wanted.dtype)]
    fitting = [name for name in untried if _any_engine(wanted) or device.engine(name) == engine]
    formats = sorted(fitting, key=lambda name: abs(math.log2(dtypes.dtype(name).bytes / width)))
    others = [replace(wanted, dtype=name) for name in formats]
    for alike in (True, False) if wanted.kernel in implementations.ALGORITHMS else (False,):
        fit = [s for s in mine if not alike or _serves(s, wanted, device)]
        here = (_of_itself(fit, device, other) for other in others)
        lent = (_from_relative(device, other, alike=alike, own=own, foreign=foreign) for other in others)
        for other, choice in zip((*others, *others), itertools.chain(here, lent), strict=True):
            if choice is not None and choice.section is not None:
                return _in_format(choice, choice.section, device, wanted, other.dtype)
    return None


def _in_format(
    choice: Choice, section: Section, device: hardware.Device, wanted: Wanted, other: str
) -> Choice:
    """Return another format's constants converted to the wanted one: only those that hold in every, or all.

    Energies per operation (``MADE``) scale with the time per operation: an engine draws about the same power
    in any format.
    """
    origin = device.base_name if choice.origin == "self" else choice.origin
    names = kernels.group(wanted.kernel, "EVERY_FORMAT")
    if names:
        kept = {name: choice.constants[name] for name in names if name in choice.constants}
        return Choice(origin, None, kept, fitted=section.dtype, raised=choice.raised)
    constants = dict(choice.constants)
    made = getattr(kernels.model(wanted.kernel), "MADE", {})
    for name, expected in made.items():
        before = constants.get(name, expected(other))
        constants[name] = before * device.product_peak(other) / device.product_peak(wanted.dtype)
    spread = spreads.widest(choice.spread, spreads.transfer(wanted.kernel, "generation"))
    return replace(choice, origin=origin, constants=constants, spread=spread, fitted=section.dtype)


def _from_relative(
    device: hardware.Device, wanted: Wanted, *, alike: bool, own: bool, foreign: bool = False
) -> Choice | None:
    """Return the constants of the nearest related device that has some: for the same algorithm, or for any.

    Searched are the same vendor's devices, or (`foreign`) other vendors'. If one library has a kernel for all
    architectures, its constants on any device go before another library's on a nearer relative, unless that
    is a sibling. Some kernel models' constants say nothing about other vendors (``OWN_VENDOR``).
    """
    if foreign and getattr(kernels.model(wanted.kernel), "OWN_VENDOR", False):
        return None
    whose = (wanted.op, wanted.framework, wanted.label)
    for code in (*implementations.same_code(wanted.kernel, *whose, device), None):
        for relative, relation in _suited(device, wanted.kernel):
            if (relation == "foreign") != foreign:
                continue
            lender = hardware.load(relative)
            sections = [s for s in calibration.load(relative) if _of_engine(s, lender, wanted, device)]
            if code is not None and relation != "sibling":
                sections = [s for s in sections if s.op == wanted.op and _says(s, code, lender)]
            fitting = [s for s in sections if not alike or _serves(s, wanted, device)]
            section = _nearest(fitting, lender, wanted, device)
            if section is not None:
                return _carried(section, device, relative, relation, wanted, own=own)
    return None


def _says(section: Section, library: str, of: hardware.Device) -> bool:
    """Return whether a section's kernel name says that it belongs to that library."""
    framework, label = section.implementation
    if not implementations.says(section.kernel, label):
        return False
    return implementations.library(section.kernel, section.op, framework, label, of) == library


def _of_engine(section: Section, of: hardware.Device, wanted: Wanted, device: hardware.Device) -> bool:
    """Return whether a section was fitted on the kind of engine that multiplies on the device.

    Always true of kernels that no engine limits, and of fp32, whose kernels are alike on CUDA cores and on
    AMD's matrix cores.
    """
    if section.kernel != wanted.kernel or section.dtype not in _same_speed(wanted.dtype):
        return False
    if _any_engine(wanted) or wanted.dtype == "fp32":
        return True
    return of.engine(section.dtype) == device.engine(wanted.dtype)


def _any_engine(wanted: Wanted) -> bool:
    """Return whether a kernel model's constants do not depend on which engine multiplies."""
    of_memory = getattr(kernels.model(wanted.kernel), "MEMORY_BOUND", False)
    return of_memory or bool(kernels.group(wanted.kernel, "EVERY_FORMAT"))


def _suited(device: hardware.Device, kernel: str) -> Iterable[tuple[str, str]]:
    """Return relatives as `relatives` does; for memory-bound kernels on GDDR devices those with GDDR first.

    Passes over GDDR reach 0.74 to 0.81 of the stated bandwidth on all fitted devices, over HBM 0.74 to 0.92.
    """
    found = relatives(device)
    if not (getattr(kernels.model(kernel), "MEMORY_BOUND", False) and device.graphics_memory):
        return found
    return sorted(found, key=lambda r: (r[1] == "foreign", not hardware.load(r[0]).graphics_memory))


def _constants(section: Section, wanted: Wanted) -> Mapping[str, float]:
    """Return a section's constants, without those of its operation (``OPERATION``) if another is wanted."""
    if section.op == wanted.op:
        return section.constants
    its = kernels.group(section.kernel, "OPERATION")
    return {name: value for name, value in section.constants.items() if name not in its}


def _carried(
    section: Section, device: hardware.Device, relative: str, relation: str, wanted: Wanted, *, own: bool
) -> Choice:
    """Return a related device's constants, converted to this device."""
    in_cycles = any("cycle" in c.unit for c in kernels.model(section.kernel).CONSTANTS.values())
    lender = hardware.load(relative)
    raised = device.raised / lender.raised if in_cycles else 1.0
    constants = carried(
        _constants(section, wanted), section, relative, at_clock(device, raised), wanted, own=own
    )
    spread = spreads.carried(section, wanted, lender, device, relation)
    return Choice(relative, section, constants, spread, raised=raised)


@lru_cache(maxsize=128)
def at_clock(device: hardware.Device, raised: float) -> hardware.Device:
    """Return a device at `raised` times its stated clock."""
    return device if raised == 1 else hardware.Device(clocked(device.spec, raised), device.calibration)


def _serves(section: Section, wanted: Wanted, device: hardware.Device) -> bool:
    """Return whether a section's constants apply to the kernel asked for.

    For most kernel models any section of the same direction does. Where algorithms have constants of their
    own, a section of the requested framework applies whatever algorithm it runs; of other frameworks, only
    one of the same algorithm.
    """
    if not wanted.direction.startswith(section.direction):
        return False
    named = implementations.named(wanted.kernel, wanted.framework, wanted.label)
    if wanted.kernel not in implementations.ALGORITHMS or not named:
        return True
    if section.op != wanted.op:
        return False
    if section.framework == wanted.framework and not implementations.says(wanted.kernel, wanted.label):
        return True
    asked = implementations.arguments(wanted.kernel, wanted.op, wanted.framework, wanted.label, device)
    theirs = implementations.arguments(wanted.kernel, wanted.op, *section.implementation, device)
    return asked.get("kernel") == theirs.get("kernel")


def relatives(device: hardware.Device) -> Iterator[tuple[str, str]]:
    """Yield the calibrated devices whose constants suit this one, with their relation to it, best first.

    Lazily: the specs of a family are read only if no nearer family served, so that predictions start sooner.
    """
    groups: dict[str, list[str]] = {}
    for name in calibration.calibrated_devices():
        groups.setdefault(hardware.family_of(name), []).append(name)
    near = [groups.pop(family, []) for family in hardware.nearest_families(device)]
    last = [groups.pop(family, []) for family in hardware.foreign_families(device)]
    for group in (*near, list(itertools.chain.from_iterable(groups.values())), *last):
        yield from hardware.relatives(device, group)


def best(sections: Iterable[Section], wanted: Wanted) -> Section | None:
    """Return the section that fits best, or None if none is of this kernel model and format.

    A match in op, direction, framework, harness, kernel name and dtype counts, in this order; among equals,
    frameworks go in the order of ``DEFAULT_FRAMEWORKS``.
    """
    fitting = [s for s in sections if s.kernel == wanted.kernel and s.dtype in _same_speed(wanted.dtype)]
    return min(fitting, key=wanted.distance, default=None)


def _nearest(
    sections: Sequence[Section], of: hardware.Device, wanted: Wanted, device: hardware.Device
) -> Section | None:
    """Return the best-fitting section of a device, preferring those of the library of the named kernel.

    One library's constants do not fit another's tiles: FlashAttention-2 predicted with FlashInfer's constants
    came out 1.5 times as long as measured on A100.
    """
    asked = implementations.library(wanted.kernel, wanted.op, wanted.framework, wanted.label, device)
    if asked is None:
        return best(sections, wanted)
    same = (s for s in sections if implementations.library(s.kernel, s.op, *s.implementation, of) == asked)
    return best(same, wanted) or best(sections, wanted)


def _same_speed(dtype: str) -> tuple[str, ...]:
    return (dtype, SAME_SPEED[dtype]) if dtype in SAME_SPEED else (dtype,)
