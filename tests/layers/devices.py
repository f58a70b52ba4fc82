"""Cases of the layers over several devices, for `cases`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from families import Points, _sizes

from costmodel.layers import Layer, get

#: 1 to 9 devices, odd and even; sequences and heads that do and do not divide evenly.
SEQUENCE = _sizes(
    "batch heads kv_heads seq head_dim value_dim devices node sram",
    (3, 6, 2, 11, 18, 7, 4, 2, 1400),
    (2, 8, 8, 9, 4, 5, 3, 6, 96),
    (5, 12, 2, 34, 33, 2, 2, 7, 1600),
    (7, 12, 3, 40, 4, 9, 5, 1, 64),
    (4, 18, 2, 61, 2, 3, 8, 4, 96),
    (6, 10, 5, 70, 65, 1, 9, 3, 1000),
    (2, 8, 1, 33, 5, 4, 6, 2, 128),
    (3, 6, 3, 17, 9, 7, 1, 4, 300),
    (2, 6, 1, 10, 7, 2, 3, 1, 90),
    # Two devices, where no device helps another: once with all sizes different, once with all others 1.
    (3, 12, 4, 27, 9, 5, 2, 8, 500),
    (1, 1, 1, 1, 1, 1, 2, 1, 1),
)
BLOCK = _sizes(
    "batch seq d_model heads kv_heads head_dim value_dim d_ff num_layers devices node sram",
    (3, 5, 12, 6, 2, 7, 4, 20, 2, 4, 2, 700),
    (2, 9, 16, 4, 4, 3, 5, 33, 5, 3, 6, 96),
    (5, 34, 9, 3, 1, 4, 2, 65, 3, 2, 7, 1600),
    (4, 17, 10, 18, 9, 2, 3, 130, 6, 8, 4, 64),
    (6, 8, 33, 10, 5, 5, 9, 7, 4, 1, 3, 128),
    # Narrow layers, where sums over positions are the deepest.
    (5, 12, 2, 20, 5, 5, 19, 109, 2, 1, 1, 128),
    (7, 46, 2, 2, 1, 16, 18, 82, 1, 6, 8, 128),
    (3, 24, 3, 3, 1, 19, 12, 49, 6, 4, 1, 1600),
)
#: One device, odd and even numbers of devices, in one node and in several.
BUFFER = _sizes(
    "m n devices node",
    (3, 8, 4, 2),
    (1, 5, 3, 3),
    (7, 2, 8, 4),
    (2, 9, 1, 1),
    (5, 1, 2, 1),
    (4, 3, 9, 5),
)
#: One or several experts per device, one or all of them chosen, one device or several nodes.
EXPERTS = _sizes(
    "batch seq d_model d_ff experts top_k devices node",
    (2, 3, 8, 12, 8, 2, 4, 2),
    (1, 5, 6, 7, 6, 3, 6, 3),
    (3, 2, 5, 9, 4, 4, 2, 2),
    (1, 1, 9, 4, 6, 5, 3, 4),
    (2, 4, 17, 33, 5, 1, 1, 2),
    (3, 7, 2, 65, 12, 7, 2, 1),
    # Many experts: how many are chosen decides whether the tree over their tokens has another level.
    (1, 2, 7, 11, 512, 3, 4, 5),
    (2, 1, 7, 11, 24, 5, 4, 3),
    (5, 1, 9, 13, 36, 6, 2, 3),
    (1, 5, 9, 13, 36, 6, 2, 3),
    (2, 3, 7, 11, 20, 3, 1, 2),
    (2, 3, 7, 11, 20, 4, 1, 5),
    (5, 1, 7, 11, 24, 3, 3, 2),
)
#: Widths that two or four devices can share.
SHARED_EXPERTS = _sizes(
    "batch seq d_model d_ff experts top_k devices node",
    (2, 3, 8, 12, 8, 2, 4, 2),
    (1, 5, 6, 8, 6, 3, 6, 3),
    (3, 2, 5, 28, 4, 4, 2, 2),
    (2, 4, 17, 36, 5, 1, 1, 2),
    # Many experts, as above.
    (1, 3, 5, 12, 1024, 5, 2, 4),
    (5, 1, 7, 12, 64, 5, 2, 3),
    (3, 1, 7, 12, 36, 5, 2, 2),
    (1, 5, 7, 12, 128, 5, 2, 3),
    (2, 3, 7, 12, 20, 3, 1, 2),
    (5, 1, 7, 12, 64, 3, 2, 3),
)


def _attention() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("ring-attention", "ulysses"):
        for causal, convention in product((False, True), ("exact", "torch")):
            yield name, {"causal": causal, "convention": convention}
    yield "ring-self-attention", {}
    for balanced, checkpoint in product((True, False), ("none", "layer", "attention")):
        yield "dist-flash-attention", {"balanced": balanced, "checkpoint": checkpoint}


def _block() -> Iterator[dict[str, Any]]:
    for cut, dropout, recompute in product((False, True), (False, True), ("none", "selective", "full")):
        yield {"sequence_parallel": cut, "dropout": dropout, "recompute": recompute}
    for cut, recompute in product((False, True), ("none", "full")):
        options = {"attention": "tiled", "causal": True, "norm": "rms", "activation": "silu"}
        yield {**options, "sequence_parallel": cut, "recompute": recompute}


def _collectives() -> Iterator[tuple[Layer, Points]]:
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send-receive")
    for kind, direction in product(kinds, ("fwd", "bwd")):
        yield get("collective")(collective=kind, direction=direction), BUFFER
    for dtype in ("fp64", "fp8"):
        yield get("collective")(dtype=dtype, direction="fwd+bwd"), BUFFER


def device_cases() -> Iterator[tuple[Layer, Points]]:
    """Yield every layer of this family with its options and directions, and once in other formats."""
    for name, options in _attention():
        for direction in ("fwd", "bwd"):
            yield get(name)(**options, direction=direction), SEQUENCE
    for options in _block():
        for direction in ("fwd", "bwd"):
            yield get("megatron")(**options, direction=direction), BLOCK
    for gated, fused, shared in ((True, True, 0), (True, False, 2), (False, True, 1)):
        for direction in ("fwd", "bwd"):
            options = {"gated": gated, "fused": fused, "shared": shared}
            yield get("expert-parallel")(**options, direction=direction), EXPERTS
    yield from _collectives()
    for cut, direction in product((2, 4), ("fwd", "bwd")):
        yield get("expert-parallel")(cut=cut, shared=1, direction=direction), SHARED_EXPERTS
    for dtype in ("fp64", "fp8"):
        yield get("expert-parallel")(dtype=dtype, direction="fwd+bwd"), EXPERTS
    for name in ("ring-attention", "ulysses", "ring-self-attention", "dist-flash-attention"):
        for dtype in ("fp64", "fp8"):
            yield get(name)(dtype=dtype, direction="fwd+bwd"), SEQUENCE
    for dtype in ("fp64", "fp8"):
        yield get("megatron")(dtype=dtype, direction="fwd+bwd", dropout=True), BLOCK
