"""The report of a whole model: where its time goes, its memory, and what would help."""

from __future__ import annotations

from types import ModuleType

import pandas as pd

from costmodel.reports import (
    elasticity,
    generation,
    growth,
    holding,
    layouts,
    limits,
    model_tables,
    parts,
    recompute,
    whatif,
)
from costmodel.reports.compose import CONSTANTS_FROM, LOWER_BOUND, layers, rungs, sources
from costmodel.reports.figure import Figure, Pick, at_first
from costmodel.reports.model_frames import ModelFrames
from costmodel.reports.page import Page, Section
from costmodel.reports.words import listed, origins, share, whole

#: Figures whose findings are at the top, in this order.
FIRST = ("parts", "limits", "growth", "holding", "generation", "recompute", "whatif", "layouts")


def page(frames: ModelFrames, *, first: str = "prefill", command: str) -> Page:
    """Return the page of a model.

    Parameters
    ----------
    frames : ModelFrames
        From `costmodel.model_story.story`.
    first : str
        The use shown at first; if the model does not have it, its first use is.
    command : str
        The command that made the page, shown on it.
    """
    picks = _picks(frames, first)
    figures = _figures(frames)
    sections = (
        Section(
            "time",
            "Where the time goes",
            figures=(figures["parts"], figures["limits"]),
            tables=(model_tables.kernels(frames),),
            folded=True,
        ),
        Section("length", "Time and memory over length", figures=(figures["growth"], figures["holding"])),
        _generation(frames, figures.get("generation")),
        Section("memory", "Memory, and what fits", figures=(figures["recompute"],)),
        Section(
            "help",
            "What would help",
            text=(
                "Each answer is the same prediction with one change; nothing is fitted to it. The table says "
                "where the changed prediction uses other constants.",
            ),
            figures=(figures["whatif"], figures["elasticity"]),
            tables=(model_tables.changes(frames), model_tables.slopes(frames)),
            folded=True,
        ),
        _training(frames, figures.get("layouts")),
        Section(
            "numbers",
            "The numbers",
            tables=(model_tables.answers(frames), model_tables.room(frames), model_tables.lengths(frames)),
        ),
        Section("means", "What the numbers mean", notes=_notes(frames)),
        sources(frames.facts),
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
    """Return the choices: device, use, number of devices; each only if there are several."""
    uses = tuple(frames.uses)
    at = uses.index(first) if first in uses else 0
    found = [
        Pick("where", "Device", tuple(dict.fromkeys(frames.answers["where"]))),
        Pick("use", "Use", uses, at),
    ]
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
    if not frames.tokens.empty:
        drawn.append((generation, generation.rows(frames.tokens)))
    if not frames.layouts.empty:
        drawn.append((layouts, layouts.rows(frames.layouts)))
    return {module.NAME: Figure.of(module, rows) for module, rows in drawn}


# -- in words ----------------------------------------------------------------------------------


def _asked(frames: ModelFrames, devices: list[str]) -> tuple[str, ...]:
    sequences = "one sequence" if frames.batch == 1 else f"{whole(frames.batch)} sequences"
    uses = "; ".join(f"{use} ({what})" for use, what in frames.uses.items())
    return (
        f"{frames.name}, {whole(frames.parameters)} parameters, with {sequences} of {whole(frames.seq)} "
        f"tokens on {listed(devices)}. Where does the time go, what limits it, what fits into memory, and "
        "what would make it faster?",
        f"Uses: {uses}.",
    )


def _lead(picks: tuple[Pick, ...]) -> str:
    chosen = "; ".join(f"{pick.label.lower()}: {pick.values[pick.default]}" for pick in picks)
    return f"For {chosen}. The menus below change the charts and tables, not this list."


def _constants(answers: pd.DataFrame) -> str:
    """Return where the constants behind the times come from, device by device."""
    pairs = answers[["where", "constants_from"]].drop_duplicates()
    if set(pairs["constants_from"]) == {"none"}:
        return ""
    said = [f"{where} from {origins(str(origin))}" for where, origin in pairs.itertuples(index=False)]
    return f"Fitted constants: {'; '.join(said)}."


def _generation(frames: ModelFrames, figure: Figure | None) -> Section:
    """Return the section on a whole generation; empty for a model that generates nothing."""
    tables = () if figure is None else (model_tables.tokens(frames),)
    figures = () if figure is None else (figure,)
    return Section("generation", "A whole generation", figures=figures, tables=tables, folded=True)


def _training(frames: ModelFrames, figure: Figure | None) -> Section:
    """Return the section on training with several devices: the plans, and why others are missing."""
    text = [f"Not planned: {reason}." for reason in frames.refused]
    if figure is None:
        return Section("training", "Training on several devices", text=tuple(text))
    each = "one sequence" if frames.batch == 1 else f"{whole(frames.batch)} sequences"
    text.insert(
        0,
        f"Each step has {each} per device, in nodes of eight devices. A layout fits if it leaves "
        f"{share(frames.margin)} of a device's memory free.",
    )
    return Section(
        "training",
        "Training on several devices",
        text=tuple(text),
        figures=(figure,),
        tables=(model_tables.layouts(frames),),
        folded=True,
    )


def _notes(frames: ModelFrames) -> tuple[tuple[str, str], ...]:
    return (
        *frames.notes,
        *rungs(frames.answers),
        LOWER_BOUND,
        (
            "80 % from, to",
            "The interval that 80 % of measurements fall into, judged by those that nothing was fitted on.",
        ),
        (
            "Memory",
            "Weights. For training also gradients, AdamW's state (a master weight and two moments in fp32) "
            "and the activations that forward keeps for backward; otherwise the cache of keys and values or "
            "recurrent states, and the working memory of the part that needs most. Allocator overhead is "
            f"not counted: {share(frames.margin)} of the device's memory is left free for it.",
        ),
        ("Utilisation", "Matrix FLOPs over what the peak of the number format allows in the same time."),
        CONSTANTS_FROM,
        *layers(frames.facts),
    )
