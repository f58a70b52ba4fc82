"""Which held-out rows predictions are far off on: how many of each cell, and the farthest.

Why is the diary's (``DIARY.md``); this says what is left of it today.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from costmodel.units import render
from costmodel.validation.heldout import SIZES
from costmodel.validation.residuals import errors

#: Error [%] that is far off, either way.
FAR_PERCENT = 30.0
#: Rows that take less are short: half of that is launches [s].
SHORT_S = 20e-6


def far(scored: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """Return the cells with rows that are far off, those with the most first.

    Parameters
    ----------
    scored : DataFrame
        Rows with ``latency_s`` [s] and their prediction, ``seconds`` [s].
    cell : list of str
        The columns that make a cell.

    Returns
    -------
    DataFrame
        Columns of the cell, ``rows``, ``far``, of those ``too short`` predicted, ``under 20 µs`` measured,
        and ``farthest``: sizes, measured time and error of the row that is, by its ratio.
    """
    error = errors(scored["seconds"], scored["latency_s"])
    rows = scored.assign(error=error, ratio=np.abs(np.log1p(error / 100.0)))
    left = rows[rows["error"].abs() > FAR_PERCENT].sort_values("ratio", kind="stable")
    left = left.assign(
        short=left["error"] < 0,
        brief=left["latency_s"] < SHORT_S,
        told=[_told(row) for _, row in left.iterrows()],
    )
    table = left.groupby(cell, observed=True).agg(
        **{
            "far": ("error", "size"),
            "too short": ("short", "sum"),
            "under 20 µs": ("brief", "sum"),
            "farthest": ("told", "last"),
        }
    )
    whole = rows.groupby(cell, observed=True).size().to_frame("rows")
    return whole.join(table, how="right").reset_index().sort_values("far", ascending=False, kind="stable")


def _told(row: pd.Series) -> str:
    sizes = [f"{name}={row[name]:.0f}" for name in SIZES if name in row and pd.notna(row[name])]
    return f"{' '.join(sizes)}: {render(float(row['latency_s']), 's', 3)}, {row['error']:+.0f} %"
