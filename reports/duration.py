"""Time against length, layer by layer, with the lower bound that a measurement keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import Facts, axis_of

NAME = "time"
ABOUT = (
    "Time of one pass through the whole stack. Thin lines: the lower bound, a promise that no measurement "
    "undercuts. Bands, where there are any: 80 % of measurements."
)


def rows(frame: pd.DataFrame, facts: Facts) -> pd.DataFrame:  # noqa: ARG001 - every chart's signature
    """Return the frame: its times are all that is drawn."""
    return frame


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
        ("bound:N", "bound by", ""),
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
    ]
    if {"lo80_s", "hi80_s"} <= set(frame):
        band = base.transform_filter("isValid(datum.lo80_s)").mark_area(opacity=0.18)
        marks.insert(
            0, band.encode(along, alt.Y("lo80_s:Q"), alt.Y2("hi80_s:Q"), style.series_fill("series", names))
        )
    drawn = alt.layer(*marks).properties(width="container", height=style.HEIGHT)
    return style.titled(style.lined(drawn, names), finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return who is fastest at the longest length, and by how much; and at the shortest, if another is."""
    x = axis_of(frame)
    short, long = frame[x].min(), frame[x].max()
    at_short, at_long = (_times(frame[frame[x] == end]) for end in (short, long))
    text = f"At {words.at(x, long)}, {_order(at_long)}"
    if _fastest(at_short) != _fastest(at_long):
        text += f"; at {words.at(x, short)}, {_fastest(at_short)} is fastest"
    return text


def _times(rows: pd.DataFrame) -> dict[str, float]:
    return {str(name): float(value) for name, value in zip(rows["series"], rows["seconds"], strict=True)}


def _fastest(times: dict[str, float]) -> str:
    return min(times, key=lambda name: times[name])


def _order(times: dict[str, float]) -> str:
    fastest, slowest = _fastest(times), max(times, key=lambda name: times[name])
    if times[slowest] < 1.005 * times[fastest]:
        names = list(times)
        return f"{words.listed(names)} {words.verb(names, 'takes')} {words.seconds(times[fastest])}"
    return (
        f"{fastest} takes {words.seconds(times[fastest])} and {slowest} {words.seconds(times[slowest])}, "
        f"{words.times(times[slowest] / times[fastest])} as long"
    )
