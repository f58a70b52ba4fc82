"""The report of a whole model: where its time goes, what it occupies, and what would help."""

from __future__ import annotations

from types import ModuleType

import pandas as pd

from costmodel.reports import elasticity, growth, holding, layouts, limits, parts, recompute, whatif
from costmodel.reports.compose import STATUS, layers, rungs, sources
from costmodel.reports.figure import Figure, Pick, at_first
from costmodel.reports.model_frames import ModelFrames
from costmodel.reports.page import Page, Section
from costmodel.reports.table import Column, Table
from costmodel.reports.words import listed, share, size, whole

#: Figures whose findings stand at the top, in that order.
FIRST = ("parts", "limits", "growth", "holding", "recompute", "whatif", "layouts")


def page(frames: ModelFrames, *, first: str = "prefill", command: str) -> Page:
    """Return the page of a model.

    Parameters
    ----------
    frames : ModelFrames
        From `costmodel.model_story.story`.
    first : str
        The use that is shown at first; where the model has no such use, the first it has.
    command : str
        What made it.
    """
    picks = _picks(frames, first)
    figures = _figures(frames)
    sections = (
        Section(
            "time",
            "Where the time goes",
            figures=(figures["parts"], figures["limits"]),
            tables=(_kernels(frames),),
            folded=True,
        ),
        Section("length", "Along the length", figures=(figures["growth"], figures["holding"])),
        Section("memory", "Memory, and what there is room for", figures=(figures["recompute"],)),
        Section(
            "help",
            "What would help",
            text=(
                "Nothing is fitted to these answers: each is a prediction made again with one thing changed. "
                "Where one rests on other constants than the rest, the table says so.",
            ),
            figures=(figures["whatif"], figures["elasticity"]),
            tables=(_changes(frames), _slopes(frames)),
            folded=True,
        ),
        _training(frames, figures.get("layouts")),
        Section("numbers", "The numbers", tables=_tables(frames)),
        Section("means", "What the numbers mean", notes=_notes(frames)),
        Section(
            "sources",
            "Where the figures are from",
            text=(STATUS,),
            tables=sources(frames.facts),
            folded=True,
        ),
    )
    kept = tuple(s for s in sections if s.figures or s.tables or s.notes or s.text)
    devices = list(dict.fromkeys(frames.answers["where"]))
    return Page(
        title=f"{frames.name}: where its time goes, and what would help",
        asked=_asked(frames, devices),
        findings=tuple(figures[name].say(at_first(picks)) for name in FIRST if name in figures),
        picks=picks,
        sections=kept,
        command=command,
        version=frames.facts.version,
        lead=_lead(picks),
        caveat=" ".join([*(text for _, text in rungs(frames.answers)), _constants(frames.answers)]).strip(),
    )


def _picks(frames: ModelFrames, first: str) -> tuple[Pick, ...]:
    """Return what the reader may choose: a device, a use, a number of devices, where there are several."""
    uses = tuple(frames.uses)
    at = uses.index(first) if first in uses else 0
    found = [Pick("where", "Device", tuple(dict.fromkeys(frames.answers["where"]))), Pick("use", "Use", uses, at)]
    if not frames.layouts.empty:
        found.append(Pick("cluster", "Training on", tuple(dict.fromkeys(frames.layouts["cluster"]))))
    return tuple(pick for pick in found if len(pick.values) > 1 or pick.column == "use")


def _figures(frames: ModelFrames) -> dict[str, Figure]:
    """Return the figures by name."""
    drawn: list[tuple[ModuleType, pd.DataFrame]] = [
        (parts, parts.rows(frames.kernels)),
        (limits, limits.rows(frames.kernels)),
        (growth, growth.rows(frames.lengths, frames.answers)),
        (holding, holding.rows(frames.memory, frames.answers)),
        (recompute, recompute.rows(frames.memory, frames.seq)),
        (whatif, whatif.rows(frames.changes)),
        (elasticity, elasticity.rows(frames.slopes)),
    ]
    if not frames.layouts.empty:
        drawn.append((layouts, layouts.rows(frames.layouts)))
    return {
        module.NAME: Figure(module.NAME, rows, module.chart, module.finding, module.ABOUT)
        for module, rows in drawn
    }


