"""Every layer side by side: its time over length on a device, and its row of Table 1.

Layers are those of the registry that have a length; one that is added shows up by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from costmodel import hardware
from costmodel.asymptotics import degree, in_width, table1
from costmodel.errors import UnavailableError
from costmodel.layers import Layer, classes
from costmodel.predict import predict

#: 128 to 131,072 tokens.
LENGTHS = tuple(128 * 4**i for i in range(6))
#: The Transformer's big width (Vaswani et al. 2017, Table 3), and what else layers need to be given.
SIZES = {
    "batch": 8,
    "d_model": 1024,
    "hidden": 1024,
    "heads": 16,
    "head_dim": 64,
    "vocab": 32768,
    "num_layers": 1,
    "window": 512,
    "experts": 8,
    "top_k": 2,
    "devices": 8,
    "store": 65536,
}
#: Of a size that is not among them.
OTHER = 64


def length_of(layer: Layer) -> str | None:
    """Return the size that is a layer's length: ``seq``, or the context of one query; None if it has none."""
    return next((name for name in ("seq", "seq_kv") if name in layer.required), None)


def sizes_of(layer: Layer) -> dict[str, int]:
    """Return all sizes but the length that a layer has to be given; the rest have their defaults."""
    length = length_of(layer)
    return {name: SIZES.get(name, OTHER) for name in layer.required if name != length}


def layers(dtype: str) -> list[Layer]:
    """Return every layer that has a length, forward, by family."""
    every: list[Any] = sorted(classes().values(), key=lambda layer: (layer.family, layer.name))
    made = [layer(dtype=dtype) for layer in every]
    return [layer for layer in made if length_of(layer)]


def times(
    places: Iterable[tuple[str, hardware.Device, str]],
    *,
    rung: str | None = None,
) -> pd.DataFrame:
    """Return the time of every layer over its length (``LENGTHS``), on every device that can run it.

    Parameters
    ----------
    places : iterable of (str, Device, str)
        What the device is called, itself, and its number format.
    rung : str, optional
        See `predict`.

    Returns
    -------
    DataFrame
        Columns ``where``, ``layer``, ``family``, ``seq`` [tokens], ``seconds``, ``bound``.
    """
    return pd.concat(
        [
            _times(layer, device, rung).assign(where=where)
            for where, device, dtype in places
            for layer in layers(dtype)
        ],
        ignore_index=True,
    )


def _times(layer: Layer, device: hardware.Device, rung: str | None) -> pd.DataFrame:
    """Return a layer's times; no row where the device lacks what it needs (a link, a number format)."""
    name = length_of(layer) or "seq"
    found: dict[str, Any] = {"seq": [], "seconds": [], "bound": []}
    with contextlib.suppress(UnavailableError):
        p = predict(layer, device, {name: np.asarray(LENGTHS), **sizes_of(layer)}, rung=rung)
        found = {"seq": p.shapes[name], "seconds": p.seconds, "bound": p.bound}
    return pd.DataFrame(found).assign(layer=layer.name, family=layer.family)


def growth() -> pd.DataFrame:
    """Return "Attention Is All You Need", Table 1, for every layer that has a length.

    Returns
    -------
    DataFrame
        Columns ``layer``, ``family``, ``complexity``, ``sequential``, ``path`` (classes in the paper's
        letters), ``exponent`` (power of the length in all arithmetic), ``source``.
    """
    rows = []
    for layer in layers("bf16"):
        (row,) = table1([layer])
        arithmetic = in_width(layer, layer.cost.flops.total)
        rows.append(
            {
                "layer": layer.name,
                "family": layer.family,
                "complexity": str(row.complexity),
                "sequential": str(row.sequential),
                "path": str(row.path),
                "exponent": float(degree(arithmetic, length_of(layer) or "seq")),
                "source": layer.source,
            }
        )
    return pd.DataFrame(rows)
