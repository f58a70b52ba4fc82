"""Fit recurrent layers to published runtimes: cuDNN's and MIOpen's recurrences, as DeepBench timed them.

There are few shapes, so the ops of one device, dtype, library and direction are fitted together (see
``fit_recurrence``), and each gets its own section.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from costmodel import hardware
from costmodel.calibration import Wanted
from costmodel.errors import TableError
from costmodel.measured import framework
from costmodel.validation import fit_recurrence, published
from costmodel.validation.calibrate import Result
from costmodel.validation.cells import digest
from costmodel.validation.heldout import held_out, parted
from costmodel.validation.pooled import Fit, Operation, fit_of, sections_of
from costmodel.validation.sections import file_of


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
    found: dict[str, list[Fit]] = {}
    refused: dict[str, list[str]] = {}
    for key, cell in rows.groupby(["device", "dtype", "framework", "direction"], sort=True):
        name, *words = (str(word) for word in key)
        found.setdefault(name, [])
        try:
            found[name].append(_fit(cell, hardware.load(name), hashes))
        except TableError as error:
            refused.setdefault(name, []).append(f"recurrence {' '.join(words)}: {error}")
    results = []
    for name, sections in sections_of(found).items():
        part = rows[rows["device"] == name]
        held = part[held_out(part)]
        results.append(Result(file_of(name, sections, date), held, tuple(refused.get(name, ()))))
    return results


def _fit(rows: pd.DataFrame, device: hardware.Device, hashes: Mapping[str, str]) -> Fit:
    """Return one section for each op of a device, dtype, library and direction.

    They are fitted and judged together, because one or two held-out rows of an op would judge by chance.
    """
    fitted, judged = parted(rows)
    return fit_of(_operations(fitted, judged, device), device, hashes)


def _operations(fitted: pd.DataFrame, judged: pd.DataFrame, device: hardware.Device) -> Iterator[Operation]:
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
