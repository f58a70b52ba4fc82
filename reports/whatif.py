"""What-ifs of a model's uses: speedups with one thing changed at a time."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import in_words

NAME = "whatif"
ABOUT = (
    "Each bar is the prediction with one change: a figure of the device doubled, a narrower number format, "
    "another way to compute the same, or another device. Bars start at 1, the speed without the change."
)
#: Kinds of changes: name in words, colour.
KINDS = {
    "figure": ("device figure", "#0072B2"),
    "format": ("narrower format", "#009E73"),
    "unlike": ("narrower format, other constants", "#E69F00"),
    "choice": ("other way to compute it", "#CC79A7"),
    "device": ("other device", "#D55E00"),
}
#: Device figures in words, by the name that changes begin with.
FIGURES = {
    "hbm": "memory bandwidth",
    "units": "compute units",
    "clock": "clock",
    "l2 capacity": "L2 capacity",
    "link": "link bandwidth within a node",
}
#: Other ways to compute the same, in words.
CHOICES = {
    "wavefront = True": "staggered layers (wavefront)",
    "persistent = True": "weights kept on the chip",
    "fused = True": "products fused",
    "attention = tiled": "scores kept on the chip",
}
MOST_SAID = 3
#: A smaller speedup than this counts as none.
LEAST = 1.05


def rows(changes: pd.DataFrame) -> pd.DataFrame:
    """Return the changes in words, with kinds as categories; ``start`` is 1, the unchanged speed.

    A narrower format whose kernels have constants of another origin than the present one's is a kind of its
    own: part of the difference comes from the constants.

    Parameters
    ----------
    changes : DataFrame
        where, use, change, kind, speedup, alike.
    """
    kinds = changes["kind"].where(changes["alike"].astype(bool), "unlike")
    words_of = [said(change) for change in changes["change"]]
    return changes.assign(change=words_of, kind=in_words(kinds, KINDS), start=1.0)


def said(change: str) -> str:
    """Return a change in words: ``hbm and clock times 2 → memory bandwidth and clock × 2``."""
    names, times, factor = change.partition(" times ")
    if not times:
        return CHOICES.get(change, change)
    figures = " and ".join(FIGURES.get(name, f"{name} peak") for name in names.split(" and "))
    return f"{figures} × {factor}"


def chart(frame: pd.DataFrame) -> Any:
    """Return a bar for each change, from 1 to its speedup."""
    alt = style.altair()
    base = alt.Chart(frame)
    bars = base.mark_bar().encode(
        alt.X("start:Q", title="speedup", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=8)),
        alt.X2("speedup:Q"),
        alt.Y("change:N", title=None, sort=alt.EncodingSortField("speedup", order="descending")),
        style.named_colours(frame["kind"], dict(KINDS.values()), drawn=True),
        tooltip=style.tips(
            ("change:N", "change", ""),
            ("speedup:Q", "speedup", ".3~r"),
            ("seconds:Q", "time [s]", ".3~s"),
            ("rung:N", "rung", ""),
            ("constants_from:N", "constants from", ""),
        ),
    )
    drawn = bars.properties(width="container", height=alt.Step(24))
    drawn = style.lined(drawn, style.domain(frame["kind"]))
    return style.titled(drawn, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the figures and formats that help most, the fastest device, and what does not help."""
    device, unlike = KINDS["device"][0], KINDS["unlike"][0]
    own = _best(frame[~frame["kind"].isin([device, unlike])])
    helping = own[own["speedup"] >= LEAST]
    most = helping.head(MOST_SAID)
    helps = [
        f"{change}: {words.times(times)} as fast"
        for change, times in zip(most["change"], most["speedup"], strict=True)
    ]
    text = "; ".join(helps) or "No single change makes it 5 % faster"
    devices = _best(frame[frame["kind"] == device])
    if len(devices) and devices["speedup"].iloc[0] > 1:
        text += f"; {devices['change'].iloc[0]}: {words.times(devices['speedup'].iloc[0])} as fast"
    elif len(devices):
        text += "; no other device tried is faster"
    idle = own[own["speedup"] < 1.01]
    if len(idle) and len(helping):
        help_ = "helps" if len(idle) == 1 else "help"
        text += f"; {words.listed([str(change) for change in idle['change']])} hardly {help_}"
    return words.sentence(text)


def _best(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the changes, the most helpful first."""
    return frame.sort_values("speedup", ascending=False, kind="stable")
