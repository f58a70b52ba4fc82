"""Many predictions as one table: layers × devices × grids of sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from costmodel import hardware
from costmodel.arguments import typed
from costmodel.errors import SizeError, TableError
from costmodel.evaluate import as_whole
from costmodel.layers import Layer
from costmodel.prediction import LIMITS, Prediction
from costmodel.sweep.columns import (
    ANSWERS,
    SENT,
    TENSOR,
    TEXT,
    known_columns,
    number_of,
    sharing,
    text_of,
)
from costmodel.sweep.grid import Grid, as_axis, make_grid
from costmodel.sweep.points import gather


@typed
def log2_range(start: int, stop: int) -> NDArray[np.int64]:
    """Return the sizes start, 2·start, 4·start, … up to `stop`, as an array.

    Parameters
    ----------
    start : int
        The first size.
    stop : int
        Upper limit of the sizes.

    Raises
    ------
    SizeError
        Unless they are whole numbers and 1 ≤ start ≤ stop ≤ 2⁶².
    """
    try:
        first, last = (int(as_whole("log2_range", limit, 2.0**62)) for limit in (start, stop))
    except (SizeError, TypeError):  # not one whole number of at least 1
        first, last = 1, 0
    if first > last:
        wanted = "wanted whole numbers 1 <= start <= stop <= 2**62"
        raise SizeError(f"log2_range: {wanted}, got {start!r} and {stop!r}")
    doublings = (last // first).bit_length() - 1
    return first * 2 ** np.arange(doublings + 1, dtype=np.int64)


@typed
def sweep(
    layers: Layer | Iterable[Layer],
    devices: hardware.Device | str | Path | Iterable[hardware.Device | str | Path],
    sizes: Mapping[str, ArrayLike] | None = None,
    *,
    rung: str | None = None,
    state: ArrayLike = "warm",
    framework: str | None = None,
    where: str | None = None,
    prices: Mapping[str, float] | None = None,
    **grids: ArrayLike,
) -> pd.DataFrame:
    """Predict every layer on every device over the product of all grids.

    The whole table is held in memory. `stream` writes tables of any length; `best` and `front` search a grid
    without making its table.

    Parameters
    ----------
    layers : Layer or iterable of Layer
        The layers; each takes those of the sizes that it has.
    devices : Device, str or Path, or iterable of them
        One or several devices, as for `predict`.
    sizes : mapping, optional
        Sizes by name, in addition to those given as keywords. Sizes named like another parameter
        (``devices``) can be given here.
    rung, state, framework : str, optional
        See `predict`.
    where : str, optional
        Condition on the rows to keep: ``"seconds < 1e-3 and heads % kv_heads == 0"``.
    prices : mapping of str to float, optional
        Device → price per hour, in any currency.
    **grids : int or 1-d sequence of int
        Sizes; every combination is one row, also if a layer, a device or a size is given twice.

    Returns
    -------
    DataFrame
        One row per prediction, in SI units, with the unit in the column's name: layer, options, dtype,
        direction, device, rung, state, constants_from, the sizes, ``seconds``, ``lower_s``, ``serial_s``,
        ``bound``, FLOPs, bytes, depth, launches, footprint, ``energy_j`` (seconds × TDP: an upper limit of
        the energy, not a measured one), and with `prices` ``cost`` (in their currency). Sizes that a layer
        does not take are missing in its rows; the size `state` is in the column ``state_size``.

    Raises
    ------
    UnknownNameError, SizeError, UnavailableError, CostmodelError
        As for `predict`; also if no layer takes one of the sizes, or `where` is not a valid condition.
    """
    return whole(
        make_grid(
            layers,
            devices,
            sizes,
            rung=rung,
            state=state,
            framework=framework,
            where=where,
            prices=prices,
            **grids,
        )
    )


@typed
def whole(grid: Grid) -> pd.DataFrame:
    """Return a grid as one table."""
    frames = []
    for index, case in enumerate(grid.cases):
        found = itertools.chain.from_iterable(
            grid.predicted(chunk) for chunk in grid.chunks if chunk.case == index
        )
        names = [name for name in _columns(case.layer, grid) if name not in TEXT]
        frames.append(_frame(case.text, gather(found, names, case.points)))
    return concat(frames)


@typed
def rows_of(grid: Grid, numbers: Sequence[int]) -> pd.DataFrame:
    """Return the rows of points given by number, in the order given."""
    for number in numbers:
        if not 0 <= number < grid.points:
            raise SizeError(f"rows_of: wanted numbers of points from 0 to {grid.points - 1}, got {number}")
    frames, places = [], []
    for points, where in grid.at(numbers):
        names = [name for name in _columns(points.case.layer, grid) if name not in TEXT]
        frames.append(_frame(points.case.text, gather([points], names, points.count)))
        places.append(where)
    if not frames:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in grid.columns})
    order = np.argsort(np.concatenate(places), kind="stable")
    # Columns of layers that none of the points belongs to are missing values, as in the whole table.
    return concat(frames).iloc[order].reset_index(drop=True).reindex(columns=list(grid.columns))


def _columns(layer: Layer, grid: Grid) -> tuple[str, ...]:
    return known_columns(layer.sizes(), beside=grid.columns)


@typed
def product(grids: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """Return every combination of the values of sizes, as one flat array per size."""
    axes = [as_axis(name, values) for name, values in grids.items()]
    return {n: a.reshape(-1) for n, a in zip(grids, np.meshgrid(*axes, indexing="ij"), strict=True)}


@typed
def as_frame(prediction: Prediction) -> pd.DataFrame:
    """Return one prediction, scalar or array, as a table."""
    rows = prediction.shape[0] if prediction.shape else 1
    layer = prediction.layer
    beside = [*[TENSOR] * (sharing(layer) > 1), *[SENT] * layer.cost.sends]
    found = known_columns(layer.sizes(), beside=beside)
    names = [name for name in found if name not in TEXT]
    columns = {name: np.empty(rows, np.int8 if name == "bound" else np.float64) for name in names}
    for where, part in prediction.blocks or [(slice(rows), prediction)]:
        for name in names:
            columns[name][where] = part.limit if name == "bound" else number_of(part, name)
    return _frame(text_of(prediction), columns)


def _frame(text: Mapping[str, str], columns: Mapping[str, NDArray[Any]]) -> pd.DataFrame:
    rows = len(next(iter(columns.values())))
    series: dict[str, Any] = {
        name: pd.Categorical.from_codes(np.zeros(rows, np.int8), pd.Index([v])) for name, v in text.items()
    }
    for name, values in columns.items():
        series[name] = values
        if name == "bound":
            limits = pd.Categorical.from_codes(values, pd.Index(LIMITS))
            series[name] = limits.remove_unused_categories()
    return pd.DataFrame(series, copy=False)


@typed
def concat(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return tables concatenated by rows, with text columns kept categorical."""
    if not frames:
        raise TableError("concat: wanted one table or more, got none")
    if len(frames) == 1:
        return frames[0]
    columns = list(dict.fromkeys(itertools.chain.from_iterable(frame.columns for frame in frames)))
    for name in columns:
        parts = [frame[name] for frame in frames if name in frame]
        if isinstance(parts[0].dtype, pd.CategoricalDtype):
            categories = list(dict.fromkeys(itertools.chain.from_iterable(p.cat.categories for p in parts)))
            for frame in frames:
                frame[name] = frame[name].cat.set_categories(categories)
    answers = [name for name in ANSWERS if name in columns]
    ordered = [*(c for c in columns if c not in answers), *answers]
    return pd.concat(frames, ignore_index=True)[ordered]
