"""What would make a model's use faster: one thing changed at a time."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words

NAME = "whatif"
ABOUT = (
    "The prediction made again with one thing changed: a figure of the device doubled, a narrower format, "
    "another way to compute the same, another device. Bars begin at 1, as fast as it is."
)
#: Kinds of changes in words, each with its colour.
KINDS = {
    "figure": ("a figure of the device", "#0072B2"),
    "format": ("a narrower format", "#009E73"),
    "choice": ("another way to compute it", "#CC79A7"),
    "device": ("another device", "#D55E00"),
}
#: Names of figures in words, as changes begin with them.
FIGURES = {
    "hbm": "memory bandwidth",
    "units": "number of units",
    "clock": "clock",
    "l2": "L2 cache",
}
MOST_SAID = 3


def rows(changes: pd.DataFrame) -> pd.DataFrame:
    """Return the changes in words, kinds as categories: all that occur; ``start`` is 1, as fast as it is."""
    known = [KINDS[kind][0] for kind in changes["kind"]]
    occurring = [name for name, _ in KINDS.values() if name in known]
    said = [_said(change) for change in changes["change"]]
    return changes.assign(change=said, kind=pd.Categorical(known, occurring), start=1.0)


def _said(change: str) -> str:
    """Return a change in words: ``hbm times 2 → memory bandwidth × 2``."""
    name, times, factor = change.partition(" times ")
    return f"{FIGURES.get(name, f'peak of {name}')} × {factor}" if times else change


def chart(frame: pd.DataFrame) -> Any:
    """Return a bar for each change, from 1 to how many times as fast it makes it.

    Parameters
    ----------
    frame : DataFrame
        From `rows`, for one device and use.
    """
    alt = style.altair()
    kinds = style.domain(frame["kind"])
    scale = alt.Scale(domain=kinds, range=[dict(KINDS.values())[kind] for kind in kinds])
    base = alt.Chart(frame)
    bars = base.mark_bar().encode(
        alt.X("start:Q", title="times as fast", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=8)),
        alt.X2("speedup:Q"),
        alt.Y("change:N", title=None, sort=alt.EncodingSortField("speedup", order="descending")),
        alt.Color("kind:N", scale=scale, legend=alt.Legend(title=None, orient="top")),
        tooltip=style.tips(
            ("change:N", "change", ""),
            ("speedup:Q", "times as fast", ".3~r"),
            ("seconds:Q", "time [s]", ".3~s"),
            ("rung:N", "rung", ""),
            ("constants_from:N", "constants from", ""),
        ),
    )
    drawn = bars.properties(width="container", height=alt.Step(24))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the figures and formats that help most, the fastest device, and what does not help."""
    own = frame[frame["kind"] != KINDS["device"][0]].sort_values("speedup", ascending=False, kind="stable")
    helping = own[own["speedup"] >= 1.05]
    said = [f"{row.change}: {words.times(row.speedup)} as fast" for row in helping.head(MOST_SAID).itertuples()]
    text = "; ".join(said) or "No figure of the device by itself makes it 5 % faster"
    devices = frame[frame["kind"] == KINDS["device"][0]].sort_values("speedup", ascending=False, kind="stable")
    if len(devices):
        best = devices.iloc[0]
        text += f"; {best['change']} {words.times(best['speedup'])}"
    idle = own[own["speedup"] < 1.01]
    if len(idle) and len(helping):
        text += f"; {words.listed([str(change) for change in idle['change']])} hardly help{'s' * (len(idle) == 1)}"
    return words.sentence(text)
