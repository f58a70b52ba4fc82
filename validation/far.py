"""List held-out rows with large errors: their number in each cell, and the farthest row.

The diary (``DIARY.md``) explains the causes; this lists the present state.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from costmodel.units import render
from costmodel.validation.heldout import SIZES
from costmodel.validation.residuals import errors

#: Absolute error above which a row is far off [%].
FAR_PERCENT = 30.0
#: Time below which a row is short [s]; launches take about half of it.
SHORT_S = 20e-6


def far(scored: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """Return the cells with rows that are far off, those with the most first.

    Parameters
    ----------
    scored : DataFrame
        Rows with ``latency_s`` [s] and the prediction ``seconds`` [s].
    cell : list of str
        The columns that identify a cell.

    Returns
    -------
    DataFrame
        Columns of the cell, ``rows``, ``far``; among the far rows those predicted ``too short``, those
        measured ``under 20 µs``, and ``farthest``: sizes, measured time and error of the row with the largest
        ratio.
    """
    error = errors(scored["seconds"], scored["latency_s"])
    rows = scored.assign(error=error, ratio=np.abs(np.log1p(error / 100.0)))
    left = rows[rows["error"].abs() > FAR_PERCENT].sort_values("ratio", kind="stable")
    left = left.assign(
        short=left["error"] < 0,
        brief=left["latency_s"] < SHORT_S,
        told=[_description(row) for _, row in left.iterrows()],
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


def _description(row: pd.Series) -> str:
    sizes = [f"{name}={row[name]:.0f}" for name in SIZES if name in row and pd.notna(row[name])]
    return f"{' '.join(sizes)}: {render(float(row['latency_s']), 's', 3)}, {row['error']:+.0f} %"
