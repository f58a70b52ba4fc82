"""Elasticities of a model's time: how it follows each rate of the device and each size."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import binding, style, words
from costmodel.reports.frames import axis_title, in_words
from costmodel.reports.parts import the

NAME = "elasticity"
ABOUT = (
    "Change of the cold roofline's time in per cent for 1 % more of a rate or a size, from exact derivatives "
    "of its formula. The values of the rates add up to −1."
)
#: Kinds of elasticities: name in words, colour.
KINDS = {"rate": ("device rate", "#0072B2"), "size": ("problem size", "#D55E00")}


def rows(slopes: pd.DataFrame) -> pd.DataFrame:
    """Return the slopes in words, with kinds as categories."""
    return slopes.assign(of=[_said(of) for of in slopes["of"]], kind=in_words(slopes["kind"], KINDS))


def _said(of: str) -> str:
    """Return a rate or a size in words: ``matrix:bf16 → matrix engine, bf16``."""
    return binding.said(axis_title(of).partition(" [")[0])


def chart(frame: pd.DataFrame) -> Any:
    """Return a bar for each rate and size, pointing left if more of it shortens the time."""
    alt = style.altair()
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            alt.X("elasticity:Q", title="change of the time for 1 % more [%]", axis=alt.Axis(tickCount=8)),
            alt.Y("of:N", title=None, sort=None),
            style.named_colours(frame["kind"], dict(KINDS.values())),
            tooltip=style.tips(
                ("of:N", "1 % more of", ""), ("elasticity:Q", "changes the time by [%]", "+.3~f")
            ),
        )
        .properties(width="container", height=alt.Step(24))
    )
    return style.titled(bars, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the rate with the strongest effect on the time, and the effects of the sizes."""
    rates = frame[frame["kind"] == KINDS["rate"][0]].sort_values("elasticity", kind="stable").head(1)
    sizes = frame[frame["kind"] == KINDS["size"][0]]
    said = [f"a 10 % higher {_the(of)} saves about {-changed(slope):.1f} %" for of, slope in _pairs(rates)]
    said += [f"a 10 % larger {of} costs about {changed(slope):.1f} %" for of, slope in _pairs(sizes)]
    return words.sentence("; ".join(said)) or "No rate and no size changes the roofline's time"


def _the(of: str) -> str:
    """Return a rate in a sentence: ``matrix engine, bf16 → rate of the matrix engine (bf16)``."""
    limit, _, dtype = of.partition(", ")
    return f"rate of {the(limit)}{f' ({dtype})' if dtype else ''}"


def changed(slope: float) -> float:
    """Return the change [%] of a time with this elasticity for 10 % more."""
    return float(100 * (1.1**slope - 1))


def _pairs(frame: pd.DataFrame) -> list[tuple[str, float]]:
    return list(zip(frame["of"], frame["elasticity"], strict=True))
