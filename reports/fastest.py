"""The fastest layer by range of length: crossovers, device by device."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import axis_of, axis_title

NAME = "crossovers"
ABOUT = (
    "The colour shows which layer is fastest on each device; a change of colour is a crossover. If layers "
    "tie, the first in the legend is shown."
)


def rows(frame: pd.DataFrame, cases: list[str]) -> pd.DataFrame:
    """Return which layer is fastest over which range, from a sweep's table.

    If the fastest layer differs between two neighbouring lengths, the crossover is put where straight lines
    on log axes intersect.

    Parameters
    ----------
    frame : DataFrame
        Rows of a sweep with where and series.
    cases : list of str
        Columns that tell cases apart, with or without ``where``.

    Returns
    -------
    DataFrame
        The cases (``where`` as ``row``), ``of`` = "time", series (categories: all), and ``from_…`` and
        ``to_…`` of the size along which times are compared.
    """
    x = axis_of(frame)
    frame = frame.rename(columns={"where": "row"})
    keys = ["row", *(case for case in cases if case != "where")]
    found = []
    for case, group in frame.groupby(keys, sort=False, dropna=False):
        table = group.pivot_table(index=x, columns="series", values="seconds", sort=True)
        table = table.reindex(columns=list(dict.fromkeys(group["series"]))).dropna()
        if not table.empty:
            same = dict(zip(keys, case, strict=True)) | {"of": "time"}
            found += [same | piece for piece in _pieces(table, x)]
    columns = [*keys, "of", "series", f"from_{x}", f"to_{x}"]
    pieces = pd.DataFrame(found, columns=columns)
    return pieces.assign(series=pd.Categorical(pieces["series"], list(dict.fromkeys(frame["series"]))))


def _pieces(table: pd.DataFrame, x: str) -> list[dict[str, Any]]:
    """Return the ranges of lengths over which the same column is the least."""
    lengths, least = table.index.to_numpy(float), table.idxmin(axis=1).to_numpy()
    edges = [lengths[0]]
    names = [least[0]]
    for (i, j), (first, second) in zip(
        itertools.pairwise(range(len(lengths))), itertools.pairwise(least), strict=True
    ):
        if first != second:
            ahead = np.log(table[second].to_numpy()[[i, j]] / table[first].to_numpy()[[i, j]])
            way = ahead[0] / (ahead[0] - ahead[1])
            edges.append(float(np.exp(np.interp(way, [0, 1], np.log(lengths[[i, j]])))))
            names.append(second)
    ends = [*edges[1:], lengths[-1]]
    return [
        {"series": name, f"from_{x}": start, f"to_{x}": end}
        for name, start, end in zip(names, edges, ends, strict=True)
    ]


def chart(frame: pd.DataFrame) -> Any:
    """Return a bar per device, coloured by the layer that is fastest there; for `rows`, or the story's."""
    alt = style.altair()
    x = _axis(frame)
    names = style.domain(frame["series"])
    bars = (
        alt.Chart(frame)
        .mark_bar(height={"band": 0.72})
        .encode(
            style.length_axis(f"from_{x}", axis_title(x), grid=True),
            alt.X2(f"to_{x}:Q"),
            alt.Y("row:N", sort=None, title=None),
            style.series_bars(names),
            tooltip=style.tips(
                ("row:N", "device", ""),
                ("of:N", "cost", ""),
                ("series:N", "least of it", ""),
                (f"from_{x}:Q", "from", ",.0f"),
                (f"to_{x}:Q", "to", ",.0f"),
            ),
        )
        .properties(width="container", height=alt.Step(24))
    )
    return style.titled(style.lined(bars, names), finding(frame), ABOUT)


def _axis(frame: pd.DataFrame) -> str:
    return next(str(name).removeprefix("from_") for name in frame if str(name).startswith("from_"))


def finding(frame: pd.DataFrame) -> str:
    """Return which layer is fastest at the longest length, in how many cases, and from which length on.

    A case is a device in a number format: a device in two formats has two rows.
    """
    x = _axis(frame)
    timed = frame[frame["of"] == "time"]
    if timed.empty:
        return f"The layers share no {words.extent(x)}s, so there are no crossovers to find"
    last = timed.groupby("row", sort=False).tail(1)
    whole = last["row"].map(timed["row"].value_counts()) == 1
    last = last.assign(name=last["series"].astype(str), whole=whole)
    everywhere = f"at every {words.extent(x)}"
    said = [
        f"{_in(rows['row'], len(last))} {name} is fastest {everywhere if whole else _from(rows, x)}"
        for (whole, name), rows in last.groupby(["whole", "name"], sort=False)
    ]
    return words.sentence("; ".join(sorted(said, key=lambda text: text.startswith("on "))))


def _from(rows: pd.DataFrame, x: str) -> str:
    """Return the length from which a layer is fastest: the smallest and the largest of all cases."""
    starts = rows.set_index("row")[f"from_{x}"]
    early, late = (words.at(x, end) for end in (starts.min(), starts.max()))
    if early == late:
        return f"from {early} on"
    return f"beyond a crossover that lies between {early} ({starts.idxmin()}) and {late} ({starts.idxmax()})"


def _in(rows: pd.Series, every: int) -> str:
    if len(rows) < every:
        return f"in {len(rows)} of {every} cases" if len(rows) > 1 else f"on {rows.iloc[0]}"
    return {1: "on this device", 2: "in both cases"}.get(every, f"in all {every} cases")
