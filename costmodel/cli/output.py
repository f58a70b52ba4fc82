"""Printing: JSON, tables (drawn on a wide terminal, else plain), and numbers with units."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costmodel.units import in_full, render

if TYPE_CHECKING:
    import pandas as pd

    from costmodel.reports import Page

#: File name endings of tables.
TABLES = (".csv", ".parquet")
#: Width between two columns of a drawn table, and the least width that one column may be folded to.
_BETWEEN, _FOLDED = 3, 20


def print_json(answer: Any) -> None:
    """Print one JSON object or list; NaN and infinity, which JSON lacks, become null."""
    # On other encodings letters are escaped: a question mark would change the answer.
    escaped = (sys.stdout.encoding or "").lower() != "utf-8"
    print(json.dumps(_finite(answer), indent=2, ensure_ascii=escaped, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_folded(line: str, indent: int) -> None:
    """Print a line; on a terminal that is too narrow, fold it between words and indent the rest."""
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(line) <= width:
        print(line)
        return
    after = " " * indent
    folded = textwrap.wrap(
        line, width, subsequent_indent=after, break_long_words=False, break_on_hyphens=False
    )
    print("\n".join(folded))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
    """Print a table; on a terminal that is too narrow, with one space between columns instead of two.

    Parameters
    ----------
    headers : sequence of str
        One for each column.
    rows : iterable of sequence of str
        The cells.
    left : int
        Number of leading text columns; in the others, numbers are aligned right.
    """
    cells = [list(row) for row in rows]
    texts = [i < left or any(_is_text(row[i]) for row in cells) for i in range(len(headers))]
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    # One long column can be folded; columns of numbers cannot.
    narrow = sum(widths) - max(widths) + _BETWEEN * len(widths) + _FOLDED
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    if narrow <= room:
        _draw(headers, cells, texts)
        return
    between = " " if 0 < room < sum(widths) + 2 * (len(widths) - 1) else "  "
    for row in [list(headers), *cells]:
        padded = (c.ljust(w) if text else c.rjust(w) for c, w, text in zip(row, widths, texts, strict=True))
        print(between.join(padded).rstrip())


def _is_text(cell: str) -> bool:
    """Return whether a cell is text, as opposed to a number with sign and unit or a placeholder for none."""
    return bool(cell) and not cell[0].isdigit() and cell[0] not in "+-−–"


def _draw(headers: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[bool]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header, text in zip(headers, texts, strict=True):
        table.add_column(Text(header), justify="left" if text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table in the format that the file's ending names."""
    if path.suffix.lower() == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        in_whole(frame).to_csv(path, index=False)


def in_whole(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with columns of whole numbers as integers: 128, not 128.0, for people and for JSON."""
    floats = frame.select_dtypes("float")
    whole = [name for name, values in floats.items() if (values.dropna() % 1 == 0).all() and values.count()]
    # From 2**53 on a float stands for many whole numbers, so the short form is all that is known.
    exact = [name for name in whole if frame[name].abs().max() < 2**53]
    return frame.astype(dict.fromkeys(exact, "Int64"))


def time_by(phases: Iterable[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], str]) -> dict[str, float]:
    """Return the seconds of a prediction's kernels summed by what `of` returns for each, largest first."""
    found: dict[str, float] = {}
    for row in phases:
        found[of(row)] = found.get(of(row), 0.0) + row["seconds"]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def limit_of(phase: Mapping[str, Any]) -> str:
    """Return what limits a kernel."""
    limit: str = phase["bound"]
    return limit


def seconds(value: float) -> str:
    """Return a time with a fitting unit; ``–`` where there is none."""
    return "–" if value is None or math.isnan(value) else render(value, "s")


def count(value: float, unit: str = "") -> str:
    """Return a count with an SI prefix and, where it has one, its unit."""
    if unit in ("bytes", "FLOP", "bytes/s", "FLOP/s"):
        return render(value, unit)
    # From 2**53 on a float stands for many whole numbers.
    return f"{value:,.0f}" if value < 2**53 else f"{value:.4g}"


def rate(value: float) -> str:
    """Return a rate per second: without decimals from a thousand on, else with four digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def cost(value: float) -> str:
    """Return an amount of money: without decimals from a thousand on, else with three digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def note(text: str) -> None:
    """Print a line of progress to the terminal, if there is one."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def say(text: str) -> None:
    """Print a line that must not be missed to standard error, terminal or not: something unexpected."""
    print(f"costmodel: {text}", file=sys.stderr)


def command() -> str:
    """Return this command line, which makes its page again."""
    return shlex.join(["costmodel", *sys.argv[1:]])


def write_page(page: Page, path: Path, *, overwrite: bool) -> None:
    """Write a page, and say so."""
    from costmodel import reports

    reports.save(page, path, overwrite=overwrite)
    note(f"{path}: written")


def sizes(values: Mapping[str, float]) -> str:
    """Return sizes in the form they can be given in: ``batch=4 seq=8192``."""
    return " ".join(f"{name}={in_full(value)}" for name, value in values.items())


def grounds(rung: str, constants_from: str | None, spec_hash: str) -> str:
    """Return the rung, the source of constants, and the signature of an answer."""
    return f"rung {rung}, constants from {constants_from}\n{signature(spec_hash)}"


def signature(*spec_hashes: str) -> str:
    """Return the program's version and the devices' spec hashes."""
    from costmodel._version import __version__

    return f"costmodel {__version__}, spec {', '.join(spec_hashes)}"


def made_with(spec_hash: str) -> dict[str, Any]:
    """Return the version, the spec hash and the schema version for a JSON answer."""
    from costmodel._version import __version__
    from costmodel.answer import SCHEMA

    return {"schema": SCHEMA, "version": __version__, "spec_hash": spec_hash}
