"""Constants fitted on a device: read from ``<device>.calibration.yaml``, chosen for a kernel.

A calibration file is machine-written and holds sections. Each section has the
constants of one kernel model for one cell (op, dtype, framework), with where
they came from and how far off they are on shapes that they were not fitted on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from costmodel import hardware, implementations, kernels
from costmodel.errors import SpecError, unknown_name
from costmodel.files import remembered, user_folder, write_whole
from costmodel.hardware.tables import FOLDER, table
from costmodel.harness import DISPATCH, HOSTED

#: Version of the calibration files' format.
SCHEMA = 1
#: Whose kernels are meant where the user does not say: the first that a device has
#: constants for. cuBLAS through TensorRT-LLM, FlashAttention through SGLang, PyTorch.
DEFAULT_FRAMEWORKS = ("costmodel", "trtllm", "sglang", "vllm", "sarathi-vllm", "pytorch", "llmcompass")
#: Formats that one kernel serves at one speed.
SAME_SPEED = {"bf16": "fp16", "fp16": "bf16"}


#: Measured over predicted time: its quantiles 2.5, 10, 90 and 97.5 %.
Quantiles = tuple[float, float, float, float]


class Spread(BaseModel):
    """Held-out residuals of one regime: predictions from `above` seconds on.

    Attributes
    ----------
    above : float
        Lower edge of the regime: predicted time [s].
    rows : int
        Held-out rows in it.
    q : tuple of float
        Quantiles 2.5, 10, 90 and 97.5 % of measured over predicted time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    above: float
    rows: int
    q: Quantiles


class Provenance(BaseModel):
    """Which rows a section was fitted on, and how far off it is on the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    licence: str
    versions: str
    table_hash: str
    rows_fitted: int
    rows_held_out: int
    mdape: float = Field(description="median absolute error on held-out rows [%]")
    mape: float = Field(description="mean absolute error on held-out rows [%]")
    bias: float = Field(description="median signed error on held-out rows [%]")


class Section(BaseModel):
    """Constants of one kernel model for one cell.

    Attributes
    ----------
    kernel : str
        A module of ``costmodel.kernels``.
    op, dtype, framework, direction : str
        The cell.
    harness : str
        How the rows were timed (``graph-replay``, ``eager-events``,
        ``kernel-time``, ``host-wall``): its overhead is in the constants.
    constants : mapping of str to float
        In the units of the kernel model's ``CONSTANTS``.
    intervals : mapping of str to (float, float)
        What 80 % of refits on shapes drawn anew find, of the constants that were fitted; where known.
    kernels : tuple of str
        The implementation's own names for the kernel, where they matter.
    sizes : mapping of str to (float, float)
        Smallest and largest size among the fitted rows.
    spread : tuple of Spread
        Held-out residuals by regime, shortest times first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel: str
    op: str
    dtype: str
    framework: str
    direction: str = "fwd"
    harness: str = ""
    constants: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}
    kernels: tuple[str, ...] = ()
    sizes: dict[str, tuple[float, float]] = {}
    spread: tuple[Spread, ...] = ()
    provenance: Provenance

    @property
    def cell(self) -> tuple[str, ...]:
        """What tells this section from the others of a file."""
        names = (self.kernel, self.op, self.dtype, self.framework, self.harness, self.direction)
        return (*names, *self.kernels)

    @property
    def implementation(self) -> tuple[str, str | None]:
        """The framework, and its name for the kernel where that matters."""
        return self.framework, self.kernels[0] if self.kernels else None


