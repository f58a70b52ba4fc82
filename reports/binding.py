"""The limit of each layer by device and length."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import Facts, axis_of, axis_title, in_words

NAME = "binding"
ABOUT = (
    "What limits most of each layer's time: an engine, a memory, dependent steps or launches. The letters "
    "repeat the colours."
)

#: Limits: name in words, letter in a cell, colour, colour of the letter on it.
LIMITS = {
    "matrix": ("matrix engine", "M", "#0072B2", "#ffffff"),
    "vector": ("vector engine", "V", "#56B4E9", "#000000"),
    "special": ("special functions", "F", "#CC79A7", "#000000"),
    "hbm": ("main memory", "B", "#D55E00", "#000000"),
    "l2": ("L2 cache", "C", "#E69F00", "#000000"),
    "depth": ("dependent steps", "S", "#009E73", "#000000"),
    "launch": ("launches", "L", "#999999", "#000000"),
    "link": ("links", "K", "#F0E442", "#000000"),
}
#: Colours of the limits by name.
COLOURS = {name: colour for name, _, colour, _ in LIMITS.values()}


def rows(frame: pd.DataFrame, facts: Facts) -> pd.DataFrame:  # noqa: ARG001 - every chart's signature
    """Return the frame with ``limit`` (a category), its letter and the letter's colour ``ink``.

    ``where`` is renamed ``row``, so that picking a device does not filter the chart.
    """
    kinds = frame["bound"].astype(str).str.partition(":")[0]
    looks = [LIMITS.get(kind, (kind, kind[:1].upper(), "", "#000000")) for kind in kinds]
    return frame.rename(columns={"where": "row"}).assign(
        limit=limits(frame["bound"]),
        letter=[letter for _, letter, _, _ in looks],
        ink=[ink for _, _, _, ink in looks],
    )


def limits(bound: pd.Series) -> pd.Categorical[str]:
    """Return limits in words: ``matrix:bf16 → matrix engine``; as categories, in a fixed order."""
    return in_words((str(kind).partition(":")[0] for kind in bound), LIMITS)


def said(limit: str) -> str:
    """Return a limit or a rate in words: ``matrix:bf16 → matrix engine, bf16``; other text unchanged."""
    kind, _, dtype = limit.partition(":")
    if kind not in LIMITS:
        return limit
    return f"{LIMITS[kind][0]}, {dtype}" if dtype else LIMITS[kind][0]


def chart(frame: pd.DataFrame) -> Any:
    """Return a heat map with a cell for each device and length, one band per layer."""
    alt = style.altair()
    x = axis_of(frame)
    base = alt.Chart(frame).encode(
        alt.X(f"{x}:O", title=axis_title(x), axis=style.steps()),
        alt.Y("row:N", sort=None, title=None),
        tooltip=style.tips(
            ("row:N", "device", ""),
            ("series:N", "layer", ""),
            (f"{x}:Q", x, ","),
            ("bound:N", "limited by", ""),
            ("seconds:Q", "time [s]", ".3~s"),
        ),
    )
    cells = base.mark_rect(stroke="white", strokeWidth=1).encode(style.named_colours(frame["limit"], COLOURS))
    letters = base.mark_text(fontSize=11).encode(alt.Fill("ink:N", scale=None), text="letter:N")
    band = alt.layer(cells, letters).properties(width=500, height=alt.Step(20))
    return style.titled(style.banded(band, frame, spacing=16), finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the most frequent limit of each layer, and the share of cells that have it."""
    most = []
    for name, limits in frame.groupby("series", sort=False)["limit"]:
        counts = limits.astype(str).value_counts(normalize=True)
        share = f"{words.share(counts.iloc[0])} of cases" if counts.iloc[0] < 1 else "always"
        most.append(f"{name}: {counts.index[0]} ({share})")
    return f"Most frequent limit over all devices and {words.extent(axis_of(frame))}s: {'; '.join(most)}"
