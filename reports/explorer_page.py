"""The explorer: a page that computes the model in the reader's browser, at rung ``bound``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

import pandas as pd

from costmodel.reports import explorer_charts as charts
from costmodel.reports.compose import LOWER_BOUND, RUNGS, layers, sources
from costmodel.reports.figure import Figure
from costmodel.reports.frames import SIZES, Facts
from costmodel.reports.page import Live, Page, Section
from costmodel.reports.table import Column, Table
from costmodel.reports.words import listed

#: Device figures that the reader can change: name for ``--device-set``, words, unit, the unit in SI.
FIGURES = (
    ("peak", "Peak of the number format", "TFLOP/s", 1e12),
    ("fp32", "Peak of fp32", "TFLOP/s", 1e12),
    ("hbm", "Memory bandwidth", "GB/s", 1e9),
    ("hbm_capacity", "Memory", "GB", 1e9),
    ("l2", "L2 cache", "MB", 1e6),
    ("shared", "On-chip memory per unit", "kB", 1e3),
    ("step", "Latency of a dependent step", "us", 1e-6),
    ("launch", "Latency of a launch", "us", 1e-6),
)
WORDS = {"dtype": "Number format", "direction": "Direction", "causal": "Causal mask"}
WORDS |= {"schedule": "Schedule of tiles", "tile": "Tile"}
SAID = {"fwd": "forward", "bwd": "backward", "fwd+bwd": "forward and backward", "true": "yes", "false": "no"}
SAID |= {"auto": "as in the paper", "free": "set below", "fa1": "FlashAttention", "fa2": "FlashAttention-2"}
#: Scripts of the page, in an order in which each uses only those before it.
PARTS = ("state", "device", "programs", "crossings", "round", "rows", "findings", "commands", "form")
SCRIPTS = (*(f"explorer_{part}.js" for part in PARTS), "explorer.js")


#: Up to this many crossovers are all named; of more, the first, the last and the number.
MOST_CROSSINGS = 6


@dataclass(frozen=True, eq=False)
class Explorer:
    """Content of the explorer; made by `costmodel.explore`.

    Attributes
    ----------
    devices : list of dict
        Figures of each device, and the ranges of those that the reader can change, in SI units.
    first : int
        Index of the device shown at first.
    choices : list of dict
        Options that the reader sets: name, values, first value.
    layers : list of dict
        Name, sizes, and the program of each variant: steps of Vega code.
    controls : list of dict
        Sliders: name, meaning, value, stops, group.
    tied : dict
        Vega code of the sizes derived from the width.
    facts : Facts
        Figures and sources of the devices, and of the layers.
    """

    devices: list[dict[str, Any]]
    first: int
    choices: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    tied: dict[str, str]
    facts: Facts


@dataclass(frozen=True, eq=False)
class _LiveFigure(Figure):
    """A chart whose rows and finding are computed when the page is opened."""

    def say(self, chosen: dict[str, Any]) -> str:  # noqa: ARG002 - a figure's own method
        """Return the text shown until then."""
        return "Computed when the page is opened"


def page(explorer: Explorer, *, title: str | None = None, command: str) -> Page:
    """Return the explorer's page."""
    names = [layer["name"] for layer in explorer.layers]
    titles = [device["title"] for device in explorer.devices]
    where = titles[0] if len(titles) == 1 else f"any of {len(titles)} devices"
    text = (
        f"Compare {listed(names)} on {where}, or on a device of your own. Change sizes, the device or its "
        "figures, and the page recomputes the model in your browser; nothing is sent anywhere. The numbers "
        "are those of costmodel's rung bound. The address of the page contains all settings, so a copied "
        "link shows the same view."
    )
    return Page(
        title=title or f"Explore {listed(names)}",
        asked=(text,),
        findings=(),
        lead="For the current settings:",
        caveat=f"Rung bound: {RUNGS['bound']}",
        sections=_sections(explorer),
        command=command,
        version=explorer.facts.version,
        live=Live(_controls(explorer), _data(explorer), SCRIPTS, "explorer.css"),
    )


def _sections(explorer: Explorer) -> tuple[Section, ...]:
    names = [layer["name"] for layer in explorer.layers]
    figures = {
        "time": _figure("time", lambda: charts.time(names), charts.TIME),
        "waiting": _figure("waiting", lambda: charts.waiting(len(names)), charts.WAITING),
        "roofline": _figure("roofline", lambda: charts.roofline(names), charts.ROOFLINE),
        "memory": _figure("memory", lambda: charts.memory(names), charts.MEMORY),
    }
    return (
        Section("time", "Time, and where the fastest layer changes", figures=(figures["time"],)),
        Section("waiting", "What waiting would add", figures=(figures["waiting"],)),
        Section("roofline", "The roofline", figures=(figures["roofline"],)),
        Section("memory", "Memory", figures=(figures["memory"],)),
        Section("numbers", "The numbers", tables=_tables()),
        Section(
            "command",
            "The same from the command line",
            text=("These commands print the numbers above.",),
            code="commands",
        ),
        Section(
            "means",
            "What the numbers mean",
            notes=(LOWER_BOUND, ("Waiting", charts.WAITING), *layers(explorer.facts)),
        ),
        sources(explorer.facts),
    )


def _figure(name: str, chart: Callable[[], Any], about: str) -> Figure:
    return _LiveFigure(name, pd.DataFrame(), lambda _: chart().properties(data={"name": "rows"}), str, about)


