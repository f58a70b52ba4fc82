"""Fit recurrent layers from published runtimes: cuDNN's and MIOpen's chains, as DeepBench timed them.

The shapes are few, so the ops of one device, dtype, library and direction are fitted together (see
``fit_recurrence``), and each gets a section of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import calibration, choosing, hardware
from costmodel.calibration import Section
from costmodel.errors import TableError
from costmodel.kernels import recurrence
from costmodel.layers.recurrent import GATES
from costmodel.measured import framework
from costmodel.validation import fit_recurrence, published
from costmodel.validation.calibrate import Result
from costmodel.validation.cells import digest
from costmodel.validation.heldout import NEVER_FITTED, held_out, parted
from costmodel.validation.residuals import checked
from costmodel.validation.sections import file_of, section, six_digits

Array = NDArray[np.float64]


def is_published(path: Path) -> bool:
    """Return whether a table is the one of published runtimes, which is in its sources' words."""
    return path.name == published.FILE


def calibrate_published(reference: Path, *, date: str | None = None) -> list[Result]:
    """Return a calibration of each device that published recurrent rows are of.

    Parameters
    ----------
    reference : Path
        Folder with ``published_runtimes.csv``.
    date : str, optional
        Of the fit; default today.

    Raises
    ------
    TableError
        If the tables cannot be read.
    """
    rows = published.read(reference)
    rows = rows[rows["op"].isin(GATES) & (rows["reason"] == "") & rows["recurrent_only"]]
    rows = rows[rows["framework"].str.startswith(("cudnn", "miopen")) & ~rows["device"].isin(NEVER_FITTED)]
    rows = rows.assign(table=published.FILE, licence="Apache-2.0")
    hashes = {published.FILE: digest(reference / published.FILE)}
    results = []
    for name, part in rows.groupby("device", sort=True):
        sections: list[Section] = []
        refused: list[str] = []
        for key, cell in part.groupby(["dtype", "framework", "direction"], sort=True):
            try:
                sections += _sections(cell, hardware.load(str(name)), hashes)
            except TableError as error:
                refused.append(f"recurrence {' '.join(str(word) for word in key)}: {error}")
        results.append(Result(file_of(str(name), sections, date), part[held_out(part)], tuple(refused)))
    return results


def _sections(rows: pd.DataFrame, device: hardware.Device, hashes: Mapping[str, str]) -> list[Section]:
    """Return one section for each op of a device, dtype, library and direction.

    They are fitted together, and judged so: of one op a row or two are held out, which tell by chance.
    """
    fitted, judged = parted(rows)
    sections, own, others, measured = [], [], [], []
    for op, found in fit_recurrence.fit_ops(fitted, device).items():
        used, left = (part[part["op"] == op] for part in (fitted, judged))
        first, constants = used.iloc[0], six_digits(found)
        wanted = calibration.Wanted(
            kernel="recurrence",
            op=op,
            dtype=first["dtype"],
            direction=first["direction"],
            framework=framework(first["framework"])[0],
        )
        own.append(_seconds(device, constants, left))
        others.append(_seconds(device, choosing.choose(device, wanted, own=False).constants, left))
        measured.append(left["latency_s"].to_numpy(dtype=np.float64))
        sizes = {"steps": used["seq"], "batch": used["batch"], "hidden": used["hidden"]}
        sections.append(
            section(
                wanted,
                constants,
                fitted=used,
                judged=left,
                predicted=own[-1],
                sizes={name: values.to_numpy(dtype=np.float64) for name, values in sizes.items()},
                hashes=hashes,
            )
        )
    checked(np.concatenate(own), np.concatenate(others), np.concatenate(measured))
    return sections


def _seconds(device: hardware.Device, constants: Mapping[str, float], rows: pd.DataFrame) -> Array:
    if rows.empty:
        return np.zeros(0)
    arguments = fit_recurrence.arguments(rows, device)
    return np.asarray(recurrence.seconds(device, constants, **arguments).seconds)
