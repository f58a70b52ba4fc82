"""MiniMax-Text-01: lightning attention in most layers, softmax attention in the others; experts in all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.models._blocks import (
    Use,
    between_ends,
    experts,
    gate,
    keeping,
    linear,
    norm,
    pointwise,
    residual,
    stacks,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of, of_layers
from costmodel.models._heads import HEAD_FIELDS, Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.families.qwen3_next import LAYER_TYPES
from costmodel.models.stack import Stack

FIELDS = {
    **DENSE,
    **HEAD_FIELDS,
    "tied": UNTIED,
    "act": ACT,
    "window": Field(("sliding_window",), 0),
    "block": Field(("block_size",), 256),
    "layer_types": Field(("layer_types",), (), list),
    "experts": Field(("num_local_experts", "num_experts"), 8),
    "top_k": Field(("num_experts_per_tok",), 2),
    "d_expert": Field(("intermediate_size",)),
}


def lightning_attention(c: Fields, use: Use) -> Iterator[Part]:
    """Yield Q, K and V behind an activation; retention by blocks; one norm of all heads; gate; output."""
    width = c.heads * c.head_dim
    yield linear(use, "query, key and value", c.d_model, 3 * width)
    yield pointwise(use, "query, key and value activation", function_of(c, "silu"), 3 * width)
    core = use.layer("retnet", form="recurrent" if use.decoding else "chunked")
    sizes = {"heads": c.heads, "head_dim": c.head_dim, "value_dim": c.head_dim, "block": c.block}
    yield Part.of("lightning attention", core, **use.tokens, **sizes)
    yield norm(use, "gated norm", width)
    yield keeping(linear(use, "output gate projection", c.d_model, width), 0)
    yield gate(use, "output gate", width, "sigmoid")
    yield linear(use, "output projection", width, c.d_model)


def layer(c: Fields, use: Use, attends: bool) -> Iterator[Part]:
    """Yield one layer; what is added to a half's result is its input behind the norm."""
    heads = Heads.of(c, window=c.window or None)
    mixer = self_attention(use, heads) if attends else lightning_attention(c, use)
    yield from residual(use, "attention", c.d_model, mixer)
    yield from residual(use, "feed-forward", c.d_model, experts(c, use, function=function_of(c, "silu")))


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    types = of_layers(c, LAYER_TYPES)
    kinds = ((types[i] == "full_attention" if types else i % 2 == 0,) for i in range(c.layers))
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


MINIMAX = Family(
    types=("minimax",),
    fields=FIELDS,
    parts=parts,
    source="MiniMax, arXiv 2501.08313, §2 (MiniMax-Text-01); Hugging Face transformers, modeling_minimax.py",
    left_out=("dropout, masks, the scaling of residual sums by constants, sampling"),
    cut={"heads": "heads", "kv_heads": "key and value heads"},
    alternates=True,
    left_to_defaults={
        "minimax": {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        }
    },
)
