"""Split rows into those that constants are fitted on and held-out ones, by their shape alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.errors import TableError

#: Share of the shapes that are held out.
SHARE = 0.30
#: Least number of rows for a fit.
FEWEST = 8
#: Devices on which nothing is ever fitted; accuracy on them is judged elsewhere.
NEVER_FITTED = frozenset(
    {
        "nvidia/h100-sxm",
        "nvidia/gb200",
        "nvidia/rtx-pro-6000-server",
        "nvidia/l4",
        "amd/mi100",
        "amd/mi250-gcd",
        "nvidia/gtx-1080-ti",
        "nvidia/titan-xp",
    }
)
#: Columns that define a shape.
SIZES = (
    *("b", "m", "n", "k", "batch", "seq_q", "seq_kv", "heads_q", "heads_kv", "head_dim"),
    *("seq", "hidden", "input", "num_layers"),
)


def kept_aside(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are of devices on which nothing is ever fitted."""
    aside = {label: hardware.load(str(label)).name in NEVER_FITTED for label in rows["gpu"].unique()}
    return rows["gpu"].map(aside).astype(bool)


def held_out(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows are held out.

    Only the hash of the sizes decides, so a shape is held out in all operations, formats and frameworks, and
    on all devices.

    Parameters
    ----------
    rows : DataFrame
        Rows with the size columns of measured tables; missing or empty sizes are ignored.
    """
    return _shares(rows) < SHARE


def parted(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to fit constants on, and the held-out rows.

    Raises
    ------
    TableError
        If there are too few of either.
    """
    out = held_out(rows)
    fitted, judged = rows[~out], rows[out]
    if len(fitted) < FEWEST or judged.empty:
        raise TableError(f"{len(fitted)} rows to fit on and {len(judged)} to judge by; wanted {FEWEST} and 1")
    return fitted, judged


def second_half(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows are in the second half, by a hash of the sizes independent of `held_out`'s.

    It serves to take intervals from one half of the held-out rows, and to judge them by the other.
    """
    return _shares(rows, "half of ") < 0.5


def shapes(rows: pd.DataFrame) -> NDArray[np.intp]:
    """Return a number of each row's shape: equal for rows of equal sizes."""
    return _distinct(rows)[2]


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows sorted by shape, time and text, independently of their original order."""
    texts = [name for name in ("op", "kernel", "direction", "case", "timer") if name in rows]
    keys = rows[["latency_s", *texts]].astype(dict.fromkeys(texts, str)).assign(shape=shapes(rows))
    return rows.iloc[keys.reset_index(drop=True).sort_values(["shape", "latency_s", *texts]).index]


def _distinct(rows: pd.DataFrame) -> tuple[list[str], NDArray[np.float64], NDArray[np.intp]]:
    """Return the existing size columns, the distinct shapes, and the index of each row's shape."""
    names = [name for name in SIZES if name in rows]
    sizes = rows[names].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    distinct, places = np.unique(np.nan_to_num(sizes, nan=-1.0), axis=0, return_inverse=True)
    return names, distinct, places.reshape(-1)


def _shares(rows: pd.DataFrame, salt: str = "") -> NDArray[np.float64]:
    """Return a pseudo-random number from 0 to 1 for each row, equal for rows of equal sizes."""
    names, distinct, places = _distinct(rows)
    drawn = np.array([_drawn(names, shape, salt) for shape in distinct], dtype=np.float64)
    return np.asarray(drawn[places], dtype=np.float64)


def _drawn(names: list[str], shape: NDArray[np.float64], salt: str) -> float:
    text = ",".join(f"{name}={value:.0f}" for name, value in zip(names, shape, strict=True) if value >= 0)
    return int(hashlib.sha256((salt + text).encode()).hexdigest()[:8], 16) / 2**32
