"""The intervals of constants that are shipped, written into their calibrations; nothing is fitted anew.

``python -m costmodel.validation.calibrate_intervals ../shared/measurements``
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


def main() -> None:
    """Write the intervals of every device that tables have rows of, and that something is fitted on."""
    parser = argparse.ArgumentParser(description="Intervals of the constants that are shipped.")
    parser.add_argument("measurements", type=Path, nargs="?", default=Path("../shared/measurements"))
    folder = parser.parse_args().measurements
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
