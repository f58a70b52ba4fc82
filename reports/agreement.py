"""Predicted against measured time: the closer to the diagonal, the better."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import thinned

NAME = "agreement"
ABOUT = (
    "One point per measurement. On the solid line, prediction and measurement agree; the dashed lines mark a "
    "factor of 1.5. Above the line, the prediction is too long."
)


def rows(frame: pd.DataFrame, cases: list[str]) -> pd.DataFrame:
    """Return at most 5,000 rows, evenly spread over the measured times of each case.

    Parameters
    ----------
    frame : DataFrame
        Columns measured_s and seconds [s], op; see `costmodel.reports.validation`.
    cases : list of str
        Columns that tell cases apart.
    """
    ordered = thinned(frame.sort_values([*cases, "measured_s"], kind="stable"))
    drawn = ordered[[*cases, "op", "dtype", "bound", "measured_s", "seconds"]].reset_index(drop=True)
    return drawn.assign(error=100 * (drawn["seconds"] / drawn["measured_s"] - 1))


def chart(frame: pd.DataFrame) -> Any:
    """Return the chart of predicted over measured time, with a colour and shape for each op."""
    alt = style.altair()
    along = style.log_x("measured_s", "measured [s]", style.SECONDS)
    base = alt.Chart(frame)
    ends = base.transform_aggregate(low="min(measured_s)", high="max(measured_s)").transform_calculate(
        ends="[datum.low, datum.high]"
    )
    marks = []
    for i, factor in enumerate((1.0, 1.5, 1 / 1.5)):
        line = ends.transform_flatten(["ends"]).transform_calculate(
            measured_s="toNumber(datum.ends)", seconds=f"toNumber(datum.ends) * {factor}"
        )
        dash = [1, 0] if factor == 1 else [5, 4]
        marks.append(
            line.mark_line(color="#666666", strokeWidth=1.5, strokeDash=dash)
            .encode(along, alt.Y("seconds:Q"))
            .properties(name=f"ink_{i}")
        )
    points = base.mark_point(size=26, strokeWidth=1.3, opacity=0.9).encode(
        along,
        style.log_y("seconds", "predicted [s]", style.SECONDS),
        *style.groups(frame["op"]),
        tooltip=style.tips(
            ("op:N", "op", ""),
            ("dtype:N", "format", ""),
            ("measured_s:Q", "measured [s]", ".3~s"),
            ("seconds:Q", "predicted [s]", ".3~s"),
            ("error:Q", "error [%]", "+.1f"),
            ("bound:N", "limited by", ""),
        ),
    )
    drawn = alt.layer(*marks, points).properties(width="container", height=style.HEIGHT + 120)
    drawn = style.lined(drawn, style.domain(frame["op"]))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return which share of the predictions is within 10 %, and within a factor of 1.5."""
    close = (frame["error"].abs() <= 10).mean()
    ratio = frame["seconds"] / frame["measured_s"]
    near = ((ratio <= 1.5) & (ratio >= 1 / 1.5)).mean()
    return (
        f"{words.share(close)} of {words.whole(len(frame))} predictions are within 10 % of the measurement, "
        f"{words.share(near)} within a factor of 1.5"
    )
