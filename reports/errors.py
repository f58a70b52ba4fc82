"""The accuracy table: errors by device, op, kernel, format, direction, launch and rung."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from costmodel.reports import style, words

NAME = "errors"
ABOUT = (
    "Median absolute error of each op at each rung, over the rows that have a prediction. The accuracy table "
    "adds the mean, the signed bias and the number of rows."
)
#: Columns that define a cell of the table, if a frame has them.
CELL = ("device", "op", "kernel", "dtype", "direction", "launch", "framework", "state", "rung")


def rows(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the errors of each cell.

    Parameters
    ----------
    frame : DataFrame
        measured_s, seconds, lower_s [s]; optionally spread (difference between visits of a case over its
        time).
    by : list of str
        Columns that define a cell.

    Returns
    -------
    DataFrame
        The cell's columns, ``rows``, ``predicted``, ``median_ape``, ``mean_ape``, ``bias`` (median signed
        error, positive if predictions are too long), ``reruns`` (median difference between visits of a case,
        NaN if unknown), ``under_lower`` (share of rows measured below the lower bound), all [%], and
        ``tightness`` (median of lower bound over measurement).
    """
    error = 100 * (frame["seconds"] / frame["measured_s"] - 1)
    under = (100.0 * (frame["measured_s"] < frame["lower_s"])).where(frame["lower_s"].notna())
    parts = frame[by].assign(
        error=error,
        ape=error.abs(),
        reruns=100 * frame["spread"] if "spread" in frame else np.nan,
        under=under,
        tight=frame["lower_s"] / frame["measured_s"],
    )
    grouped = parts.groupby(by, sort=False, dropna=False)
    table = pd.DataFrame(
        {
            "rows": grouped.size(),
            "predicted": grouped["error"].count(),
            "median_ape": grouped["ape"].median(),
            "mean_ape": grouped["ape"].mean(),
            "bias": grouped["error"].median(),
            "reruns": grouped["reruns"].median(),
            "under_lower": grouped["under"].mean(),
            "tightness": grouped["tight"].median(),
        }
    )
    return table.reset_index()


def chart(frame: pd.DataFrame) -> Any:
    """Return the median absolute error of each op, a point per ``at_rung``, which picks do not filter."""
    alt = style.altair()
    axis = alt.Axis(labelExpr=style.WRITTEN_OUT, tickCount=8)
    points = (
        alt.Chart(frame)
        .mark_point(size=90, strokeWidth=2)
        .encode(
            alt.X("median_ape:Q", title="median absolute error [%]", axis=axis),
            alt.Y("op:N", sort=None, title=None, axis=alt.Axis(grid=True)),
            *style.groups(frame["at_rung"]),
            tooltip=style.tips(
                ("op:N", "op", ""),
                ("at_rung:N", "rung", ""),
                ("median_ape:Q", "median [%]", ".1f"),
                ("mean_ape:Q", "mean [%]", ".1f"),
                ("bias:Q", "bias [%]", "+.1f"),
                ("predicted:Q", "rows", ","),
            ),
        )
        .properties(width="container", height=alt.Step(26))
    )
    drawn = style.lined(points, style.domain(frame["at_rung"]))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the best and the worst op of each rung."""
    said = []
    for rung, part in frame[np.isfinite(frame["median_ape"])].groupby("at_rung", sort=False, observed=True):
        best, worst = part.loc[part["median_ape"].idxmin()], part.loc[part["median_ape"].idxmax()]
        text = f"{best['median_ape']:.1f} % ({best['op']})"
        if worst["op"] != best["op"]:
            text += f" to {worst['median_ape']:.1f} % ({worst['op']})"
        said.append(f"{text} at rung {rung}")
    return f"Median error by op: {words.listed(said)}" if said else "No row has both times"
