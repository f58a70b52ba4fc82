"""Memory of a model's use over the length of its sequences, by kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import axis_title, in_words

NAME = "holding"
ABOUT = (
    "Memory that the chosen use needs at each length; training is without recomputation. Dashed line: the "
    "part of the device's memory that the model may use. Lengths that need over 1.5 times as much are not "
    "drawn."
)

#: Kinds of memory: name in words, colour.
KINDS = {
    "weights": ("weights", "#0072B2"),
    "gradients": ("gradients", "#56B4E9"),
    "optimiser": ("optimiser state", "#009E73"),
    "activations": ("activations kept for backward", "#D55E00"),
    "cache": ("KV cache and recurrent states", "#CC79A7"),
    "working": ("working memory of kernels", "#999999"),
}
#: Lengths whose memory exceeds the available memory by this factor are not shown.
MOST_SHOWN = 1.5


def rows(memory: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Return the memory over the lengths shown, with kinds in words (as categories).

    Parameters
    ----------
    memory : DataFrame
        where, use, recompute, seq, kind, bytes, room_bytes.
    answers : DataFrame
        where, use, longest_seq: missing if any length fits.
    """
    found = memory[memory["recompute"] == "none"].drop(columns="recompute")
    whole = found.groupby(["where", "use", "seq"])["bytes"].transform("sum")
    first = found["seq"] == found.groupby(["where", "use"])["seq"].transform("min")
    kept = named(found[(whole <= MOST_SHOWN * found["room_bytes"]) | first])
    longest = answers[["where", "use", "longest_seq"]]
    return kept.merge(longest, on=["where", "use"], how="left")


def named(memory: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with kinds in words, without empty ones; ``order`` is their order in the stack."""
    found = memory[memory["bytes"] > 0]
    order = [list(KINDS).index(kind) for kind in found["kind"]]
    return found.assign(kind=in_words(found["kind"], KINDS), order=order)


def stacked(frame: pd.DataFrame, along: Any, memory: str, told: tuple[str, str, str]) -> Any:
    """Return stacked bars of kinds of memory, with a line at the available memory.

    Parameters
    ----------
    frame : DataFrame
        A table with the columns of `named`, and room_bytes.
    along : X or Y
        Channel of the bars.
    memory : str
        ``X`` or ``Y``: the axis of memory.
    told : tuple of str
        Tooltip entry for the bar; see `style.tips`.
    """
    alt = style.altair()
    base = alt.Chart(frame)
    axis = alt.Axis(labelExpr=style.BYTES, tickCount=6)
    bars = base.mark_bar().encode(
        along,
        getattr(alt, memory)("bytes:Q", title="memory [B]", axis=axis),
        style.named_colours(frame["kind"], dict(KINDS.values()), drawn=True),
        order="order:Q",
        tooltip=style.tips(
            told,
            ("kind:N", "kind", ""),
            ("bytes:Q", "memory [B]", ".4~s"),
            ("room_bytes:Q", "available [B]", ".4~s"),
        ),
    )
    drawn = alt.layer(bars, style.capacity_rule(base, memory))
    return style.lined(drawn, style.domain(frame["kind"]))


def chart(frame: pd.DataFrame) -> Any:
    """Return a stacked column for each length, with a line at the available memory."""
    alt = style.altair()
    axis = style.steps()
    along = alt.X("seq:O", title=axis_title("seq"), axis=axis)
    drawn = stacked(frame, along, "Y", ("seq:Q", "tokens", ","))
    drawn = drawn.properties(width="container", height=style.HEIGHT)
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the longest sequence that fits, and the largest kind of memory there."""
    capacity, longest = frame["room_bytes"].max(), frame["longest_seq"].max()
    if np.isnan(longest):
        last = frame[frame["seq"] == frame["seq"].max()]
        return (
            f"Any length fits into {words.size(capacity)}: {words.at('seq', last['seq'].max())} need "
            f"{words.size(last['bytes'].sum())}"
        )
    drawn = frame["seq"][frame["seq"] <= longest].max()
    at = frame[frame["seq"] == (frame["seq"].min() if np.isnan(drawn) else drawn)]
    length, held = words.at("seq", at["seq"].max()), words.size(at["bytes"].sum())
    most = str(at["kind"].iloc[int(at["bytes"].to_numpy().argmax())])
    if longest < 1:
        return (
            f"No length fits into {words.size(capacity)}: {length} need {held}, the largest part for {most}"
        )
    return (
        f"Up to {words.at('seq', longest)} fit into {words.size(capacity)}; {length} need {held}, the "
        f"largest part for {most}"
    )
