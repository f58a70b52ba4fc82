"""Memory footprint over length, and the device's capacity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import Facts, axis_of

NAME = "memory"
ABOUT = (
    "Operands and intermediates; for training also gradients and what is kept for the backward pass. "
    "Optimiser state and allocator overhead are not included. Dashed line: the device's memory."
)


def rows(frame: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """Return the frame with ``hbm_capacity_bytes``, missing if the device is unknown."""
    capacity = facts.devices.drop_duplicates("device").set_index("device")["hbm_capacity_bytes"]
    return frame.assign(hbm_capacity_bytes=frame["device"].map(capacity).astype(float))


def chart(frame: pd.DataFrame, names: Sequence[str]) -> Any:
    """Return memory over length, with a horizontal line at the device's capacity."""
    alt = style.altair()
    x = axis_of(frame)
    along = style.length_axis(x)
    occupied = style.log_y("footprint_bytes", "memory occupied [B]", style.BYTES)
    tooltip = style.tips(
        ("series:N", "layer", ""),
        (f"{x}:Q", x, ","),
        ("footprint_bytes:Q", "memory [B]", ".4~s"),
        ("hbm_capacity_bytes:Q", "device memory [B]", ".4~s"),
    )
    base = alt.Chart(frame)
    known = base.transform_filter("isValid(datum.hbm_capacity_bytes)")
    drawn = alt.layer(
        style.capacity_rule(known, "Y", "hbm_capacity_bytes"),
        base.mark_line(strokeWidth=2.5).encode(along, occupied, *style.series_line("series", names)),
        base.mark_point(strokeWidth=0, size=45, opacity=1).encode(
            along, occupied, style.series_fill("series", names), tooltip=tooltip
        ),
    ).properties(width="container", height=style.HEIGHT - 20)
    return style.titled(style.lined(drawn, names), finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return which layers fit at every length, and up to where the others fit."""
    x = axis_of(frame)
    capacity = frame["hbm_capacity_bytes"].max()
    if not math.isfinite(capacity):
        at = frame[frame[x] == frame[x].max()].set_index("series")["footprint_bytes"]
        said = [f"{name} occupies {words.size(value)}" for name, value in at.items()]
        return f"At {words.at(x, frame[x].max())}, {words.listed(said)}; the device's memory is not known"
    fitting = frame[frame["footprint_bytes"] <= capacity]
    most = fitting.groupby("series")[x].max()
    said, every = [], []
    for name, lengths in frame.groupby("series", sort=False)[x]:
        if name in most and most[name] == lengths.max():
            every.append(str(name))
        elif name in most:
            said.append(f"{name} up to {words.at(x, most[name])}")
        else:
            said.append(f"{name} at none of these {words.extent(x)}s")
    if every:
        said.insert(0, f"{words.listed(every)} at every {words.extent(x)} shown")
    return f"Memory of {words.size(capacity)} holds {'; '.join(said)}"
