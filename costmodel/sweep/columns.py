"""Columns of a sweep's table, and their values for a prediction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from costmodel.layers import Layer
from costmodel.prediction import Prediction

#: Text columns, constant over the rows of a case.
TEXT = ("layer", "options", "dtype", "direction", "device", "rung", "state", "constants_from")
TIMES = ("seconds", "lower_s", "serial_s")
#: Counts in every row, beside the times.
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
#: Number of devices that share a model; only in tables with such a model. Counts are those of one device.
TENSOR = "tensor"
#: Bytes sent to other devices; only in tables with a layer that sends any.
SENT = "link_bytes"
#: Energy of a run: its time at the TDP of all devices [J]; missing if the spec has no TDP.
ENERGY = "energy_j"
#: Cost of a run: its time at the price per hour of all devices [currency of the price].
COST = "cost"
_HOUR = 3600.0
#: All result columns in order, and those that only some tables have.
ANSWERS = (TENSOR, *TIMES, "bound", *COUNTS, SENT, ENERGY, COST)
RARE = (TENSOR, SENT, COST)


def size_column(name: str) -> str:
    """Return the column name of a size; the size `state` is renamed, because a text column has that name."""
    return f"{name}_size" if name in TEXT else name


def known_columns(sizes: Sequence[str], *, beside: Collection[str] = ()) -> tuple[str, ...]:
    """Return all columns of a table with these sizes, in order; `beside`: which of the rare ones it has."""
    return (*TEXT, *map(size_column, sizes), *(n for n in ANSWERS if n not in RARE or n in beside))


def text_of(prediction: Prediction) -> dict[str, str]:
    """Return the text columns of a prediction."""
    layer = prediction.layer
    return {
        "layer": layer.name,
        "options": layer.label,
        "dtype": layer.dtype,
        "direction": layer.direction,
        "device": prediction.device.name,
        "rung": prediction.rung,
        "state": prediction.state,
        "constants_from": prediction.constants_from,
    }


def sharing(layer: Layer) -> int:
    """Return the number of devices that share a model; 1 for any other layer."""
    return int(getattr(layer, TENSOR, 1))


def number_of(prediction: Prediction, name: str, price: float | None = None) -> Any:
    """Return a numeric column, broadcastable to the prediction's shape; NaN if it has no value."""
    if name in TIMES:
        return getattr(prediction, name)
    if name in COUNTS:
        return prediction.counts[name]
    if name == SENT:
        return prediction.counts.get(name, 0.0)
    if name == TENSOR:
        return sharing(prediction.layer)
    if name in (ENERGY, COST):
        each = prediction.device.tdp_w if name == ENERGY else price and price / _HOUR
        return np.nan if each is None else prediction.seconds * (sharing(prediction.layer) * each)
    size = name if name in prediction.shapes else name.removesuffix("_size")
    return prediction.shapes[size] if size in prediction.layer.sizes() else np.nan
