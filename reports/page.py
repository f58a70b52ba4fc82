"""A report, and how it gets into a file."""

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
    """What a page has that computes its rows while it is read.

    Attributes
    ----------
    controls : str
        HTML of what the reader sets.
    data : dict
        What its script needs, for JSON.
    scripts : tuple of str
        Names of the scripts that it has beside every page's, in the order that they run.
    style : str
        Name of its style.
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
    live : Live, optional
        Where the page computes its rows itself.
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
        """The whole page.

        Raises
        ------
        UnavailableError
            If altair or vl-convert is not installed.
        OutputError
            If it is larger than a page may be.
        """
        text = render(self)
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


@typed
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
    write_text(target, html, overwrite=overwrite)
    return target
