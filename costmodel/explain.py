"""What a prediction's time goes by, and what would change it: figures of the device, sizes, choices.

Elasticities are exact: at rung ``bound`` a kernel's time is one of a few symbolic terms, and that of the
largest is differentiated. An elasticity of −0.7 to the memory bandwidth says that 1 % more of it takes
0.7 % less time; the elasticities to all rates together are −1. What-ifs are predictions made again, on
the same rung, with one thing changed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sympy as sp

from costmodel.arguments import typed
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, SizeError
from costmodel.hardware import Device
from costmodel.layers import Layer
from costmodel.layers._stored import saves
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.predict import predict, several
from costmodel.prediction import Prediction
from costmodel.symbols import (
    CausalTiles,
    CeilDiv,
    CeilLog,
    CeilLog2,
    ChunkPairs,
    Distinct,
    as_symbols,
    symbol,
)

#: Figures that are doubled: bandwidth of the memory, units, clock, capacity of L2; and where something is
#: sent, the links within a node.
FIGURES, SENDING = ("hbm", "units", "clock", "l2"), ("link",)
#: Formats that are tried where they are narrower and the device has them.
FORMATS = ("bf16", "fp8", "fp4")
#: Bytes of the formats in whose arithmetic there are kernels that widen what is stored narrower.
_SIXTEEN_BIT = 2
#: Formats that weights, or a cache, are stored in while the arithmetic stays as it is.
STORED = (("weights", "int8"), ("weights", "int4"), ("cache", "fp8"))
#: Choices of layers that are a matter of how, not of what is computed.
CHOICES: tuple[tuple[str, Any], ...] = (
    ("wavefront", True),
    ("persistent", True),
    ("fused", True),
    ("attention", "tiled"),
)

#: Where no figure alone makes it so many times as fast, two together may: limits that are near one another.
_ALONE = 1.25

#: To 30 digits: a fraction to the power of all tokens, kept exactly, has millions of them.
_ONE = sp.Float(1, 30)
#: Functions that go up in steps, and what they are between the steps: it is that whose slope is meant.
SMOOTH: tuple[tuple[Any, Any], ...] = (
    (CeilDiv, lambda a, b: a / b),
    (CeilLog2, lambda x: sp.log(x) / sp.log(2)),
    (CeilLog, lambda x, base: sp.log(x) / sp.log(base)),
    (ChunkPairs, lambda n, c: n * (c + 1) / 2),
    (CausalTiles, lambda n, n_kv, c: n * (n_kv - (n - 1) / 2) / c),
    (Distinct, lambda n, k, draws: n * (1 - (1 - k * _ONE / n) ** draws)),
    (sp.ceiling, lambda x: x),
    (sp.floor, lambda x: x),
)


@typed
def elasticities(prediction: Prediction) -> dict[str, float]:
    """Return the relative change of the cold roofline's time for one of each rate and size.

    Parameters
    ----------
    prediction : Prediction
        Of one shape, at any rung; what is differentiated is its roofline.

    Returns
    -------
    dict of str to float
        Limit (``hbm``, ``matrix:bf16``, …) or size (``seq``, …) → d ln seconds / d ln of it. Where two
        terms are equal, that of the one named first. What goes up in steps (tiles, levels of a tree) is
        taken as it goes between them.

    Raises
    ------
    SizeError
        If the prediction is of many shapes, or takes no time.
    """
    roof = _single(prediction)
    values = {symbol(name): sp.Integer(int(value)) for name, value in roof.shapes.items()}
    links = {"link": roof.device.link_bandwidth, "sums": roof.device.sum_bandwidth}
    total: sp.Expr = sp.Integer(0)
    shares: dict[str, float] = {}
    before: tuple[sp.Expr, str, float] = (total, "", 0.0)
    for part, (repeats, seconds, terms) in zip(roof.plan.phases, roof.parts, strict=True):
        label = max(terms, key=lambda name: float(terms[name]))
        counts = {name: part.phase.flops[key] / rate for name, key, rate in part.rates}
        counts["hbm"] = part.phase.hbm / roof.device.hbm_bandwidth
        counts["link"] = part.phase.link / (links[part.phase.sent_by] or np.inf)
        alone = (part.phase.repeats * counts[label], label, float(repeats * seconds))
        # Of a kernel that runs beside the one before it only what is longer counts.
        for sign, (count, name, time) in _counted(alone, before if part.phase.overlaps else None):
            total += sign * count
            limit = roof.named(name)
            shares[limit] = shares.get(limit, 0.0) - sign * time
        before = alone
    whole = float(roof.seconds)
    found = {label: share / whole for label, share in sorted(shares.items(), key=lambda item: item[1])}
    total = total.xreplace(_followed(roof))
    for name in roof.layer.sizes():
        if total.has(symbol(name)):
            found[name] = _slope(total, symbol(name), values) * float(roof.shapes[name]) / whole
    return found


def _slope(total: sp.Expr, size: sp.Symbol, values: Mapping[sp.Symbol, sp.Expr]) -> float:
    """Return the slope along one size; steps in the others are where they are."""
    along = total.xreplace({other: value for other, value in values.items() if other != size})
    for steps, between in SMOOTH:
        along = along.replace(steps, between)
    # Of a symbol known to be positive sympy looks for the roots of the slope, a polynomial as high as tokens.
    plain = sp.Dummy()
    return float(sp.diff(along.xreplace({size: plain}), plain).xreplace({plain: values[size]}).evalf())


def _counted(
    alone: tuple[sp.Expr, str, float], beside: tuple[sp.Expr, str, float] | None
) -> list[tuple[int, tuple[sp.Expr, str, float]]]:
    """Return what is added of a kernel's count, limit and time, and taken off of that it runs beside."""
    if beside is None:
        return [(1, alone)]
    return [(1, alone), (-1, beside)] if alone[2] > beside[2] else []