def _tables() -> tuple[Table, ...]:
    now = (
        Column("label", "Layer"),
        Column("seconds", "Time", "seconds"),
        Column("lower_s", "Lower bound", "seconds"),
        Column("limit", "Limited by", "limit"),
        Column("waiting_s", "Waiting", "seconds"),
        Column("matrix_flops", "Matrix FLOP", "flop"),
        Column("hbm_bytes", "Traffic", "bytes"),
        Column("l2_bytes", "Cache traffic", "bytes"),
        Column("depth", "Depth", "count"),
        Column("launches", "Launches", "count"),
        Column("footprint_bytes", "Memory", "bytes"),
    )
    crossing = (
        Column("first", "First layer"),
        Column("second", "Second layer"),
        Column("size", "From size", "count"),
        Column("cheaper", "Faster layer"),
    )
    curve = (
        Column("label", "Layer"),
        Column("at", "Size", "count"),
        Column("seconds", "Time", "seconds"),
        Column("lower_s", "Lower bound", "seconds"),
        Column("limit", "Limited by", "limit"),
        Column("footprint_bytes", "Memory", "bytes"),
    )
    return (
        Table("now", "At the current settings", pd.DataFrame(), now),
        Table(
            "crossovers", "Where one layer overtakes another, over the chosen size", pd.DataFrame(), crossing
        ),
        Table("curve", "Over the chosen size", pd.DataFrame(), curve),
    )


# -- what the page's script needs ------------------------------------------------------------------


def _data(explorer: Explorer) -> dict[str, Any]:
    """Return the programs with every distinct step stored once: variants of a layer share most steps."""
    pool: dict[tuple[str, str], int] = {}
    layers = []
    for layer in explorer.layers:
        variants = {}
        for key, variant in layer["variants"].items():
            coded = [pool.setdefault((name, code), len(pool)) for name, code in variant.get("steps", ())]
            variants[key] = variant | {"steps": coded}
        layers.append(layer | {"variants": variants})
    return {
        "devices": explorer.devices,
        "first": explorer.first,
        "choices": explorer.choices,
        "controls": [control | {"words": _words(control["name"])} for control in explorer.controls],
        "tied": explorer.tied,
        "layers": layers,
        "steps": [list(step) for step in pool],
        "figures": [{"name": name, "unit": unit, "scale": scale} for name, _, unit, scale in FIGURES],
        "along": charts.ALONG,
        "most_crossings": MOST_CROSSINGS,
        "parts": list(charts.PARTS),
    }


def _words(name: str) -> str:
    words = {"tile_rows": "tile rows", "tile_cols": "tile columns", "width": "width of the layers"}
    return SIZES.get(name, words.get(name, name.replace("_", " ")))


# -- what the reader sets --------------------------------------------------------------------------


def _controls(explorer: Explorer) -> str:
    groups: dict[str, list[str]] = {"size": [], "tile": [], "more": []}
    for control in explorer.controls:
        groups[control["group"]].append(_slider(control))
    tile = f'<div data-when="tile=free">{"".join(groups["tile"])}</div>' if groups["tile"] else ""
    more = "".join(groups["more"])
    return "".join(
        [
            '<form class="controls" aria-label="What is computed">',
            f"<fieldset><legend>Device and work</legend>{_devices(explorer)}",
            *(_select(c["name"], WORDS[c["name"]], c["values"], c["first"]) for c in explorer.choices),
            "</fieldset><fieldset><legend>Sizes</legend>",
            *groups["size"],
            tile,
            '<label><span>Draw curves over</span><select data-state="along"></select></label>',
            f"<details><summary>More sizes</summary>{more}</details>" if more else "",
            "</fieldset>",
            "<details><summary>Change the device</summary>",
            '<p class="hint">Empty fields stand for the figures of the datasheet.</p>',
            *(_figure_field(name, words, unit) for name, words, unit, _ in FIGURES),
            "</details>",
            '<p class="status" role="status"></p>',
            '<p class="links"><a class="share" href="#">Link to this view</a> ',
            '<button type="reset">Reset</button></p>',
            '<output id="answer" hidden></output></form>',
        ]
    )


def _devices(explorer: Explorer) -> str:
    def vendor(device: dict[str, Any]) -> str:
        return str(device["vendor"])

    first = explorer.devices[explorer.first]["name"]
    found = []
    for name, members in groupby(sorted(explorer.devices, key=vendor), key=vendor):
        options = "".join(_option(device["name"], device["title"], first) for device in members)
        found.append(f'<optgroup label="{escape(name)}">{options}</optgroup>')
    return f'<label><span>Device</span><select data-state="device">{"".join(found)}</select></label>'


def _option(value: str, text: str, first: str) -> str:
    return f'<option value="{escape(value)}"{" selected" if value == first else ""}>{escape(text)}</option>'


def _select(name: str, words: str, values: Sequence[str], first: str) -> str:
    options = "".join(_option(value, SAID.get(value, value), first) for value in values)
    return (
        f'<label><span>{escape(words)}</span><select data-state="{escape(name)}">{options}</select></label>'
    )


def _slider(control: dict[str, Any]) -> str:
    name, words = escape(control["name"]), escape(_words(control["name"]).partition(" [")[0].capitalize())
    value = "" if control["value"] is None else f"{control['value']:.0f}"
    return (
        f'<div class="slider" title="{escape(control["meaning"])}"><label for="size-{name}">{words}</label>'
        f'<input type="range" data-slider="{name}" min="0" max="{len(control["stops"]) - 1}" value="0" '
        f'aria-label="{words}, slider"><input type="number" id="size-{name}" data-state="{name}" '
        f'min="1" step="1" value="{value}" inputmode="numeric"></div>'
    )


def _figure_field(name: str, words: str, unit: str) -> str:
    shown = unit.replace("us", "µs")
    return (
        f'<label class="figure"><span>{escape(words)} [{escape(shown)}]</span>'
        f'<input type="number" data-state="set-{escape(name)}" min="0" step="any" inputmode="decimal">'
        "</label>"
    )
