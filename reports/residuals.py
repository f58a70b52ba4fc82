"""Prediction errors by measured time and limit, with their sign."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.binding import COLOURS, limits

NAME = "residuals"
ABOUT = (
    "Signed error of the prediction, by measured time (four bins per decade) and predicted limit. Points: "
    "median; vertical lines: the range that holds 80 %. Above 0, the prediction is too long. Larger errors "
    "are drawn at ±200 %."
)
#: Larger errors [%] are drawn at the edge.
EDGE = 200.0


def rows(frame: pd.DataFrame, cases: list[str]) -> pd.DataFrame:
    """Return quantiles of the error in bins of measured time.

    Returns
    -------
    DataFrame
        The cases, ``regime`` (the limit), ``middle_s`` (geometric middle of the bin) [s], ``low``, ``median``
        and ``high`` (10, 50 and 90 % quantiles) [%], ``count``.
    """
    error = 100 * (frame["seconds"] / frame["measured_s"] - 1)
    quarter = np.floor(np.log10(frame["measured_s"]) * 4)
    regime = limits(frame["bound"])
    parts = frame[cases].assign(regime=regime.astype(str), quarter=quarter, error=error)
    grouped = parts.groupby([*cases, "regime", "quarter"], sort=True)["error"]
    table = pd.DataFrame(
        {
            "low": grouped.quantile(0.1),
            "median": grouped.median(),
            "high": grouped.quantile(0.9),
            "count": grouped.size(),
        }
    ).reset_index()
    for name in ("low", "median", "high"):
        table[name] = table[name].clip(-EDGE, EDGE)
    table["regime"] = pd.Categorical(table["regime"], regime.categories)
    return table.assign(middle_s=10 ** ((table["quarter"] + 0.5) / 4)).drop(columns="quarter")


def chart(frame: pd.DataFrame) -> Any:
    """Return the median and the 10–90 % band of the error over measured time, by regime."""
    alt = style.altair()
    along = style.log_x("middle_s", "measured [s]", style.SECONDS)
    base = alt.Chart(frame)
    error = alt.Y("median:Q", title="error of the prediction [%]")
    stroke = style.group_line(frame["regime"], COLOURS)
    tooltip = style.tips(
        ("regime:N", "limited by", ""),
        ("middle_s:Q", "measured around [s]", ".3~s"),
        ("median:Q", "median error [%]", "+.1f"),
        ("low:Q", "10th percentile [%]", "+.1f"),
        ("high:Q", "90th percentile [%]", "+.1f"),
        ("count:Q", "rows", ","),
    )
    drawn = alt.layer(
        style.level(base, 0),
        base.mark_rule(strokeWidth=2, opacity=0.45).encode(along, alt.Y("low:Q"), alt.Y2("high:Q"), stroke),
        base.mark_line(strokeWidth=2).encode(along, error, stroke),
        base.mark_point(size=45, strokeWidth=2).encode(
            along, error, *style.groups(frame["regime"], COLOURS), tooltip=tooltip
        ),
    ).properties(width="container", height=style.HEIGHT)
    drawn = style.lined(drawn, style.domain(frame["regime"]))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the average median error of each regime, weighted by rows, with its sign."""
    said = []
    for name, part in frame.groupby("regime", sort=False, observed=True):
        middle = float(np.average(part["median"], weights=part["count"]))
        side = "too long" if middle > 0 else "too short"
        said.append(f"{name} {abs(middle):.0f} % {side} ({words.rows(part['count'].sum())})")
    return f"Median error of predictions by limit: {'; '.join(said)}"
