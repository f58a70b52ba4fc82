"""A report as a page, and writing it to a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from costmodel.arguments import typed
from costmodel.errors import OutputError
from costmodel.files import write_text
from costmodel.reports.figure import Figure, Pick
from costmodel.reports.render import render
from costmodel.reports.table import Table

#: Largest size of a page [bytes]: it has to open on a phone, and pass as an attachment.
LARGEST = 3_000_000


@dataclass(frozen=True, eq=False)
class Section:
    """A section: a heading with text, charts, tables and notes.

    Attributes
    ----------
    name : str
        Its anchor on the page.
    heading : str
        Its title.
    text : tuple of str
        Paragraphs.
    figures, tables : tuple
        Charts, then tables.
    notes : tuple of (str, str)
        Terms and their explanations.
    side_by_side : bool
        Whether charts are placed side by side if there is room.
    folded : bool
        Whether tables are folded until the reader opens them.
    code : str
        Name of a listing that the page's script fills; empty: none.
    """

    name: str
    heading: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    side_by_side: bool = False
    folded: bool = False
    code: str = ""


@dataclass(frozen=True, eq=False)
class Live:
    """The interactive content of a page that computes its rows in the browser.

    Attributes
    ----------
    controls : str
        HTML of the controls.
    data : dict
        Data for its script, encoded as JSON.
    scripts : tuple of str
        Names of its own scripts, in the order they run, in addition to those of every page.
    style : str
        Name of its style sheet.
    """

    controls: str
    data: dict[str, Any]
    scripts: tuple[str, ...]
    style: str


@dataclass(frozen=True, eq=False)
class Page:
    """A report, not yet written anywhere.

    Attributes
    ----------
    title : str
        Title of the page.
    asked : tuple of str
        The question, as paragraphs.
    findings : tuple of str
        The answers, computed from the data.
    lead, caveat : str
        Text before the findings (what they apply to), and after them (their limitations).
    picks : tuple of Pick
        What the reader can choose.
    sections : tuple of Section
        The sections.
    command : str
        The command that makes the page again.
    version : str
        Version of the program that made it.
    live : Live, optional
        Interactive content, if the page computes its rows itself.
    """

    title: str
    asked: tuple[str, ...]
    findings: tuple[str, ...]
    sections: tuple[Section, ...]
    command: str
    version: str
    picks: tuple[Pick, ...] = ()
    lead: str = ""
    caveat: str = ""
    live: Live | None = None

    @cached_property
    def html(self) -> str:
        """The page as HTML.

        Raises
        ------
        UnavailableError
            If altair or vl-convert is not installed.
        OutputError
            If the page is larger than `LARGEST`.
        """
        # A title or a file's name in the command may have bytes that are no text: the page has ? for them.
        content = render(self).encode(errors="replace")
        size = len(content)
        if size > LARGEST:
            raise OutputError(
                f"the page would have {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}: report fewer rows"
            )
        return content.decode()

    def _repr_html_(self) -> str:
        """Return the page for a notebook, isolated in a sandboxed frame."""
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts allow-downloads" '
            f'title="{escape(self.title)}" style="width:100%;height:80vh;border:1px solid #999"></iframe>'
        )


@typed
def save(page: Page, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a page to a file atomically.

    Parameters
    ----------
    page : Page
        From `compare`, `story` or `validation`.
    path : str or Path
        The file to write, ending in .html.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        If the path exists or cannot be written; nothing is changed then.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"cannot write {target}: wanted a name that ends in .html")
    html = page.html
    write_text(target, html, overwrite=overwrite)
    return target
