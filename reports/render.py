"""One page design for every report: a self-contained HTML file that needs no network and runs no eval."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from costmodel.reports import encode, style
from costmodel.reports.binding import LIMITS
from costmodel.reports.figure import Figure, Pick, at_first
from costmodel.reports.table import MOST_SHOWN

if TYPE_CHECKING:
    from costmodel.reports.page import Page, Section


def render(page: Page) -> str:
    """Return a page as HTML."""
    live = page.live
    scripts = [_charts_script(), asset("page.js"), *map(asset, live.scripts if live else ())]
    style = asset("page.css") + (asset(live.style) if live else "")
    policy = (
        "default-src 'none'; "
        f"script-src {' '.join(_hash(script) for script in scripts)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    # When the reader picks, a screen reader reads out one sentence, not one per chart.
    said_aloud = next((figure for section in page.sections for figure in section.figures), None)
    body = [
        '<a class="skip" href="#findings">Skip to the findings</a>',
        _header(page),
        _picks(page.picks),
        f'<div class="bench">{live.controls}' if live else "",
        "<main>",
        *(_section(section, page.picks, said_aloud) for section in page.sections),
        "</main>",
        "</div>" if live else "",
        _footer(page),
        "<noscript><p>The charts need JavaScript; the tables hold their numbers.</p></noscript>",
        f'<script type="application/json" id="store">{encode.to_json(_store(page))}</script>',
        *(f"<script>{script}</script>" for script in scripts),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<meta name="generator" content="costmodel {escape(page.version)}">',
            f"<title>{escape(page.title)}</title>",
            f"<style>{style}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        ]
    )


def _header(page: Page) -> str:
    links = "".join(
        f'<li><a href="#{escape(section.name)}">{escape(section.heading)}</a></li>'
        for section in page.sections
    )
    findings = "".join(f"<li>{escape(text)}.</li>" for text in page.findings)
    asked = "".join(f"<p>{escape(text)}</p>" for text in page.asked)
    return "".join(
        [
            f'<header><p class="kicker">costmodel {escape(page.version)}</p><h1>{escape(page.title)}</h1>',
            asked,
            '<section class="findings" id="findings" aria-label="Findings"><h2>In short</h2>',
            f'<p class="lead">{escape(page.lead)}</p><ul>{findings}</ul>',
            f'<p class="caveat">{escape(page.caveat)}</p></section>',
            f'<nav aria-label="On this page"><ul>{links}</ul></nav></header>',
        ]
    )


def _picks(picks: Sequence[Pick]) -> str:
    if not picks:
        return ""
    fields = []
    for i, pick in enumerate(picks):
        options = "".join(
            f"<option{' selected' if j == pick.default else ''}>{escape(said(value))}</option>"
            for j, value in enumerate(pick.values)
        )
        fields.append(
            f'<label><span>{escape(pick.label)}</span><select data-pick="{i}">{options}</select></label>'
        )
    return f'<div class="picks" role="region" aria-label="What the charts show">{"".join(fields)}</div>'


def said(value: Any) -> str:
    """Return a choice as shown to the reader."""
    return f"{value:,.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _section(section: Section, picks: Sequence[Pick], said_aloud: Figure | None) -> str:
    figures = "".join(_figure(figure, picks, figure is said_aloud) for figure in section.figures)
    if section.side_by_side:
        figures = f'<div class="side">{figures}</div>'
    tables = "".join(table.html(picks) for table in section.tables)
    if section.folded:
        tables = f"<details><summary>Show the tables</summary>{tables}</details>"
    listing = f'<pre tabindex="0"><code id="{escape(section.code)}"></code></pre>' if section.code else ""
    notes = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in section.notes)
    return (
        f'<section id="{escape(section.name)}"><h2>{escape(section.heading)}</h2>'
        f"{''.join(f'<p>{escape(text)}</p>' for text in section.text)}"
        f"{figures}{f'<dl>{notes}</dl>' if notes else ''}{listing}{tables}</section>"
    )


def _figure(figure: Figure, picks: Sequence[Pick], aloud: bool) -> str:
    live = ' aria-live="polite"' if aloud else ""
    return (
        f'<figure class="chart" data-figure="{escape(figure.name)}">'
        f'<h3 class="finding"{live}>{escape(figure.say(at_first(picks)))}</h3><div class="plot"></div>'
        f"<figcaption>{escape(figure.about)}</figcaption></figure>"
    )


def _footer(page: Page) -> str:
    return (
        f"<footer><p>Made by costmodel {escape(page.version)} with</p>"
        f"<pre><code>{escape(page.command)}</code></pre>"
        "<p>Numbers are in SI units; 1 multiply-add = 2 FLOP; prefixes are decimal.</p></footer>"
    )


def _store(page: Page) -> dict[str, Any]:
    """Return the data of the page's script; frames that several parts share are stored once."""
    frames: dict[int, tuple[str, Any]] = {}

    def name_of(frame: Any) -> str:
        frames.setdefault(id(frame), (f"f{len(frames)}", frame))
        return frames[id(frame)][0]

    figures = [figure for section in page.sections for figure in section.figures]
    tables = [table for section in page.sections for table in section.tables]
    columns = encode.Columns()
    store = {
        "picks": [
            {"column": pick.column, "values": list(pick.values), "default": pick.default}
            for pick in page.picks
        ],
        "figures": [
            {
                "name": figure.name,
                "frame": name_of(figure.frame),
                "picks": [i for i, pick in enumerate(page.picks) if pick.column in figure.frame],
                "about": figure.about,
                "spec": figure.spec(page.picks),
                "findings": figure.findings(page.picks),
            }
            for figure in figures
        ],
        "tables": [
            {
                "name": table.name,
                "frame": name_of(table.frame),
                "columns": [{"name": column.name, "kind": column.kind} for column in table.columns],
            }
            for table in tables
        ],
        "most_shown": MOST_SHOWN,
        "limits": {name: looks[0] for name, looks in LIMITS.items()},
    }
    store["frames"] = {name: columns.add(frame) for name, frame in frames.values()}
    live = {"live": page.live.data} if page.live else {}
    return store | live | {"columns": columns.distinct}


@cache
def asset(name: str) -> str:
    """Return the text of a style sheet or script."""
    return files("costmodel.reports").joinpath(name).read_text(encoding="utf-8")


@cache
def _charts_script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script with its own scope."""
    major, minor, *_ = style.altair().SCHEMA_VERSION.removeprefix("v").split(".")
    bundle: str = style.extra("vl_convert").javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", vl_version=f"{major}.{minor}"
    )
    return f"(() => {{{bundle}\n}})();"


def check_installed() -> None:
    """Refuse to make a page if the modules it needs are missing.

    Raises
    ------
    UnavailableError
        If altair or vl-convert is not installed.
    """
    for name in ("altair", "vl_convert"):
        style.extra(name)


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
