"""The memory of a model's uses, and of its training with activations kept or computed again."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.holding import named, stacked

NAME = "recompute"
ABOUT = (
    "Memory at the sizes asked for. Selective recomputation keeps no scores of attention (tiled attention "
    "never does); full recomputation keeps each layer's input. The upright line is what the model may use."
)
#: What backward computes again, in words.
AGAIN = {"none": "all kept", "selective": "selective", "full": "full"}


def rows(memory: pd.DataFrame, seq: int) -> pd.DataFrame:
    """Return the memory at one length, by ``state``: a use, and what training computes again.

    Parameters
    ----------
    memory : DataFrame
        where, use, recompute, seq, kind, bytes, room_bytes.
    seq : int
        The length asked for.
    """
    found = memory[memory["seq"] == seq]
    several = found.groupby(["where", "use"])["recompute"].transform("nunique") > 1
    said = found["use"] + (", " + found["recompute"].map(AGAIN)).where(several, "")
    stacked = named(found.assign(state=said)).drop(columns=["use", "seq", "recompute"])
    return stacked.reset_index(drop=True)


def chart(frame: pd.DataFrame) -> Any:
    """Return a bar of kinds for each use."""
    alt = style.altair()
    along = alt.Y("state:N", title=None, sort=None)
    drawn = stacked(frame, along, "X", ("state:N", "use", ""))
    drawn = drawn.properties(width="container", height=alt.Step(28))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return which uses there is memory for, and how much each of the others lacks."""
    capacity = frame["room_bytes"].max()
    held = frame.groupby("state", sort=False)["bytes"].sum()
    fitting = [f"{state} ({words.size(size)})" for state, size in held.items() if size <= capacity]
    lacking = [
        f"{_as_subject(str(state))} lacks {words.size(size - capacity)}"
        for state, size in held.items()
        if size > capacity
    ]
    said = [f"has room for {words.listed(fitting)}"] if fitting else ["has room for none of its uses"]
    return f"Memory of {words.size(capacity)} {'; '.join([*said, *lacking])}"


def _as_subject(state: str) -> str:
    """Return a use for a verb to follow: an apposition, as in ``"training, full,"``, ends with a comma."""
    return f"{state}," if "," in state else state
