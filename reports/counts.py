"""Charts of the three costs: arithmetic, traffic, and dependent steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import axis_of


@dataclass(frozen=True)
class Count:
    """A chart of one count over length.

    Attributes
    ----------
    name : str
        The chart's name on a page.
    column : str
        The column of the count.
    axis : str
        The y axis's title, with unit.
    labels : str
        Vega expression of the axis labels.
    said : callable
        Returns a count in words.
    verb : str
        Verb of the findings, with a layer as its subject.
    more : str
        Words after a ratio: ``as much`` or ``as many``.
    about : str
        What is counted, and what is not.
    """

    name: str
    column: str
    axis: str
    labels: str
    said: Callable[[float], str]
    verb: str
    more: str
    about: str

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the frame without rows whose count is 0, which a log axis cannot show."""
        return frame[frame[self.column] > 0]

    def chart(self, frame: pd.DataFrame, names: Sequence[str]) -> Any:
        """Return the chart of the count over length, one line per layer."""
        alt = style.altair()
        x = axis_of(frame)
        along, count = style.length_axis(x), style.log_y(self.column, self.axis, self.labels)
        tooltip = style.tips(
            ("series:N", "layer", ""), (f"{x}:Q", x, ","), (f"{self.column}:Q", self.axis, ".4~s")
        )
        base = alt.Chart(frame)
        drawn = alt.layer(
            base.mark_line(strokeWidth=2.5).encode(along, count, *style.series_line("series", names)),
            base.mark_point(strokeWidth=0, size=35, opacity=1).encode(
                along, count, style.series_fill("series", names), tooltip=tooltip
            ),
        ).properties(width="container", height=style.HEIGHT - 60)
        return style.titled(style.lined(drawn, names), self.finding(frame), self.about)

    def finding(self, frame: pd.DataFrame) -> str:
        """Return which layers have the smallest and the largest count at the longest length."""
        x = axis_of(frame)
        longest = frame[x].max()
        at = frame[frame[x] == longest].set_index("series")[self.column]
        least, most = at.idxmin(), at.idxmax()
        if len(at) < 2 or at[most] <= at[least] * 1.0005:
            names = [str(name) for name in at.index]
            text = f"{words.listed(names)} {words.verb(names, self.verb)} {self.said(at[least])}"
        else:
            text = (
                f"{most} {self.verb} {self.said(at[most])}, {least} {self.said(at[least])}: "
                f"{words.times(at[most] / at[least])} {self.more}"
            )
        return f"At {words.at(x, longest)}, {text}"


FLOPS = Count(
    name="flops",
    column="matrix_flops",
    axis="matrix arithmetic [FLOP]",
    labels=style.PLAIN,
    said=words.flop,
    verb="computes",
    more="as much",
    about="Floating-point operations of matrix products; one multiply-add is 2 FLOP.",
)
TRAFFIC = Count(
    name="traffic",
    column="hbm_bytes",
    axis="main-memory traffic [B]",
    labels=style.BYTES,
    said=words.size,
    verb="moves",
    more="as much",
    about=(
        "Each operand and result once, and what the algorithm itself writes and reads back. Re-reads that "
        "a cache may serve are not counted."
    ),
)
DEPTH = Count(
    name="depth",
    column="depth",
    axis="dependent steps",
    labels=style.PLAIN,
    said=words.steps,
    verb="takes",
    more="as many",
    about=(
        "Steps that each wait for the step before: every position of a recurrence in every layer; one per "
        "layer if it sees all positions at once. More processors do not shorten the chain."
    ),
)
COUNTS = (FLOPS, TRAFFIC, DEPTH)
