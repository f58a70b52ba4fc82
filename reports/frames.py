"""Tables that reports are made of, and the words for their columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from costmodel.errors import TableError
from costmodel.tables import check_once

#: Size columns in order of preference, with axis titles.
SIZES = {
    "seq": "sequence length [tokens]",
    "batch": "batch [sequences]",
    "seq_kv": "keys and values [tokens]",
    "heads": "heads",
    "d_model": "model width",
    "hidden": "state width",
    "head_dim": "head width",
    "kv_heads": "key and value heads",
    "value_dim": "value width",
    "d_ff": "feed-forward width",
    "input": "input width",
    "projection": "projected width",
    "num_layers": "stacked layers",
    "window": "window [tokens]",
    "block": "block",
    "experts": "experts",
    "top_k": "experts or keys per token",
    "state": "state entries",
    "vocab": "vocabulary",
    "m": "m",
    "n": "n",
    "k": "k",
    "devices": "devices",
    "node": "devices per node",
    "tensor": "devices that share a model",
    "streams": "residual streams",
    "stride": "stride",
    "summary": "summary positions",
    "globals": "global tokens",
    "random": "random tokens",
    "density": "density [%]",
    "edges": "edges",
    "degree": "edges per node",
    "rank": "rank",
    "features": "random features",
    "q_rank": "width of the compressed query",
    "kv_rank": "width of compressed keys and values",
    "rope_dim": "rotary width",
    "store": "entries stored",
    "lists": "lists of the index",
    "rounds": "rounds of hashing",
    "probes": "lists searched per query",
    "splits": "splits of the keys",
    "params": "parameters",
    "tensors": "tensors",
    "read_bytes": "read [B]",
    "written_bytes": "written [B]",
    "least_bytes": "read in any case [B]",
    "least_written_bytes": "written in any case [B]",
    "taps": "taps of the window",
}
#: A sweep's column of the size `state`; the column ``state`` is cold or warm.
STATE = "state_size"
#: Columns that a sweep's table needs to be compared.
NEEDED = ("layer", "device", "dtype", "seconds", "lower_s", "bound", "matrix_flops", "hbm_bytes", "depth")
#: Those of them that are text.
NAMES = ("layer", "device", "dtype", "bound")
#: Those of them that are numbers of at least 0; the first must be positive, for a logarithmic axis.
NUMBERS = ("seconds", "lower_s", "matrix_flops", "hbm_bytes", "depth")
#: Columns that are all 0 in a row without work, such as a collective on a single device.
_WORK = ("seconds", "lower_s", "matrix_flops", "hbm_bytes")
#: Columns that identify a prediction, beside its sizes.
CASE = ("where", "series", "layer", "device", "dtype", "direction", "rung", "state")
#: Largest number of rows in one chart.
MOST_ROWS = 5_000


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts behind predictions.

    Attributes
    ----------
    devices : DataFrame
        device, title, dtype, peak_flops [FLOP/s], hbm_bandwidth [B/s],
        hbm_capacity_bytes, spec_hash, missing (figures the spec lacks); one row for each device
        and dtype.
    figures : DataFrame
        device, figure, value (with its unit), status, source (keys), note.
    sources : DataFrame
        source (a key), document.
    layers : DataFrame
        layer, what, source, not_counted.
    version : str
        Version of the program.
    """

    devices: pd.DataFrame
    figures: pd.DataFrame
    sources: pd.DataFrame
    layers: pd.DataFrame
    version: str


@dataclass(frozen=True, eq=False)
class Frames:
    """The tables of a report; all except `rows` may be empty.

    ``where`` is a device in words, ``series`` the name of a line, and ``label`` the series with its number
    format.

    Attributes
    ----------
    rows : DataFrame
        Columns of a sweep, with where, series, and others that tell cases apart.
    parts : DataFrame
        seq, part (kind of kernel), seconds, series, and the columns that tell cases apart.
    fastest : DataFrame
        row (device in words, or a count), of (time, FLOPs, depth), series with the least of it (categories:
        all), and ``from_…`` and ``to_…`` of the size that varies.
    longest : DataFrame
        where, series, longest_seq [tokens], hbm_capacity_bytes.
    changes : DataFrame
        where, series (categories: all), seq, change, kind (figure, choice), seconds, speedup,
        constants_from: one thing changed at a time.
    systems : DataFrame
        where, layer, family, seq, seconds, bound: every layer on every device.
    growth : DataFrame
        layer, family, complexity, sequential, path, exponent, source: the growth of every layer.
    facts : Facts
        The facts behind the tables.
    """

    rows: pd.DataFrame
    facts: Facts
    parts: pd.DataFrame = field(default_factory=pd.DataFrame)
    fastest: pd.DataFrame = field(default_factory=pd.DataFrame)
    longest: pd.DataFrame = field(default_factory=pd.DataFrame)
    changes: pd.DataFrame = field(default_factory=pd.DataFrame)
    systems: pd.DataFrame = field(default_factory=pd.DataFrame)
    growth: pd.DataFrame = field(default_factory=pd.DataFrame)


def idle(frame: pd.DataFrame) -> pd.Series:
    """Return which rows of a sweep do no work and take no time, such as a collective on a single device."""
    return (frame[list(_WORK)] == 0).all(axis=1)


