"""The tables that reports are made of, and the words for their columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from costmodel.errors import TableError

#: Size columns, in the order in which they are looked at, with the words for an axis.
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
    "num_layers": "layers stacked",
    "window": "window [tokens]",
    "block": "block",
    "experts": "experts",
    "top_k": "experts or keys chosen",
    "state": "state entries",
    "vocab": "vocabulary",
    "m": "m",
    "n": "n",
    "k": "k",
}
#: What a sweep's table has to have to be compared.
NEEDED = ("layer", "device", "dtype", "seconds", "lower_s", "bound", "matrix_flops", "hbm_bytes", "depth")
#: As many rows as one chart draws and a page carries.
MOST_ROWS = 5_000


@dataclass(frozen=True, eq=False)
class Facts:
    """What predictions rest on.

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
        Of the program.
    """

    devices: pd.DataFrame
    figures: pd.DataFrame
    sources: pd.DataFrame
    layers: pd.DataFrame
    version: str


@dataclass(frozen=True, eq=False)
class Frames:
    """The tables of a report; all but the rows may be empty.

    ``where`` is a device in words, ``series`` what a line stands for, and ``label``
    the same with the number format.

    Attributes
    ----------
    rows : DataFrame
        A sweep's columns, and where, series, and what else tells cases apart.
    parts : DataFrame
        seq, part (kind of kernel), seconds, series, and the same.
    fastest : DataFrame
        row (device in words, or a count), of (time, FLOPs, depth), series that needs least (categories:
        all), and from_ and to_ before the size that grows.
    longest : DataFrame
        where, series, longest_seq [tokens], hbm_capacity_bytes.
    systems : DataFrame
        where, layer, family, seq, seconds, bound: every layer there is, on every device.
    growth : DataFrame
        layer, family, complexity, sequential, path, exponent, source: how every layer grows.
    facts : Facts
        What they rest on.
    """

    rows: pd.DataFrame
    facts: Facts
    parts: pd.DataFrame = field(default_factory=pd.DataFrame)
    fastest: pd.DataFrame = field(default_factory=pd.DataFrame)
    longest: pd.DataFrame = field(default_factory=pd.DataFrame)
    systems: pd.DataFrame = field(default_factory=pd.DataFrame)
    growth: pd.DataFrame = field(default_factory=pd.DataFrame)


def read(path: Path) -> pd.DataFrame:
    """Return a table from a CSV or Parquet file.

    Raises
    ------
    TableError
        If there is none, or it cannot be read.
    """
    readers: dict[str, Callable[..., pd.DataFrame]] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TableError(f"cannot read {path}: wanted a .csv or .parquet file, as costmodel sweep writes it")
    try:
        frame = reader(path)
    except FileNotFoundError as error:
        raise TableError(f"cannot read {path}: there is no such file") from error
    except (OSError, ValueError, pd.errors.ParserError) as error:
        reason = (str(error).strip().splitlines() or ["it is empty"])[0]
        raise TableError(f"cannot read {path}: {reason}") from error
    return frame


def checked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a sweep's table as charts take it: text as text, with ``series``, ``label`` and ``where``.

    Raises
    ------
    TableError
        If a column is missing, there are no rows, or a number is none.
    """
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        raise TableError(f"not a sweep's table: it lacks {', '.join(missing)}; make one with costmodel sweep")
    if frame.empty:
        raise TableError("the table has no rows: nothing to compare")
    for name in ("seconds", "matrix_flops", "hbm_bytes"):
        values = pd.to_numeric(frame[name], errors="coerce")
        wrong = ~np.isfinite(values) | (values < 0)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise TableError(f"{name} in row {row + 1}: wanted a number, got {frame[name].iloc[row]!r}")
    text = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name].dtype)]
    frame = frame.assign(**{name: frame[name].astype(str) for name in text})
    if "series" not in frame:
        frame = frame.assign(series=frame["options" if "options" in frame else "layer"].astype(str))
    if "where" not in frame:
        frame = frame.assign(where=frame["device"].astype(str))
    return frame if "label" in frame else frame.assign(label=frame["series"])


def sizes_of(frame: pd.DataFrame) -> list[str]:
    """Return the size columns of a table; ``state`` is one only where it is a number, not cold or warm."""
    return [name for name in SIZES if name in frame and pd.api.types.is_numeric_dtype(frame[name].dtype)]


def axis_of(frame: pd.DataFrame) -> str:
    """Return the size that lines run along: the length where it varies, else what varies most."""
    counts = {name: frame[name].nunique() for name in sizes_of(frame)}
    if not counts:
        raise TableError(f"not a sweep's table: it has no size, such as {', '.join(list(SIZES)[:4])}")
    return "seq" if counts.get("seq", 0) > 1 else max(counts, key=lambda name: counts[name])


def axis_title(name: str) -> str:
    """Return the words for a size."""
    return SIZES.get(name, name)


def thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """Return at most `MOST_ROWS` rows of a frame, evenly over its order."""
    if len(frame) <= MOST_ROWS:
        return frame
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, MOST_ROWS).round().astype(int))]