def _followed(roof: Prediction) -> dict[sp.Symbol, sp.Expr]:
    """Return the sizes that follow from others, such as ``d_ff`` from ``d_model``, by their defaults."""
    names = {name: symbol(name) for name in roof.layer.sizes()}
    follow: dict[sp.Symbol, sp.Expr] = {}
    for name, default in roof.layer.defaults.items():
        if isinstance(default, str):
            expression = as_symbols(default).xreplace(follow)
            value = expression.xreplace({names[n]: sp.Float(float(roof.shapes[n])) for n in names})
            if value == float(roof.shapes[name]):
                follow[names[name]] = expression
    return follow


def _single(prediction: Prediction) -> Prediction:
    """Return the roofline of a prediction of one shape."""
    if prediction.shape:
        raise SizeError("elasticities are of one shape; give one value for each size")
    _check_time(prediction)
    if prediction.rung == "bound":
        return prediction
    return predict(prediction.layer, prediction.device, _given(prediction), rung="bound")


def _check_time(prediction: Prediction) -> None:
    """Refuse what takes no time: no share of it is anything's, and nothing makes it shorter."""
    if not prediction.seconds:
        raise SizeError(f"{prediction.layer.label} takes no time at these sizes: there is nothing to explain")


def _given(prediction: Prediction) -> dict[str, Any]:
    return {name: prediction.shapes[name] for name in prediction.layer.sizes()}


@typed
def what_if(
    prediction: Prediction, devices: Device | str | Path | Iterable[Device | str | Path] = ()
) -> pd.DataFrame:
    """Return what the time would be with one thing changed, the most helpful first.

    Rung, state, framework, harness and kernel are those that the prediction was asked for; but where
    constants of the device's own were insisted on, changed ones rest on what there is.

    Parameters
    ----------
    prediction : Prediction
        Of one shape.
    devices : one or several Device, str or Path
        Other devices to try.

    Returns
    -------
    DataFrame
        ``change`` (in words), ``kind`` (``device``, ``figure``, ``format`` or ``choice``), ``seconds``,
        ``speedup`` (over the prediction), ``rung``, ``constants_from``, ``alike``. A figure that the spec
        lacks is not tried, nor is a choice listed that changes neither a count nor the time; where no
        figure helps much by itself, the two that help most together stand beside them. Not alike, and
        last, are formats whose kernels have constants of other origin than the prediction's: part of the
        difference is theirs.

    Raises
    ------
    SizeError
        If the prediction is of many shapes, or takes no time.
    UnavailableError, UnknownNameError
        If there is no prediction on one of the devices asked for.
    """
    if prediction.shape:
        raise SizeError("what-ifs are of one shape; give one value for each size")
    _check_time(prediction)
    asked: dict[str, Any] = dict(prediction.plan.asked)
    if asked["rung"] == "calibrated":
        asked["rung"] = None
    rows = []
    for kind, words, layer, device in _changes(prediction, several(devices)):
        try:
            other = _again(prediction, layer, device, asked)
        except CostmodelError:
            if kind == "device":
                raise  # it was asked for
            continue  # a format that the device or the layer does not have
        if kind != "choice" or not _alike(prediction, other):
            rows.append(_row(prediction, kind, words, other))
    best = max((row["speedup"] for row in rows if row["kind"] == "figure"), default=1.0)
    if best < _ALONE:
        pairs = (
            _row(prediction, kind, words, _again(prediction, layer, device, asked))
            for kind, words, layer, device in _pairs(prediction)
        )
        pair = max(pairs, key=lambda row: float(row["speedup"]), default=None)
        rows += [pair] if pair and pair["speedup"] > _ALONE * best else []
    columns = ["change", "kind", "seconds", "speedup", "rung", "constants_from", "alike"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["alike", "speedup"], ascending=False, kind="stable", ignore_index=True)


