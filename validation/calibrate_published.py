"""Fit recurrent layers from published runtimes: cuDNN's and MIOpen's chains, as DeepBench timed them.

The shapes are few, so the ops of one device, dtype, library and direction are fitted together (see
``fit_recurrence``), and each gets a section of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import calibration, choosing, hardware
from costmodel._version import __version__
from costmodel.calibration import File, Provenance, Section
from costmodel.errors import TableError
from costmodel.kernels import recurrence
from costmodel.layers.recurrent import GATES
from costmodel.measured import framework
from costmodel.validation import fit_recurrence, published
from costmodel.validation.calibrate import FEWEST, Result
from costmodel.validation.cells import digest
from costmodel.validation.heldout import NEVER_FITTED, held_out
from costmodel.validation.residuals import checked, errors, spread

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
    table = f"{published.FILE} {digest(reference / published.FILE)}"
    results = []
    for name, part in rows.groupby("device", sort=True):
        sections: list[Section] = []
        refused: list[str] = []
        for key, cell in part.groupby(["dtype", "framework", "direction"], sort=True):
            try:
                sections += _sections(cell, hardware.load(str(name)), table)
            except TableError as error:
                refused.append(f"recurrence {' '.join(str(word) for word in key)}: {error}")
        file = File(
            schema=calibration.SCHEMA,
            device=str(name),
            program=f"costmodel {__version__}",
            date=date or datetime.now(UTC).date().isoformat(),
            sections=tuple(sections),
        )
        results.append(Result(file, part[held_out(part)], tuple(refused)))
    return results


def _sections(rows: pd.DataFrame, device: hardware.Device, table: str) -> list[Section]:
    """Return one section for each op of a device, dtype, library and direction.

    They are fitted together, and judged so: of one op a row or two are held out, which tell by chance.
    """
    out = held_out(rows)
    if (~out).sum() < FEWEST or not out.any():
        raise TableError(f"{(~out).sum()} rows to fit on and {out.sum()} to judge by; wanted {FEWEST} and 1")
    constants = {
        op: {name: float(f"{value:.6g}") for name, value in values.items()}
        for op, values in sorted(fit_recurrence.fit_ops(rows[~out], device).items())
    }
    parts = {op: rows[out & (rows["op"] == op)] for op in constants}
    own = [_seconds(device, constants[op], part) for op, part in parts.items()]
    others = [_seconds(device, _others(part, device), part) for part in parts.values()]
    measured = [part["latency_s"].to_numpy(dtype=np.float64) for part in parts.values()]
    checked(np.concatenate(own), np.concatenate(others), np.concatenate(measured))
    return [_section(op, values, rows[rows["op"] == op], device, table) for op, values in constants.items()]


def _others(rows: pd.DataFrame, device: hardware.Device) -> Mapping[str, float]:
    """Return the constants that there would be without a fit of rows of one op: a relative's, or none."""
    if rows.empty:
        return {}
    first = rows.iloc[0]
    wanted = calibration.Wanted(
        kernel="recurrence",
        op=first["op"],
        dtype=first["dtype"],
        direction=first["direction"],
        framework=framework(first["framework"])[0],
    )
    return choosing.choose(device, wanted, own=False).constants


def _seconds(device: hardware.Device, constants: Mapping[str, float], rows: pd.DataFrame) -> Array:
    if rows.empty:
        return np.zeros(0)
    arguments = fit_recurrence.arguments(rows, device)
    return np.asarray(recurrence.seconds(device, constants, **arguments).seconds)


def _section(
    op: str, constants: Mapping[str, float], rows: pd.DataFrame, device: hardware.Device, table: str
) -> Section:
    judged = rows[held_out(rows)]
    measured = judged["latency_s"].to_numpy(dtype=np.float64)
    predicted = _seconds(device, constants, judged)
    error = errors(predicted, measured)
    used = rows[~held_out(rows)]
    columns = {"steps": "seq", "batch": "batch", "hidden": "hidden"}
    return Section(
        kernel="recurrence",
        op=op,
        dtype=str(rows["dtype"].iloc[0]),
        framework=framework(rows["framework"].iloc[0])[0] or "",
        direction=str(rows["direction"].iloc[0]),
        constants=dict(constants),
        sizes={ours: (float(used[c].min()), float(used[c].max())) for ours, c in columns.items()},
        spread=spread(predicted, measured),
        provenance=Provenance(
            source="; ".join(sorted(rows["source"].unique())),
            licence="Apache-2.0",
            versions=str(rows["framework"].iloc[0]),
            table_hash=table,
            rows_fitted=len(used),
            rows_held_out=len(judged),
            mdape=round(float(np.median(np.abs(error))), 2) if len(judged) else float("nan"),
            mape=round(float(np.mean(np.abs(error))), 2) if len(judged) else float("nan"),
            bias=round(float(np.median(error)), 2) if len(judged) else float("nan"),
        ),
    )
