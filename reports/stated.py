"""Measured bytes against the bytes that layers state: memory footprint and traffic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import thinned


@dataclass(frozen=True)
class Stated:
    """A chart of stated over measured bytes.

    Attributes
    ----------
    name : str
        The chart's name on a page.
    what : str
        Axis title of the measured quantity.
    said : str
        Start of the finding.
    about : str
        What is counted, and what is not.
    """

    name: str
    what: str
    said: str
    about: str

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return at most 5,000 rows that have both numbers, evenly spread over the measured ones.

        Parameters
        ----------
        frame : DataFrame
            op, kernel, dtype, direction, measured_bytes, stated_bytes, ratio.
        """
        both = frame[frame["ratio"].notna() & (frame["measured_bytes"] > 0)]
        columns = ["op", "kernel", "dtype", "direction", "measured_bytes", "stated_bytes", "ratio"]
        return thinned(both[columns].sort_values("measured_bytes", kind="stable"))

    def chart(self, frame: pd.DataFrame) -> Any:
        """Return stated over measured bytes, a colour and shape for each op."""
        alt = style.altair()
        along = style.log_x("measured_bytes", f"{self.what} [B]", style.BYTES)
        ratio = alt.Y("ratio:Q", title="stated / measured", scale=alt.Scale(domainMin=0, nice=True))
        base = alt.Chart(frame)
        tooltip = style.tips(
            ("op:N", "op", ""),
            ("kernel:N", "kernel", ""),
            ("direction:N", "direction", ""),
            ("measured_bytes:Q", "measured [B]", ".4~s"),
            ("stated_bytes:Q", "stated [B]", ".4~s"),
            ("ratio:Q", "stated / measured", ".3f"),
        )
        drawn = alt.layer(
            style.level(base, 1),
            base.mark_point(size=40, strokeWidth=1.5).encode(
                along, ratio, *style.groups(frame["op"]), tooltip=tooltip
            ),
        ).properties(width="container", height=style.HEIGHT)
        drawn = style.lined(drawn, style.domain(frame["op"]))
        return style.titled(drawn, self.finding(frame), self.about)

    def finding(self, frame: pd.DataFrame) -> str:
        """Return which share is within 10 %, and the op that is furthest off."""
        close = ((frame["ratio"] - 1).abs() <= 0.1).mean()
        cases = words.whole(len(frame))
        text = f"{self.said} within 10 % of the measured one in {words.share(close)} of {cases} cases"
        middle = {
            str(op): float(ratio.median())
            for op, ratio in frame.groupby("op", sort=True, observed=True)["ratio"]
        }
        furthest = max(middle, key=lambda op: abs(math.log(middle[op])))
        if abs(middle[furthest] - 1) <= 0.1:
            return text
        return (
            f"{text}; furthest off is {furthest}, stated as {words.times(middle[furthest])} the measured one"
        )


MEMORY = Stated(
    name="occupied",
    what="peak memory, measured",
    said="The stated footprint is",
    about=(
        "Stated footprint over the peak of torch's allocator: operands, intermediates, gradients, and "
        "workspaces that libraries allocate through it. Memory that a library takes directly from the system "
        "is not seen."
    ),
)
TRAFFIC = Stated(
    name="counted",
    what="main-memory traffic, measured",
    said="The stated traffic is",
    about=(
        "Stated main-memory traffic over that of hardware counters (Nsight Compute); each case ran once, "
        "from cold caches. Below 1, caches did not serve all re-reads; above 1, a cache kept data that is "
        "stated as written to memory."
    ),
)
