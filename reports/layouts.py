"""The fastest layouts for training a model on several devices, and where their steps' time goes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from costmodel.reports import style, words
from costmodel.reports.frames import in_words

NAME = "layouts"
ABOUT = (
    "Time of one step by part, in the fastest layouts that fit into memory. T: tensor-parallel devices; P: "
    "pipeline stages, of v parts each; D: data-parallel copies; E: devices that share the experts, X: that "
    "share one expert; b: micro-batch; SP: sequence parallelism; Z: ZeRO stage; full, selective: "
    "recomputation."
)
#: Parts of a step: name in words, colour.
PARTS = {
    "forward_s": ("forward", "#0072B2"),
    "backward_s": ("backward", "#56B4E9"),
    "experts_s": ("token exchange with experts", "#F0E442"),
    "head_s": ("logits, loss and embedding", "#009E73"),
    "sends_s": ("sends between stages", "#E69F00"),
    "bubble_s": ("pipeline bubble", "#999999"),
    "gradients_s": ("gradient exchange", "#D55E00"),
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
            style.named_colours(frame["part"], dict(PARTS.values()), drawn=True),
            order="order:Q",
            tooltip=style.tips(
                ("layout:N", "layout", ""),
                ("part:N", "part", ""),
                ("seconds:Q", "time [s]", ".3~s"),
                ("step_s:Q", "whole step [s]", ".3~s"),
                ("memory_bytes:Q", "memory per device [B]", ".3~s"),
                ("utilisation:Q", "share of peak", ".1~%"),
            ),
        )
        .properties(width="container", height=alt.Step(28))
    )
    return style.titled(style.lined(bars, style.domain(frame["part"])), finding(frame), ABOUT)


def finding(frame: pd.DataFrame) -> str:
    """Return the fastest layout, its time and utilisation, and the time that is not arithmetic."""
    best = frame[frame["rank"] == frame["rank"].min()]
    first = best.iloc[0]
    arithmetic = [PARTS[part][0] for part in ("forward_s", "backward_s", "head_s", "optimiser_s")]
    lost = best.loc[~best["part"].isin(arithmetic), "seconds"].sum() / first["step_s"]
    return (
        f"Fastest of {words.whole(first['found'])} layouts on {first['cluster']}: {first['layout']}, "
        f"{words.seconds(first['step_s'])} per step, {words.share(first['utilisation'])} of peak; "
        + (
            f"{words.share(lost)} of the step is communication and waiting"
            if lost > 0
            else "no time goes into communication and waiting"
        )
    )
