"""Composition of a report of layers on devices: its charts, tables and notes, in order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from costmodel.reports import (
    binding,
    counts,
    duration,
    fastest,
    helping,
    longest,
    memory,
    roofline,
    split,
    words,
)
from costmodel.reports.figure import Figure, Pick, at_first, choose
from costmodel.reports.frames import Facts, Frames, axis_of, axis_title, sizes_of
from costmodel.reports.page import Page, Section
from costmodel.reports.render import said
from costmodel.reports.table import Column, Table

#: Text in place of the charts of matrix products.
NO_PRODUCTS = "No layer here has a matrix product, so there is no roofline and no chart of FLOPs."

#: Meaning of a time at each rung.
RUNGS = {
    "bound": (
        "the cold roofline. Each kernel takes the larger of two times, its FLOPs at the engine's peak and "
        "its compulsory bytes at the memory's bandwidth, and the kernels add up. It needs only the "
        "datasheet. Dependent steps, launches and tiling cost nothing, so recurrent layers look faster "
        "than they are."
    ),
    "kernel": (
        "an estimate from the datasheet and a model of how each kernel works (tiles, waves, on-chip "
        "memory, dependent steps, launches). It uses constants fitted on a related device if there are "
        "any, and names that device."
    ),
    "calibrated": (
        "the best estimate, from the kernel models with constants fitted on measurements of this device."
    ),
}
#: Terms explained on every page that uses them.
LOWER_BOUND = (
    "Lower bound",
    "No measurement of this work may be faster, whether warm or cold, fused or not. It is the larger of "
    "two times: all FLOPs on the fastest engine at the highest known clock, and the compulsory bytes "
    "that no cache can hold at the memory's bandwidth.",
)
CONSTANTS_FROM = (
    "Constants from",
    "The device that the constants behind a time were fitted on: self, the name of a related device, or "
    "none (datasheet only).",
)
#: Explanation of the statuses of a device's figures.
STATUS = (
    "Status of a figure: confirmed (two sources), single (one source), derived (computed as noted), "
    "memory (recalled, no source at hand), assumed (with a range and a reason), or measured. The hash of "
    "a spec changes when any of its figures does."
)


def compose(
    frames: Frames, picks: Sequence[Pick], *, title: str, asked: tuple[str, ...], command: str
) -> Page:
    """Return the page of predicted layers on devices.

    Parameters
    ----------
    frames : Frames
        The tables; parts, fastest, changes and longest may be empty.
    picks : sequence of Pick
        What the reader can choose.
    title, asked, command : see `Page`
    """
    charts = _charts(frames)
    sections = (
        Section("time", "Time, and where it goes", figures=charts["time"]),
        Section("crossovers", "Where one layer overtakes another", figures=charts["crossovers"]),
        Section(
            "costs",
            "Three costs: arithmetic, traffic, depth",
            text=(
                "More processors speed up arithmetic, and more bandwidth speeds up traffic. A chain of "
                "dependent steps only speeds up if each step does, so depth is a cost of its own.",
                *(() if charts["roofline"] else (NO_PRODUCTS,)),
            ),
            figures=charts["costs"],
            side_by_side=True,
        ),
        Section("roofline", "The roofline", figures=charts["roofline"]),
        Section("binding", "What limits each layer", figures=charts["binding"]),
        Section("changes", "What would make each layer faster", figures=charts["changes"]),
        Section(
            "memory",
            "Memory" if frames.longest.empty else "Memory, and the longest sequence that fits",
            figures=charts["memory"],
        ),
        Section("numbers", "The numbers", tables=_tables(frames)),
        Section("means", "What the numbers mean", notes=_notes(frames)),
        sources(frames.facts, *_unknown(frames)),
    )
    kept = tuple(section for section in sections if section.figures or section.tables or section.notes)
    return Page(
        title=title,
        asked=asked,
        findings=_findings(kept, picks),
        picks=tuple(picks),
        sections=kept,
        command=command,
        version=frames.facts.version,
        lead=lead(picks),
        caveat=" ".join([*(text for _, text in rungs(frames.rows)), _constants(frames.rows, picks)]).strip(),
    )


def _charts(frames: Frames) -> dict[str, tuple[Figure, ...]]:
    rows, facts = frames.rows, frames.facts
    names = list(dict.fromkeys(rows["series"]))
    charts: dict[str, list[Figure]] = {
        "roofline": [Figure.of(roofline, roofline.rows(rows, facts), names=names)],
        "time": [Figure.of(duration, duration.rows(rows, facts), names=names)],
        "costs": [
            Figure(
                count.name, count.rows(rows), partial(count.chart, names=names), count.finding, count.about
            )
            for count in counts.COUNTS
        ],
        "crossovers": [],
        "changes": [],
        "memory": [],
        "binding": [Figure.of(binding, binding.rows(rows, facts))],
    }
    if not frames.parts.empty:
        charts["time"].append(Figure.of(split, split.rows(frames.parts)))
    if not frames.fastest.empty:
        charts["crossovers"].append(Figure.of(fastest, frames.fastest))
    if not frames.changes.empty:
        charts["changes"].append(Figure.of(helping, helping.rows(frames.changes)))
    if "footprint_bytes" in rows:
        charts["memory"].append(Figure.of(memory, memory.rows(rows, facts), names=names))
    if not frames.longest.empty:
        charts["memory"].append(Figure.of(longest, longest.rows(frames.longest)))
    # Layers without matrix products have no roofline and no FLOP chart.
    return {name: tuple(f for f in figures if not f.frame.empty) for name, figures in charts.items()}


def lead(picks: Sequence[Pick]) -> str:
    """Return which choices the findings apply to; empty if there is nothing to choose."""
    if not picks:
        return ""
    values = [(pick.label.lower(), pick.values[pick.default]) for pick in picks]
    # The name of a device or a model speaks for itself; that of a rung does not.
    chosen = "; ".join(
        value if isinstance(value, str) and value not in RUNGS else f"{name} {said(value)}"
        for name, value in values
    )
    return f"For {chosen}. The menus below change the charts and tables, not this list."


def _constants(rows: pd.DataFrame, picks: Sequence[Pick]) -> str:
    """Return where each layer's constants come from, for the choices made at first."""
    if "constants_from" not in rows or set(rows["constants_from"]) == {"none"}:
        return ""
    first = choose(rows, at_first(picks)).drop_duplicates(["series", "constants_from"])
    origins = map(words.origins, first["constants_from"])
    said = [f"{name} from {origin}" for name, origin in zip(first["series"], origins, strict=True)]
    return f"Fitted constants: {'; '.join(said)}."


