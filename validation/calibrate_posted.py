"""Fit attention on AMD to what others posted, with and without a mask together.

Ten shapes of each kernel were posted, too few for a cell of their own (`costmodel.validation.calibrate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from costmodel import hardware
from costmodel.calibration import Wanted
from costmodel.errors import TableError
from costmodel.measured import harness
from costmodel.validation import fit_attention, posted
from costmodel.validation.calibrate import Result
from costmodel.validation.cells import arguments, rows_of
from costmodel.validation.heldout import held_out, parted
from costmodel.validation.pooled import Fit, Operation, fit_of, sections_of
from costmodel.validation.sections import file_of


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
    found: dict[str, list[Fit]] = {}
    refused: dict[str, list[str]] = {}
    for key, cell in rows.groupby(["gpu", "dtype", "framework"], sort=True):
        label, *words = (str(word) for word in key)
        device = hardware.load(label)
        fits = found.setdefault(device.name, [])
        try:
            fits.append(_fit(cell, device, hashes))
        except TableError as error:
            refused.setdefault(device.name, []).append(f"attention {' '.join(words)}: {error}")
    held = rows[held_out(rows)]
    devices = held["gpu"].map(lambda label: hardware.load(label).name)
    return [
        Result(file_of(name, sections, date), held[devices == name], tuple(refused.get(name, ())))
        for name, sections in sections_of(found).items()
    ]


def _fit(rows: pd.DataFrame, device: hardware.Device, hashes: Mapping[str, str]) -> Fit:
    fitted, judged = parted(rows)
    constants = fit_attention.fit(fitted, device, {})
    return fit_of(_operations(constants, fitted, judged, device), device, hashes)


def _operations(
    constants: Mapping[str, float], fitted: pd.DataFrame, judged: pd.DataFrame, device: hardware.Device
) -> Iterator[Operation]:
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
