"""All layers compared: time over sequence length on a device, and asymptotic costs (Table 1).

Compared are all registered layers that have a length, so a new layer appears by itself.
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
#: The Transformer's big width (Vaswani et al. 2017, Table 3), and values of other required sizes.
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
    "streams": 4,
}
#: Keys that a query sees where others are left out, as in DeepSeek-V3.2; of experts, `top_k` is another one.
CHOSEN = 2048
#: Value of a size that is not listed above.
OTHER = 64


def length_of(layer: Layer) -> str | None:
    """Return the name of a layer's length: ``seq``, or the context ``seq_kv`` of one query; else None."""
    return next((name for name in ("seq", "seq_kv") if name in layer.required), None)


def sizes_of(layer: Layer) -> dict[str, int]:
    """Return all required sizes of a layer except the length; others keep their defaults."""
    length = length_of(layer)
    sizes = SIZES if "experts" in layer.required else {**SIZES, "top_k": CHOSEN}
    return {name: sizes.get(name, OTHER) for name in layer.required if name != length}


def layers(dtype: str) -> list[Layer]:
    """Return the forward pass of every layer that has a length, sorted by family."""
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
        The device's name in the table, the device, and its number format.
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
    """Return a layer's times; no rows if the device lacks something it needs (a link, a number format)."""
    name = length_of(layer) or "seq"
    found: dict[str, Any] = {"seq": [], "seconds": [], "bound": []}
    with contextlib.suppress(UnavailableError):
        p = predict(layer, device, {name: np.asarray(LENGTHS), **sizes_of(layer)}, rung=rung)
        found = {"seq": p.shapes[name], "seconds": p.seconds, "bound": p.bound}
    return pd.DataFrame(found).assign(layer=layer.name, family=layer.family)


def growth() -> pd.DataFrame:
    """Return Table 1 of "Attention Is All You Need" for every layer that has a length.

    Returns
    -------
    DataFrame
        Columns ``layer``, ``family``, ``complexity``, ``sequential``, ``path`` (growth classes in the paper's
        notation), ``exponent`` (power of the length in the total arithmetic), ``source``.
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
