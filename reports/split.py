"""What the time goes into: matrix products, attention, recurrence, passes over memory."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import axis_of, axis_title

NAME = "split"
ABOUT = "Each layer's time, shared out among the kinds of kernel that it runs, length by length."

#: Kernel models in words, each with its colour.
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
    """Return the parts in words (categories: all that occur), each with its ``share``.

    That is its share of its layer's time at that length.
    """
    named = parts.assign(part=[PARTS.get(part, (part, ""))[0] for part in parts["part"]])
    keys = [name for name in named if name != "seconds"]
    summed = named.groupby(keys, as_index=False, sort=False)["seconds"].sum()
    whole = summed.groupby([name for name in keys if name != "part"], sort=False)["seconds"].transform("sum")
    occurring = [name for name in dict(PARTS.values()) if name in set(summed["part"])]
    occurring += sorted(set(summed["part"]) - set(occurring))
    shared: pd.DataFrame = summed.assign(
        share=summed["seconds"] / whole, part=pd.Categorical(summed["part"], occurring)
    )
    return shared


def chart(frame: pd.DataFrame) -> Any:
    """Return the shares of time, one band of columns a layer.

    Parameters
    ----------
    frame : DataFrame
        From `rows`, for one device and case.
    """
    alt = style.altair()
    x = axis_of(frame)
    parts = style.domain(frame["part"])
    colours = [dict(PARTS.values()).get(part, "#999999") for part in parts]
    legend = alt.Legend(title=None, orient="top")
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            alt.X(f"{x}:O", title=axis_title(x), axis=alt.Axis(format=",", labelAngle=0, labelOverlap=True)),
            alt.Y(
                "seconds:Q", stack="normalize", title="share of time", axis=alt.Axis(format="%", tickCount=3)
            ),
            alt.Color(
                "part:N",
                scale=alt.Scale(domain=parts, range=colours),
                legend=legend,
            ),
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
    header = alt.Header(title=None, labelOrient="top", labelAnchor="start", labelFontSize=12)
    drawn = bars.facet(row=alt.Row("series:N", sort=style.domain(frame["series"]), header=header), spacing=12)
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return for each layer which part takes most of its time, and from where on."""
    x = axis_of(frame)
    said: dict[str, list[str]] = {}
    for name, layer in frame.groupby("series", sort=False):
        table = layer.pivot_table(index=x, columns="part", values="share", observed=True).fillna(0.0)
        part = table.iloc[-1].idxmax()
        # From where on it stays so, to the last.
        over = table.index[(table[part] > 0.5)[::-1].cummin()[::-1]]
        start = f" from {words.at(x, over[0])} on" if 0 < len(over) < len(table) else ""
        goal = f"into {part}{start} for " if len(over) else "into no one part for "
        said.setdefault(goal, []).append(str(name))
    return "Most of the time goes " + ", ".join(goal + words.listed(names) for goal, names in said.items())