def interval(
    spreads: tuple[Spread, ...], seconds: NDArray[np.float64], level: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the interval [s] that holds `level` % (80 or 95) of measurements, by regime of the time."""
    low, high = {80: (1, 2), 95: (0, 3)}[level]
    regime = np.searchsorted(np.array([s.above for s in spreads[1:]]), seconds, side="right")
    quantiles = np.array([s.q for s in spreads])
    return seconds * quantiles[regime, low], seconds * quantiles[regime, high]


class File(BaseModel):
    """A calibration file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: int = Field(alias="schema")
    device: str
    program: str
    date: str
    sections: tuple[Section, ...]


def path_of(device: str) -> Path:
    """Return where the calibration of a device lives: beside its spec, or with what a user has measured."""
    beside = Path(hardware.__file__).parent / f"{device}.yaml"
    if beside.is_file():
        return beside.with_name(f"{beside.stem}.calibration.yaml")
    return user_folder() / f"{device.replace('/', '-')}.calibration.yaml"


@remembered(maxsize=128)
def load(device: str) -> tuple[Section, ...]:
    """Return the sections fitted on a device; none where there is no file.

    Raises
    ------
    SpecError
        If the file is not a calibration of this device.
    """
    path = path_of(device)
    if not path.is_file():
        return ()
    return read(path, device).sections


def read(path: Path, device: str | None = None) -> File:
    """Return a calibration file's content.

    Raises
    ------
    SpecError
        If it cannot be read, is of another schema version, or of another device.
    """
    try:
        content = yaml.load(
            path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        file = File.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise SpecError(f"{path.name}: not a calibration file: {first}; refit it") from None
    if file.schema_version != SCHEMA:
        raise SpecError(f"{path.name}: schema {file.schema_version}, wanted {SCHEMA}; refit it")
    if device is not None and file.device != device:
        raise SpecError(f"{path.name}: is of {file.device}, wanted {device}")
    return file


@remembered(maxsize=1)
def calibrated_devices() -> tuple[str, ...]:
    """Return the names of all devices that have a calibration."""
    folder = Path(hardware.__file__).parent
    return tuple(
        sorted(
            f"{p.parent.name}/{p.name.removesuffix('.calibration.yaml')}"
            for p in folder.glob("*/*.calibration.yaml")
        )
    )


def frameworks() -> set[str]:
    """Return every framework that is known: by constants of some device, or by how its kernels work."""
    fitted = {section.framework for device in calibrated_devices() for section in load(device)}
    return {*fitted, *DEFAULT_FRAMEWORKS, *implementations.STEP_BY_STEP, implementations.FUSED}


def check_framework(name: str | None) -> None:
    """Refuse a framework of which nothing is known: the constants of others would stand in unasked.

    Raises
    ------
    UnknownNameError
        If it is none of `frameworks`, with or without its release; the text offers the nearest.
    """
    if name is None or name in DEFAULT_FRAMEWORKS or implementations.recurrent(name):
        return
    if name not in (known := frameworks()):
        raise unknown_name("framework", name, known)


# -- choosing ----------------------------------------------------------------------------------


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
    """

    origin: str
    section: Section | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    spread: tuple[Spread, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What constants are looked for; None where any will do."""

    kernel: str
    op: str
    dtype: str
    direction: str = "fwd"
    framework: str | None = None
    harness: str | None = None
    label: str | None = None

    def distance(self, section: Section) -> tuple[bool | int | str, ...]:
        """Return how far a section is from what is wanted, for sorting."""
        known = DEFAULT_FRAMEWORKS
        return (
            section.op != self.op,
            # Constants of `bwd` serve its parts, `bwd_data` and `bwd_weights`.
            not self.direction.startswith(section.direction),
            self.framework is not None and section.framework != self.framework,
            self.harness is not None and section.harness != self.harness,
            self.label is not None and bool(section.kernels) and self.label not in section.kernels,
            section.dtype != self.dtype,
            known.index(section.framework) if section.framework in known else len(known),
            section.framework,
            section.op,
            section.harness,
        )


def choose(device: hardware.Device, wanted: Wanted, *, own: bool = True) -> Choice:
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
    """
    name = device.name.rstrip("*")
    mine = load(name) if own else ()
    serving = best((s for s in mine if _serves(s, wanted, device)), wanted)
    carried = None if serving else _from_relative(device, wanted, alike=True)
    section = serving or best(mine, wanted)
    if section is not None and carried is None:
        # What-if devices rest on the constants of the device they were made from.
        origin = "self" if name == device.name else name
        return Choice(origin, section, _constants(section, wanted), section.spread)
    return (
        carried
        or _from_relative(device, wanted, alike=False)
        or _of_single_precision(device, wanted, own=own)
        or Choice("none")
    )


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
    me, vendor = device.name.rstrip("*"), device.name.partition("/")[0]
    others = [name for name in calibrated_devices() if name != me]
    kin = [name for name in others if name.partition("/")[0] == vendor]
    # Of one host, two harnesses time much the same dispatch.
    places = (([me] if own else [], HOSTED), (kin, (wanted.harness,)), (others, (wanted.harness,)))
    for place, harnesses in places:
        found = (section for name in place for section in load(name))
        timed = [s for s in found if s.kernel == wanted.kernel and s.harness in harnesses]
        alike = [s.constants for s in timed if s.op == wanted.op] or [s.constants for s in timed]
        if alike:
            return {n: median(c.get(n, described[n].default) for c in alike) for n in DISPATCH}
    return {}


def _of_single_precision(device: hardware.Device, wanted: Wanted, *, own: bool) -> Choice | None:
    """Return those of the constants for fp32 that no format changes (``EVERY_FORMAT``), or None."""
    names = getattr(kernels.model(wanted.kernel), "EVERY_FORMAT", ())
    if not names or wanted.dtype == "fp32":
        return None
    found = choose(device, replace(wanted, dtype="fp32"), own=own)
    if found.section is None:
        return None
    origin = device.name if found.origin == "self" else found.origin
    return Choice(origin, None, {name: found.constants[name] for name in names if name in found.constants})


def _from_relative(device: hardware.Device, wanted: Wanted, *, alike: bool) -> Choice | None:
    """Return the constants of the nearest relative that has some: of the same algorithm, or of any."""
    for relative, relation in relatives(device):
        sections = load(relative)
        section = best((s for s in sections if not alike or _serves(s, wanted, device)), wanted)
        if section is not None:
            return _carried(section, device, relative, relation, wanted)
    return None


def _constants(section: Section, wanted: Wanted) -> Mapping[str, float]:
    """Return a section's constants, less those of its operation (``OPERATION``) where that is another one."""
    if section.op == wanted.op:
        return section.constants
    its = getattr(kernels.model(section.kernel), "OPERATION", ())
    return {name: value for name, value in section.constants.items() if name not in its}


def _carried(
    section: Section, device: hardware.Device, relative: str, relation: str, wanted: Wanted
) -> Choice:
    """Return a relative's constants; its times that are cycles (``CLOCKED``) by the clock of the device."""
    clocked = getattr(kernels.model(section.kernel), "CLOCKED", ())
    slower = hardware.load(relative).clock_hz / device.clock_hz
    told = _constants(section, wanted)
    constants = {name: value * slower if name in clocked else value for name, value in told.items()}
    return Choice(relative, section, constants, _widest(section.spread, transfer(section.kernel, relation)))


def _widest(own: tuple[Spread, ...], carried: tuple[Spread, ...]) -> tuple[Spread, ...]:
    """Return a section's regimes, each as wide as there or, where that is wider, as carried constants are.

    One range is known for all times of carried ones; on another device nothing is surer than on its own.
    """
    if not own or not carried:
        return own or carried
    (other,) = carried
    return tuple(spread.model_copy(update={"q": _outermost((spread.q, other.q))}) for spread in own)


def _outermost(quantiles: Iterable[Quantiles]) -> Quantiles:
    """Return the lower of the lower ends and the higher of the higher ones."""
    low, inner_low, inner_high, high = zip(*quantiles, strict=True)
    return min(low), min(inner_low), max(inner_high), max(high)


def _serves(section: Section, wanted: Wanted, device: hardware.Device) -> bool:
    """Return whether a section's constants are those that the kernel asked for has.

    Of most kernel models any section's are. Where algorithms have constants of their own, a section of
    the framework asked for serves, whatever it runs, and of others one of the same algorithm.
    """
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
    such a relative: as far as any other model is.
    """
    told = _transfers()
    found = [
        told[name][relation]
        for name in ([kernel] if relation in told.get(kernel, {}) else told)
        if relation in told[name]
    ]
    if not found:
        return ()
    q = _outermost(entry["q"] for entry in found)
    return (Spread(above=0.0, rows=sum(entry["rows"] for entry in found), q=q),)


def relatives(device: hardware.Device) -> Iterator[tuple[str, str]]:
    """Yield the calibrated devices whose constants suit this one, and how they are related, best first.

    Specs of a family are read only where no nearer family served: a prediction starts sooner.
    """
    groups: dict[str, list[str]] = {}
    for name in calibrated_devices():
        groups.setdefault(hardware.family_of(name), []).append(name)
    near = [groups.pop(family, []) for family in hardware.nearest_families(device)]
    last = [groups.pop(family, []) for family in hardware.foreign_families(device)]
    for group in (*near, list(itertools.chain.from_iterable(groups.values())), *last):
        yield from device.relatives([hardware.load(name) for name in group])


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


def dump(path: Path, file: File) -> None:
    """Write a calibration file, the same bytes for the same content."""
    content: dict[str, Any] = file.model_dump(by_alias=True, mode="json")
    for section in content["sections"]:
        if not section["intervals"]:
            del section["intervals"]
    header = "# Written by `costmodel validate --fit`; not edited by hand.\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    write_whole(path, lambda part: part.write_text(header + text, encoding="utf-8"), overwrite=True)