def _findings(sections: Sequence[Section], picks: Sequence[Pick]) -> tuple[str, ...]:
    """Return each chart's finding for the choices made at first."""
    figures = {figure.name: figure for section in sections for figure in section.figures}
    order = ("time", "crossovers", "depth", "split", "helping", "roofline", "binding", "longest")
    return tuple(figures[name].say(at_first(picks)) for name in order if name in figures)


# -- tables --------------------------------------------------------------------------------------


def _tables(frames: Frames) -> tuple[Table, ...]:
    rows = frames.rows
    x = axis_of(rows)
    shown = (
        Column("label", "Layer"),
        Column(x, axis_title(x).partition(" [")[0].capitalize(), "count"),
        Column("seconds", "Time", "seconds"),
        Column("lower_s", "Lower bound", "seconds"),
        Column("bound", "Limited by", "limit"),
        Column("matrix_flops", "Matrix FLOP", "flop"),
        Column("hbm_bytes", "Traffic", "bytes"),
        Column("depth", "Depth", "count"),
        Column("launches", "Launches", "count"),
        Column("footprint_bytes", "Memory", "bytes"),
        Column("rung", "Rung"),
        Column("constants_from", "Constants from"),
    )
    tables = [
        Table("predictions", "Predictions", rows, tuple(column for column in shown if column.name in rows))
    ]
    if {"rung", "constants_from"} <= set(rows):
        columns = ["where", "series", "rung", "constants_from"]
        origins = rows[columns].drop_duplicates().rename(columns={"where": "row"})
        said = (Column("row", "Device"), Column("series", "Layer"), *shown[-2:])
        tables.append(Table("constants", "The devices that the constants were fitted on", origins, said))
    if not frames.fastest.empty:
        start = next(name for name in frames.fastest if str(name).startswith("from_"))
        end = f"to_{str(start).removeprefix('from_')}"
        spans = (Column(str(start), "From", "count"), Column(end, "To", "count"))
        least = (Column("row", "Device"), Column("of", "Cost"), Column("series", "Least of it"), *spans)
        tables.append(
            Table("crossovers", "The layer with the least cost in each range", frames.fastest, least)
        )
    if not frames.longest.empty:
        frame = frames.longest.rename(columns={"where": "row"})
        limits = (
            Column("row", "Device"),
            Column("series", "Layer"),
            Column("longest_seq", "Longest sequence", "count"),
            Column("hbm_capacity_bytes", "Device memory", "bytes"),
        )
        tables.append(Table("longest", "The longest sequence that fits", frame, limits))
    return tuple(tables)


