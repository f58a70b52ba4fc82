"""Which fitted constants a prediction rests on: the device's own, a relative's, another format's."""

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

#: Formats that one kernel serves at one speed.
SAME_SPEED = {"bf16": "fp16", "fp16": "bf16"}


@dataclass(frozen=True)
class Choice:
    """The constants a prediction of one kernel rests on.

    Attributes
    ----------
    origin : str
        ``self``, a relative's name, or ``none`` (the kernel model's defaults).
    section : Section or None
        Where they are from.
    constants : mapping
        Values by name; empty means the defaults.
    spread : tuple of Spread
        How far off predictions with them were, on rows they were not fitted on: the section's own; of
        constants of another device, kernel or format as wide as of such (`costmodel.spreads`).
    fitted : str
        The format they were fitted in, where it is another than the kernel's.
    raised : float
        The clock that they are for, over the device's stated one: what was fitted on a relative holds by its
        stated clock, however far the two are raised beyond theirs (`Device.raised`).
    """

    origin: str
    section: Section | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    spread: tuple[Spread, ...] = ()
    fitted: str = ""
    raised: float = 1.0

    @property
    def whose(self) -> str:
        """Whose constants they are, in words: ``nvidia/a40``, or ``nvidia/a40 (bf16)`` of another format."""
        return f"{self.origin} ({self.fitted})" if self.fitted else self.origin


def choose(
    device: hardware.Device, wanted: Wanted, *, own: bool = True, apart_from: str | None = None
) -> Choice:
    """Return the constants for a kernel on a device: its own, its nearest relative's, or another format's.

    Its own go first even if they are of another framework: they say more of it than those of the very
    kernel on another device do (validation/DIARY.md). Not so where that framework's kernel is an
    algorithm with other constants; then a relative's of the same algorithm go before them. Another vendor's
    go last, after another format's: MI300X's FP8 products by H200's came out at 0.58 of the time posted.

    Parameters
    ----------
    device : Device
        Where the kernel runs.
    wanted : Wanted
        Which kernel; default framework the first of ``DEFAULT_FRAMEWORKS`` there is.
    own : bool
        Whether the device's own constants may be taken.
    apart_from : str, optional
        Framework whose constants of the device itself may not: those that are being fitted.
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
        or Choice("none")
    )


def elsewhere(choice: Choice, device: hardware.Device) -> bool:
    """Return whether constants, if there are any, are another device's."""
    return choice.origin not in ("self", device.base_name)


def timed(choice: Choice, wanted: Wanted, device: hardware.Device, *, own: bool = True) -> Choice:
    """Return a choice of constants as the harness asked for would time the kernel; see `host` for `own`."""
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
    """Return whether any of a device's own constants of a kernel model were timed without a host.

    Then all are taken so: kernels of one layer, some with a host's call around each and some without, would
    add up to what no harness measures.
    """
    mine = calibration.own(device)
    return any(section.kernel == kernel and section.harness not in HOSTED for section in mine)


def host(device: hardware.Device, wanted: Wanted, *, own: bool = True) -> dict[str, float]:
    """Return the dispatch of a host that is timed, as of ``DISPATCH``: the median of all fitted in one place.

    The device's own host is asked, then those of the other devices of its vendor, as drivers go by
    vendor and else a host by nothing that a spec says; last of all any. In each place what was fitted
    on the same operation goes first. Empty where the harness times no host, or none is known.

    Parameters
    ----------
    device : Device
        Where the kernel runs.
    wanted : Wanted
        Which kernel, and the harness.
    own : bool
        Whether what was measured on the device may be asked.
    """
    described = kernels.model(wanted.kernel).CONSTANTS
    if wanted.harness not in HOSTED or not set(DISPATCH) <= set(described):
        return {}
    vendor = device.name.partition("/")[0]
    others = [name for name in calibration.calibrated_devices() if name != device.base_name]
    kin = [name for name in others if name.partition("/")[0] == vendor]
    # Of one host, two harnesses time much the same dispatch.
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
    """Return the constants of the nearest of a device's own sections, or None."""
    section = _nearest(sections, device, wanted, device)
    if section is None:
        return None
    # What-if devices rest on the constants of the device they were made from.
    origin = "self" if device.name == device.base_name else device.base_name
    constants = translated(_constants(section, wanted), section, wanted)
    return Choice(origin, section, constants, spreads.own(section, wanted, device))


def _of_another_format(
    device: hardware.Device, wanted: Wanted, mine: Sequence[Section], *, own: bool, foreign: bool = False
) -> Choice | None:
    """Return the constants of the nearest format that has some, here or else on a relative; or None.

    Of products and what is made of them, those of a format that the same engine computes; of what memory
    limits, and of constants that are every format's (``EVERY_FORMAT``), of any. Nearest is what is as wide.
    """
    engine, width = device.engine(wanted.dtype), dtypes.dtype(wanted.dtype).bytes
    untried = [name for name in device.formats if name not in _same_speed(wanted.dtype)]
    fitting = [name for name in untried if _any_engine(wanted) or device.engine(name) == engine]
    formats = sorted(fitting, key=lambda name: abs(math.log2(dtypes.dtype(name).bytes / width)))
    others = [replace(wanted, dtype=name) for name in formats]
    here = (_of_itself(mine, device, other) for other in others)
    lent = (_from_relative(device, other, alike=False, own=own, foreign=foreign) for other in others)
    for other, choice in zip((*others, *others), itertools.chain(here, lent), strict=True):
        if choice is not None and choice.section is not None:
            return _in_format(choice, choice.section, device, wanted, other.dtype)
    return None


