"""The intervals that are shipped, written into their calibrations; nothing is fitted anew.

``python -m costmodel.validation.calibrate_intervals ../shared/measurements`` writes those of constants, and
those of predictions that rest on few rows; with ``--predictions`` the latter alone, which takes no table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from costmodel import calibration, hardware
from costmodel.calibration import File, Section
from costmodel.hardware import Device
from costmodel.validation.calibrate import linear_intervals
from costmodel.validation.cells import TABLES, Cell, cells, rows_of, usable
from costmodel.validation.heldout import NEVER_FITTED, held_out
from costmodel.validation.residuals import opened


def with_intervals(file: File, rows: pd.DataFrame, device: Device) -> File:
    """Return a calibration with the intervals of those sections whose rows are among the given.

    Parameters
    ----------
    file : File
        The device's calibration.
    rows : DataFrame
        Measured rows of that device: those that may be fitted on are drawn from.
    device : Device
        Its spec.
    """
    sections = list(file.sections)
    for cell, part in cells(usable(rows), device):
        for place, section in enumerate(sections):
            if _is_of(section, cell):
                ends = linear_intervals(cell, part[~held_out(part)], device, section.constants)
                sections[place] = section.model_copy(update={"intervals": ends})
    return file.model_copy(update={"sections": tuple(sections)})


def _is_of(section: Section, cell: Cell) -> bool:
    """Return whether a section is of this cell, forward."""
    labels = (cell.label,) if cell.label else ()
    wanted = (cell.kernel, cell.op, cell.dtype, cell.framework, cell.harness, "fwd", *labels)
    return section.cell == wanted


def with_open_ends(file: File) -> File:
    """Return a calibration with the intervals that a fit of today would give its predictions.

    Where rows are few, those of 95 % follow from those of 80 (`costmodel.validation.residuals.opened`).
    """
    sections = (
        section.model_copy(update={"spread": tuple(opened(regime) for regime in section.spread)})
        for section in file.sections
    )
    return file.model_copy(update={"sections": tuple(sections)})


def main() -> None:
    """Write the intervals of every calibration; those of constants where tables have rows of the device."""
    parser = argparse.ArgumentParser(description="Intervals of the constants that are shipped.")
    parser.add_argument("measurements", type=Path, nargs="?", default=Path("../shared/measurements"))
    parser.add_argument("--predictions", action="store_true", help="those of predictions alone")
    asked = parser.parse_args()
    for name in calibration.calibrated_devices():
        path = calibration.path_of(name)
        calibration.dump(path, with_open_ends(calibration.read(path, name)))
    if not asked.predictions:
        _write_intervals_of_constants(asked.measurements)


def _write_intervals_of_constants(folder: Path) -> None:
    rows, _ = rows_of(folder / f"{name}.parquet" for name in TABLES)
    for label, part in rows.groupby("gpu", sort=True):
        device = hardware.load(str(label))
        if device.name in NEVER_FITTED:
            continue
        path = calibration.path_of(device.name)
        file = with_intervals(calibration.read(path, device.name), part, device)
        calibration.dump(path, file)
        known = sum(bool(section.intervals) for section in file.sections)
        print(f"{device.name}: intervals of {known} of {len(file.sections)} sections")


if __name__ == "__main__":
    main()
