"""Answers in a notebook: small HTML tables, and formulas in LaTeX between dollar signs.

All text is escaped: a device's title may come from a user's file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

#: Most rows that a notebook shows of an answer.
MOST_ROWS = 20
#: By default notebooks align cells to the right, even text.
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
        What the rows are.
    """
    head = "".join(f'<th scope="col" {_LEFT}>{escape(text)}</th>' for text in headings)
    lines = ("".join(f"<td {_LEFT}>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    said = f"<caption {_LEFT}>{escape(caption)}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def block(title: str, lines: Mapping[str, str], *tables: str) -> str:
    """Return a heading with lines of text and tables below it.

    Parameters
    ----------
    title : str
        The heading.
    lines : mapping of str to str
        Lines of text by label; empty ones are left out.
    *tables : str
        Tables as returned by `table`.
    """
    said = "".join(f"<div>{escape(name)}: {escape(text)}</div>" for name, text in lines.items() if text)
    return f"<div><div><strong>{escape(title)}</strong></div>{said}{''.join(tables)}</div>"


def formula(latex: str) -> str:
    """Return LaTeX in the form that a notebook typesets inside HTML."""
    return f"${latex}$"


def shortened(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the rows or, if there are many, the first and last with a row of dots between."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    half = MOST_ROWS // 2
    return [*rows[:half], ["…"] * len(rows[0]), *rows[-half:]]
