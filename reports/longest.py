"""The longest sequence that fits into memory, device by device."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words

NAME = "longest"
ABOUT = "The longest sequence whose footprint fits into each device's memory, exact to the token."


def rows(longest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows where at least one token fits (a log axis has no 0), with ``where`` as ``row``."""
    return longest[longest["longest_seq"] > 0].rename(columns={"where": "row"})


def chart(frame: pd.DataFrame) -> Any:
    """Return the longest sequences, with a row per device and a point per layer."""
    alt = style.altair()
    points = (
        alt.Chart(frame)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            style.log_x("longest_seq", "longest sequence [tokens]", style.PLAIN),
            alt.Y("row:N", sort=None, title=None, axis=alt.Axis(grid=True)),
            *style.series_points(style.domain(frame["series"])),
            tooltip=style.tips(
                ("row:N", "device", ""),
                ("series:N", "layer", ""),
                ("longest_seq:Q", "longest [tokens]", ","),
                ("hbm_capacity_bytes:Q", "device memory [B]", ".4~s"),
            ),
        )
        .properties(width="container", height=alt.Step(24))
    )
    return style.titled(points, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the range of the longest sequences over the devices, for each layer."""
    if frame.empty:
        return "Not one token fits on any of these devices"
    said = []
    for name, limits in frame.groupby("series", sort=False)["longest_seq"]:
        low, high = limits.min(), limits.max()
        span = words.whole(low) if low == high else f"{words.whole(low)} to {words.whole(high)}"
        said.append(f"{name} {span} tokens")
    return f"Longest sequence that fits, over all devices: {'; '.join(said)}"
