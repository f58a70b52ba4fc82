"""Recompute the intervals in shipped calibrations without refitting constants.

``python -m costmodel.validation.calibrate_intervals ../shared/measurements`` writes the intervals of
constants and of predictions; with ``--predictions`` only the latter, which takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from costmodel import calibration, hardware
from costmodel.calibration import File, Section
from costmodel.hardware import Device
from costmodel.validation.calibrate import linear_intervals, seconds_of
from costmodel.validation.cells import TABLES, Cell, cells, rows_of, usable
from costmodel.validation.heldout import NEVER_FITTED, held_out
from costmodel.validation.residuals import spread


def with_intervals(file: File, rows: pd.DataFrame, device: Device) -> File:
    """Return a calibration with new intervals of constants in the sections that have rows.

    Parameters
    ----------
    file : File
        The device's calibration.
    rows : DataFrame
        Measured rows of that device; those that are not held out are resampled.
    device : Device
        Its spec.
    """

    def told(section: Section, cell: Cell, part: pd.DataFrame) -> Section:
        ends = linear_intervals(cell, part[~held_out(part)], device, section.constants)
        return section.model_copy(update={"intervals": ends})

    return _changed(file, rows, device, told)


def with_spreads(file: File, rows: pd.DataFrame, device: Device) -> File:
    """Return a calibration with new intervals of predictions in the sections that have rows.

    Parameters
    ----------
    file, rows, device
        See `with_intervals`; here the held-out rows are used.
    """

    def told(section: Section, cell: Cell, part: pd.DataFrame) -> Section:
        judged = part[held_out(part)]
        predicted = seconds_of(cell, section.constants, judged, device)
        found = spread(predicted, judged["latency_s"].to_numpy(dtype=np.float64))
        return section.model_copy(update={"spread": found})

    return _changed(file, rows, device, told)


def _changed(
    file: File,
    rows: pd.DataFrame,
    device: Device,
    change: Callable[[Section, Cell, pd.DataFrame], Section],
) -> File:
    """Return a calibration in which each section with rows is changed."""
    by_cell = {cell.key: (cell, part) for cell, part in cells(usable(rows), device)}
    sections = (
        change(section, *by_cell[section.cell]) if section.cell in by_cell else section
        for section in file.sections
    )
    return file.model_copy(update={"sections": tuple(sections)})


def main() -> None:
    """Write the intervals of every calibration with rows in the tables."""
    parser = argparse.ArgumentParser(description="Intervals that are shipped.")
    parser.add_argument("measurements", type=Path, nargs="?", default=Path("../shared/measurements"))
    parser.add_argument("--predictions", action="store_true", help="those of predictions alone")
    asked = parser.parse_args()
    rows, _ = rows_of(asked.measurements / f"{name}.parquet" for name in TABLES)
    for label, part in rows.groupby("gpu", sort=True):
        device = hardware.load(str(label))
        if device.name in NEVER_FITTED:
            continue
        path = calibration.path_of(device.name)
        file = with_spreads(calibration.read(path, device.name), part, device)
        calibration.dump(path, file if asked.predictions else with_intervals(file, part, device))
        known = sum(bool(section.intervals) for section in file.sections)
        print(f"{device.name}: intervals of {known} of {len(file.sections)} sections")


if __name__ == "__main__":
    main()
