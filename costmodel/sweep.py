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
from costmodel.errors import SizeError, unknown_name
from costmodel.layers import Layer
from costmodel.predict import LIMITS, Prediction, as_device, predict

TIMES = ("seconds", "lower_s", "serial_s")
#: Counts that every row shows, beside its times.
COUNTS = (
    "matrix_flops",
    "vector_flops",
    "special_flops",
    "hbm_bytes",
    "l2_bytes",
    "depth",
    "launches",
    "footprint_bytes",
    "kept_bytes",
)


def log2_range(start: int, stop: int) -> NDArray[np.int64]:
    """Return the sizes start, 2·start, 4·start, … up to and including `stop`.

    Raises
    ------
    SizeError
        Unless 1 ≤ start ≤ stop.
    """
    if not 1 <= start <= stop:
        raise SizeError(f"log2_range: wanted 1 <= start <= stop, got {start} and {stop}")
    doublings = int(stop // start).bit_length() - 1
    return start * 2 ** np.arange(doublings + 1, dtype=np.int64)


def sweep(
    layers: Layer | Iterable[Layer],
    devices: hardware.Device | str | Path | Iterable[hardware.Device | str | Path],
    sizes: Mapping[str, ArrayLike] | None = None,
    *,
    rung: str | None = None,
    state: ArrayLike = "warm",
    framework: str | None = None,
    **grids: ArrayLike,
) -> pd.DataFrame:
    """Predict every layer on every device over the product of all grids.

    Parameters
    ----------
    layers, devices : one or several
        Each layer takes those of the sizes that it has.
    sizes, rung, state, framework : see `predict`
    **grids : int or 1-d sequence of int
        Sizes; every combination is one row.

    Returns
    -------
    DataFrame
        Tidy, SI units, the unit in the column's name: layer, options, dtype,
        direction, device, rung, state, constants_from, the sizes, ``seconds``,
        ``lower_s``, ``serial_s``, ``bound``, FLOPs, bytes, depth, launches,
        footprint. Sizes that a layer does not take are missing in its rows;
        the size `state` is in the column ``state_size``.

    Raises
    ------
    UnknownNameError, SizeError, UnavailableError
        See `predict`; also if no layer takes one of the sizes.
    """
    if not isinstance(state, str):
        grids, state = {**grids, "state": state}, "warm"
    grids = {**(sizes or {}), **grids}
    wanted = [layers] if isinstance(layers, Layer) else list(layers)
    several = [devices] if isinstance(devices, (hardware.Device, str, Path)) else devices
    machines = [as_device(device) for device in several]
    if not wanted or not machines:
        raise SizeError("sweep: wanted at least one layer and one device")
    _check_names(wanted, grids)
    frames = []
    for layer in wanted:
        shapes = product({name: values for name, values in grids.items() if name in layer.sizes()})
        for machine in machines:
            frames.append(
                as_frame(predict(layer, machine, shapes, rung=rung, state=state, framework=framework))
            )
    return concat(frames)


def _check_names(layers: Sequence[Layer], grids: Mapping[str, ArrayLike]) -> None:
    taken = sorted({name for layer in layers for name in layer.sizes()})
    for name in grids:
        if name not in taken:
            raise unknown_name(f"size of {', '.join(layer.name for layer in layers)}", name, taken)


def product(grids: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """Return every combination of the grids' values, one flat array for each size."""
    axes = [np.atleast_1d(np.asarray(values)) for values in grids.values()]
    for name, axis in zip(grids, axes, strict=True):
        if axis.ndim > 1:
            raise SizeError(
                f"size {name}: wanted one value or a list of them, got an array of {axis.ndim} axes"
            )
    return {n: a.reshape(-1) for n, a in zip(grids, np.meshgrid(*axes, indexing="ij"), strict=True)}


def as_frame(prediction: Prediction) -> pd.DataFrame:
    """Return one prediction, scalar or array, as a table."""
    rows = prediction.shape[0] if prediction.shape else 1
    layer = prediction.layer
    text = {
        "layer": layer.name,
        "options": layer.label,
        "dtype": layer.dtype,
        "direction": layer.direction,
        "device": prediction.device.name,
        "rung": prediction.rung,
        "state": prediction.state,
        "constants_from": prediction.constants_from,
    }
    columns: dict[str, Any] = {
        name: pd.Categorical.from_codes(np.zeros(rows, np.int8), pd.Index([v])) for name, v in text.items()
    }
    # A size may be called as one of the columns of text is: `state`.
    sizes = {name: f"{name}_size" if name in text else name for name in layer.sizes()}
    numbers = (*sizes.values(), *TIMES, *COUNTS)
    columns |= {name: np.empty(rows) for name in numbers}
    limits = np.empty(rows, np.int8)
    for where, part in prediction.blocks or [(slice(rows), prediction)]:
        values = {column: part.shapes[name] for name, column in sizes.items()} | {**part.counts}
        values |= {name: getattr(part, name) for name in TIMES}
        for name in numbers:
            columns[name][where] = values[name]
        limits[where] = part.limit
    columns["bound"] = pd.Categorical.from_codes(limits, pd.Index(LIMITS)).remove_unused_categories()
    order = [*text, *sizes.values(), *TIMES, "bound", *COUNTS]
    return pd.DataFrame({name: columns[name] for name in order}, copy=False)


def concat(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return frames one below the other, text columns kept categorical."""
    if len(frames) == 1:
        return frames[0]
    columns = list(dict.fromkeys(itertools.chain.from_iterable(frame.columns for frame in frames)))
    for name in columns:
        parts = [frame[name] for frame in frames if name in frame]
        if isinstance(parts[0].dtype, pd.CategoricalDtype):
            categories = list(dict.fromkeys(itertools.chain.from_iterable(p.cat.categories for p in parts)))
            for frame in frames:
                frame[name] = frame[name].cat.set_categories(categories)
    answers = [*TIMES, "bound", *COUNTS]
    ordered = [*(c for c in columns if c not in answers), *answers]
    return pd.concat(frames, ignore_index=True)[ordered]
