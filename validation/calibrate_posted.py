"""Fit attention on AMD to what others posted, with and without a mask together.

Ten shapes of each kernel were posted, too few for a cell of their own (`costmodel.validation.calibrate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from costmodel.calibration import Wanted
from costmodel.hardware import Device
from costmodel.measured import harness
from costmodel.validation import fit_attention, posted
from costmodel.validation.calibrate import Result
from costmodel.validation.cells import arguments, rows_of
from costmodel.validation.pooled import Operation, fit_together


def is_posted(path: Path) -> bool:
    """Return whether a table is that of posted rows to fit on."""
    return path.name == posted.FITTED.name


def calibrate_posted(path: Path = posted.FITTED, *, date: str | None = None) -> list[Result]:
    """Return a calibration of each device with posted attention.

    Parameters
    ----------
    path : Path
        The table.
    date : str, optional
        Date of the fit; default today.

    Raises
    ------
    TableError
        If the table cannot be read.
    """
    rows, hashes = rows_of([path])
    by = ("gpu", "dtype", "framework")
    return fit_together(rows, by, _operations, what="attention", hashes=hashes, date=date)


def _operations(fitted: pd.DataFrame, judged: pd.DataFrame, device: Device) -> Iterator[Operation]:
    constants = fit_attention.fit(fitted, device, {})
    for op in fitted["op"].unique():
        used, left = (part[part["op"] == op] for part in (fitted, judged))
        first = used.iloc[0]
        wanted = Wanted(
            kernel="attention",
            op=op,
            dtype=first["dtype"],
            framework=first["framework"],
            harness=harness(first["timer"]),
            label=first["kernel"],
        )
        yield Operation(wanted, constants, used, left, arguments(used, device))