def _again(prediction: Prediction, layer: Layer, device: Any, asked: Mapping[str, Any]) -> Prediction:
    """Return the prediction made again, of another layer or on another device."""
    return predict(layer, device, _given(prediction), **asked)


def _alike(prediction: Prediction, other: Prediction) -> bool:
    """Return whether a choice is none at these sizes: it changes neither a count nor the time."""
    return bool(other.seconds == prediction.seconds) and other.counts == prediction.counts


def _row(prediction: Prediction, kind: str, change: str, other: Prediction) -> dict[str, Any]:
    """Return what a change makes of a prediction."""
    return {
        "change": change,
        "kind": kind,
        "seconds": float(other.seconds),
        "speedup": float(prediction.seconds) / float(other.seconds),
        "rung": other.rung,
        "constants_from": other.constants_from,
        "alike": kind != "format" or _origins(other) == _origins(prediction),
    }


def _origins(prediction: Prediction) -> set[tuple[str, str]]:
    """Return each kernel with whose constants it has, the device itself by its name."""
    own = prediction.device.name
    choices = ((part.kernel, part.choice.whose) for part in prediction.plan.phases)
    return {(kernel, own if origin == "self" else origin) for kernel, origin in choices}


def _changes(
    prediction: Prediction, devices: Iterable[Device | str | Path]
) -> Iterator[tuple[str, str, Layer, Any]]:
    """Yield (kind, words, layer, device) of everything that is tried."""
    layer, device = prediction.layer, prediction.device
    for name in _figures(prediction):
        changed = _doubled(device, name)
        if changed is not None:
            yield "figure", f"{name} times 2", layer, changed
    for dtype in FORMATS:
        if parse_dtype(dtype).bytes < parse_dtype(layer.dtype).bytes:
            narrower = _in_dtype(layer, dtype)
            if narrower is not None:
                yield "format", f"in {dtype}", narrower, device
    for what, kind in STORED if parse_dtype(layer.dtype).bytes == _SIXTEEN_BIT else ():
        stored = _storing(layer, what, kind)
        if stored is not None:
            yield "format", f"{what} in {kind}", stored, device
    for option, value in CHOICES:
        if getattr(layer, option, value) != value:
            yield "choice", f"{option} = {value}", _replaced(layer, option, value), device
    longer = _longer_tile(prediction)
    if longer:
        yield (
            "choice",
            f"a tile twice as long, {longer[0]} × {longer[1]}",
            _replaced(layer, "tile", longer),
            device,
        )
    for other in devices:
        yield "device", f"on {getattr(other, 'name', other)}", layer, other


def _figures(prediction: Prediction) -> tuple[str, ...]:
    """Return the figures of the device that a prediction may rest on."""
    sends = any(part.sends for part in prediction.plan.phases)
    return (*FIGURES, *(SENDING if sends else ()), prediction.layer.dtype)


def _pairs(prediction: Prediction) -> Iterator[tuple[str, str, Layer, Device]]:
    """Yield two figures doubled together, as `_changes` does."""
    for names in itertools.combinations(_figures(prediction), 2):
        changed = _doubled(prediction.device, *names)
        if changed is not None:
            yield "figure", f"{' and '.join(names)} times 2", prediction.layer, changed


def _doubled(device: Device, *names: str) -> Device | None:
    """Return a device with twice some figures; None where its spec lacks one, or it would be impossible."""
    try:
        return device.replace(**dict.fromkeys(names, "2x"))
    except CostmodelError:
        return None


def _longer_tile(prediction: Prediction) -> tuple[int, int] | None:
    """Return the layer's tile with twice the rows, whether or not it fits.

    None where there are no tiles, or the tile is a library's own and not the layer's to choose.
    """
    layer = prediction.layer
    if not isinstance(layer, TiledAttention) or (layer.tile is None and prediction.rung != "bound"):
        return None
    values = {symbol(name): int(value) for name, value in prediction.shapes.items()}
    rows, cols = (int(side.xreplace(values)) for side in (layer.tile_rows, layer.tile_cols))
    return 2 * rows, cols


def _replaced(layer: Layer, option: str, value: Any) -> Layer:
    return dataclasses.replace(layer, **{option: value})


def _storing(layer: Layer, what: str, kind: str) -> Layer | None:
    """Return the layer, or model, with weights or cache stored so; None where it has none that are wider."""
    whole = getattr(layer, "storing", None)
    if whole is None and not saves(layer, what, kind):
        return None
    try:
        stored: Layer = whole(**{what: kind}) if whole else _replaced(layer, what, kind)
    except CostmodelError:
        return None  # of training, or where a product has no such kernel
    return None if stored == layer else stored


def _in_dtype(layer: Layer, dtype: str) -> Layer | None:
    """Return the layer in another format, a model with its parts; None where it refuses."""
    whole = getattr(layer, "in_dtype", None)
    try:
        return whole(dtype) if whole else _replaced(layer, "dtype", dtype)
    except CostmodelError:
        return None
