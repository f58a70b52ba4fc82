"""How answers look in a notebook: small tables of HTML, formulas in LaTeX between dollars.

Knows text alone: whatever stands in it, a device's title from a user's file say, stays text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

#: As many rows as a notebook shows of an answer.
MOST_ROWS = 20
#: Notebooks set cells to the right, text too.
_LEFT = 'style="text-align:left"'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return an HTML table.

    Parameters
    ----------
    headings : sequence of str
        One for each column.
    rows : iterable of sequence of str
        Cells, as text.
    caption : str
        What its rows are.
    """
    head = "".join(f'<th scope="col" {_LEFT}>{escape(text)}</th>' for text in headings)
    lines = ("".join(f"<td {_LEFT}>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    said = f"<caption {_LEFT}>{escape(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def block(title: str, lines: Mapping[str, str], *tables: str) -> str:
    """Return a heading with what belongs to it.

    Parameters
    ----------
    title : str
        What is shown.
    lines : mapping of str to str
        What is said of it, by name; what is empty is left out.
    *tables : str
        From `table`.
    """
    said = "".join(f"<div>{escape(name)}: {escape(text)}</div>" for name, text in lines.items() if text)
    return f"<div><div><strong>{escape(title)}</strong></div>{said}{''.join(tables)}</div>"


def formula(latex: str) -> str:
    """Return LaTeX as a notebook typesets it inside HTML."""
    return f"${latex}$"


def shortened(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the first rows and the last, with a row of dots for those between, where there are many."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    half = MOST_ROWS // 2
    return [*rows[:half], ["…"] * len(rows[0]), *rows[-half:]]
