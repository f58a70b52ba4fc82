"""Time of a model's use over the length of its sequences, by part."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.parts import quoted

NAME = "growth"
ABOUT = (
    "Time of the whole model (wide grey line) and of its parts over length; small parts are combined. "
    "Dashed line: the longest sequence that fits into the device's memory."
)
#: Number of parts with their own line; there are seven colours.
MOST_LINES = 5
REST = "all other parts"


def rows(lengths: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds of the largest parts and of all others, ``whole``, and where memory is full.

    Parameters
    ----------
    lengths : DataFrame
        where, use, seq, part, seconds.
    answers : DataFrame
        where, use, longest_seq.
    """
    keys = ["where", "use", "seq"]
    whole = lengths.groupby(keys, sort=False)["seconds"].transform("sum")
    most = (lengths["seconds"] / whole).groupby([lengths["use"], lengths["part"]], sort=False).max()
    ranked = most.groupby(level="use").rank(method="first", ascending=False).clip(upper=MOST_LINES + 1)
    rank = ranked.loc[list(zip(lengths["use"], lengths["part"], strict=True))].to_numpy()
    named = lengths.assign(label=lengths["part"].where(rank <= MOST_LINES, REST), rank=rank, whole=whole)
    found = named.groupby([*keys, "label"], as_index=False, sort=False).agg(
        seconds=("seconds", "sum"), whole=("whole", "first"), rank=("rank", "min")
    )
    ordered = found.sort_values("rank", kind="stable").drop(columns="rank")
    full = ordered.merge(answers[["where", "use", "longest_seq"]], on=["where", "use"], how="left")
    drawn = full["longest_seq"].between(full["seq"].min(), full["seq"].max())
    return full.assign(full=full["longest_seq"].where(drawn)).drop(columns="longest_seq")


def chart(frame: pd.DataFrame) -> Any:
    """Return time over length."""
    alt = style.altair()
    along, time = style.length_axis("seq"), style.log_y("seconds", "time [s]", style.SECONDS)
    tooltip = style.tips(
        ("label:N", "part", ""),
        ("seq:Q", "tokens", ","),
        ("seconds:Q", "time [s]", ".3~s"),
        ("whole:Q", "whole model [s]", ".3~s"),
    )
    base = alt.Chart(frame)
    full = base.transform_filter("isValid(datum.full)").transform_aggregate(full="max(full)")
    drawn = alt.layer(
        full.mark_rule(strokeWidth=2, strokeDash=[6, 4], color="#666666")
        .encode(alt.X("full:Q"))
        .properties(name="ink_full"),
        base.mark_line(strokeWidth=5, opacity=0.35, color="#666666")
        .encode(along, alt.Y("whole:Q"))
        .properties(name="ink_whole"),
        base.mark_line(strokeWidth=2.2).encode(along, time, *_lines()),
        base.mark_point(strokeWidth=0, size=40, opacity=1).encode(along, time, _fill(), tooltip=tooltip),
    ).properties(width="container", height=style.HEIGHT)
    return style.titled(drawn, finding(frame), ABOUT)


def _lines() -> list[Any]:
    """Return colours and dashes of lines by ``label``, in the order of the rows, with a legend in columns.

    They go by order, not by name, because each use of a model has other parts.
    """
    alt = style.altair()
    legend = alt.Legend(title=None, orient="top", symbolSize=700, symbolStrokeWidth=2.5, symbolType="stroke")
    dashes = alt.Scale(range=[list(dash) for dash in style.DASHES])
    return [
        alt.Color("label:N", sort=None, scale=alt.Scale(range=list(style.OKABE_ITO)), legend=legend),
        alt.StrokeDash("label:N", sort=None, scale=dashes, legend=legend),
    ]


def _fill() -> Any:
    """Return the fill of points: the lines' colours."""
    alt = style.altair()
    return alt.Fill("label:N", sort=None, scale=alt.Scale(range=list(style.OKABE_ITO)), legend=None)


def finding(frame: pd.DataFrame) -> str:
    """Return the growth of the time, and the largest part at the shortest and at the longest length."""
    table = (
        frame.pivot_table(index="seq", columns="label", values="seconds", sort=False).fillna(0.0).sort_index()
    )
    whole = table.sum(axis=1)
    parts = [str(name) for name in table if name != REST]
    largest = [parts[place] for place in table[parts].to_numpy().argmax(axis=1)]
    said = [f"the largest part is {quoted(largest[0])}"]
    if largest[0] != largest[-1]:
        start = max(i for i, part in enumerate(largest) if part != largest[-1]) + 1
        said.append(f"and from {words.at('seq', float(table.index[start]))} on {quoted(largest[-1])}")
    first, last = whole.index[0], whole.index[-1]
    ratio = whole[last] / whole[first]
    grows = "as long as" if ratio < 1.005 else f"{words.times(ratio)} as long as"
    return f"{words.sentence(words.at('seq', last))} take {grows} {words.whole(first)}; {', '.join(said)}"
