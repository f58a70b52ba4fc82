"""DeepSeek V2 and V3, and Kimi K2: latent attention (MLA), and routed experts beside shared ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from costmodel.models._blocks import Use, between_ends, experts, feed_forward, repeated, residual
from costmodel.models._family import Family
from costmodel.models._fields import DENSE, UNTIED, Field, Fields
from costmodel.models._latent import Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack


@dataclass(frozen=True)
class Traits:
    """Differences between V2 and V3.

    Attributes
    ----------
    correction : bool
        Whether the router learns an offset per expert (V3's load balancing without an auxiliary loss).
    """

    correction: bool = False


TRAITS = {
    "deepseek_v2": Traits(),
    "deepseek_v3": Traits(correction=True),
    "kimi_k2": Traits(correction=True),
    "kimi_k25": Traits(correction=True),
}
#: Defaults of DeepseekV3Config, which is also the class of Kimi's language models (transformers,
#: configuration_deepseek_v3.py and configuration_kimi_k25.py).
_V3 = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "first_k_dense_replace": 3,
}
LEFT_TO_DEFAULTS = dict.fromkeys(("deepseek_v3", "kimi_k2", "kimi_k25"), _V3)

FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    "tied": UNTIED,
    "q_rank": Field(("q_lora_rank",), 0),
    "kv_rank": Field(("kv_lora_rank",)),
    "nope": Field(("qk_nope_head_dim",)),
    "rope": Field(("qk_rope_head_dim",)),
    "value_dim": Field(("v_head_dim",)),
    "experts": Field(("n_routed_experts",)),
    "top_k": Field(("num_experts_per_tok",)),
    "shared": Field(("n_shared_experts",), 0),
    "d_expert": Field(("moe_intermediate_size",)),
    "dense_first": Field(("first_k_dense_replace",), 0),
    "sparse_step": Field(("moe_layer_freq",), 1),
    "attention_bias": Field(("attention_bias",), False, bool),
}


def layer(c: Fields, use: Use, sparse: bool) -> Iterator[Part]:
    """Yield one layer."""
    latent = Latent(
        d_model=c.d_model,
        heads=c.heads,
        q_rank=c.q_rank,
        kv_rank=c.kv_rank,
        nope=c.nope,
        rope=c.rope,
        value_dim=c.value_dim,
        bias=c.attention_bias,
    )
    yield from residual(use, "attention", c.d_model, latent_attention(use, latent))
    if sparse:
        half = experts(
            use,
            c.d_model,
            c.d_expert,
            c.experts,
            c.top_k,
            shared=c.shared * c.d_expert,
            extra=c.experts if TRAITS[c.type].correction else 0,
        )
    else:
        half = iter([feed_forward(use, c.d_model, c.d_ff, "silu", gated=True)])
    yield from residual(use, "feed-forward", c.d_model, half)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the dense layers, those with experts, the norm and the logits."""
    sparse = sum(i >= c.dense_first and i % c.sparse_step == 0 for i in range(c.layers))
    kinds = ((c.layers - sparse, False), (sparse, True))
    layers = (repeated(layer(c, use, has_experts), count) for count, has_experts in kinds if count)
    return between_ends(c, use, layers)


DEEPSEEK = Family(
    types=tuple(TRAITS),
    fields=FIELDS,
    parts=parts,
    source=(
        "DeepSeek-AI, arXiv 2405.04434 (V2), §2.1 and appendix C; arXiv 2412.19437 (V3), §2; Hugging Face "
        "transformers, modeling_deepseek_v2.py and modeling_deepseek_v3.py; Kimi team, arXiv 2507.20534 (K2)"
    ),
    left_out="dropout, masks, sampling; multi-token prediction (MTP)",
    cut={"heads": "heads", "d_ff": "inner width"},
    left_to_defaults=LEFT_TO_DEFAULTS,
)
