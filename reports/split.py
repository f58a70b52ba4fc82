"""Time by kind of kernel: matrix products, attention, recurrence, passes over memory."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import axis_of, axis_title, in_words

NAME = "split"
ABOUT = "Each layer's time at each length, split by kind of kernel."

#: Kernel models: name in words, colour.
PARTS = {
    "gemm": ("matrix products", "#0072B2"),
    "attention": ("attention", "#D55E00"),
    "decode": ("attention", "#D55E00"),
    "recurrence": ("recurrence", "#009E73"),
    "stream": ("norms, softmax, elementwise", "#56B4E9"),
    "scan": ("scan", "#CC79A7"),
    "delta": ("delta rule", "#CC79A7"),
    "conv": ("convolution", "#E69F00"),
}


def rows(parts: pd.DataFrame) -> pd.DataFrame:
    """Return the parts in words (as categories), each with its ``share``.

    The share is that of its layer's time at that length.
    """
    named = parts.assign(part=in_words(parts["part"], PARTS))
    keys = [name for name in named if name != "seconds"]
    summed = named.groupby(keys, as_index=False, sort=False, observed=True)["seconds"].sum()
    whole = summed.groupby([name for name in keys if name != "part"], sort=False)["seconds"].transform("sum")
    shared: pd.DataFrame = summed.assign(share=summed["seconds"] / whole)
    return shared


def chart(frame: pd.DataFrame) -> Any:
    """Return the shares of time, with one band of columns per layer."""
    alt = style.altair()
    x = axis_of(frame)
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            alt.X(f"{x}:O", title=axis_title(x), axis=style.steps()),
            alt.Y(
                "seconds:Q", stack="normalize", title="share of time", axis=alt.Axis(format="%", tickCount=3)
            ),
            style.named_colours(frame["part"], dict(PARTS.values())),
            tooltip=style.tips(
                ("series:N", "layer", ""),
                (f"{x}:Q", x, ","),
                ("part:N", "part", ""),
                ("seconds:Q", "time [s]", ".3~s"),
                ("share:Q", "share", ".1~%"),
            ),
        )
        .properties(height=90, width=500)
    )
    return style.titled(style.banded(bars, frame, spacing=12), finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the part that takes most of each layer's time, and from which length on."""
    x = axis_of(frame)
    said: dict[str, list[str]] = {}
    for name, layer in frame.groupby("series", sort=False):
        table = layer.pivot_table(index=x, columns="part", values="share", observed=True).fillna(0.0)
        part = table.iloc[-1].idxmax()
        # The length from which on it stays the largest, up to the last.
        over = table.index[(table[part] > 0.5)[::-1].cummin()[::-1]]
        start = f" from {words.at(x, over[0])} on" if 0 < len(over) < len(table) else ""
        goal = f"{part}{start}" if len(over) else "no single part"
        said.setdefault(goal, []).append(str(name))
    parts = [f"{words.listed(names)}: {goal}" for goal, names in said.items()]
    return f"Over half of the time goes into: {'; '.join(parts)}"
