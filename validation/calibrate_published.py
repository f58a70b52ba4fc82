"""Fit recurrent layers to published runtimes: cuDNN's and MIOpen's recurrences, as DeepBench timed them.

There are few shapes, so the ops of one device, dtype, library and direction are fitted together (see
``fit_recurrence``), and each gets its own section.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from costmodel.calibration import Wanted
from costmodel.hardware import Device
from costmodel.measured import framework
from costmodel.validation import fit_recurrence, published
from costmodel.validation.calibrate import Result
from costmodel.validation.cells import digest
from costmodel.validation.pooled import Operation, fit_together


def is_published(path: Path) -> bool:
    """Return whether a table is that of published runtimes, which has columns of its own."""
    return path.name == published.FILE


def calibrate_published(reference: Path, *, date: str | None = None) -> list[Result]:
    """Return a calibration of each device with published recurrent rows.

    Parameters
    ----------
    reference : Path
        Folder with ``published_runtimes.csv``.
    date : str, optional
        Date of the fit; default today.

    Raises
    ------
    TableError
        If the tables cannot be read.
    """
    rows = published.chains(reference).assign(table=published.FILE, licence="Apache-2.0")
    hashes = {published.FILE: digest(reference / published.FILE)}
    by = ("device", "dtype", "framework", "direction")
    return fit_together(rows, by, _operations, what="recurrence", hashes=hashes, date=date)


def _operations(fitted: pd.DataFrame, judged: pd.DataFrame, device: Device) -> Iterator[Operation]:
    for op, constants in fit_recurrence.fit_ops(fitted, device).items():
        used, left = (part[part["op"] == op] for part in (fitted, judged))
        first = used.iloc[0]
        wanted = Wanted(
            kernel="recurrence",
            op=op,
            dtype=first["dtype"],
            direction=first["direction"],
            framework=framework(first["framework"])[0],
        )
        sizes = {"steps": used["seq"], "batch": used["batch"], "hidden": used["hidden"]}
        whole = {name: values.to_numpy(dtype=np.float64) for name, values in sizes.items()}
        yield Operation(wanted, constants, used, left, whole)
