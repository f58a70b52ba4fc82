"""Memory of a model's uses, and of its training with and without recomputation."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.holding import named, stacked

NAME = "recompute"
ABOUT = (
    "Memory at the requested sizes. Selective recomputation does not keep attention scores (tiled attention "
    "never does); full recomputation keeps only each layer's input. Dashed line: the memory that the model "
    "may use."
)
#: Kinds of recomputation, in words.
AGAIN = {"none": "no recomputation", "selective": "selective", "full": "full recomputation"}


def rows(memory: pd.DataFrame, seq: int) -> pd.DataFrame:
    """Return the memory at one length by ``state``: a use, with the recomputation of training.

    Parameters
    ----------
    memory : DataFrame
        where, use, recompute, seq, kind, bytes, room_bytes.
    seq : int
        The length asked about.
    """
    found = memory[memory["seq"] == seq]
    several = found.groupby(["where", "use"])["recompute"].transform("nunique") > 1
    said = found["use"] + (", " + found["recompute"].map(AGAIN)).where(several, "")
    stacked = named(found.assign(state=said)).drop(columns=["use", "seq", "recompute"])
    return stacked.reset_index(drop=True)


def chart(frame: pd.DataFrame) -> Any:
    """Return a stacked bar of kinds of memory for each use."""
    alt = style.altair()
    along = alt.Y("state:N", title=None, sort=None)
    drawn = stacked(frame, along, "X", ("state:N", "use", ""))
    drawn = drawn.properties(width="container", height=alt.Step(28))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return which uses fit into memory, and how much memory the others lack."""
    capacity = frame["room_bytes"].max()
    held = frame.groupby("state", sort=False)["bytes"].sum()
    fitting = [f"{state} ({words.size(size)})" for state, size in held.items() if size <= capacity]
    lacking = [
        f"{_as_subject(str(state))} lacks {words.size(size - capacity)}"
        for state, size in held.items()
        if size > capacity
    ]
    said = [f"is enough for {words.listed(fitting)}"] if fitting else ["is not enough for any use"]
    return f"Memory of {words.size(capacity)} {'; '.join([*said, *lacking])}"


def _as_subject(state: str) -> str:
    """Return a use as the subject of a sentence: ``"training, full,"``, an apposition, ends in a comma."""
    return f"{state}," if "," in state else state
