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

TITLE = "Recurrence or attention: how fast each is, and what limits it"
#: Shown at first, where it is among the devices.
FIRST_DEVICE = "H200"


def page(frames: Frames, *, command: str) -> Page:
    """Return the page of the story's frames; see `costmodel.story`."""
    rows = frames.rows
    low, high, batch = rows["seq"].min(), rows["seq"].max(), rows["batch"].max()
    layers, devices = list(dict.fromkeys(rows["series"])), rows["device"].nunique()
    asked = (
        f"This page compares a stack of {rows['num_layers'].max():.0f} encoder layers of the Transformer of "
        "Vaswani et al. (2017), base and big, with an LSTM stack of the same width and number of layers: "
        f"{listed(layers)}. Batch {whole(batch)}, sequences of {whole(low)} to {whole(high)} tokens, "
        f"{devices} accelerators. How long does each take, what limits it, and from which length on does "
        "one overtake the other?",
        "Each device computes in its native 16-bit format: fp16 on P100 and V100, bf16 elsewhere; P100 "
        "also in fp32. “Tiled” is FlashAttention-2. “Stored” is attention as first published, which "
        "writes its n×n scores to memory and reads them back. Device figures are from datasheets.",
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
        "All layers of the tool",
        text=(
            "The table is derived from each layer's formulas, without constant factors. n: positions; d: "
            "width; d_h: head width; K: kernel size; w: window; b: block; p: devices, with the cost of one "
            "of them given. Complexity counts the arithmetic of all engines; a layer that only moves data "
            "has none. A layer that treats each position on its own has no path between positions, and "
            "is listed with O(1).",
        ),
        figures=(Figure.of(families, drawn),),
        tables=(Table("growth", caption, frames.growth, columns),),
    )


def _values(column: Any, first: str) -> tuple[tuple[str, ...], int]:
    """Return the values of a column in order, and the index of the first that has that in it."""
    values = tuple(dict.fromkeys(str(value) for value in column))
    return values, next((i for i, value in enumerate(values) if first in value), 0)
