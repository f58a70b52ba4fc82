"""Tables in files, CSV or Parquet: with kinds of columns that are inferred, or as they were written."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from costmodel.arguments import typed
from costmodel.errors import TableError, first_line

#: What stands in a CSV where there is nothing.
EMPTY = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None")

#: A file, or the bytes of one that can be read only once.
Source = Path | io.BytesIO


@typed
def read_table(path: str | Path) -> pd.DataFrame:
    """Return a table, columns of a CSV of the kind that their values have.

    Parameters
    ----------
    path : str or Path
        ``NAME.parquet``, or a CSV by any other name: /dev/stdin too.

    Raises
    ------
    TableError
        If there is no such file, it is no table, it has no rows, two of its columns have one name, or rows
        have more fields than there are columns.
    """
    return _read(Path(path), lambda source, _: _csv(source))


def read_as_written(path: Path, names: Collection[str], numbers: Collection[str]) -> pd.DataFrame:
    """Return a table, columns of a CSV as text: 007 and NA are then what they were.

    Parameters
    ----------
    path : Path
        See `read_table`; columns of a Parquet file are of the kind that the file says.
    names : collection of str
        Columns whose empty cells are to be missing.
    numbers : collection of str
        Columns that are to be numbers, as far as they hold any.

    Raises
    ------
    TableError
        See `read_table`.
    """
    return _read(path, partial(_as_written, names=names, numbers=numbers))


def check_once(table: pd.DataFrame) -> None:
    """Raise TableError if two columns of a table in memory have one name, or one has several.

    Of a file with two of a name reading it says so.
    """
    if table.columns.nlevels > 1:
        raise TableError(f"the table's columns have {table.columns.nlevels} names each; wanted one")
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()].unique()
        raise TableError(f"the table has more than one column {', '.join(map(str, twice))}")


def _as_written(
    source: Source, header: list[str], names: Collection[str], numbers: Collection[str]
) -> pd.DataFrame:
    return _csv(
        source,
        dtype={name: str for name in header if name not in numbers},
        keep_default_na=False,
        na_values={name: list(EMPTY) for name in (*names, *numbers)},
    )


def _csv(source: Source, **how: Any) -> pd.DataFrame:
    """Read a CSV whose rows have as many fields as its header names; pandas would take the first as names."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table: pd.DataFrame = pd.read_csv(source, low_memory=False, index_col=False, **how)
        except pd.errors.ParserWarning:
            raise TableError("has rows of more fields than its header names") from None
    return table


def _read(path: Path, read_csv: Callable[[Source, list[str]], pd.DataFrame]) -> pd.DataFrame:
    try:
        if path.is_dir():
            raise TableError("is a folder, wanted a CSV or Parquet file")
        if not path.exists():
            raise TableError("no such file")
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            source = path if path.is_file() else io.BytesIO(path.read_bytes())
            table = read_csv(source, _header(source))
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except Exception as error:
        # pandas and pyarrow raise many kinds for a broken file.
        raise TableError(f"{path}: not a readable table: {first_line(error)}") from None
    if table.empty:
        raise TableError(f"{path}: has no rows")
    return table


def _header(source: Source) -> list[str]:
    """Return the names of a CSV's columns; pandas would call the second of two by another name."""
    first = pd.read_csv(source, header=None, nrows=1, dtype=str, keep_default_na=False)
    if isinstance(source, io.BytesIO):
        source.seek(0)
    header = first.iloc[0].tolist()
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise TableError(f"has more than one column {', '.join(sorted(twice))}")
    return header