# -- in words ----------------------------------------------------------------------------------


def _asked(frames: ModelFrames, devices: list[str]) -> tuple[str, ...]:
    sequences = "one sequence" if frames.batch == 1 else f"{whole(frames.batch)} sequences"
    uses = "; ".join(f"{use}: {what}" for use, what in frames.uses.items())
    return (
        f"{frames.name}, {whole(frames.parameters)} parameters, with {sequences} of {whole(frames.seq)} tokens "
        f"on {listed(devices)}. Where does the time go, what limits it, what is there memory for, and what "
        "would make it faster?",
        f"Uses are {uses}.",
    )


def _lead(picks: tuple[Pick, ...]) -> str:
    chosen = "; ".join(f"{pick.label.lower()}: {pick.values[pick.default]}" for pick in picks)
    return f"For {chosen}. Charts and tables follow what is picked below."


def _constants(answers: pd.DataFrame) -> str:
    """Return whose constants the times rest on, device by device."""
    pairs = answers[["where", "constants_from"]].drop_duplicates()
    if set(pairs["constants_from"]) == {"none"}:
        return ""
    said = [
        f"{where} from {str(origin).replace('self', 'the device itself')}"
        for where, origin in pairs.itertuples(index=False)
    ]
    return f"Fitted constants: {'; '.join(said)}."


def _training(frames: ModelFrames, figure: Figure | None) -> Section:
    """Return the section on training with several devices: the plans there are, and why others are not."""
    text = [f"Not planned: {reason}." for reason in frames.refused]
    if figure is None:
        return Section("training", "Training on several devices", text=tuple(text))
    each = "one sequence" if frames.batch == 1 else f"{whole(frames.batch)} sequences"
    text.insert(
        0,
        f"A step has {each} for every device, in nodes of eight; each layout has to leave {share(frames.margin)} "
        "of a device's memory free.",
    )
    return Section(
        "training",
        "Training on several devices",
        text=tuple(text),
        figures=(figure,),
        tables=(_layouts(frames),),
        folded=True,
    )


def _notes(frames: ModelFrames) -> tuple[tuple[str, str], ...]:
    return (
        *frames.notes,
        *rungs(frames.answers),
        (
            "Lower bound",
            "A promise to any measurement of this work, warm or cold, fused or not: the larger of all FLOPs over "
            "the fastest engine at the highest clock known, and the compulsory bytes that no cache can hold over "
            "the memory's bandwidth.",
        ),
        ("80 % from, to", "What 80 % of measurements lie within, by those the constants were not fitted on."),
        (
            "Memory",
            "Weights; for training gradients, AdamW's state (a master weight and two moments in fp32) and what "
            "forward keeps for backward; else the cache of keys and values or recurrent states, and what the "
            "part that needs most has in hand while it runs. Nothing is counted for an allocator's loss: "
            f"{share(frames.margin)} of the device's memory is left free for it.",
        ),
        ("Utilisation", "FLOP of matrix products over what the peak of the format allows in that time."),
        (
            "Constants from",
            "Whose fitted constants a time rests on: none (datasheet), self, or a relative's name.",
        ),
        *layers(frames.facts),
    )


# -- tables ------------------------------------------------------------------------------------

_WHERE = Column("row", "Device")
#: The numbers that a layout is.
_NUMBERS = ("tensor", "pipeline", "data", "micro_batch", "interleave")


def _kernels(frames: ModelFrames) -> Table:
    columns = (
        Column("part", "Part"),
        Column("phase", "Kernel"),
        Column("seconds", "Time", "seconds"),
        Column("bound", "Limited by"),
        Column("matrix_flops", "Matrix FLOP", "flop"),
        Column("hbm_bytes", "Traffic", "bytes"),
        Column("constants_from", "Constants from"),
    )
    return Table("kernels", "Every kernel, all of its runs together", frames.kernels, columns)


