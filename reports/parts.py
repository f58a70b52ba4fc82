"""Time of a model's use by part and limit."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.binding import COLOURS, limits

NAME = "parts"
ABOUT = (
    "Time of each part of the model, summed over all layers, coloured by what limits its kernels: an engine, "
    "main memory, a cache, dependent steps or launches."
)
#: Number of parts that a sentence names.
MOST_SAID = 3


def rows(kernels: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds of each part and limit (as categories) with their ``share``.

    Parameters
    ----------
    kernels : DataFrame
        where, use, part, bound, seconds.
    """
    return shared(kernels.assign(limit=limits(kernels["bound"])), ["where", "use"], ["part", "limit"])


def shared(frame: pd.DataFrame, whole: list[str], among: list[str]) -> pd.DataFrame:
    """Return the seconds of each group, with their ``share`` of those with the same columns `whole`."""
    summed = frame.groupby([*whole, *among], as_index=False, sort=False, observed=True)[["seconds"]].sum()
    total = summed.groupby(whole, sort=False)["seconds"].transform("sum")
    return summed.assign(share=summed["seconds"] / total)


def chart(frame: pd.DataFrame) -> Any:
    """Return a bar for each part, the longest first."""
    alt = style.altair()
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            alt.X("seconds:Q", title="time [s]", axis=alt.Axis(labelExpr=style.SECONDS, tickCount=6)),
            alt.Y("part:N", title=None, sort=alt.EncodingSortField("seconds", op="sum", order="descending")),
            style.named_colours(frame["limit"], COLOURS, drawn=True),
            tooltip=style.tips(
                ("part:N", "part", ""),
                ("limit:N", "limited by", ""),
                ("seconds:Q", "time [s]", ".3~s"),
                ("share:Q", "share", ".1~%"),
            ),
        )
        .properties(width="container", height=alt.Step(24))
    )
    return style.titled(style.lined(bars, style.domain(frame["limit"])), finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the total time, the parts that take most of it, and its main limits."""
    total = frame["seconds"].sum()
    by_part = shares(frame, "part")
    by_limit = shares(frame, "limit")
    (_, first), *others = by_part.head(MOST_SAID).items()
    names = [quoted(str(part)) for part in by_part.index]
    said = [f"{words.share(first)} of {words.seconds(total)} goes into {names[0]}"]
    said += [f"{words.share(share)} into {name}" for (_, share), name in zip(others, names[1:], strict=False)]
    limit, most = next(iter(by_limit.items()))
    how = "all" if most > 0.995 else words.share(most)
    return f"{', '.join(said)}; {how} of the time is limited by {the(str(limit))}"


def shares(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return the share of the time by the values of a column, largest first."""
    summed = frame.groupby(column, sort=False, observed=True)["seconds"].sum()
    return (summed / summed.sum()).sort_values(ascending=False, kind="stable")


def the(limit: str) -> str:
    """Return a limit with its article: ``the matrix engine``, ``main memory``, ``launches``."""
    return f"the {limit}" if limit.endswith(("engine", "cache")) else limit


def quoted(part: str) -> str:
    """Return the name of a part, in quotes if it contains a comma."""
    return f"“{part}”" if "," in part else part
