"""Read and write the constants fitted on a device (``<device>.calibration.yaml``).

A calibration file is written by a program and holds sections. Each section has the constants of one kernel
model for one cell (op, dtype, framework), their provenance, and their error on held-out shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from costmodel import hardware, implementations
from costmodel.errors import SpecError, first_line, unknown_name
from costmodel.files import remembered, user_folder, write_text
from costmodel.hardware.yamlfile import LOADER

#: Version of the calibration files' format.
SCHEMA = 1
#: Frameworks in order of preference where the user names none: the first that a device has constants for is
#: used. The order puts cuBLAS through TensorRT-LLM first, then FlashAttention through SGLang, then PyTorch.
DEFAULT_FRAMEWORKS = ("costmodel", "trtllm", "sglang", "vllm", "sarathi-vllm", "pytorch", "llmcompass", "ck")
#: Quantiles 2.5, 10, 90 and 97.5 % of measured over predicted time.
Quantiles = tuple[float, float, float, float]


class Spread(BaseModel):
    """Held-out residuals of one regime: the predictions of `above` seconds or more.

    Attributes
    ----------
    above : float
        Shortest predicted time of the regime [s].
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
    """The rows a section was fitted on, and its error on the held-out rows."""

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
        For each fitted constant, the interval that holds 80 % of refits on resampled shapes; where known.
    kernels : tuple of str
        The implementation's own names for the kernel, where they matter.
    sizes : mapping of str to (float, float)
        Smallest and largest size among the fitted rows.
    spread : tuple of Spread
        Held-out residuals by regime, shortest times first.
    provenance : Provenance
        The rows it was fitted on.
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
        """The fields that identify this section within a file."""
        names = (self.kernel, self.op, self.dtype, self.framework, self.harness, self.direction)
        return (*names, *self.kernels)

    @property
    def implementation(self) -> tuple[str, str | None]:
        """The framework, and its name for the kernel (None where the name does not matter)."""
        return self.framework, self.kernels[0] if self.kernels else None


@dataclass(frozen=True)
class Wanted:
    """The kernel that constants are looked for; None where any value will do.

    With `borrowed`, `op` names another operation whose constants stand in (`Phase.borrowed`).
    """

    kernel: str
    op: str
    dtype: str
    direction: str = "fwd"
    framework: str | None = None
    harness: str | None = None
    label: str | None = None
    borrowed: bool = False

    def distance(self, section: Section) -> tuple[bool | int | str, ...]:
        """Return a sort key that is smaller the better a section matches."""
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


#: Quantiles of measured over predicted time in a `Spread` [%].
QUANTILES = (2.5, 10.0, 90.0, 97.5)
#: Coverage of an interval [%] → indices of its two ends in `QUANTILES`.
LEVELS = {80: (1, 2), 95: (0, 3)}


def interval(
    spreads: tuple[Spread, ...], seconds: NDArray[np.float64], level: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the interval [s] that holds `level` % (80 or 95) of measurements, regime by regime."""
    low, high = LEVELS[level]
    regime = np.searchsorted(np.array([s.above for s in spreads[1:]]), seconds, side="right")
    quantiles = np.array([s.q for s in spreads])
    return seconds * quantiles[regime, low], seconds * quantiles[regime, high]


class File(BaseModel):
    """A calibration file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(alias="schema")
    device: str
    program: str
    date: str
    sections: tuple[Section, ...]


def path_of(device: str) -> Path:
    """Return the path of a device's calibration: beside its spec, or in the user's folder."""
    beside = Path(hardware.__file__).parent / f"{device}.yaml"
    if beside.is_file():
        return beside.with_name(f"{beside.stem}.calibration.yaml")
    return user_folder() / f"{device.replace('/', '-')}.calibration.yaml"


@remembered(maxsize=128)
def load(device: str) -> tuple[Section, ...]:
    """Return the sections fitted on a device; empty where there is no file.

    Raises
    ------
    SpecError
        If the file is not a calibration of this device.
    """
    path = path_of(device)
    if not path.is_file():
        return ()
    return read(path, device).sections


def own(device: hardware.Device) -> tuple[Section, ...]:
    """Return the sections fitted on a device, or on the device it is a variant of.

    A calibration file beside the device's spec takes precedence over the package's and the user's.

    Raises
    ------
    SpecError
        If the file is not a calibration of this device.
    """
    if device.calibration is None:
        return load(device.base_name)
    return _beside(device.calibration, device.base_name)


@remembered(maxsize=128)
def _beside(path: Path, device: str) -> tuple[Section, ...]:
    return read(path, device).sections


def read(path: Path, device: str | None = None) -> File:
    """Return a calibration file's content.

    Raises
    ------
    SpecError
        If it cannot be read, is of another schema version, or of another device.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
        file = File.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]  # the first of several is enough: a refit rewrites the whole file
        what = f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
        raise SpecError(f"{path.name}: not a calibration file: {what}; refit it") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path.name}: not a calibration file: {first_line(error)}; refit it") from None
    if file.schema_version != SCHEMA:
        raise SpecError(f"{path.name}: schema {file.schema_version}, wanted {SCHEMA}; refit it")
    if device is not None and file.device != device:
        raise SpecError(f"{path.name}: is of {file.device}, wanted {device}")
    return file


def dump(path: Path, file: File) -> None:
    """Write a calibration file; equal content gives equal bytes."""
    content: dict[str, Any] = file.model_dump(by_alias=True, mode="json")
    for section in content["sections"]:
        if not section["intervals"]:
            del section["intervals"]
    header = "# Written by `costmodel validate --fit`; not edited by hand.\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    write_text(path, header + text, overwrite=True)


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
    """Return every known framework: those with fitted constants and those whose kernels are modelled."""
    fitted = {section.framework for device in calibrated_devices() for section in load(device)}
    return {*fitted, *DEFAULT_FRAMEWORKS, *implementations.STEP_BY_STEP, implementations.FUSED}


def check_framework(name: str | None) -> None:
    """Refuse an unknown framework, for which other frameworks' constants would silently stand in.

    Raises
    ------
    UnknownNameError
        If it is none of `frameworks`, with or without its release; the message suggests the nearest.
    """
    if name is None or name in DEFAULT_FRAMEWORKS or implementations.recurrent(name):
        return
    if name not in (known := frameworks()):
        raise unknown_name("framework", name, known)
