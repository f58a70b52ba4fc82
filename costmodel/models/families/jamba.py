"""Jamba: seven layers of Mamba for each layer of attention, and experts in every other layer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.models._blocks import Use, between_ends, feeding, residual, stacks
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of, same
from costmodel.models._heads import HEAD_FIELDS, Heads, self_attention
from costmodel.models._part import Part
from costmodel.models._state_space import Selective, selective
from costmodel.models.stack import Stack

FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    **HEAD_FIELDS,
    "tied": UNTIED,
    "act": ACT,
    "attention_period": Field(("attn_layer_period",), 8),
    "attention_offset": Field(("attn_layer_offset",), 4, may_be_zero=True),
    "experts": Field(("num_experts", "num_local_experts"), 16),
    "top_k": Field(("num_experts_per_tok",), 2),
    "d_expert": Field((), same("d_ff")),
    "expert_period": Field(("expert_layer_period",), 2),
    "expert_offset": Field(("expert_layer_offset",), 1, may_be_zero=True),
    "state": Field(("mamba_d_state",), 16),
    "kernel": Field(("mamba_d_conv",), 4),
    "expand": Field(("mamba_expand",), 2),
    "inner": Field((), lambda f: f.expand * f.d_model),
    "rank": Field(("mamba_dt_rank",), lambda f: -(-f.d_model // 16)),
    "conv_bias": Field(("mamba_conv_bias",), True, bool),
    "bias": Field(("mamba_proj_bias",), False, bool),
}


def layer(c: Fields, use: Use, attends: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer; its attention knows no positions."""
    scan = selective(use, Selective.of(c, normed="gain"))
    mixer = self_attention(use, Heads.of(c, rotary=0.0)) if attends else scan
    yield from residual(use, "mixer", c.d_model, mixer)
    yield from feeding(c, use, sparse, function=function_of(c, "silu"))


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    kinds = (
        (
            i % c.attention_period == c.attention_offset,
            c.experts > 1 and i % c.expert_period == c.expert_offset,
        )
        for i in range(c.layers)
    )
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


JAMBA = Family(
    types=("jamba",),
    fields=FIELDS,
    parts=parts,
    source=(
        "Lieber et al., arXiv 2403.19887, §2; Jamba team, arXiv 2408.12570; Hugging Face transformers, "
        "modeling_jamba.py"
    ),
    cut={
        "heads": "heads",
        "kv_heads": "key and value heads",
        "inner": "channels of Mamba",
        "d_ff": "inner width",
    },
    alternates=True,
    left_to_defaults={"jamba": {"num_key_value_heads": 8}},
)
