"""One page design for every report: a self-contained HTML file that needs no network and runs no eval."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from costmodel.errors import OutputError, UnavailableError
from costmodel.files import write_whole
from costmodel.reports import encode
from costmodel.reports.figure import Figure, Pick, at_first
from costmodel.reports.table import MOST_SHOWN, Table

#: A page may be as large as this [bytes]: it has to open on a phone, and pass as an attachment.
LARGEST = 3_000_000


@dataclass(frozen=True, eq=False)
class Section:
    """A heading with what stands under it.

    Attributes
    ----------
    name : str
        Its anchor.
    heading : str
        Its title.
    text : tuple of str
        Paragraphs.
    figures, tables : tuple
        Charts, then tables.
    notes : tuple of (str, str)
        Terms and what they mean.
    side_by_side : bool
        Whether the charts stand in a row where there is room.
    folded : bool
        Whether the tables open on demand.
    """

    name: str
    heading: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    side_by_side: bool = False
    folded: bool = False


@dataclass(frozen=True, eq=False)
class Page:
    """A report, not yet written anywhere.

    Attributes
    ----------
    title : str
        What it is about.
    asked : tuple of str
        The question, in paragraphs.
    findings : tuple of str
        The answer, computed from the data.
    lead, caveat : str
        What the findings are of, said before them; how to take them, said after.
    picks : tuple of Pick
        What the reader may choose.
    sections : tuple of Section
        The rest.
    command : str
        What makes it again.
    version : str
        Of the program that made it.
    """

    title: str
    asked: tuple[str, ...]
    findings: tuple[str, ...]
    sections: tuple[Section, ...]
    command: str
    version: str
    picks: tuple[Pick, ...] = field(default=())
    lead: str = ""
    caveat: str = ""

    @cached_property
    def html(self) -> str:
        """The whole page.

        Raises
        ------
        UnavailableError
            If altair or vl-convert is not installed.
        OutputError
            If it is larger than a page may be.
        """
        text = _render(self)
        size = len(text.encode())
        if size > LARGEST:
            raise OutputError(
                f"the page would have {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}: report fewer rows"
            )
        return text

    def _repr_html_(self) -> str:
        """Show the page in a notebook, walled off from it."""
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts allow-downloads" '
            f'title="{escape(self.title)}" style="width:100%;height:80vh;border:1px solid #999"></iframe>'
        )


def save(page: Page, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a page to a file, whole or not at all.

    Parameters
    ----------
    page : Page
        From `compare`, `story` or `validation`.
    path : str or Path
        Ends in .html.
    overwrite : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    OutputError
        If the path exists or cannot be written; nothing is changed then.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"cannot write {target}: wanted a name that ends in .html")
    html = page.html
    write_whole(target, lambda part: part.write_text(html, encoding="utf-8"), overwrite=overwrite)
    return target


# -- rendering -----------------------------------------------------------------------------------


def _render(page: Page) -> str:
    scripts = [_charts_script(), _asset("page.js")]
    policy = (
        "default-src 'none'; "
        f"script-src {' '.join(_hash(script) for script in scripts)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    body = [
        '<a class="skip" href="#findings">Skip to the findings</a>',
        _header(page),
        _picks(page.picks),
        "<main>",
        *(_section(section, page.picks) for section in page.sections),
        "</main>",
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
            f"<style>{_asset('page.css')}</style>\n</head>\n<body>",
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
    return f'<div class="picks" role="group" aria-label="What the charts show">{"".join(fields)}</div>'


def said(value: Any) -> str:
    """Return a choice as the reader sees it."""
    return f"{value:,.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _section(section: Section, picks: Sequence[Pick]) -> str:
    figures = "".join(_figure(figure, picks) for figure in section.figures)
    if section.side_by_side:
        figures = f'<div class="side">{figures}</div>'
    tables = "".join(table.html(picks) for table in section.tables)
    if section.folded:
        tables = f"<details><summary>Show the tables</summary>{tables}</details>"
    notes = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in section.notes)
    return (
        f'<section id="{escape(section.name)}"><h2>{escape(section.heading)}</h2>'
        f"{''.join(f'<p>{escape(text)}</p>' for text in section.text)}"
        f"{figures}{f'<dl>{notes}</dl>' if notes else ''}{tables}</section>"
    )


def _figure(figure: Figure, picks: Sequence[Pick]) -> str:
    finding = figure.say(at_first(picks))
    return (
        f'<figure class="chart" data-figure="{escape(figure.name)}">'
        f'<h3 class="finding" aria-live="polite">{escape(finding)}</h3>'
        f'<div class="plot" role="img" aria-label="{escape(f"Chart. {finding}. {figure.about}")}"></div>'
        f"<figcaption>{escape(figure.about)}</figcaption></figure>"
    )


def _footer(page: Page) -> str:
    return (
        f"<footer><p>Made by costmodel {escape(page.version)} with</p>"
        f"<pre><code>{escape(page.command)}</code></pre>"
        "<p>Numbers are in SI units; 1 multiply-add = 2 FLOP; prefixes are decimal.</p></footer>"
    )


def _store(page: Page) -> dict[str, Any]:
    """Return all that the page's script needs; a frame that several parts share is there once."""
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
    }
    store["frames"] = {name: columns.add(frame) for name, frame in frames.values()}
    return store | {"columns": columns.distinct}


@cache
def _asset(name: str) -> str:
    return files("costmodel.reports").joinpath(name).read_text(encoding="utf-8")


@cache
def _charts_script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, in a scope of its own."""
    try:
        import altair as alt  # noqa: PLC0415 - an extra, as is vl-convert
        import vl_convert  # noqa: PLC0415
    except ImportError as error:
        raise UnavailableError(
            "reports need altair and vl-convert: pip install 'costmodel[report]'"
        ) from error
    major, minor, *_ = alt.SCHEMA_VERSION.removeprefix("v").split(".")
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=f"{major}.{minor}")
    return f"(() => {{{bundle}\n}})();"


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
