"""Cases of the recurrent, scan, convolution and linear families, for `cases`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from costmodel.layers import Layer, get

Sizes = dict[str, int]
Points = tuple[Sizes, ...]


def _sizes(names: str, *rows: tuple[int, ...]) -> Points:
    return tuple(dict(zip(names.split(), row, strict=True)) for row in rows)


GATED = _sizes(
    "batch seq hidden input num_layers k block",
    (3, 5, 7, 4, 2, 8, 3),
    (2, 8, 5, 9, 3, 4, 4),
    (5, 9, 3, 2, 4, 3, 12),
    (4, 3, 6, 17, 1, 5, 2),
    (6, 1, 4, 3, 2, 7, 5),
)
SAME_WIDTH = tuple(sizes | {"input": sizes["hidden"]} for sizes in GATED)
BLOCKWISE = _sizes(
    "batch seq hidden heads num_layers block",
    (3, 5, 6, 2, 2, 3),
    (2, 8, 15, 5, 3, 4),
    (5, 9, 4, 1, 4, 12),
    (4, 7, 6, 3, 1, 2),
    (2, 3, 8, 4, 2, 3),
    (6, 1, 4, 2, 2, 5),
)
SCAN = _sizes("batch seq hidden block", (3, 8, 5, 3), (2, 17, 3, 4), (5, 7, 2, 9), (4, 1, 3, 5))
HEADS = _sizes(
    "batch seq heads head_dim value_dim state features rank block",
    (3, 7, 4, 5, 3, 6, 9, 8, 4),
    (2, 8, 6, 3, 9, 4, 5, 17, 3),
    (5, 5, 2, 2, 4, 3, 7, 33, 9),
    (4, 9, 8, 9, 2, 5, 4, 6, 2),
    (2, 2, 4, 65, 3, 70, 66, 7, 5),
    (3, 11, 2, 3, 65, 2, 2, 5, 2),
    (2, 33, 6, 4, 2, 3, 3, 2, 16),
    (3, 17, 2, 4, 2, 3, 5, 2, 32),
    (1, 1, 4, 3, 5, 7, 6, 9, 8),
    (3, 5, 2, 65, 2, 3, 4, 6, 4),
    (2, 5, 4, 70, 1, 3, 8, 6, 33),
)
STATE_SPACE = _sizes(
    "batch seq d_model hidden state rank k block",
    (3, 5, 6, 9, 4, 2, 3, 2),
    (2, 8, 5, 17, 3, 7, 4, 3),
    (5, 4, 9, 2, 33, 3, 5, 9),
    (17, 3, 4, 3, 2, 5, 2, 4),
    (1, 2, 4, 65, 3, 2, 9, 5),
    (3, 2, 4, 5, 3, 2, 9, 5),
)
CHANNELS = _sizes(
    "batch seq input d_model k",
    (3, 5, 4, 6, 2),
    (2, 9, 8, 10, 3),
    (1, 28, 2, 4, 3),
    (5, 2, 6, 2, 9),
    (4, 17, 2, 8, 1),
    (2, 16, 4, 2, 4),
    (2, 1, 8, 6, 9),
)
TRANSFORMED = _sizes(
    "batch seq d_model block",
    (3, 5, 4, 16),
    (2, 16, 9, 3),
    (1, 33, 2, 5),
    (5, 8, 7, 2),
    (4, 64, 3, 17),
    (6, 9, 5, 4),
    (7, 2, 3, 1),
)
HYENA = _sizes(
    "batch seq d_model hidden input k block",
    (3, 5, 4, 7, 2, 6, 16),
    (2, 16, 9, 3, 5, 4, 7),
    (1, 33, 2, 65, 4, 3, 5),
    (5, 8, 17, 6, 33, 9, 2),
    (1, 2, 33, 5, 3, 9, 1),
)
PLACES = _sizes(
    "batch m n k taps read_bytes written_bytes least_bytes",
    (1, 33, 5, 8, 9, 9000, 5000, 4000),
    (1, 20, 6, 7, 2, 90, 50, 80),  # fewer bytes than its weights have
    (1, 17, 3, 1, 4, 700, 600, 700),
    (6, 65, 2, 1, 25, 40000, 30000, 9),
    (4, 21, 2, 1, 3, 100, 60, 50),
)
VALUE_HEADS = _sizes(
    "batch seq heads kv_heads head_dim value_dim",
    (3, 7, 2, 6, 5, 4),
    (2, 64, 3, 3, 9, 9),
    (5, 130, 1, 4, 2, 5),
    (4, 1, 2, 4, 3, 8),
    (1, 8, 3, 6, 17, 33),
    (3, 65, 2, 2, 33, 17),
    (2, 200, 2, 8, 4, 6),
    (4, 2, 3, 6, 2, 3),
)
EXPONENTIAL = _sizes(
    "batch seq hidden input heads num_layers onchip",
    (3, 5, 9, 4, 3, 2, 20),
    (2, 4, 8, 17, 2, 3, 10000),
    (9, 7, 10, 33, 5, 4, 33),
    (5, 2, 34, 2, 2, 1, 700),
)

ALGORITHMS = ("sequential", "kogge-stone", "blelloch", "brent-kung", "chunked")


Options = Iterator[tuple[str, dict[str, Any], Points]]


def _recurrent() -> Options:
    for algorithm in ALGORITHMS:
        yield "min-gru", {"algorithm": algorithm}, GATED
    # With one position minLSTM's gradient is one operation less deep: nothing else waits for f′.
    longer = {"min-gru": GATED, "min-lstm": GATED[:-1], "qrnn": GATED}
    for name, points in longer.items():
        for options in ({}, {"bias": False}, {"generation": True}):
            yield name, options, points
    for name in ("min-lstm", "qrnn"):
        yield name, {"algorithm": "blelloch"}, longer[name]
    for peephole, highway, bias in product((True, False), repeat=3):
        points = GATED if highway else SAME_WIDTH
        yield "sru", {"peephole": peephole, "highway": highway, "bias": bias}, points
    yield "sru", {"peephole": False, "algorithm": "chunked"}, SAME_WIDTH
    yield "sru", {"generation": True}, SAME_WIDTH
    for options in ({}, {"bias": False}, {"generation": True}):
        yield "rg-lru", options, BLOCKWISE
    for algorithm in ALGORITHMS[1:]:
        yield "rg-lru", {"algorithm": algorithm}, BLOCKWISE
    for bias, both in product((True, False), (False, True)):
        yield "slstm", {"bias": bias, "bidirectional": both}, EXPONENTIAL
    yield "slstm", {"convention": "torch"}, EXPONENTIAL
    yield "slstm", {"persistent": False}, EXPONENTIAL


WHOLE = {"projections": True, "convention": "torch"}


#: Token by token, with states in fp32 and in 16 bits.
NARROW: tuple[dict[str, Any], ...] = ({"form": "recurrent"}, {"form": "recurrent", "state_dtype": "bf16"})


def _scan() -> Options:
    for algorithm, fused in product(ALGORITHMS, (True, False)):
        yield "scan", {"algorithm": algorithm, "fused": fused}, SCAN
    for options in ({}, {"algorithm": "chunked"}, {"projections": True}, WHOLE):
        yield "mamba", options, STATE_SPACE
    for algorithm in ("sequential", "kogge-stone"):
        yield "mamba", {"algorithm": algorithm, "fused": False}, STATE_SPACE
    for options in (*NARROW, {"form": "recurrent", "projections": True}):
        yield "mamba", options, STATE_SPACE
    for groups in (1, 2):
        for options in ({}, {"convention": "torch"}, {"fused": True}, *NARROW):
            yield "mamba-2", {"groups": groups, **options}, HEADS
    yield "rwkv", {}, STATE_SPACE
    for options in ({}, {"chunk": 5}, {"convention": "torch"}, *NARROW):
        yield "gated-delta-net", options, VALUE_HEADS
        yield "kimi-delta-attention", options, VALUE_HEADS
    yield "kimi-delta-attention", {"chunk": 40}, VALUE_HEADS


def _convolution() -> Options:
    for groups, dilated, convention in product((1, 2), (False, True), ("exact", "torch")):
        yield "conv", {"groups": groups, "dilated": dilated, "convention": convention}, CHANNELS
    for dilated, convention in product((False, True), ("exact", "torch")):
        yield "separable-conv", {"dilated": dilated, "convention": convention}, CHANNELS
    for convention in ("exact", "torch"):
        yield "causal-conv1d", {"convention": convention}, CHANNELS
    yield "causal-conv1d", {"decode": True}, CHANNELS
    yield "long-convolution", {}, TRANSFORMED
    for order in (2, 3, 4):
        yield "long-convolution", {"fused": True, "order": order}, TRANSFORMED
    for order, fused in ((1, True), (2, False), (3, False)):
        yield "hyena", {"order": order, "fused": fused}, HYENA
    yield "hyena", {"convention": "torch"}, HYENA


def _implicit() -> Iterator[tuple[Layer, Points]]:
    """Yield convolutions that state their bytes; several groups of channels only where they are grouped."""
    for grouping, transposed in product(("none", "grouped", "depthwise"), (False, True)):
        points = {"none": PLACES[:3], "grouped": PLACES, "depthwise": PLACES[2:]}[grouping]
        for direction in ("fwd", "bwd", "bwd_data", "bwd_weights"):
            options = {"grouping": grouping, "transposed": transposed, "direction": direction}
            yield get("implicit-conv")(**options), points
    yield get("implicit-conv")(dtype="fp64", direction="bwd"), PLACES[:3]


def _linear() -> Options:
    for name in ("retnet", "gla", "mlstm"):
        for options in ({}, {"convention": "torch"}, {"form": "recurrent"}):
            yield name, options, HEADS
    for name in ("linear-attention", "performer"):
        for options in ({}, {"causal": True}, {"causal": True, "convention": "torch"}):
            yield name, options, HEADS
        yield name, {"causal": True, "form": "recurrent"}, HEADS
    for sharing in ("none", "heads", "keys-and-values"):
        yield "linformer", {"sharing": sharing}, HEADS


def family_cases() -> Iterator[tuple[Layer, Points]]:
    """Yield every layer of these families with its options and directions."""
    done = set()
    for name, options, points in (*_recurrent(), *_scan(), *_convolution(), *_linear()):
        layer = get(name)
        once = options.get("generation") or options.get("form") == "recurrent" or options.get("decode")
        once = once or (name, options.get("fused")) in {("mamba", False), ("mamba-2", True)}
        directions = ("fwd",) if once else ("fwd", "bwd")
        for direction in directions:
            yield layer(**options, direction=direction), points
        if name not in done:
            done.add(name)
            yield layer(**options, dtype="fp64", direction="fwd"), points
    yield from _implicit()
