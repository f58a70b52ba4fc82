"""Ling 3.0: five layers of Kimi's delta attention for each layer of latent attention, and experts.

The latent attention rotates positions and gates each head; the delta attention's gates have full rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.models._blocks import Use, between_ends, feeding, residual, stacks
from costmodel.models._delta import delta_attention
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of, of_layers, same
from costmodel.models._latent import LATENT_FIELDS, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.families.deepseek import has_experts
from costmodel.models.families.qwen3_next import LAYER_TYPES
from costmodel.models.stack import Stack

FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    "tied": UNTIED,
    "act": ACT,
    **LATENT_FIELDS,
    "q_rank": Field((), 0),
    # Saved configurations have the rotated width as `head_dim`.
    "delta_heads": Field(("linear_num_heads",), same("heads")),
    "delta_width": Field(("linear_head_dim", "head_dim"), 128),
    "kernel": Field(("linear_conv_kernel_dim", "short_conv_kernel_size"), 4),
    "group": Field(("layer_group_size",), 6),
    "layer_types": Field(("layer_types",), (), list),
    "experts": Field(("num_experts", "num_local_experts"), 512),
    "top_k": Field(("num_experts_per_token", "num_experts_per_tok"), 8),
    "shared": Field(("num_shared_experts", "n_shared_experts"), 1, may_be_zero=True),
    "d_expert": Field(("moe_intermediate_size",)),
    "dense_first": Field(("first_k_dense_replace",), 2, may_be_zero=True),
    "sparse_step": Field((), 1),
    "mlp_types": Field(("mlp_layer_types",), (), list),
}

#: Defaults of BailingHybridConfig (transformers, configuration_bailing_hybrid.py).
LEFT_TO_DEFAULTS = {
    "bailing_hybrid": {
        "vocab_size": 157184,
        "hidden_size": 2560,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 42,
        "num_attention_heads": 32,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "qk_nope_head_dim": 128,
    }
}


def layer(c: Fields, use: Use, attends: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer."""
    latent = Latent.of(c, gate="head")
    mixer = latent_attention(use, latent) if attends else delta_attention(c, use, narrow=False)
    yield from residual(use, "attention", c.d_model, mixer)
    function, shared = function_of(c, "silu"), c.shared * c.d_expert
    yield from feeding(c, use, sparse, function=function, shared=shared, extra=c.experts)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    types = of_layers(c, LAYER_TYPES)
    attending = [types[i] == "full_attention" if types else (i + 1) % c.group == 0 for i in range(c.layers)]
    kinds = zip(attending, has_experts(c), strict=True)
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


BAILING = Family(
    types=tuple(LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source="Kimi team, arXiv 2510.26692; Hugging Face transformers, modeling_bailing_hybrid.py",
    left_out="dropout, masks, sampling; multi-token prediction (MTP)",
    cut={"heads": "heads", "delta_heads": "heads of delta attention", "d_ff": "inner width"},
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
)
