"""The fastest layouts for training a model on several devices, and where their steps' time goes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import in_words

NAME = "layouts"
ABOUT = (
    "Time of a step by what it goes into, in the fastest layouts within memory. T: devices that share a "
    "layer; P: stages, in v parts each; D: copies; E: devices that share its experts, X: that share each; "
    "b: sequences that pass at once; SP: split by positions between products; Z: what copies share (ZeRO); "
    "full, selective: what is computed again."
)
#: Parts of a step: name in words, colour.
PARTS = {
    "forward_s": ("forward", "#0072B2"),
    "backward_s": ("backward", "#56B4E9"),
    "experts_s": ("tokens on the way to experts", "#F0E442"),
    "head_s": ("logits, loss and embedding", "#009E73"),
    "sends_s": ("passing on between stages", "#E69F00"),
    "bubble_s": ("stages that wait", "#999999"),
    "gradients_s": ("exchange of gradients", "#D55E00"),
    "optimiser_s": ("optimiser", "#CC79A7"),
}


def rows(layouts: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each layout and part (as categories) that takes time."""
    keys = ["where", "cluster", "rank", "layout", "short", "found", "utilisation", "memory_bytes"]
    long = layouts.melt([*keys, "seconds"], list(PARTS), var_name="part", value_name="part_s")
    long = long[long["part_s"] > 0].rename(columns={"seconds": "step_s", "part_s": "seconds"})
    order = [list(PARTS).index(part) for part in long["part"]]
    found = long.assign(part=in_words(long["part"], PARTS), order=order)
    return found.sort_values("rank", kind="stable", ignore_index=True)


def chart(frame: pd.DataFrame) -> Any:
    """Return a bar for each layout, the fastest on top."""
    alt = style.altair()
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            alt.X(
                "seconds:Q", title="time of a step [s]", axis=alt.Axis(labelExpr=style.SECONDS, tickCount=6)
            ),
            alt.Y("short:N", title=None, sort=alt.EncodingSortField("rank", op="min")),
            style.named_colours(frame["part"], dict(PARTS.values())),
            order="order:Q",
            tooltip=style.tips(
                ("layout:N", "layout", ""),
                ("part:N", "part", ""),
                ("seconds:Q", "time [s]", ".3~s"),
                ("step_s:Q", "of the step's [s]", ".3~s"),
                ("memory_bytes:Q", "memory of a device [B]", ".3~s"),
                ("utilisation:Q", "of the peak", ".1~%"),
            ),
        )
        .properties(width="container", height=alt.Step(28))
    )
    return style.titled(bars, finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the fastest layout, its time and utilisation, and the time that is not arithmetic."""
    best = frame[frame["rank"] == frame["rank"].min()]
    first = best.iloc[0]
    arithmetic = [PARTS[part][0] for part in ("forward_s", "backward_s", "head_s", "optimiser_s")]
    lost = best.loc[~best["part"].isin(arithmetic), "seconds"].sum() / first["step_s"]
    return (
        f"Fastest of {words.whole(first['found'])} layouts on {first['cluster']}: {first['layout']}, "
        f"{words.seconds(first['step_s'])} a step, {words.share(first['utilisation'])} of the peak; "
        + (
            f"{words.share(lost)} goes into exchange and waiting"
            if lost > 0
            else "no exchange is left to wait for"
        )
    )
