"""Make sections of calibration files: constants, ranges of sizes, provenance, errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel._version import __version__
from costmodel.calibration import SCHEMA, File, Provenance, Section, Wanted
from costmodel.validation.residuals import errors, spread

Array = NDArray[np.float64]

#: Arguments of kernel models that are choices, not sizes.
CHOICES = ("tile_m", "tile_n", "tile_k", "split")


def section(
    wanted: Wanted,
    constants: Mapping[str, float],
    *,
    fitted: pd.DataFrame,
    judged: pd.DataFrame,
    predicted: Array,
    sizes: Mapping[str, Any],
    hashes: Mapping[str, str],
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Section:
    """Return the section of a cell.

    Parameters
    ----------
    wanted : Wanted
        The cell.
    constants : mapping of str to float
        The fitted constants.
    fitted, judged : DataFrame
        Rows that were fitted on, and held-out rows.
    predicted : array
        Predicted times of the held-out rows [s].
    sizes : mapping
        Arguments of the kernel model for the fitted rows.
    hashes : mapping of str to str
        Hash of each table named in the column ``table``.
    intervals : mapping of str to (float, float), optional
        See `costmodel.validation.uncertainty.intervals`.
    """
    measured = judged["latency_s"].to_numpy(dtype=np.float64)
    return Section(
        kernel=wanted.kernel,
        op=wanted.op,
        dtype=wanted.dtype,
        framework=wanted.framework or "",
        direction=wanted.direction,
        harness=wanted.harness or "",
        constants=dict(constants),
        intervals=dict(intervals or {}),
        kernels=(wanted.label,) if wanted.label else (),
        sizes=_ranges(sizes),
        spread=spread(predicted, measured),
        provenance=_provenance(fitted, judged, errors(predicted, measured), hashes),
    )


def _ranges(sizes: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest value of each size among the fitted rows, without tiles."""
    return {
        name: (float(np.min(values)), float(np.max(values)))
        for name, values in sizes.items()
        if isinstance(values, np.ndarray) and name not in CHOICES
    }


def _provenance(
    fitted: pd.DataFrame, judged: pd.DataFrame, error: Array, hashes: Mapping[str, str]
) -> Provenance:
    """Return sources and numbers of rows, and the errors of those held out."""
    rows = pd.concat([fitted, judged])

    def named(column: str) -> str:
        return "; ".join(sorted(rows[column].dropna().astype(str).unique())) if column in rows else ""

    tables = sorted(rows["table"].unique()) if "table" in rows else []
    size = np.abs(error)
    # Recurrent ops are fitted together, so one of them may have no held-out row.
    told = (np.median(size), np.mean(size), np.median(error)) if len(error) else (np.nan,) * 3
    mdape, mape, bias = (round(float(value), 2) for value in told)
    return Provenance(
        source=named("source"),
        licence=named("licence"),
        versions=named("framework"),
        table_hash="; ".join(f"{name} {hashes.get(name, '')}".strip() for name in tables),
        rows_fitted=len(fitted),
        rows_held_out=len(judged),
        mdape=mdape,
        mape=mape,
        bias=bias,
    )


def file_of(device: str, sections: Sequence[Section], date: str | None) -> File:
    """Return the calibration file of a device; default date today."""
    return File(
        schema=SCHEMA,
        device=device,
        program=f"costmodel {__version__}",
        date=date or datetime.now(UTC).date().isoformat(),
        sections=tuple(sections),
    )


def six_digits(constants: Mapping[str, float]) -> dict[str, float]:
    """Return constants rounded to the digits that are written."""
    return {name: float(f"{value:.6g}") for name, value in constants.items()}
