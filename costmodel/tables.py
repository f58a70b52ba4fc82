"""Reading of tables from CSV and Parquet files, with inferred column types or as text."""

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

#: Cells of a CSV that mean a missing value.
EMPTY = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None")

#: A file, or its bytes if it can be read only once.
Source = Path | io.BytesIO


@typed
def read_table(path: str | Path) -> pd.DataFrame:
    """Return a table; types of a CSV's columns are inferred from their values.

    Parameters
    ----------
    path : str or Path
        ``NAME.parquet``, or a CSV of any other name, such as /dev/stdin.

    Raises
    ------
    TableError
        If the file does not exist, is not a table, has no rows, has two columns of one name, or has rows
        with more fields than columns.
    """
    return _read(Path(path), lambda source, _: _csv(source))


def read_as_written(path: Path, names: Collection[str], numbers: Collection[str]) -> pd.DataFrame:
    """Return a table; a CSV's columns stay text, so that 007 and NA stay as they are.

    Parameters
    ----------
    path : Path
        See `read_table`; columns of a Parquet file keep their types.
    names : collection of str
        Columns in which empty cells become missing values.
    numbers : collection of str
        Columns to read as numbers, if they hold any.

    Raises
    ------
    TableError
        See `read_table`.
    """
    return _read(path, partial(_as_written, names=names, numbers=numbers))


def check_once(table: pd.DataFrame) -> None:
    """Raise TableError if two columns of a table in memory share a name, or columns have several names.

    For tables in files, reading them raises the same error.
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
    """Read a CSV; refuse rows with more fields than the header: pandas would take the first as an index."""
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
        # pandas and pyarrow raise exceptions of many types for a broken file.
        raise TableError(f"{path}: not a readable table: {first_line(error)}") from None
    if table.empty:
        raise TableError(f"{path}: has no rows")
    return table


def _header(source: Source) -> list[str]:
    """Return the names of a CSV's columns as written; pandas would rename the second of two equal ones."""
    first = pd.read_csv(source, header=None, nrows=1, dtype=str, keep_default_na=False)
    if isinstance(source, io.BytesIO):
        source.seek(0)
    header = first.iloc[0].tolist()
    between = next((mark for mark in ";\t|" if header and mark in header[0]), None)
    if len(header) == 1 and between:
        raise TableError(f"wanted commas between its columns, got {between!r}")
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise TableError(f"has more than one column {', '.join(sorted(twice))}")
    return header