def _changes(frames: ModelFrames) -> Table:
    columns = (
        Column("change", "What if"),
        Column("seconds", "Time", "seconds"),
        Column("gain", "Time saved", "percent"),
        Column("rung", "Rung"),
        Column("constants_from", "Constants from"),
    )
    rows = whatif.rows(frames.changes)
    return Table("whatifs", "What if", rows.assign(gain=100 * (1 - 1 / rows["speedup"])), columns)


def _slopes(frames: ModelFrames) -> Table:
    rows = elasticity.rows(frames.slopes)
    columns = (
        Column("of", "10 % more of"),
        Column("kind", "Which is a"),
        Column("change", "Changes the time by about", "percent"),
    )
    return Table("elasticities", "How the roofline's time follows", rows.assign(change=10 * rows["elasticity"]), columns)


def _layouts(frames: ModelFrames) -> Table:
    columns = (
        Column("rank", "Rank", "count"),
        *(Column(name, name.replace("_", " ").capitalize(), "count") for name in _NUMBERS),
        Column("sequence_parallel", "Sequence parallel"),
        Column("recompute", "Computed again"),
        Column("zero", "ZeRO", "count"),
        Column("seconds", "Step", "seconds"),
        Column("memory_bytes", "Memory", "bytes"),
        Column("used", "Of the peak", "percent"),
        Column("tokens_per_second", "Tokens a second", "count"),
    )
    parallel = frames.layouts["sequence_parallel"].map({True: "yes", False: "no"})
    rows = frames.layouts.assign(used=100 * frames.layouts["utilisation"], sequence_parallel=parallel)
    return Table("layouts", "The fastest layouts", rows, columns)


def _tables(frames: ModelFrames) -> tuple[Table, ...]:
    answers = frames.answers.rename(columns={"where": "row", "use": "for"})
    answers = answers.assign(used=100 * answers["utilisation"])
    times = (
        _WHERE,
        Column("for", "Use"),
        Column("seconds", "Time", "seconds"),
        Column("lo80_s", "80 % from", "seconds"),
        Column("hi80_s", "to", "seconds"),
        Column("lower_s", "Lower bound", "seconds"),
        Column("bound", "Limited by"),
        Column("used", "Utilisation", "percent"),
        Column("matrix_flops", "Matrix FLOP", "flop"),
        Column("hbm_bytes", "Traffic", "bytes"),
        Column("launches", "Launches", "count"),
        Column("rung", "Rung"),
        Column("constants_from", "Constants from"),
    )
    room = (
        _WHERE,
        Column("for", "Use"),
        Column("memory_bytes", "Memory", "bytes"),
        Column("hbm_capacity_bytes", "Device has", "bytes"),
        Column("fits", "Fits"),
        Column("longest_seq", "Longest sequence", "count"),
        Column("largest_batch", "Largest batch", "count"),
    )
    free = (1 - frames.margin) * answers["hbm_capacity_bytes"]
    fits = ["yes" if used <= room else f"lacks {size(used - room)}" for used, room in zip(answers["memory_bytes"], free)]
    caption = f"What there is room for, {share(frames.margin)} of the memory left free (empty: any)"
    lengths = frames.lengths.groupby(["where", "use", "seq"], as_index=False, sort=False)[["seconds"]].sum()
    held = frames.memory[frames.memory["recompute"] == "none"]
    whole_memory = held.groupby(["where", "use", "seq"], as_index=False, sort=False)[["bytes"]].sum()
    along = lengths.merge(whole_memory, on=["where", "use", "seq"], how="left")
    return (
        Table("answers", "Times at the sizes asked for", answers, times),
        Table("room", caption, answers.assign(fits=fits), room),
        Table(
            "lengths",
            "Time and memory along the length",
            along,
            (
                Column("seq", "Tokens", "count"),
                Column("seconds", "Time", "seconds"),
                Column("bytes", "Memory", "bytes"),
            ),
        ),
    )
