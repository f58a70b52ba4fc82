"""The project's own report: recurrence or attention, and what limits each, on ten accelerators."""

from __future__ import annotations

from typing import Any

from costmodel.reports.compose import compose
from costmodel.reports.figure import Pick
from costmodel.reports.frames import Frames
from costmodel.reports.page import Page
from costmodel.reports.words import listed, whole

TITLE = "Recurrence or attention: where each is limited, and by what"
#: Shown at first, where it is among the devices.
FIRST_DEVICE = "H200"


def page(frames: Frames, *, command: str) -> Page:
    """Return the page of the story's frames; see `costmodel.story`."""
    rows = frames.rows
    low, high, batch = rows["seq"].min(), rows["seq"].max(), rows["batch"].max()
    layers, devices = list(dict.fromkeys(rows["series"])), rows["device"].nunique()
    asked = (
        f"A stack of {rows['num_layers'].max():.0f} encoder layers of the Transformer of Vaswani et al. "
        "(2017), base and big, beside an LSTM stack of the same width and number of layers: "
        f"{listed(layers)}. Batch {whole(batch)}, sequences of {whole(low)} to {whole(high)} tokens, "
        f"{devices} accelerators. How long does each take, what limits it, and from which length on does "
        "one overtake the other?",
        "Each device computes in its native 16-bit format, fp16 on P100 and V100 and bf16 elsewhere; P100 "
        "also in fp32. Tiled attention is FlashAttention-2; stored scores are attention as first "
        "published, its n×n scores written to memory and read back. The figures of each device are its "
        "datasheet's.",
    )
    picks = (
        Pick("where", "Device", *_values(rows["where"], FIRST_DEVICE)),
        Pick("model", "Model", *_values(rows["model"], "")),
        Pick("work", "Work", *_values(rows["work"], "")),
    )
    return compose(frames, picks, title=TITLE, asked=asked, command=command)


def _values(column: Any, first: str) -> tuple[tuple[str, ...], int]:
    """Return the values of a column in order, and the index of the first that has that in it."""
    values = tuple(dict.fromkeys(str(value) for value in column))
    return values, next((i for i, value in enumerate(values) if first in value), 0)
