"""Mistral Large 4: sparse attention over latents, of which every fourth layer rotates none, and experts.

Queries, and those of the indexer, are made from the layer's input; each head scales its own by the position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

from costmodel.errors import CostmodelError
from costmodel.models._blocks import Use, between_ends, feeding, residual, stacks, with_extra
from costmodel.models._family import Family
from costmodel.models._fields import Field, Fields, each_layer, function_of
from costmodel.models._latent import Indexer, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.families import deepseek
from costmodel.models.stack import Stack

FIELDS = {
    **deepseek.FIELDS,
    "q_rank": Field((), 0),
    "experts": Field(("n_routed_experts", "num_local_experts", "num_experts"), 128),
    "unrotated": Field(("no_rope_layer_interval",), 4),
    "rotated": Field(("no_rope_layers",), (), list),
    "sources": Field(("kv_source_layers",), (), list),
}
#: Defaults of MistralLarge4TextConfig (transformers, configuration_mistral_large4.py).
_DEFAULTS = {
    "vocab_size": 204800,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "moe_intermediate_size": 6144,
    "num_hidden_layers": 72,
    "num_attention_heads": 64,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "first_k_dense_replace": 1,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 32,
}


def rotating(c: Fields) -> list[bool]:
    """Return for each layer whether it rotates positions."""
    listed = each_layer(c, "no_rope_layers", c.rotated)
    return [bool(said) for said in listed] or [(i + 1) % c.unrotated != 0 for i in range(c.layers)]


def layer(c: Fields, use: Use, sparse: bool, own: bool, rotates: bool) -> Iterator[Part]:
    """Yield one layer; heads without rotation are as wide as the others.

    A head scales its queries by two learned numbers.
    """
    indexer = Indexer(heads=c.index_heads, width=c.index_width, top_k=c.index_top_k, own=own)
    latent = Latent.of(c, sparse=indexer)
    if not rotates:
        latent = dataclasses.replace(latent, nope=latent.query, rope=0)
    scales = {"attention": 2 * c.heads, "indexer": 2 * c.index_heads}
    half = (with_extra(part, scales.get(part.name, 0)) for part in latent_attention(use, latent))
    yield from residual(use, "attention", c.d_model, half)
    yield from feeding(c, use, sparse, function=function_of(c, "silu"), shared=c.shared * c.d_expert)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers of each kind, the norm and the logits.

    Raises
    ------
    CostmodelError
        If layers attend to another layer's latents.
    """
    sources = list(each_layer(c, "kv_source_layers", c.sources))
    if sources not in ([], list(range(c.layers))):
        raise CostmodelError(
            "kv_source_layers: wanted the latents of each layer to be its own, got shared ones"
        )
    kinds = sorted(zip(deepseek.has_experts(c), deepseek.own_indexers(c), rotating(c), strict=True))
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


MISTRAL_LARGE4 = Family(
    types=("mistral_large4", "mistral_large4_text"),
    fields=FIELDS,
    parts=parts,
    source="Hugging Face transformers, modeling_mistral_large4.py; DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1",
    left_out=(
        "dropout, masks, sampling, the capping of logits; the module that drafts tokens; the scaling of "
        "queries by position, the factors of rotation's frequencies; that engines attend to short prompts "
        "without an index, and the indexer's own loss"
    ),
    cut={"heads": "heads", "d_ff": "inner width"},
    alternates=True,
    left_to_defaults=dict.fromkeys(("mistral_large4", "mistral_large4_text"), _DEFAULTS),
)
