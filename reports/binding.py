"""What binds where: the limit of each layer by device and length."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import Facts, axis_of, axis_title

NAME = "binding"
ABOUT = (
    "What takes most of the time: the engine, the memory, the dependent steps or the launches that "
    "everything waits for. The letter in a cell repeats its colour."
)

#: What may bind: in words, its letter in a cell, its colour, the letter's colour on it.
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


def rows(frame: pd.DataFrame, facts: Facts) -> pd.DataFrame:  # noqa: ARG001 - every chart's signature
    """Return the frame with ``limit`` (categories: all that occur), its letter and that one's ink.

    ``where`` becomes ``row``, so that picking a device leaves all of them there.
    """
    kinds = frame["bound"].astype(str).str.partition(":")[0]
    known = {kind: (name, letter, ink) for kind, (name, letter, _, ink) in LIMITS.items()}
    named = [known.get(kind, (kind, kind[:1].upper(), "#000000")) for kind in kinds]
    names = [name for name, *_ in LIMITS.values()]
    found = [name for name, _, _ in named]
    names += sorted(set(found) - set(names))
    return frame.rename(columns={"where": "row"}).assign(
        limit=pd.Categorical(found, [name for name in names if name in found]),
        letter=[letter for _, letter, _ in named],
        ink=[ink for _, _, ink in named],
    )


def chart(frame: pd.DataFrame) -> Any:
    """Return a cell for each device and length, one band a layer.

    Parameters
    ----------
    frame : DataFrame
        From `rows`, all devices of one case.
    """
    alt = style.altair()
    x = axis_of(frame)
    known = {name: colour for name, _, colour, _ in LIMITS.values()}
    domain = style.domain(frame["limit"])
    colours = [known.get(name, "#DDDDDD") for name in domain]
    base = alt.Chart(frame).encode(
        alt.X(f"{x}:O", title=axis_title(x), axis=alt.Axis(format=",", labelAngle=0, labelOverlap=True)),
        alt.Y("row:N", sort=None, title=None),
        tooltip=style.tips(
            ("row:N", "where", ""),
            ("series:N", "layer", ""),
            (f"{x}:Q", x, ","),
            ("bound:N", "bound by", ""),
            ("seconds:Q", "time [s]", ".3~s"),
        ),
    )
    cells = base.mark_rect(stroke="white", strokeWidth=1).encode(
        alt.Color(
            "limit:N",
            scale=alt.Scale(domain=domain, range=colours),
            legend=alt.Legend(title=None, orient="top"),
        )
    )
    letters = base.mark_text(fontSize=11).encode(alt.Fill("ink:N", scale=None), text="letter:N")
    header = alt.Header(title=None, labelOrient="top", labelAnchor="start", labelFontSize=12)
    drawn = (
        alt.layer(cells, letters)
        .properties(width=500, height=alt.Step(20))
        .facet(row=alt.Row("series:N", sort=style.domain(frame["series"]), header=header), spacing=16)
    )
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return for each layer what binds most of its cells, and the share of them."""
    said = []
    for name, limits in frame.groupby("series", sort=False)["limit"]:
        counts = limits.astype(str).value_counts(normalize=True)
        share = f"in {words.share(counts.iloc[0])} of cases" if counts.iloc[0] < 1 else "everywhere"
        said.append(f"{name} by {counts.index[0]} {share}")
    return f"Bound, over all devices and lengths: {'; '.join(said)}"
