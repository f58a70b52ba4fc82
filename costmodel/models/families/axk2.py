"""A.X K2: sparse attention over latents with a gate on its output, experts, and gates behind the norms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import sympy as sp

from costmodel.models._blocks import (
    Use,
    between_ends,
    experts,
    feed_forward,
    gate,
    keeping,
    linear,
    pointwise,
    residual,
    stacks,
)
from costmodel.models._family import Family
from costmodel.models._fields import Field, Fields, function_of, of_layers
from costmodel.models._latent import Indexer, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.families import deepseek
from costmodel.models.stack import Stack

FIELDS = {
    **deepseek.FIELDS,
    "q_rank": Field(("q_lora_rank",)),
    "norm_rank": Field(("gated_norm_rank",), 16),
}
#: Defaults of AXK2Config (transformers, configuration_axk2.py).
LEFT_TO_DEFAULTS = {
    "axk2": {
        "vocab_size": 163840,
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "n_shared_experts": 1,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "kv_lora_rank": 128,
        "q_lora_rank": 384,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
        "first_k_dense_replace": 1,
        "index_topk": 2048,
        "index_head_dim": 128,
        "index_n_heads": 16,
        "gated_norm_rank": 16,
    }
}


def norm_gate(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the two narrow products that make a gate of what a norm has normed, and the gate.

    The first product keeps what was normed, the gate only itself.
    """
    yield linear(use, "norm gate down-projection", c.d_model, c.norm_rank)
    yield pointwise(use, "norm gate", "silu", c.norm_rank)
    yield linear(use, "norm gate up-projection", c.norm_rank, c.d_model)
    yield keeping(gate(use, "gated norm", c.d_model, "sigmoid"), sp.Rational(1, 2))


def layer(c: Fields, use: Use, sparse: bool) -> Iterator[Part]:
    """Yield one layer; the norm before a dense feed-forward layer has no gate."""
    indexer = Indexer(heads=c.index_heads, width=c.index_width, top_k=c.index_top_k)
    latent = latent_attention(use, Latent.of(c, sparse=indexer, gate="latent"))
    yield from residual(use, "attention", c.d_model, (*norm_gate(c, use), *latent))
    function, shared = function_of(c, "silu"), c.shared * c.d_expert
    if sparse:
        mixture = experts(c, use, function=function, shared=shared, extra=c.experts)
        half = (*norm_gate(c, use), *mixture)
    else:
        half = (feed_forward(use, c.d_model, c.d_ff, function, gated=True),)
    yield from residual(use, "feed-forward", c.d_model, half)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers of each kind, the norm and the logits."""
    of_layers(c, deepseek.LAYER_TYPES)
    kinds = ((sparse,) for sparse in deepseek.has_experts(c))
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


AXK2 = Family(
    types=tuple(LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source="Hugging Face transformers, modeling_axk2.py; DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1",
    left_out=(
        "dropout, masks, sampling; that engines attend to short prompts without an index, and the indexer's "
        "own loss; that the latent vector of the queries is copied beside what it was before its norm"
    ),
    cut={"heads": "heads", "d_ff": "inner width"},
    left_to_defaults=LEFT_TO_DEFAULTS,
)