def _in_format(
    choice: Choice, section: Section, device: hardware.Device, wanted: Wanted, other: str
) -> Choice:
    """Return the constants for another format as they are in the one wanted: every format's alone, or all.

    What an operation draws (``MADE``) goes by how long it takes: engines draw about as much in any format.
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
    """Return the constants of the nearest relative that has some: of the same algorithm, or of any.

    Of the vendor's devices, or (`foreign`) of others'. Those of the same code, where a library has one for
    all architectures, go before a nearer relative's that is no sibling.
    """
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
    """Return whether the name of a section's kernel says that it is of that library."""
    framework, label = section.implementation
    if not implementations.says(section.kernel, label):
        return False
    return implementations.library(section.kernel, section.op, framework, label, of) == library


def _of_engine(section: Section, of: hardware.Device, wanted: Wanted, device: hardware.Device) -> bool:
    """Return whether a section is of what multiplies on the device too: tensor cores, or none.

    True of what no engine limits, and of fp32, whose kernels are alike on CUDA cores and AMD's matrix cores.
    """
    if section.kernel != wanted.kernel or section.dtype not in _same_speed(wanted.dtype):
        return False
    if _any_engine(wanted) or wanted.dtype == "fp32":
        return True
    return of.engine(section.dtype) == device.engine(wanted.dtype)


def _any_engine(wanted: Wanted) -> bool:
    """Return whether a kernel model's constants hold whichever engine multiplies."""
    of_memory = getattr(kernels.model(wanted.kernel), "MEMORY_BOUND", False)
    return of_memory or bool(kernels.group(wanted.kernel, "EVERY_FORMAT"))


def _suited(device: hardware.Device, kernel: str) -> Iterable[tuple[str, str]]:
    """Return relatives as `relatives` does; for what memory limits, with GDDR first where the device has it.

    Of GDDR passes reach 0.74 to 0.81 of the stated bandwidth on all devices fitted, of HBM 0.74 to 0.92.
    """
    found = relatives(device)
    if not (getattr(kernels.model(kernel), "MEMORY_BOUND", False) and device.graphics_memory):
        return found
    return sorted(found, key=lambda r: (r[1] == "foreign", not hardware.load(r[0]).graphics_memory))


def _constants(section: Section, wanted: Wanted) -> Mapping[str, float]:
    """Return a section's constants, less those of its operation (``OPERATION``) where that is another one."""
    if section.op == wanted.op:
        return section.constants
    its = kernels.group(section.kernel, "OPERATION")
    return {name: value for name, value in section.constants.items() if name not in its}


def _carried(
    section: Section, device: hardware.Device, relative: str, relation: str, wanted: Wanted, *, own: bool
) -> Choice:
    """Return a relative's constants, as they are on the device."""
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
    """Return a device at so many times its stated clock."""
    return device if raised == 1 else hardware.Device(clocked(device.spec, raised), device.calibration)


def _serves(section: Section, wanted: Wanted, device: hardware.Device) -> bool:
    """Return whether a section's constants are those that the kernel asked for has.

    Of most kernel models any section's of the direction are. Where algorithms have constants of their own, a
    section of the framework asked for serves, whatever it runs, and of others one of the same algorithm.
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
    """Yield the calibrated devices whose constants suit this one, and how they are related, best first.

    Specs of a family are read only where no nearer family served: a prediction starts sooner.
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

    What is asked for goes first, in the order op, direction, framework, harness,
    kernel name, dtype; among the rest, frameworks go in the order of
    ``DEFAULT_FRAMEWORKS``.
    """
    fitting = [s for s in sections if s.kernel == wanted.kernel and s.dtype in _same_speed(wanted.dtype)]
    return min(fitting, key=wanted.distance, default=None)


def _nearest(
    sections: Sequence[Section], of: hardware.Device, wanted: Wanted, device: hardware.Device
) -> Section | None:
    """Return the section of a device that fits best: of the library of the kernel that is named, if any is.

    One library's constants with another's tiles are neither's: FlashAttention-2 by FlashInfer's came out half
    as long again as measured on A100.
    """
    asked = implementations.library(wanted.kernel, wanted.op, wanted.framework, wanted.label, device)
    if asked is None:
        return best(sections, wanted)
    same = (s for s in sections if implementations.library(s.kernel, s.op, *s.implementation, of) == asked)
    return best(same, wanted) or best(sections, wanted)


def _same_speed(dtype: str) -> tuple[str, ...]:
    return (dtype, SAME_SPEED[dtype]) if dtype in SAME_SPEED else (dtype,)