def sources(facts: Facts, *more: str) -> Section:
    """Return the section with every figure behind a page and its source; `more` is text for it."""
    tables = []
    if not facts.devices.empty:
        columns = (
            Column("title", "Device"),
            Column("dtype", "Format"),
            Column("peak_flops", "Peak per second", "flop"),
            Column("hbm_bandwidth", "Bandwidth per second", "bytes"),
            Column("hbm_capacity_bytes", "Memory", "bytes"),
            Column("spec_hash", "Spec"),
            Column("missing", "Missing in the spec"),
        )
        tables.append(Table("rooflines", "Rooflines of the devices", facts.devices, columns))
    if not facts.figures.empty:
        provenance = (
            Column("device", "Device"),
            Column("figure", "Figure"),
            Column("value", "Value"),
            Column("status", "Status"),
            Column("source", "Source"),
            Column("note", "Note"),
        )
        tables.append(Table("figures", "All figures of the devices", facts.figures, provenance))
    if not facts.sources.empty:
        documents = (Column("source", "Source"), Column("document", "Document"))
        tables.append(Table("sources", "Documents cited", facts.sources, documents))
    heading = "Where the figures come from"
    return Section("sources", heading, text=(STATUS, *more), tables=tuple(tables), folded=True)


# -- notes ---------------------------------------------------------------------------------------


def _notes(frames: Frames) -> tuple[tuple[str, str], ...]:
    rows = frames.rows
    notes = [
        *rungs(rows),
        LOWER_BOUND,
        CONSTANTS_FROM,
    ]
    notes += layers(frames.facts)
    fixed = _fixed(rows)
    return (*notes, ("Sizes that are the same everywhere", fixed)) if fixed else tuple(notes)


def rungs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the meaning of a time for each rung in a table."""
    found = dict.fromkeys(rows["rung"]) if "rung" in rows else {}
    return [(f"Time, at rung {rung}", f"Rung {rung}: {RUNGS[rung]}") for rung in found if rung in RUNGS]


def layers(facts: Facts) -> list[tuple[str, str]]:
    """Return what each layer is, its source, and what its counts leave out."""
    return [
        (f"{name}", f"{what} Source: {source}. Not counted: {not_counted}.")
        for name, what, source, not_counted in facts.layers.to_numpy()
    ]


def _fixed(rows: pd.DataFrame) -> str:
    """Return the sizes that have one value in the whole table."""
    single = {name: rows[name].dropna().unique() for name in sizes_of(rows)}
    return ", ".join(f"{name} = {values[0]:,.0f}" for name, values in single.items() if len(values) == 1)


def _unknown(frames: Frames) -> list[str]:
    """Return a remark on the devices without facts, if there are any."""
    devices = set(frames.rows["device"]) if "device" in frames.rows else set()
    unknown = sorted(devices - set(frames.facts.devices["device"]))
    if not unknown:
        return []
    return [f"There is no spec for {', '.join(unknown)}, so their rooflines and sources are missing here."]
