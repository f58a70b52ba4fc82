"""ZAYA: attention whose queries and keys pass two short convolutions, and experts behind a deep router."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import sympy as sp

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    B,
    Use,
    between_ends,
    convolution,
    experts,
    keeping,
    linear,
    norm,
    pointwise,
    residual,
    stacks,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, TIED, Field, Fields, function_of, of_layers
from costmodel.models._heads import HEAD_FIELDS, Heads, after, core, qk_norm, rotary
from costmodel.models._part import Part
from costmodel.models.stack import Stack

#: Entries allowed in ``layer_types``; a sliding layer has a window.
SLIDING = "hybrid_sliding"
LAYER_TYPES = ("hybrid", SLIDING)


def _rotary(c: Fields) -> float:
    """Return the share of a head that layers without a window rotate; by default half."""
    own = c.rope.get("hybrid")
    share = (own if isinstance(own, dict) else c.rope).get("partial_rotary_factor", 0.5)
    if not isinstance(share, int | float):
        raise CostmodelError(f"zaya: partial_rotary_factor should be a number, got {share!r}")
    return float(share)


FIELDS = {
    **DENSE,
    **HEAD_FIELDS,
    "tied": TIED,
    "act": ACT,
    "attention_bias": Field(("attention_bias",), False, bool),
    "rope": Field(("rope_parameters",), {}, dict),
    "rotary": Field((), _rotary),
    "window": Field(("sliding_window",), 0),
    "layer_types": Field(("layer_types",), (), list),
    "depthwise": Field(("cca_time0",), 2),
    "grouped": Field(("cca_time1",), 2),
    "experts": Field(("num_experts", "num_local_experts"), 16),
    "top_k": Field(("num_experts_per_tok",), 1, most=1),
    "d_expert": Field(("moe_intermediate_size",)),
    "router": Field(("router_hidden_size",), 256),
    "head_bias": Field(("lm_head_bias",), False, bool),
}


def attention(c: Fields, use: Use, window: int | None) -> Iterator[Part]:
    """Yield Q, K and V; two convolutions of Q and K, beside their means; norms and rotation; core; output.

    The second convolution mixes the channels of a head. Half of a value's channels are those of the token
    before.
    """
    heads = Heads.of(c, window=window, rotary=c.rotary)
    mixed = heads.query + heads.keys
    yield linear(use, "query, key and value", c.d_model, mixed + heads.keys, bias=c.attention_bias)
    yield pointwise(use, "query and key means", "add", mixed)
    yield convolution(use, mixed, c.depthwise, bias=True)
    product = use.layer("matmul", batched=True)
    sizes: dict[str, Any] = {"batch": c.heads + c.kv_heads, "m": use.rows}
    grouped = Part.of("convolution of heads", product, **sizes, n=c.head_dim, k=c.grouped * c.head_dim)
    # It keeps positions of its own, and the half of a value that the next token takes.
    kept = B * ((c.grouped - 1) * mixed + heads.keys // 2) if use.decoding else sp.Integer(0)
    yield dataclasses.replace(with_extra(grouped, mixed), cached=kept)
    yield pointwise(use, "query and key sum", "add", mixed)
    yield qk_norm(use, "query norm", "free", c.heads, c.head_dim)
    yield qk_norm(use, "key norm", "free", c.kv_heads, c.head_dim)
    yield rotary(use, "rotary", c.heads, c.kv_heads, int(c.head_dim * c.rotary))
    middle = with_extra(core(use, "attention", heads), c.kv_heads)  # a factor of each head's keys
    yield middle
    yield after(middle, linear(use, "output projection", heads.query, c.d_model, bias=c.attention_bias))


def routing(c: Fields, use: Use, first: bool) -> Iterator[Part]:
    """Yield the router: to a narrow state, to which that of the layer before is added; three products.

    One class more than there are experts stands for none of them.
    """
    yield keeping(linear(use, "router down-projection", c.d_model, c.router, bias=True), 0)
    if not first:
        yield with_extra(pointwise(use, "router state", "add", c.router), c.router)
    yield norm(use, "router norm", c.router)
    for _ in range(2):
        yield linear(use, "router inner projection", c.router, c.router, bias=True)
        yield pointwise(use, "router activation", "gelu", c.router)
    classes = c.experts + 1
    yield with_extra(linear(use, "router", c.router, classes), classes)  # each has an offset for the choice
    yield Part.of("routing", use.layer("softmax"), m=use.rows, n=classes)


def scaled(c: Fields, half: Iterable[Part]) -> Iterator[Part]:
    """Yield half a layer; both terms of its sum have a factor and an offset for each channel."""
    for part in half:
        yield with_extra(part, 4 * c.d_model) if part.name == "residual" else part


def layer(c: Fields, use: Use, window: int | None, first: bool) -> Iterator[Part]:
    """Yield one layer."""
    yield from scaled(c, residual(use, "attention", c.d_model, attention(c, use, window)))
    mixture = experts(c, use, function=function_of(c, "silu"), router=False)
    inner = (*routing(c, use, first), *mixture)
    yield from scaled(c, residual(use, "feed-forward", c.d_model, inner))


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, with a factor and an offset for each channel; the layers; norm and logits."""
    types = of_layers(c, LAYER_TYPES)
    if SLIDING in types and not c.window:
        raise CostmodelError(f"sliding_window: wanted positions, as there are layers of {SLIDING}, got none")
    kinds = ((c.window if types and types[i] == SLIDING else None, i == 0) for i in range(c.layers))
    first, *rest = between_ends(c, use, stacks(kinds, partial(layer, c, use)), bias=c.head_bias)
    yield with_extra(first, 2 * c.d_model) if isinstance(first, Part) else first
    yield from rest


ZAYA = Family(
    types=("zaya",),
    fields=FIELDS,
    parts=parts,
    source="Zyphra, arXiv 2510.04476 (compressed convolutional attention); transformers, modeling_zaya.py",
    left_out=(
        "dropout, masks, sampling; arithmetic of factors and offsets of residual sums; that the residual "
        "stream is in fp32; that tokens for which the router chooses no expert pass none"
    ),
    cut={"heads": "heads", "kv_heads": "key and value heads"},
    alternates=True,
    left_to_defaults={
        "zaya": {
            "vocab_size": 262272,
            "hidden_size": 2048,
            "num_hidden_layers": 40,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "moe_intermediate_size": 2048,
        }
    },
)
