"""Which fitted constants a prediction of a kernel rests on: the device's own, else its nearest relative's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import median
from typing import Any

from costmodel import calibration, dtypes, hardware, implementations, kernels
from costmodel.calibration import Quantiles, Section, Spread, Wanted
from costmodel.carrying import carried, translated
from costmodel.hardware.tables import FOLDER, table
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
        How far off predictions with them were, on rows they were not fitted on: the section's own,
        or, for a relative's constants, from leaving one device out.
    fitted : str
        The format they were fitted in, where it is another than the kernel's.
    """

    origin: str
    section: Section | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    spread: tuple[Spread, ...] = ()
    fitted: str = ""

    @property
    def whose(self) -> str:
        """Whose constants they are, in words: ``nvidia/a40``, or ``nvidia/a40 (bf16)`` of another format."""
        return f"{self.origin} ({self.fitted})" if self.fitted else self.origin


def choose(
    device: hardware.Device, wanted: Wanted, *, own: bool = True, apart_from: str | None = None
) -> Choice:
    """Return the constants for a kernel on a device: its own, else its nearest relative's.

    Its own go first even if they are of another framework: they say more of it than those of the very
    kernel on another device do (validation/DIARY.md). Not so where that framework's kernel is an
    algorithm with other constants; then a relative's of the same algorithm go before them.

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
    mine = [s for s in calibration.load(device.base_name) if s.framework != apart_from] if own else []
    serving = best((s for s in mine if _serves(s, wanted, device)), wanted)
    borrowed = None if serving else _from_relative(device, wanted, alike=True, own=own)
    section = serving or best(mine, wanted)
    if section is not None and borrowed is None:
        # What-if devices rest on the constants of the device they were made from.
        origin = "self" if device.name == device.base_name else device.base_name
        constants = translated(_constants(section, wanted), section, wanted)
        return Choice(origin, section, constants, section.spread)
    return (
        borrowed
        or _from_relative(device, wanted, alike=False, own=own)
        or _of_another_format(device, wanted, mine, own=own)
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
    constants = as_timed(choice.constants, names, section.harness, wanted.harness, elsewhere=carried_over)
    return replace(choice, constants=constants)


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
    me, vendor = device.base_name, device.name.partition("/")[0]
    others = [name for name in calibration.calibrated_devices() if name != me]
    kin = [name for name in others if name.partition("/")[0] == vendor]
    # Of one host, two harnesses time much the same dispatch.
    places = (([me] if own else [], HOSTED), (kin, (wanted.harness,)), (others, (wanted.harness,)))
    for place, harnesses in places:
        found = (section for name in place for section in calibration.load(name))
        timed = [s for s in found if s.kernel == wanted.kernel and s.harness in harnesses]
        alike = [s.constants for s in timed if s.op == wanted.op] or [s.constants for s in timed]
        if alike:
            return {n: median(c.get(n, described[n].default) for c in alike) for n in DISPATCH}
    return {}


def _of_another_format(
    device: hardware.Device, wanted: Wanted, mine: Sequence[Section], *, own: bool
) -> Choice | None:
    """Return the constants of the nearest format that has some, here or else on a relative; or None.

    Of products and what is made of them, those of a format that the same engine computes; of what memory
    limits, and of constants that are every format's (``EVERY_FORMAT``), of any. Nearest is what is as wide.
    """
    names = kernels.group(wanted.kernel, "EVERY_FORMAT")
    of_any = bool(names) or getattr(kernels.model(wanted.kernel), "MEMORY_BOUND", False)
    engine, width = device.engine(wanted.dtype), dtypes.dtype(wanted.dtype).bytes
    fitting = [name for name in device.formats if of_any or device.engine(name) == engine]
    formats = sorted(fitting, key=lambda name: abs(math.log2(dtypes.dtype(name).bytes / width)))
    others = [replace(wanted, dtype=name) for name in formats]
    here = ((other, best(mine, other)) for other in others)
    fitted = ((other, Choice(device.base_name, s, _constants(s, other), s.spread)) for other, s in here if s)
    lent = ((other, _from_relative(device, other, alike=False, own=own)) for other in others)
    for other, choice in itertools.chain(fitted, lent):
        if choice is not None:
            return _in_format(choice, device, wanted, other.dtype, names)
    return None


def _in_format(
    choice: Choice, device: hardware.Device, wanted: Wanted, fitted: str, names: Sequence[str]
) -> Choice:
    """Return constants fitted in one format as they are in the one wanted: of `names`, or else all.

    What an operation draws (``MADE``) goes by how long it takes: engines draw about as much in any format.
    """
    constants = {
        name: choice.constants[name] for name in names or choice.constants if name in choice.constants
    }
    if names:
        return Choice(choice.origin, None, constants, fitted=fitted)
    for name in constants.keys() & set(kernels.group(wanted.kernel, "MADE")):
        constants[name] *= device.peak(fitted) / device.peak(wanted.dtype)
    spread = _widest(choice.spread, transfer(wanted.kernel, "generation"))
    return Choice(choice.origin, choice.section, constants, spread, fitted)


def _from_relative(device: hardware.Device, wanted: Wanted, *, alike: bool, own: bool) -> Choice | None:
    """Return the constants of the nearest relative that has some: of the same algorithm, or of any."""
    for relative, relation in _suited(device, wanted.kernel):
        sections = calibration.load(relative)
        section = best((s for s in sections if not alike or _serves(s, wanted, device)), wanted)
        if section is not None:
            return _carried(section, device, relative, relation, wanted, own=own)
    return None


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
    constants = carried(_constants(section, wanted), section, relative, device, wanted, own=own)
    return Choice(relative, section, constants, _widest(section.spread, transfer(section.kernel, relation)))


def _widest(own: tuple[Spread, ...], transferred: tuple[Spread, ...]) -> tuple[Spread, ...]:
    """Return a section's regimes, each as wide as there or, where that is wider, as carried constants are.

    One range is known for all times of carried ones; on another device nothing is surer than on its own.
    """
    if not own or not transferred:
        return own or transferred
    (other,) = transferred
    return tuple(spread.model_copy(update={"q": _outermost((spread.q, other.q))}) for spread in own)


def _outermost(quantiles: Iterable[Quantiles]) -> Quantiles:
    """Return the lower of the lower ends and the higher of the higher ones."""
    low, inner_low, inner_high, high = zip(*quantiles, strict=True)
    return min(low), min(inner_low), max(inner_high), max(high)


def _serves(section: Section, wanted: Wanted, device: hardware.Device) -> bool:
    """Return whether a section's constants are those that the kernel asked for has.

    Of most kernel models any section's of the direction are. Where algorithms have constants of their own, a
    section of the framework asked for serves, whatever it runs, and of others one of the same algorithm.
    """
    if not wanted.direction.startswith(section.direction):
        return False
    if wanted.kernel not in implementations.ALGORITHMS or wanted.framework is None:
        return True
    if section.op != wanted.op:
        return False
    if section.framework == wanted.framework and wanted.label is None:
        return True
    asked = implementations.arguments(wanted.kernel, wanted.op, wanted.framework, wanted.label, device)
    theirs = implementations.arguments(wanted.kernel, wanted.op, *section.implementation, device)
    return asked.get("kernel") == theirs.get("kernel")


@lru_cache(maxsize=1)
def _transfers() -> dict[str, dict[str, Any]]:
    return table("transfer.yaml") if (FOLDER / "transfer.yaml").is_file() else {}


def transfer(kernel: str, relation: str) -> tuple[Spread, ...]:
    """Return how far off a kernel model is with the constants of such a relative; () if it is not known.

    From predicting each open device with the constants of its nearest relative
    (``hardware/transfer.yaml``, written by `costmodel.validation.accuracy`). Where none of this model's has
    such a relative: as far as any model is.
    """
    told = _transfers()
    for name in (kernel, "any"):
        if relation in told.get(name, {}):
            entry = told[name][relation]
            return (Spread(above=0.0, rows=entry["rows"], q=entry["q"]),)
    return ()


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


def _same_speed(dtype: str) -> tuple[str, ...]:
    return (dtype, SAME_SPEED[dtype]) if dtype in SAME_SPEED else (dtype,)
