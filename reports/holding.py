"""The memory of a model's use against the length of its sequences, kind by kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import axis_title, in_words

NAME = "holding"
ABOUT = (
    "What the device holds at each length in the use that is picked; training computes nothing again here. "
    "The level line is what the model may use of its memory; lengths that need more than one and a half "
    "times as much are not drawn."
)

#: Kinds of memory in words, each with its colour.
KINDS = {
    "weights": ("weights", "#0072B2"),
    "gradients": ("gradients", "#56B4E9"),
    "optimiser": ("optimiser's state", "#009E73"),
    "activations": ("activations kept for backward", "#D55E00"),
    "cache": ("cache of keys, values and states", "#CC79A7"),
    "working": ("working memory of a kernel", "#999999"),
}
#: Times what may be used, beyond which a length says no more than that it does not fit.
MOST_SHOWN = 1.5


def rows(memory: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Return the memory over the lengths drawn, kinds in words (categories: all that occur).

    Parameters
    ----------
    memory : DataFrame
        where, use, recompute, seq, kind, bytes, room_bytes.
    answers : DataFrame
        where, use, longest_seq: missing where any length fits.
    """
    found = memory[memory["recompute"] == "none"].drop(columns="recompute")
    whole = found.groupby(["where", "use", "seq"])["bytes"].transform("sum")
    first = found["seq"] == found.groupby(["where", "use"])["seq"].transform("min")
    kept = named(found[(whole <= MOST_SHOWN * found["room_bytes"]) | first])
    longest = answers[["where", "use", "longest_seq"]]
    return kept.merge(longest, on=["where", "use"], how="left")


def named(memory: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with kinds in words, those of nothing left out; ``order`` is that of the stack."""
    found = memory[memory["bytes"] > 0]
    order = [list(KINDS).index(kind) for kind in found["kind"]]
    return found.assign(kind=in_words(found["kind"], KINDS), order=order)


def stacked(frame: pd.DataFrame, along: Any, memory: str, told: tuple[str, str, str]) -> Any:
    """Return bars of kinds, one on the other, with what may be used as a level line.

    Parameters
    ----------
    frame : DataFrame
        With the columns of `named`, and room_bytes.
    along : X or Y
        What there is a bar for.
    memory : str
        ``X`` or ``Y``: the axis that memory is drawn along.
    told : tuple of str
        What the bar is of, in the tooltip; see `style.tips`.
    """
    alt = style.altair()
    base = alt.Chart(frame)
    axis = alt.Axis(labelExpr=style.BYTES, tickCount=6)
    bars = base.mark_bar().encode(
        along,
        getattr(alt, memory)("bytes:Q", title="memory [B]", axis=axis),
        style.named_colours(frame["kind"], dict(KINDS.values())),
        order="order:Q",
        tooltip=style.tips(
            told,
            ("kind:N", "holds", ""),
            ("bytes:Q", "memory [B]", ".4~s"),
            ("room_bytes:Q", "may use [B]", ".4~s"),
        ),
    )
    return alt.layer(bars, style.capacity_rule(base, memory))


def chart(frame: pd.DataFrame) -> Any:
    """Return a column of kinds for each length, with what may be used as a level line."""
    alt = style.altair()
    axis = style.steps()
    along = alt.X("seq:O", title=axis_title("seq"), axis=axis)
    drawn = stacked(frame, along, "Y", ("seq:Q", "tokens", ","))
    drawn = drawn.properties(width="container", height=style.HEIGHT)
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the longest sequence that fits, and what takes most of the memory there."""
    capacity, longest = frame["room_bytes"].max(), frame["longest_seq"].max()
    if np.isnan(longest):
        last = frame[frame["seq"] == frame["seq"].max()]
        return (
            f"Any length fits into {words.size(capacity)}: {words.size(last['bytes'].sum())} are held at "
            f"{words.at('seq', last['seq'].max())}"
        )
    drawn = frame["seq"][frame["seq"] <= longest].max()
    at = frame[frame["seq"] == (frame["seq"].min() if np.isnan(drawn) else drawn)]
    length, held = words.at("seq", at["seq"].max()), words.size(at["bytes"].sum())
    most = str(at["kind"].iloc[int(at["bytes"].to_numpy().argmax())])
    if longest < 1:
        return (
            f"No length fits: {length} need {held} of {words.size(capacity)}, the largest part of it {most}"
        )
    return (
        f"Up to {words.at('seq', longest)} fit into {words.size(capacity)}; at {length} the largest part of "
        f"{held} is {most}"
    )
