"""Gemma 3n: four residual streams of which each layer computes one, low-rank residuals, layers' inputs.

Each layer mixes its streams before attention, and after the feed-forward layer adds the change of the one it
computed to all (AltUp). Its inputs, and keys that later layers read, are as in Gemma 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from costmodel.models._blocks import (
    Use,
    between_ends,
    feed_forward,
    keeping,
    linear,
    norm,
    pointwise,
    residual,
    stacks,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, TIED, Field, Fields, function_of, of_layers, same
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.families.gemma4 import inputs, own_input, sharing
from costmodel.models.families.llama import LAYER_TYPES
from costmodel.models.stack import Stack

#: Of so many layers by default the last is global.
PATTERN = 5

FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size",), listed=True),
    "kv_heads": Field(("num_key_value_heads",)),
    "head_dim": Field(("head_dim",)),
    "attention_bias": Field(("attention_bias",), False, bool),
    "window": Field(("sliding_window",)),
    "layer_types": Field(("layer_types",), (), list),
    "reading": Field(("num_kv_shared_layers",), may_be_zero=True),
    "d_input": Field(("hidden_size_per_layer_input",)),
    "vocab_input": Field(("vocab_size_per_layer_input",), same("vocab")),
    "streams": Field(("altup_num_inputs",)),
    "rank": Field(("laurel_rank",)),
    "act": ACT,
    "tied": TIED,
}

#: Defaults of Gemma3nTextConfig (transformers, configuration_gemma3n.py).
_TEXT = {
    "vocab_size": 262400,
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "sliding_window": 512,
    "num_kv_shared_layers": 15,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
    "altup_num_inputs": 4,
    "laurel_rank": 64,
    "max_position_embeddings": 32768,
}


def router(c: Fields, use: Use, *, shared: bool) -> Iterator[Part]:
    """Yield one number per stream, made from one of them: norm, product, tanh.

    A layer has it twice, with the same weights.
    """
    of = norm(use, "router norm", c.d_model)
    scores = linear(use, "router of streams", c.d_model, c.streams)
    yield from (replace(part, shared=shared) for part in (of, scores))
    yield pointwise(use, "router of streams", "tanh", c.streams)


def predicted(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the streams that a layer expects: each the sum of all, weighted by token."""
    yield from router(c, use, shared=False)
    yield linear(use, "weights of streams", c.streams, c.streams**2)
    mixing = use.layer("matmul", batched=True)
    sizes = {"batch": use.rows, "m": c.d_model, "n": c.streams, "k": c.streams}
    yield Part.of("mixture of streams", mixing, **sizes, shared=True)
    yield pointwise(use, "streams", "add", c.streams * c.d_model)


def corrected(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the streams after a layer: its change, weighted, is added to all; the first is scaled."""
    yield from router(c, use, shared=True)
    yield linear(use, "weights of streams", c.streams, c.streams)
    yield pointwise(use, "change", "sub", c.d_model)
    yield pointwise(use, "streams", "mul-scalar", c.streams * c.d_model)
    yield pointwise(use, "streams", "add", c.streams * c.d_model)
    yield with_extra(pointwise(use, "scale", "mul-scalar", c.d_model), c.d_model)


def low_rank(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the low-rank residual (LAuReL), from attention's input: two products, a norm, the addition."""
    yield keeping(linear(use, "low-rank input", c.d_model, c.rank), 0)
    yield linear(use, "low-rank residual", c.rank, c.d_model)
    yield norm(use, "low-rank norm", c.d_model)
    yield pointwise(use, "residual", "add", c.d_model)


def layer(c: Fields, use: Use, local: bool, reads: bool) -> Iterator[Part]:
    """Yield one layer; attention's result and the low-rank residual's are added before the second half."""
    heads = Heads.of(
        c,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        qk_norm="head",
        window=c.window if local else None,
        value_norm=True,
        reads=reads,
    )
    inner = feed_forward(use, c.d_model, c.d_ff, function_of(c, "gelu-tanh"), gated=True)
    yield from predicted(c, use)
    attention = (*low_rank(c, use), *self_attention(use, heads))
    yield from residual(use, "attention", c.d_model, attention, after=True)
    yield pointwise(use, "residual", "add", c.d_model)
    yield from residual(use, "feed-forward", c.d_model, [inner], after=True)
    yield from corrected(c, use)
    yield from own_input(c, use, streams=c.streams - 1)


def more_streams(c: Fields, use: Use, name: str) -> Iterator[Part]:
    """Yield the products for all streams but the first, each scaled to the first's magnitude."""
    for _ in range(c.streams - 1):
        yield linear(use, name, c.d_model, c.d_model)
        yield norm(use, "norm of streams", c.d_model, "rms-bare")


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers' inputs, the streams, the layers, the streams' mean, the logits."""
    types = of_layers(c, LAYER_TYPES) or [LAYER_TYPES[(i + 1) % PATTERN > 0] for i in range(c.layers)]
    kinds = sharing(c, [name == "sliding_attention" for name in types])
    before = (*inputs(c, use), *more_streams(c, use, "further streams"))
    mean = [pointwise(use, "mean of streams", "add", c.d_model)] * (c.streams - 1)
    behind = (*more_streams(c, use, "streams to words"), *mean)
    return between_ends(c, use, (*before, *stacks(kinds, partial(layer, c, use)), *behind))


GEMMA3N = Family(
    types=("gemma3n", "gemma3n_text"),
    fields=FIELDS,
    parts=parts,
    source=(
        "Baykal et al., arXiv 2301.13310 (AltUp); Menghani et al., arXiv 2411.07501 (LAuReL); Hugging Face "
        "transformers, modeling_gemma3n.py (the text model)"
    ),
    left_out=(
        "dropout, masks, scaling and clipping by constants, sampling; the models of images and sound; the "
        "threshold that sets most activations of the first layers to zero, which are multiplied all the same"
    ),
    cut={"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width"},
    alternates=True,
    left_to_defaults={"gemma3n": _TEXT, "gemma3n_text": _TEXT},
)
