"""The layers that are held against the authority: every option and direction, at telling sizes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from devices import device_cases
from families import Sizes, _sizes, family_cases
from rest import rest_cases
from variants import variant_cases

from costmodel.layers import Layer, get

#: All sizes of a point differ. Some are powers of two or one more, where logarithms and tiles step.
_HEADS = "batch heads kv_heads seq seq_kv head_dim value_dim d_model sram"
ATTENTION = _sizes(
    _HEADS,
    (3, 6, 2, 5, 11, 8, 17, 33, 700),
    (2, 4, 4, 9, 33, 3, 5, 16, 96),
    (5, 3, 1, 17, 17, 33, 2, 7, 1600),
    (9, 18, 9, 3, 8, 4, 65, 129, 64),
    (6, 2, 1, 61, 121, 2, 9, 3, 96),
    (4, 30, 3, 40, 128, 2, 1, 11, 1000),
)
#: More queries than keys, which neither causal attention nor a sequence that attends to itself can have.
FEW_KEYS = _sizes(_HEADS, (2, 4, 2, 33, 7, 5, 3, 9, 200))
BLOCK = tuple(
    sizes | {"d_ff": d_ff, "num_layers": layers}
    for sizes, d_ff, layers in zip(ATTENTION, (64, 9, 130, 257, 5, 40), (2, 3, 4, 9, 3, 1), strict=True)
)
MODEL = _sizes(
    "batch seq d_model heads head_dim d_ff num_layers vocab",
    (3, 5, 12, 2, 7, 20, 2, 41),
    (2, 9, 16, 4, 3, 33, 5, 8),
    (5, 17, 9, 3, 4, 65, 3, 129),
    (9, 130, 2, 5, 3, 4, 6, 11),
)
RECURRENT = _sizes(
    "batch seq hidden input projection num_layers onchip",
    (3, 5, 9, 4, 2, 2, 20),
    (2, 4, 8, 17, 5, 3, 10000),
    (9, 7, 5, 33, 16, 4, 33),
    (5, 2, 11, 2, 33, 1, 700),
)
TABLE = _sizes("batch m n k", (3, 7, 12, 33), (2, 33, 5, 8), (5, 4, 17, 3), (4, 65, 2, 9))
FEED_FORWARD = _sizes("batch seq d_model d_ff", (3, 5, 8, 33), (2, 9, 17, 4), (7, 2, 65, 16))

Case = tuple[Layer, tuple[Sizes, ...]]


def _choices(**options: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the options' values."""
    return (dict(zip(options, values, strict=True)) for values in product(*options.values()))


def _attention() -> Iterator[tuple[str, dict[str, Any]]]:
    for options in _choices(causal=(False, True), projections=(False, True), convention=("exact", "torch")):
        yield "dense-attention", options
        for schedule, tile in product(("fa1", "fa2"), ((4, 3), None)):
            yield "tiled-attention", {**options, "schedule": schedule, "tile": tile}
    yield "dense-attention", {"projections": True, "cross": True, "mask": True}
    yield "tiled-attention", {"projections": True, "cross": True}
    for options in _choices(mask=(False, True), dropout=(False, True), causal=(False, True)):
        yield "dense-attention", options


def _recurrent() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("rnn", "lstm", "gru"):
        for options in _choices(
            bidirectional=(False, True), convention=("exact", "torch"), bias=(True, False)
        ):
            yield name, options
        for options in _choices(persistent=(True, False, None), wavefront=(False, True)):
            yield name, options
        yield name, {"recurrent_only": True, "batch_first": True}
        yield name, {"batch_first": True, "wavefront": True}
        yield name, {"generation": True}
    for options in _choices(
        bidirectional=(False, True), convention=("exact", "torch"), persistent=(False, None)
    ):
        yield "lstm", {"projected": True, **options}


def _others() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "matmul", {}
    yield "softmax", {}
    for kind in ("layer", "rms"):
        yield "norm", {"kind": kind}
    for activation in ("relu", "gelu", "gelu-tanh", "silu", "tanh", "sigmoid", "relu2", "xielu"):
        yield "feed-forward", {"activation": activation}
        yield "elementwise", {"op": activation}
        yield "elementwise", {"op": f"{activation}-and-mul"}
    for op in ("add", "sub", "mul", "div", "pow", "exp", "log", "sqrt", "copy"):
        yield "elementwise", {"op": op}
    for op in ("add-scalar", "sub-scalar", "mul-scalar", "div-scalar", "pow-scalar"):
        yield "elementwise", {"op": op}
    for options in _choices(op=("add", "relu"), in_place=(False, True), shared=(False, True)):
        yield "elementwise", options
    for options in _choices(style=("gpt2", "opt", "bert"), dropout=(False, True)):
        yield "eager-transformer", options
    for options in _choices(attention=("tiled", "dense"), norm=("layer", "rms"), causal=(False, True)):
        yield "transformer-block", options


POINTS = {
    "dense-attention": ATTENTION,
    "tiled-attention": ATTENTION,
    "transformer-block": BLOCK,
    "eager-transformer": MODEL,
    "feed-forward": FEED_FORWARD,
    "rnn": RECURRENT,
    "lstm": RECURRENT,
    "gru": RECURRENT,
}


def cases() -> Iterator[Case]:
    """Yield every layer with its points: all sets of options and directions in bf16, others once each."""
    for name, options in (*_attention(), *_recurrent(), *_others()):
        points = POINTS.get(name, TABLE)
        may_lack_keys = not options.get("causal") and (options.get("cross") or not options.get("projections"))
        if points is ATTENTION and may_lack_keys:
            points += FEW_KEYS
        forward_only = any(options.get(option) for option in ("generation", "in_place", "shared"))
        for direction in ("fwd",) if forward_only else get(name).directions:
            if direction != "fwd+bwd":  # fwd+bwd is fwd and bwd in sequence, which another test checks
                yield get(name)(**options, direction=direction), points
    for name in POINTS | dict.fromkeys(("matmul", "softmax", "norm", "elementwise")):
        for dtype in ("fp64", "fp32", "fp8", "fp4"):
            yield get(name)(dtype=dtype, direction="fwd+bwd"), POINTS.get(name, TABLE)
    for direction in ("fwd", "bwd"):
        yield get("matmul")(dtype="fp8", quantise=True, direction=direction), TABLE
    yield get("tiled-attention")(dtype="fp64", schedule="fa1", direction="bwd"), ATTENTION
    yield from family_cases()
    yield from rest_cases(BLOCK)
    yield from variant_cases()
    yield from device_cases()
