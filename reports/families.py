"""Map of all layers: time over length, and the power of the length it grows with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import axis_title

NAME = "families"
ABOUT = (
    "Predicted time of every layer over length, coloured by family. Each line ends with the layer's name "
    "and the power of the length that its time grows with, between the two longest lengths. Each is one "
    "layer of width 1,024 with batch 8, even where it exceeds the device's memory; multi-device layers run "
    "on 8 devices. For decoding layers, length is the context of one query. On a narrow screen, touch a "
    "point to see its name."
)
#: Height of a line's label [px].
NAME_HEIGHT = 13.5


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the times and, at each line's end, its label with the position where it has room.

    Parameters
    ----------
    frame : DataFrame
        Columns where, layer, family, seq, seconds, bound.

    Returns
    -------
    DataFrame
        The same columns and, in the row of the longest length, ``slope`` (d log seconds / d log seq between
        the two longest), ``text`` (name and slope) and ``place`` (height of the label [s]).
    """
    frame = frame.sort_values(["where", "layer", "seq"], kind="stable", ignore_index=True)
    lines = frame.groupby(["where", "layer"], sort=False)
    before = lines[["seq", "seconds"]].shift(1)
    last = lines["seq"].transform("max") == frame["seq"]
    rise = np.log(frame["seconds"] / before["seconds"]) / np.log(frame["seq"] / before["seq"])
    slope = pd.Series(rise, index=frame.index)
    frame = frame.assign(slope=slope.where(last))
    text = frame["layer"].astype(str) + "  " + frame["slope"].map(_power)
    frame = frame.assign(family=pd.Categorical(frame["family"]))
    frame = frame.assign(text=text.where(frame["slope"].notna()), place=np.nan)
    for _, group in frame.groupby("where", sort=False):
        ends = group[group["slope"].notna()]
        span = np.log([group["seconds"].min(), group["seconds"].max()])
        frame.loc[ends.index, "place"] = np.exp(_spread(np.log(ends["seconds"].to_numpy()), span))
    return frame


def _power(slope: float) -> str:
    """Return n to a power with one digit: 1.04 → n, 1.97 → n², 1.52 → n^1.5; empty for NaN."""
    if np.isnan(slope):
        return ""
    exponent = f"{slope:.1f}"
    return {"1.0": "n", "2.0": "n²"}.get(exponent, f"n^{exponent}")


def _spread(values: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Return label heights as close to the values as non-overlapping labels allow, inside the span."""
    order = np.argsort(values, kind="stable")
    gap = (span[1] - span[0]) * NAME_HEIGHT / _height(len(values))
    steps = gap * np.arange(len(values))
    # Least squares with the order kept: labels that push each other stand around their mean (pool adjacent
    # violators).
    pools: list[tuple[float, int]] = []
    for value in values[order] - steps:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    apart = np.repeat([mean for mean, _ in pools], [size for _, size in pools])
    found = np.empty_like(values)
    found[order] = np.clip(apart, span[0], span[1] - steps[-1]) + steps
    return found


def _height(layers: int) -> float:
    """Return the chart's height [px]: more than all labels together."""
    return max(style.HEIGHT, 1.25 * NAME_HEIGHT * layers)


def chart(frame: pd.DataFrame) -> Any:
    """Return the map."""
    alt = style.altair()
    low, high = float(frame["seq"].min()), float(frame["seq"].max())
    hover = alt.selection_point(fields=["layer"], on="pointerover", nearest=False, empty=True)
    scale = alt.Scale(type="log", base=2, domain=[low, high * 1.6], nice=False)
    axis = alt.Axis(format=",", labelOverlap=True, tickCount=12, grid=False)
    along = alt.X("seq:Q", title=axis_title("seq"), scale=scale, axis=axis)
    time = style.log_y("seconds", "time [s]", style.SECONDS)
    # There are more families than colours: the second round is dashed and has other markers.
    rounds = [[1, 0]] * len(style.OKABE_ITO) + [[5, 2]] * len(style.OKABE_ITO)
    dashed = alt.StrokeDash("family:N", scale=alt.Scale(range=rounds), legend=None)
    strong = alt.condition(hover, alt.value(0.9), alt.value(0.12))
    colour, shape = style.groups(frame["family"])
    tooltip = style.tips(
        ("layer:N", "layer", ""),
        ("family:N", "family", ""),
        ("seq:Q", "length", ","),
        ("seconds:Q", "time [s]", ".3~s"),
        ("bound:N", "limited by", ""),
    )
    base = alt.Chart(frame)
    lines = base.mark_line(strokeWidth=1.6).encode(
        along, time, style.group_line(frame["family"]), dashed, detail="layer:N", opacity=strong
    )
    points = base.mark_point(filled=True, size=42).encode(
        along, time, colour, shape, opacity=strong, tooltip=tooltip
    )
    ends = base.transform_filter("isValid(datum.place)").transform_calculate(
        right=f"{high} * 1.45", beyond=f"{high} * 1.6"
    )
    wide = alt.param(name="wide", expr="containerSize()[0] > 600")
    leaders = ends.mark_rule(strokeWidth=alt.expr("wide ? 0.8 : 0")).encode(
        along, alt.X2("right:Q"), time, alt.Y2("place:Q"), style.group_line(frame["family"]), opacity=strong
    )
    beyond, place = alt.X("beyond:Q", scale=scale), alt.Y("place:Q", scale=style.LOG)
    names = (
        ends.mark_text(align="left", baseline="middle", fontSize=alt.expr("wide ? 11 : 0"))
        .encode(beyond, place, text="text:N", opacity=strong)
        .properties(name="ink_names")
    )
    drawn = (
        alt.layer(lines, points.add_params(hover), leaders, names)
        .properties(width="container", height=_height(frame["layer"].nunique()))
        .add_params(wide)
    )
    drawn = style.lined(drawn, style.domain(frame["family"]))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return how many layers grow with which power, and the ratio of the slowest to the fastest."""
    ends = frame[frame["slope"].notna()].sort_values("seconds")
    longest = ends["seq"].max()
    fast, slow = (ends.iloc[end] for end in (0, -1))
    linear, square = (ends["slope"].sub(power).abs().le(0.15).sum() for power in (1, 2))
    between = ((ends["slope"] > 1.15) & (ends["slope"] < 1.85)).sum()
    said = [f"{linear} of {len(ends)} layers grow about as n", f"{square} about as n²"]
    if between:
        said.append(f"{between} in between")
    return (
        f"At {words.at('seq', longest)}, {words.listed(said)}; {slow['layer']} "
        f"({words.seconds(slow['seconds'])}) takes {words.times(slow['seconds'] / fast['seconds'])} as long "
        f"as {fast['layer']} ({words.seconds(fast['seconds'])})"
    )
