"""Tightness of the roofline: lower bound over measured time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from costmodel.reports import style, words

NAME = "tightness"
ABOUT = (
    "Lower bound over measured time: median of each op in bins of measured time. At 1, the kernel runs as "
    "fast as the datasheet allows; above 1, the lower bound is wrong."
)


def rows(frame: pd.DataFrame, cases: list[str]) -> pd.DataFrame:
    """Return medians of the lower bound over the measurement, in bins of measured time.

    Returns
    -------
    DataFrame
        The cases, op, ``middle_s`` [s], ``tightness``, ``count``.
    """
    quarter = np.floor(np.log10(frame["measured_s"]) * 2)
    parts = frame[[*cases, "op"]].assign(quarter=quarter, tightness=frame["lower_s"] / frame["measured_s"])
    grouped = parts.groupby([*cases, "op", "quarter"], sort=True)["tightness"]
    table = pd.DataFrame({"tightness": grouped.median(), "count": grouped.size()}).reset_index()
    return table.assign(middle_s=10 ** ((table["quarter"] + 0.5) / 2)).drop(columns="quarter")


def chart(frame: pd.DataFrame) -> Any:
    """Return tightness over measured time, by op."""
    alt = style.altair()
    along = style.log_x("middle_s", "measured [s]", style.SECONDS)
    tight = alt.Y("tightness:Q", title="lower bound / measured", scale=alt.Scale(domainMin=0, nice=True))
    base = alt.Chart(frame)
    tooltip = style.tips(
        ("op:N", "op", ""),
        ("middle_s:Q", "measured around [s]", ".3~s"),
        ("tightness:Q", "lower / measured", ".2f"),
        ("count:Q", "rows", ","),
    )
    drawn = alt.layer(
        style.level(base, 1),
        base.mark_line(strokeWidth=2).encode(along, tight, style.group_line(frame["op"])),
        base.mark_point(size=45, strokeWidth=2).encode(
            along, tight, *style.groups(frame["op"]), tooltip=tooltip
        ),
    ).properties(width="container", height=style.HEIGHT)
    drawn = style.lined(drawn, style.domain(frame["op"]))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the op that comes closest to its lower bound, and the one furthest from it."""
    middle = {
        str(op): float(np.average(part["tightness"], weights=part["count"]))
        for op, part in frame[frame["tightness"].notna()].groupby("op", sort=False, observed=True)
    }
    if not middle:
        return "No row has a lower bound"
    best, worst = max(middle, key=lambda op: middle[op]), min(middle, key=lambda op: middle[op])
    text = f"The lower bound is {words.share(middle[best])} of the measured time for {best}"
    return text if best == worst else f"{text}, and {words.share(middle[worst])} for {worst}"
