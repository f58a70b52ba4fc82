"""Calibrate devices: fit constants to measured rows, and summarise their residuals.

Rows are grouped into cells: one operation, format, framework and way of timing on one device. Each cell's
kernel model has a recipe (``fit_<kernel>.py``) that fits it on 70 % of the shapes. The held-out shapes give
its error and the width of its intervals. Constants that predict held-out rows clearly worse than the
alternative (the device's own for another framework, a relative's, or the defaults) are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import calibration, choosing, hardware, kernels
from costmodel.calibration import File
from costmodel.errors import CostmodelError, TableError
from costmodel.files import forget
from costmodel.hardware import Device
from costmodel.layers.recurrent import GATES
from costmodel.measured import framework, harness
from costmodel.validation import fit_cpu, fit_gemm, fit_stream
from costmodel.validation.calibrate_chains import Calibrated, calibrate_chains
from costmodel.validation.cells import (
    Cell,
    arguments,
    beside,
    cells,
    recipe,
    repeats,
    rows_of,
    sized,
    usable,
)
from costmodel.validation.chains import chained
from costmodel.validation.heldout import NEVER_FITTED, in_order, parted
from costmodel.validation.linear_refit import linear_refit
from costmodel.validation.residuals import checked
from costmodel.validation.sections import file_of, section, six_digits
from costmodel.validation.uncertainty import intervals

Array = NDArray[np.float64]

#: Constant → constants that a fit frees only if that one is not 0: those of ticks, and of a clock raised
#: late.
_FREED_LAST = {"tick_s": ("phase_s",), "slow_rows": ("slow_clock", "slow_host")}
#: Prefixes of constants of the machine's memory, which all its kernels share.
_MEMORY = ("l2_", "l3_", "bandwidth", "page_")


@dataclass(frozen=True)
class Result:
    """A calibration of one device.

    Attributes
    ----------
    file : File
        The calibration file to write.
    held_out : DataFrame
        The held-out rows, with ``seconds`` (calibrated) and ``without_s`` (by the device's constants for
        another framework, a relative's, or the defaults) [s].
    refused : tuple of str
        Cells whose fit was worse than ``without_s`` or impossible, and why.
    """

    file: File
    held_out: pd.DataFrame
    refused: tuple[str, ...] = ()


@dataclass
class _Found(Calibrated):
    """Results so far, with the memory constants that copies determine and all CPU kernels use."""

    memory: Mapping[str, float] = field(default_factory=dict)


def calibrate(
    rows: pd.DataFrame, device: Device, *, hashes: Mapping[str, str] | None = None, date: str | None = None
) -> Result:
    """Fit every cell of one device's rows.

    Parameters
    ----------
    rows : DataFrame
        Measured rows of that device, in the columns of measured tables.
    device : Device
        Its spec.
    hashes : mapping of str to str, optional
        Hash of each table named in the column ``table``.
    date : str, optional
        Date of the fit; default today. Nothing else in the result depends on it.

    Raises
    ------
    TableError
        If nothing may be fitted on the device, or no row is usable.
    """
    check_fittable(device)
    if device.spec.units.kind == "core":
        # Sort the rows: their order changes the rounding of sums, and with it where a fit ends in a flat
        # valley. GPUs' long tables keep their order, over which the share that is fitted on is spread.
        rows = in_order(rows)
    single = usable(rows)
    if single.empty:
        raise TableError(
            f"{device.name}: no row is forward, warm and measured, of an operation with a model, and has "
            "whole sizes"
        )
    found = _Found()
    lost = rows[rows["op"].notna() & ~sized(rows)]
    if len(lost):
        ops = ", ".join(sorted(lost["op"].unique()))
        found.refused.append(f"{len(lost)} rows of {ops}: a size is empty, or no whole number of at least 1")
    for cell, part in cells(single, device):
        try:
            _fit_cell(cell, part, device, hashes or {}, found)
        except CostmodelError as error:
            found.refused.append(f"{cell}: {error}")
            found.tried.append((cell.kernel, cell.op, "fwd"))
    if device.spec.units.kind == "core":
        calibrate_chains(chained(rows), device, hashes or {}, found)
    judged = pd.concat(found.held_out, ignore_index=True) if found.held_out else pd.DataFrame()
    return Result(file_of(device.name, found.sections, date), judged, tuple(found.refused))


def check_fittable(device: Device) -> None:
    """Refuse a device on which nothing is fitted, including its what-ifs (`Device.replace`).

    Raises
    ------
    TableError
        If it is one: the message says how to obtain constants for a device of one's own.
    """
    if device.base_name in NEVER_FITTED:
        raise TableError(
            f"{device.name}: nothing is fitted on this device; accuracy is judged on it; for constants of "
            "your own, give a copy of its spec under another name with --spec SPEC.yaml"
        )


def _fit_cell(
    cell: Cell, rows: pd.DataFrame, device: Device, hashes: Mapping[str, str], found: _Found
) -> None:
    fitted, judged = parted(rows)
    if cell.op in GATES:
        fitted, judged = (_with_others(part, device, found) for part in (fitted, judged))
    wanted = calibration.Wanted(
        kernel=cell.kernel,
        op=cell.op,
        dtype=cell.dtype,
        framework=cell.framework,
        harness=cell.harness,
        label=cell.label or None,
    )
    start = _given(cell, fitted, wanted, device, found)
    constants = six_digits(recipe(cell.kernel).fit(fitted, device, start))
    predicted = seconds_of(cell, constants, judged, device)
    without = seconds_of(cell, _without(wanted, device), judged, device)
    found.held_out.append(judged.assign(seconds=predicted, without_s=without, cell=str(cell)))
    checked(predicted, without, judged["latency_s"].to_numpy(dtype=np.float64))
    if cell.op == "elementwise_copy":
        found.memory = {name: value for name, value in constants.items() if name.startswith(_MEMORY)}
    found.sections.append(
        section(
            wanted,
            constants,
            fitted=fitted,
            judged=judged,
            predicted=predicted,
            sizes=arguments(fitted, device),
            hashes=hashes,
            intervals=_intervals(cell, fitted, device, constants, start),
        )
    )


def _given(
    cell: Cell, rows: pd.DataFrame, wanted: calibration.Wanted, device: Device, found: _Found
) -> Mapping[str, float]:
    """Return the constants given to a fit: memory constants on a CPU, and some passes' bandwidth share.

    Products that a kernel for few rows runs say nothing of others, which keep the constants used without
    this fit.
    """
    if cell.kernel == "gemm" and fit_gemm.decoded(rows, device):
        return {n: v for n, v in _without(wanted, device).items() if n not in fit_gemm.free(rows, device)}
    if cell.kernel.startswith("cpu_"):
        return {**found.memory, **fit_cpu.GIVEN.get(cell.op, {})}
    similar = (cell.kernel, fit_stream.SHARE_OF.get(cell.op), cell.dtype)
    shares = [s.constants["bandwidth_share"] for s in found.sections if (s.kernel, s.op, s.dtype) == similar]
    return {"bandwidth_share": shares[-1]} if shares else {}


def _intervals(
    cell: Cell,
    rows: pd.DataFrame,
    device: Device,
    constants: Mapping[str, float],
    start: Mapping[str, float],
) -> dict[str, tuple[float, float]]:
    """Return the interval of each fitted constant; GPU fits take seconds, so their refits are linearised."""
    if not cell.kernel.startswith("cpu_"):
        return linear_intervals(cell, rows, device, constants)
    fit = recipe(cell.kernel).fit
    return intervals(rows, constants, start, lambda drawn: fit(rows.iloc[drawn], device, constants))


def _without(wanted: calibration.Wanted, device: Device) -> Mapping[str, float]:
    """Return the constants that would be used without this fit, for the same harness.

    They are the device's own for another framework, else a relative's. An earlier fit for this framework does
    not count, so that a refit is judged like the first fit.
    """
    found = choosing.choose(device, wanted, apart_from=wanted.framework)
    return choosing.timed(found, wanted, device, own=False).constants


def linear_intervals(
    cell: Cell, rows: pd.DataFrame, device: Device, constants: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Return the 80 % interval of each fitted constant of a cell, by linearised refits.

    Empty if the kernel model's recipe does not say which constants it frees.
    """
    told = getattr(recipe(cell.kernel), "free", None)
    if told is None:
        return {}
    names = told(rows, device)
    last = [name for given, more in _FREED_LAST.items() if constants.get(given, 0) > 0 for name in more]
    free = [name for name in (*names, *last) if constants.get(name, 0) > 0]
    model, kwargs = kernels.model(cell.kernel), arguments(rows, device)

    def predict(values: Mapping[str, float]) -> Array:
        return np.broadcast_to(model.seconds(device, values, **kwargs).seconds, (len(rows),))

    measured = rows["latency_s"].to_numpy(dtype=np.float64)
    refit = linear_refit(predict, measured, model.CONSTANTS, constants, free)
    held = {name: value for name, value in constants.items() if name not in free}
    return intervals(rows, constants, held, refit)


def _with_others(rows: pd.DataFrame, device: Device, found: _Found) -> pd.DataFrame:
    """Return rows with ``other_s`` [s], the time of the products that a recurrent layer's row includes."""
    first, total = rows.iloc[0], np.zeros(len(rows))
    for kernel, op, kwargs, times in beside(rows, device):
        wanted = calibration.Wanted(
            kernel=kernel,
            op=op,
            dtype=str(first["dtype"]),
            framework=framework(first["framework"])[0],
            harness=harness(first["timer"]),
        )
        section = choosing.best((s for s in found.sections if s.op == op), wanted)
        constants = section.constants if section else _without(wanted, device)
        total += times * kernels.model(kernel).seconds(device, constants, **kwargs).seconds
    return rows.assign(other_s=total)


def seconds_of(cell: Cell, constants: Mapping[str, float], rows: pd.DataFrame, device: Device) -> Array:
    """Return the predicted times of a cell's rows [s], including the other kernels they contain."""
    estimate = kernels.model(cell.kernel).seconds(device, constants, **arguments(rows, device))
    other = rows["other_s"].to_numpy(dtype=np.float64) if "other_s" in rows else 0.0
    return np.asarray(repeats(rows) * estimate.seconds + other, dtype=np.float64)


# -- many devices ---------------------------------------------------------------------------------


def calibrate_tables(
    paths: Sequence[Path], *, only: Sequence[str] = (), date: str | None = None
) -> list[Result]:
    """Fit every device in the tables, except those on which nothing is fitted.

    Parameters
    ----------
    paths : sequence of Path
        Tables of measured kernels.
    only : sequence of str
        Device names; empty: all.
    date : str, optional
        See `calibrate`.
    """
    rows, hashes = rows_of(paths)
    results = []
    for label, part in rows.groupby("gpu", sort=True):
        device = hardware.load(str(label))
        if device.name not in NEVER_FITTED and (not only or device.name in only):
            results.append(calibrate(part, device, hashes=hashes, date=date))
    return results


def write(result: Result, path: Path | None = None) -> Path:
    """Write a calibration beside the device's spec or to `path`; return the path.

    For a device measured on this machine the spec is in the user's folder. Existing sections of other cells
    are kept.

    Raises
    ------
    TableError
        If no cell was fitted.
    OutputError
        If the file cannot be written; an existing file is left unchanged.
    """
    if not result.file.sections:
        raise TableError(f"{result.file.device}: nothing to write: {'; '.join(result.refused)}")
    place = path or calibration.path_of(result.file.device)
    place.parent.mkdir(parents=True, exist_ok=True)
    there = calibration.read(place, result.file.device).sections if place.is_file() else ()
    cells = {section.cell: section for section in (*there, *result.file.sections)}
    whole = result.file.model_copy(update={"sections": tuple(cells[key] for key in sorted(cells))})
    calibration.dump(place, whole)
    forget()
    return place