def checked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a sweep's table for charts: text columns as text, with ``series``, ``label`` and ``where``.

    Duplicate rows are merged, and rows without work are left out.

    Raises
    ------
    TableError
        If a column or every size is missing, a column is duplicated, there are no rows, a number is invalid,
        or two rows contradict each other.
    """
    check_columns(frame)
    if frame.empty:
        raise TableError("the table has no rows: nothing to compare")
    check_once(frame)
    frame = frame.reset_index(drop=True)  # so that row numbers are those of the file
    axis_of(frame)  # a table without a size has no cases to tell apart
    _check_numbers(frame)
    frame = frame[~idle(frame)]
    if frame.empty:
        raise TableError("no row of the table takes any time: nothing to compare")
    frame = with_text(frame)
    if "series" not in frame:
        frame = frame.assign(series=frame["options" if "options" in frame else "layer"].astype(str))
    if "where" not in frame:
        frame = frame.assign(where=frame["device"].astype(str))
    frame = _each_once(frame)
    return frame if "label" in frame else frame.assign(label=frame["series"])


def check_columns(frame: pd.DataFrame) -> None:
    """Refuse a table that lacks columns of a sweep's, or names in them.

    Raises
    ------
    TableError
        If it does.
    """
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        raise TableError(
            f"not a sweep's table: it lacks {', '.join(missing)}; make one with costmodel sweep, "
            "without --columns"
        )
    for name in NAMES:
        empty = np.flatnonzero(frame[[name]].isna().any(axis=1))
        if len(empty):
            raise TableError(f"{name} in row {empty[0] + 1}: empty, and every row needs it")


def with_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with all non-numeric columns as text."""
    others = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name].dtype)]
    return frame.assign(**{name: frame[name].astype(str) for name in others})


def _check_numbers(frame: pd.DataFrame) -> None:
    """Refuse values that are not numbers or are too small."""
    at_work = ~idle(frame)
    for name in NUMBERS:
        values = pd.to_numeric(frame[name], errors="coerce")
        wrong = ~np.isfinite(values) | (values < 0) | ((values == 0) & (name == "seconds") & at_work)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            least = "above 0" if name == "seconds" else "of at least 0"
            came = _plain(frame, row, name)
            raise TableError(f"{name} in row {row + 1}: wanted a number {least}, got {came}")


def _each_once(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without duplicates; refuse two rows of the same case that differ."""
    single = frame.drop_duplicates()
    case = list(dict.fromkeys([*(name for name in CASE if name in single), *sizes_of(single)]))
    same = single[single.duplicated(case, keep=False)]
    if same.empty:
        return single.reset_index(drop=True)
    first = same.groupby(case, dropna=False, sort=False).ngroup() == 0
    raise TableError(_contradiction(same[first].head(2), sizes_of(single)))


def _contradiction(pair: pd.DataFrame, sizes: list[str]) -> str:
    """Return the error text for two contradicting rows of the same case."""
    differing = [str(name) for name in pair if pair[name].nunique(dropna=False) > 1]
    column = "seconds" if "seconds" in differing else differing[0]
    rows = " and ".join(str(row + 1) for row in pair.index)
    values = " and ".join(_plain(pair, row, column) for row in pair.index)
    first = pair.iloc[0]
    at = ", ".join(f"{name} = {first[name]:,.0f}" for name in sizes if pd.notna(first[name]))
    return (
        f"rows {rows} are both {first['series']} on {first['where']} at {at}, with {column} {values}: "
        "keep one of them"
    )


def _plain(frame: pd.DataFrame, row: int, column: str) -> str:
    """Return a value as Python writes it: ``nan``, not ``np.float64(nan)``."""
    value = frame[column][row]
    return repr(value.item() if isinstance(value, np.generic) else value)


def sizes_of(frame: pd.DataFrame) -> list[str]:
    """Return the size columns of a table; ``state`` counts only if it is numeric, not cold or warm."""
    return [name for name in (*SIZES, STATE) if name in frame and pd.api.types.is_numeric_dtype(frame[name])]


def axis_of(frame: pd.DataFrame) -> str:
    """Return the size along which lines run: the length if it varies, else the size with most values."""
    counts = {name: frame[name].nunique() for name in sizes_of(frame)}
    if not any(counts.values()):
        raise TableError(f"not a sweep's table: it has no size, such as {', '.join(list(SIZES)[:4])}")
    return "seq" if counts.get("seq", 0) > 1 else max(counts, key=lambda name: counts[name])


def axis_title(name: str) -> str:
    """Return the axis title of a size."""
    return SIZES.get("state" if name == STATE else name, name)


def in_words(values: Iterable[str], words: Mapping[str, Sequence[str]]) -> pd.Categorical[str]:
    """Return the first word of each value in a table, else the value; as categories, in the table's order."""
    found = [words[value][0] if value in words else value for value in values]
    known = dict.fromkeys(name for name, *_ in words.values())
    return pd.Categorical(
        found, [*(name for name in known if name in found), *sorted(set(found) - set(known))]
    )


def thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """Return at most `MOST_ROWS` rows of a frame, evenly spaced in its order."""
    if len(frame) <= MOST_ROWS:
        return frame
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, MOST_ROWS).round().astype(int))]
