"""Sensitivity of a predicted time to device figures, sizes, formats and layer options.

Elasticities are exact: at rung ``bound`` a kernel's time is the largest of a few symbolic terms, and that
term is differentiated. An elasticity of −0.7 to the memory bandwidth means that 1 % more bandwidth takes
0.7 % less time; the elasticities to all rates sum to −1. A what-if is a second prediction on the same rung
with one thing changed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
    Factors,
    as_symbols,
    symbol,
)

#: Device figures that are doubled: memory bandwidth, number of units, clock, L2 capacity; and, for layers
#: that communicate, the bandwidth of the links within a node.
FIGURES, SENDING = ("hbm", "units", "clock", "l2"), ("link",)
#: Figures whose name is also that of another limit, in words: the limit ``l2`` is the cache's bandwidth.
_IN_WORDS = {"l2": "l2 capacity"}
#: Number formats to try, if they are narrower than the layer's and the device has them.
FORMATS = ("bf16", "fp8", "fp4")
#: Bytes of the 16-bit formats. Only kernels that compute in these widen operands that are stored narrower.
_SIXTEEN_BIT = 2
#: Narrower storage formats to try for weights and for the cache; the arithmetic keeps its format.
STORED = (("weights", "int8"), ("weights", "int4"), ("cache", "fp8"))
#: Layer options that change how the result is computed, not what is computed.
CHOICES: tuple[tuple[str, Any], ...] = (
    ("wavefront", True),
    ("persistent", True),
    ("fused", True),
    ("attention", "tiled"),
)

#: If no single figure gives this speedup, two limits are probably close together: pairs are tried as well.
_ALONE = 1.25

#: One, to 30 digits: kept exactly, a fraction raised to the number of all tokens would have millions.
_ONE = sp.Float(1, 30)
#: Step functions, each with the smooth function through its steps, which is the one differentiated.
SMOOTH: tuple[tuple[Any, Any], ...] = (
    (CeilDiv, lambda a, b: a / b),
    (CeilLog2, lambda x: sp.log(x) / sp.log(2)),
    (CeilLog, lambda x, base: sp.log(x) / sp.log(base)),
    (ChunkPairs, lambda n, c: n * (c + 1) / 2),
    (CausalTiles, lambda n, n_kv, c: n * (n_kv - (n - 1) / 2) / c),
    (Factors, lambda x, p: p * x ** (1 / p)),
    (Distinct, lambda n, k, draws: n * (1 - (1 - k * _ONE / n) ** draws)),
    (sp.ceiling, lambda x: x),
    (sp.floor, lambda x: x),
)


@typed
def elasticities(prediction: Prediction) -> dict[str, float]:
    """Return the relative change of the cold roofline's time per relative change of each rate and size.

    Parameters
    ----------
    prediction : Prediction
        Of one shape, at any rung; its roofline (rung ``bound``) is differentiated.

    Returns
    -------
    dict of str to float
        Limit (``hbm``, ``matrix:bf16``, …) or size (``seq``, …) → d ln seconds / d ln of it. Where two
        terms tie, the one named first counts as the limit. Step functions (tiles, levels of a tree) are
        replaced by smooth functions through their steps.

    Raises
    ------
    SizeError
        If the prediction has many shapes, or takes no time.
    """
    roof = _single(prediction)
    values = {symbol(name): sp.Integer(int(value)) for name, value in roof.shapes.items()}
    total: sp.Expr = sp.Integer(0)
    shares: dict[str, float] = {}
    before: tuple[sp.Expr, str, float] = (total, "", 0.0)
    for part, (repeats, seconds, terms) in zip(roof.plan.phases, roof.parts, strict=True):
        label = max(terms, key=lambda name: float(terms[name]))
        counts = {name: part.phase.flops[key] / rate for name, key, rate in part.rates}
        counts["hbm"] = part.phase.hbm / roof.device.hbm_bandwidth
        counts["link"] = part.phase.link / part.send_rate
        alone = (part.phase.repeats * counts[label], label, float(repeats * seconds))
        # A kernel that overlaps the one before it adds only the time by which it is longer.
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
    """Return the slope along one size; the other sizes keep their values, steps included."""
    along = total.xreplace({other: value for other, value in values.items() if other != size})
    for steps, between in SMOOTH:
        along = along.replace(steps, between)
    # For a positive symbol sympy would search the roots of the slope, a polynomial of very high degree.
    plain = sp.Dummy()
    return float(sp.diff(along.xreplace({size: plain}), plain).xreplace({plain: values[size]}).evalf())


def _counted(
    alone: tuple[sp.Expr, str, float], beside: tuple[sp.Expr, str, float] | None
) -> list[tuple[int, tuple[sp.Expr, str, float]]]:
    """Return the (sign, (count, limit, time)) terms of a kernel that may overlap the one before it."""
    if beside is None:
        return [(1, alone)]
    return [(1, alone), (-1, beside)] if alone[2] > beside[2] else []


def _followed(roof: Prediction) -> dict[sp.Symbol, sp.Expr]:
    """Return the sizes that follow from others by default, such as ``d_ff`` from ``d_model``."""
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
    """Return the prediction at rung ``bound``; refuse predictions of many shapes."""
    if prediction.shape:
        raise SizeError("elasticities need a single shape; give one value for each size")
    _check_time(prediction)
    if prediction.rung == "bound":
        return prediction
    return predict(prediction.layer, prediction.device, _given(prediction), rung="bound")


def _check_time(prediction: Prediction) -> None:
    """Refuse a prediction of zero seconds: it has no limit, and nothing makes it shorter."""
    if not prediction.seconds:
        raise SizeError(f"{prediction.layer.label} takes no time at these sizes: there is nothing to explain")


def _given(prediction: Prediction) -> dict[str, Any]:
    return {name: prediction.shapes[name] for name in prediction.layer.sizes()}


@typed
def what_if(
    prediction: Prediction, devices: Device | str | Path | Iterable[Device | str | Path] = ()
) -> pd.DataFrame:
    """Return the predicted time with one thing changed at a time, most helpful change first.

    Rung, state, framework, harness and kernel stay as in the prediction. One exception: if it was restricted
    to the device's own constants (``rung="calibrated"``), a changed case uses the best rung available.

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
        ``speedup`` (over the prediction), ``rung``, ``constants_from``, ``alike``. Figures that the spec
        lacks are not tried; choices that change neither a count nor the time are not listed. Where no single
        figure helps much, the most helpful pair is listed too. ``alike`` is false for formats whose kernels
        take their constants from another device or format than the prediction's: part of the difference
        comes from the constants. They are last.

    Raises
    ------
    SizeError
        If the prediction has many shapes, or takes no time.
    UnavailableError, UnknownNameError
        If one of the given devices admits no prediction.
    """
    if prediction.shape:
        raise SizeError("what-ifs need a single shape; give one value for each size")
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
                raise  # the user asked for this device
            continue  # the device or the layer does not have this format
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
    """Repeat the prediction with another layer or on another device."""
    return predict(layer, device, _given(prediction), **asked)


def _alike(prediction: Prediction, other: Prediction) -> bool:
    """Return whether a choice has no effect at these sizes: neither counts nor time change."""
    return bool(other.seconds == prediction.seconds) and other.counts == prediction.counts


def _row(prediction: Prediction, kind: str, change: str, other: Prediction) -> dict[str, Any]:
    """Return the row of the table for one change."""
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
    """Return (kernel, origin of its constants) pairs; the device itself is given by its name."""
    own = prediction.device.name
    choices = ((part.kernel, part.choice.whose) for part in prediction.plan.phases)
    return {(kernel, own if origin == "self" else origin) for kernel, origin in choices}


def _changes(
    prediction: Prediction, devices: Iterable[Device | str | Path]
) -> Iterator[tuple[str, str, Layer, Any]]:
    """Yield (kind, words, layer, device) of every change to try."""
    layer, device = prediction.layer, prediction.device
    for name in _figures(prediction):
        changed = _doubled(device, name)
        if changed is not None:
            yield "figure", _twice(name), layer, changed
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
    """Return the device figures to try for a prediction."""
    sends = any(part.sends for part in prediction.plan.phases)
    return (*FIGURES, *(SENDING if sends else ()), prediction.layer.dtype)


def _pairs(prediction: Prediction) -> Iterator[tuple[str, str, Layer, Device]]:
    """Yield every two figures doubled together, as `_changes` does."""
    for names in itertools.combinations(_figures(prediction), 2):
        changed = _doubled(prediction.device, *names)
        if changed is not None:
            yield "figure", _twice(*names), prediction.layer, changed


def _twice(*names: str) -> str:
    return f"{' and '.join(_IN_WORDS.get(name, name) for name in names)} times 2"


def _doubled(device: Device, *names: str) -> Device | None:
    """Return the device with figures doubled; None if its spec lacks one or the result is implausible."""
    try:
        return device.replace(**dict.fromkeys(names, "2x"))
    except CostmodelError:
        return None


def _longer_tile(prediction: Prediction) -> tuple[int, int] | None:
    """Return the layer's tile with twice the rows, whether or not it fits.

    None if the layer has no tiles, or if the library, not the layer, chooses the tile.
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
    """Return the layer or model with weights or cache stored in `kind`; None if that narrows nothing."""
    whole = getattr(layer, "storing", None)
    if whole is None and not saves(layer, what, kind):
        return None
    try:
        stored: Layer = whole(**{what: kind}) if whole else _replaced(layer, what, kind)
    except CostmodelError:
        return None  # a training pass, or a product that has no such kernel
    return None if stored == layer else stored


def _in_dtype(layer: Layer, dtype: str) -> Layer | None:
    """Return the layer (of a model: with all its parts) in another format; None if it refuses the format."""
    whole = getattr(layer, "in_dtype", None)
    try:
        return whole(dtype) if whole else _replaced(layer, "dtype", dtype)
    except CostmodelError:
        return None
