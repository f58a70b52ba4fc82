"""A table on a page: filtered by the picks, sortable by the reader, exported in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from costmodel.reports import binding, words
from costmodel.reports.figure import Pick, at_first, choose

#: How columns are written, by kind; the page's script has the same names.
WRITERS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "count": words.whole,
    "seconds": words.seconds,
    "bytes": words.size,
    "flop": words.flop,
    "limit": binding.said,
    "percent": lambda value: f"{value:.1f} %",
}
#: Number of rows shown at once; the export has all.
MOST_SHOWN = 300


@dataclass(frozen=True)
class Column:
    """A column of a table: its name in the frame, its heading, and its kind (see `WRITERS`)."""

    name: str
    heading: str
    kind: str = "text"

    def write(self, value: Any) -> str:
        """Return a value as text for people; empty if it is missing."""
        return "" if pd.isna(value) else WRITERS[self.kind](value)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of every case, and the columns to show.

    Attributes
    ----------
    name : str
        Its anchor on the page, and the name of the exported file.
    caption : str
        What the rows are.
    frame : DataFrame
        Rows of all cases; the export has all columns.
    columns : tuple of Column
        The columns to show.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]

    def html(self, picks: Sequence[Pick]) -> str:
        """Return the table for the choices made at first, for readers and printers without scripts."""
        first = choose(self.frame, at_first(picks))
        heads = "".join(
            f'<th scope="col" class="{column.kind}" aria-sort="none">'
            f'<button type="button">{escape(column.heading)}</button></th>'
            for column in self.columns
        )
        body = "".join(f"<tr>{self._cells(row)}</tr>" for row in first.head(MOST_SHOWN).to_dict("records"))
        return (
            f'<figure class="table" id="table-{escape(self.name)}" data-table="{escape(self.name)}">'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(self.caption)}"><table>'
            f"<caption>{escape(self.caption)}</caption><thead><tr>{heads}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>"
            f'<p class="tools"><button type="button" class="csv">Export {len(self.frame):,} rows as CSV'
            f'</button> <span class="shown" role="status"></span></p></figure>'
        )

    def _cells(self, row: dict[Any, Any]) -> str:
        return "".join(
            f'<td class="{column.kind}">{escape(column.write(row[column.name]))}</td>'
            for column in self.columns
        )
