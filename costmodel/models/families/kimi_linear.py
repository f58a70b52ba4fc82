"""Kimi Linear: three layers of Kimi's delta attention for each layer of latent attention, and experts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.errors import CostmodelError
from costmodel.models._blocks import Use, between_ends, feeding, residual, stacks
from costmodel.models._delta import DELTA_FIELDS, delta_attention
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of, of_layers
from costmodel.models._latent import LATENT_FIELDS, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.families.deepseek import has_experts
from costmodel.models.families.qwen3_next import LAYER_TYPES
from costmodel.models.stack import Stack


def _unrotated(c: Fields) -> None:
    """Refuse latent attention with rotation, which no code of this architecture has."""
    if not c.nope_asked:
        raise CostmodelError("kimi_linear: mla_use_nope should be True, got False")


FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    "tied": UNTIED,
    "act": ACT,
    **LATENT_FIELDS,
    "nope_asked": Field(("mla_use_nope",), True, bool),
    "unrotated": Field((), _unrotated),
    **DELTA_FIELDS,
    "layer_types": Field(("layer_types",), (), list),
    "experts": Field(("num_experts", "num_local_experts"), 256),
    "top_k": Field(("num_experts_per_token", "num_experts_per_tok"), 8),
    "shared": Field(("num_shared_experts", "n_shared_experts"), 1, may_be_zero=True),
    "d_expert": Field(("moe_intermediate_size",)),
    "dense_first": Field(("first_k_dense_replace",), 1, may_be_zero=True),
    "sparse_step": Field(("moe_layer_freq",), 1),
    "mlp_types": Field(("mlp_layer_types",), (), list),
}


def attending(c: Fields) -> list[bool]:
    """Return of each layer whether it has latent attention: as listed, or each fourth after the first.

    Raises
    ------
    CostmodelError
        If the published lists do not have each layer once.
    """
    types = of_layers(c, LAYER_TYPES)
    if types:
        return [name == "full_attention" for name in types]
    full, delta = c.given.full, c.given.delta
    if not (full and delta):
        return [i > 0 and i % 4 == 0 for i in range(c.layers)]
    if sorted([*full, *delta], key=str) != sorted(range(1, c.layers + 1), key=str):
        raise CostmodelError(
            f"kimi_linear: full_attn_layers and kda_layers should have each of the layers 1 to {c.layers} "
            f"once, got {full} and {delta}"
        )
    return [i + 1 in full for i in range(c.layers)]


def layer(c: Fields, use: Use, attends: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer; its latent attention rotates no positions."""
    latent = Latent.of(c, rotated=False)
    mixer = latent_attention(use, latent) if attends else delta_attention(c, use)
    yield from residual(use, "attention", c.d_model, mixer)
    function, shared = function_of(c, "silu"), c.shared * c.d_expert
    yield from feeding(c, use, sparse, function=function, shared=shared, extra=c.experts)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    kinds = zip(attending(c), has_experts(c), strict=True)
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


KIMI_LINEAR = Family(
    types=("kimi_linear",),
    fields=FIELDS,
    parts=parts,
    source="Kimi team, arXiv 2510.26692 (Kimi Linear); Hugging Face transformers, modeling_kimi_linear.py",
    left_out="dropout, masks, sampling; softplus is counted as a sigmoid",
    cut={"heads": "heads", "delta_heads": "heads of delta attention", "d_ff": "inner width"},
    alternates=True,
    left_to_defaults={
        "kimi_linear": {
            "vocab_size": 163840,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "moe_intermediate_size": 1024,
            "num_hidden_layers": 27,
            "num_attention_heads": 32,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "qk_nope_head_dim": 128,
        }
    },
)
