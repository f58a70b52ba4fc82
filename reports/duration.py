"""Time over length for each layer, with the lower bound that every measurement keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from costmodel.reports import memory, style, words
from costmodel.reports.frames import Facts, axis_of

NAME = "time"
ABOUT = (
    "Time of one pass; of a stack, through all of its layers. Thin lines: the lower bound, which no "
    "measurement may undercut. Bands, where known: the 80 % prediction interval. Hollow points: the "
    "footprint exceeds the device's memory."
)
#: Up to this many layers are all named at the longest length; of more, the fastest and the slowest.
MOST_SAID = 4
#: Times with a smaller ratio count as equal.
ALIKE = 1.005


def rows(frame: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """Return the frame with ``held``: 1, or 0 if the footprint exceeds the device's memory."""
    if "footprint_bytes" not in frame:
        return frame.assign(held=1)
    capacity = memory.rows(frame, facts)["hbm_capacity_bytes"]
    return frame.assign(held=1 - (frame["footprint_bytes"] > capacity).astype(int))


def chart(frame: pd.DataFrame, names: Sequence[str]) -> Any:
    """Return time over length for one device."""
    alt = style.altair()
    x = axis_of(frame)
    along, time = style.length_axis(x), style.log_y("seconds", "time [s]", style.SECONDS)
    tooltip = style.tips(
        ("series:N", "layer", ""),
        (f"{x}:Q", x, ","),
        ("seconds:Q", "time [s]", ".3~s"),
        ("lower_s:Q", "lower bound [s]", ".3~s"),
        ("bound:N", "limited by", ""),
        ("rung:N", "rung", ""),
        ("constants_from:N", "constants from", ""),
    )
    base = alt.Chart(frame)
    marks = [
        base.mark_line(strokeWidth=2.5).encode(along, time, *style.series_line("series", names)),
        base.transform_filter("datum.lower_s > 0")
        .mark_line(strokeWidth=1, opacity=0.7)
        .encode(along, alt.Y("lower_s:Q"), *style.series_line("series", names)),
        base.mark_point(strokeWidth=0, size=45, opacity=1).encode(
            along, time, style.series_fill("series", names), tooltip=tooltip
        ),
        base.transform_filter("datum.held === 0")
        .mark_point(strokeWidth=0, size=12, opacity=1, fill="white")
        .encode(along, time)
        .properties(name="paper_hollow"),
    ]
    if {"lo80_s", "hi80_s"} <= set(frame):
        band = base.transform_filter("isValid(datum.lo80_s)").mark_area(opacity=0.18)
        marks.insert(
            0, band.encode(along, alt.Y("lo80_s:Q"), alt.Y2("hi80_s:Q"), style.series_fill("series", names))
        )
    drawn = alt.layer(*marks).properties(width="container", height=style.HEIGHT)
    return style.titled(style.lined(drawn, names), finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the times at the longest length, and which layer is fastest at the shortest."""
    x = axis_of(frame)
    short, long = (frame[frame[x] == end].set_index("series") for end in (frame[x].min(), frame[x].max()))
    text = f"At {words.at(x, long[x].iloc[0])}, {_order(long)}"
    first = _fastest(short["seconds"])
    if not set(first) & set(_fastest(long["seconds"])):
        text += f"; at {words.at(x, short[x].iloc[0])}, {words.listed(first)} {words.be(first)} fastest"
    return text


def _fastest(times: pd.Series) -> list[str]:
    """Return the fastest layer, and all that are as fast."""
    return [str(name) for name in times.index[times <= ALIKE * times.min()]]


def _order(rows: pd.DataFrame) -> str:
    times = rows["seconds"].sort_values(kind="stable")
    best, worst = times.iloc[0], times.iloc[-1]
    if worst < ALIKE * best:
        names = [str(name) for name in rows.index]
        return f"{words.listed(names)} {words.verb(names, 'takes')} {words.seconds(best)}"
    named = times if len(times) <= MOST_SAID else times.iloc[[0, -1]]
    unheld = {name: "" if held else " (exceeds memory)" for name, held in rows["held"].items()}
    said = [f"{name} {words.seconds(value)}{unheld[name]}" for name, value in named.items()]
    said[0] = f"{named.index[0]} takes {words.seconds(best)}{unheld[named.index[0]]}"
    than = f" as {named.index[0]}" if len(named) > 2 else ""
    return f"{words.listed(said)}, {words.times(worst / best)} as long{than}"
