"""Cases of the other layers of a model, for `cases`: tokens, experts, positions, dropout, the optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from families import Points, _sizes

from costmodel.layers import Layer, get

TOKENS = _sizes(
    "batch seq d_model vocab",
    (3, 5, 7, 11),
    (2, 9, 33, 5),
    (4, 1, 2, 130),
    (1, 1, 3, 17),
    (5, 13, 8, 9),
)
INNER = _sizes("batch seq d_model d_ff", (3, 5, 8, 33), (2, 9, 17, 4), (7, 2, 65, 16))
EXPERTS = _sizes(
    "batch seq d_model d_ff experts top_k",
    (3, 2, 7, 5, 9, 4),
    (2, 4, 5, 9, 17, 3),
    (1, 1, 4, 8, 6, 2),
    (5, 3, 2, 3, 4, 1),
    (1, 7, 33, 2, 33, 8),
    (2, 5, 3, 17, 5, 5),
    (3, 11, 4, 3, 3, 2),
    (6, 6, 2, 3, 4, 2),
    (2, 3, 40, 3, 70, 2),
    (9, 2, 3, 5, 2, 1),
)
TURNED = _sizes("batch seq heads kv_heads head_dim", (3, 5, 6, 2, 8), (2, 9, 4, 4, 6), (1, 7, 3, 1, 10))
TABLE = _sizes("m n", (7, 12), (33, 5), (4, 17), (65, 2))
NUMBERS = _sizes("params tensors", (35, 3), (64, 9), (2, 5))
MOVED = _sizes(
    "m n read_bytes written_bytes least_bytes least_written_bytes",
    (7, 12, 211, 90, 130, 60),
    (33, 5, 77, 77, 77, 77),
    (4, 17, 99, 30, 5, 2),
)

ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "gelu-tanh", "silu", "relu2", "xielu")
Options = Iterator[tuple[str, dict[str, Any], Points]]


def _trained() -> Options:
    yield "embedding", {}, TOKENS
    for head in ("none", "softmax", "cross-entropy"):
        yield "logits", {"head": head}, TOKENS
    for activation, fused in product(ACTIVATIONS, (True, False)):
        yield "swiglu", {"activation": activation, "fused": fused}, INNER
    for gated, fused, shared in ((True, True, 0), (True, False, 2), (False, True, 0), (False, True, 1)):
        yield "moe", {"gated": gated, "fused": fused, "shared": shared}, EXPERTS
    yield "moe", {"activation": "gelu", "gated": False}, EXPERTS
    yield "rotary", {}, TURNED
    yield "dropout", {}, TABLE


def _blocks() -> Options:
    """Yield the options of a Transformer layer that are off by default."""
    for option in ("gated", "rotary", "dropout"):
        for attention in ("tiled", "dense"):
            yield "transformer-block", {option: True, "attention": attention}, ()
    for attention, recompute in (("dense", "selective"), ("dense", "full"), ("tiled", "full")):
        for dropped in (False, True):
            options = {"attention": attention, "recompute": recompute, "dropout": dropped}
            yield "transformer-block", options, ()
    llama = {"gated": True, "rotary": True, "norm": "rms", "activation": "silu", "causal": True}
    yield "transformer-block", {**llama, "recompute": "full"}, ()


def rest_cases(block: Points) -> Iterator[tuple[Layer, Points]]:
    """Yield every such layer with its options and directions.

    `block` are the points of the Transformer layer.
    """
    done = set()
    for name, options, points in (*_trained(), *_blocks()):
        for direction in ("fwd", "bwd"):
            yield get(name)(**options, direction=direction), points or block
        if name not in done and points:
            done.add(name)
            for dtype in ("fp64", "fp8"):
                yield get(name)(**options, dtype=dtype, direction="fwd+bwd"), points
    for op in ("copy", "cast", "concatenate", "gather", "scatter", "fill", "integer"):
        yield get("memory-pass")(op=op), MOVED
    for op in ("arithmetic", "multiply-add", "function"):
        yield get("memory-pass")(op=op), MOVED
    for op in ("scatter-add", "dropout", "sum", "fill"):
        yield get("memory-pass")(op=op, dtype="fp32", in_place=True), MOVED
    yield get("memory-pass")(op="sum", dtype="fp64"), MOVED
    for optimiser, implementation in product(
        ("sgd", "momentum", "adam", "adamw"), ("fused", "foreach", "loop")
    ):
        for dtype, master in (("bf16", True), ("fp32", True), ("bf16", False)):
            yield (
                get("optimizer-step")(
                    dtype=dtype, optimiser=optimiser, implementation=implementation, master=master
                ),
                NUMBERS,
            )
