"""Limits of each use of a model on each device, as shares of the time."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.binding import COLOURS, limits
from costmodel.reports.parts import shared, shares, the

NAME = "limits"
ABOUT = (
    "The time of each use on each device, split by what limits its kernels. A faster memory shortens only "
    "the share that main memory limits, a faster engine only that engine's share."
)


def rows(kernels: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each limit by ``row``: a use, with the device if there are several.

    Parameters
    ----------
    kernels : DataFrame
        where, use, bound, seconds.
    """
    several = kernels["where"].nunique() > 1
    row = kernels["use"] + (" · " + kernels["where"] if several else "")
    order = {use: i for i, use in enumerate(dict.fromkeys(kernels["use"]))}
    named = kernels.assign(limit=limits(kernels["bound"]), row=row, of=kernels["use"])
    found = shared(named, ["row", "of"], ["limit"])
    return found.sort_values("of", key=lambda uses: uses.map(order), kind="stable", ignore_index=True)


def chart(frame: pd.DataFrame) -> Any:
    """Return a bar of shares for each use and device."""
    alt = style.altair()
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            alt.X(
                "share:Q",
                title="share of time",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", tickCount=5),
            ),
            alt.Y("row:N", title=None, sort=None),
            style.named_colours(frame["limit"], COLOURS),
            tooltip=style.tips(
                ("row:N", "use", ""),
                ("limit:N", "limited by", ""),
                ("seconds:Q", "time [s]", ".3~s"),
                ("share:Q", "share", ".1~%"),
            ),
        )
        .properties(width="container", height=alt.Step(26))
    )
    return style.titled(bars, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the main limit of each use and its share, device by device."""
    said = []
    for use, rows_of_use in frame.groupby("of", sort=False):
        most: dict[str, list[float]] = {}
        for _, row in rows_of_use.groupby("row", sort=False):
            limit, share = next(iter(shares(row, "limit").items()))
            most.setdefault(the(str(limit)), []).append(share)
        ways = [f"{limit} ({_span(found)})" for limit, found in most.items()]
        said.append(f"{use}: {' or '.join(ways)}")
    return f"Main limit and its share of the time: {'; '.join(said)}"


def _span(found: list[float]) -> str:
    """Return a share, or the range from the smallest to the largest."""
    low, high = (words.share(end) for end in (min(found), max(found)))
    return high if low == high else f"{low} to {high}"
