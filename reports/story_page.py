"""The project's own report: recurrence or attention, and what limits each, on ten accelerators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from costmodel.reports import families
from costmodel.reports.compose import compose
from costmodel.reports.figure import Figure, Pick
from costmodel.reports.frames import Frames
from costmodel.reports.page import Page, Section
from costmodel.reports.table import Column, Table
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
    composed = compose(frames, picks, title=TITLE, asked=asked, command=command)
    if frames.systems.empty:
        return composed
    at = next(i for i, section in enumerate(composed.sections) if section.name == "numbers")
    sections = (*composed.sections[:at], _systems(frames), *composed.sections[at:])
    return replace(composed, sections=sections)


def _systems(frames: Frames) -> Section:
    """Return the section on every layer there is: its time over length, and its row of Table 1."""
    drawn = families.rows(frames.systems)
    columns = (
        Column("layer", "Layer"),
        Column("family", "Family"),
        Column("complexity", "Complexity per layer"),
        Column("sequential", "Sequential operations"),
        Column("path", "Maximum path length"),
        Column("source", "Source"),
    )
    caption = "Table 1 of Attention Is All You Need, for every layer"
    return Section(
        "families",
        "Every layer there is",
        text=(
            "The table is worked out from each layer's formulas, constants dropped: n positions, width d, "
            "heads of d_h, kernels of K, windows w, blocks b; p devices, of which one is counted. "
            "Arithmetic of all engines is in it; what only moves data has none. A layer that sees each "
            "position by itself has no path between positions, and O(1) stands there.",
        ),
        figures=(Figure.of(families, drawn),),
        tables=(Table("growth", caption, frames.growth, columns),),
    )


def _values(column: Any, first: str) -> tuple[tuple[str, ...], int]:
    """Return the values of a column in order, and the index of the first that has that in it."""
    values = tuple(dict.fromkeys(str(value) for value in column))
    return values, next((i for i, value in enumerate(values) if first in value), 0)
