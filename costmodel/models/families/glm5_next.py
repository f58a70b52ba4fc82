"""GLM-5.3: three layers of Kimi's delta attention for each layer of sparse latent attention; experts.

Its indexer chooses pools of positions, its latent attention rotates none, and hyper-connections stand in for
the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import sympy as sp

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    Use,
    between_ends,
    experts,
    feed_forward,
    norm,
    pointwise,
    stacks,
)
from costmodel.models._delta import DELTA_FIELDS, delta_attention
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of, of_layers
from costmodel.models._latent import LATENT_FIELDS, Indexer, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.families.deepseek import INDEX_FIELDS, has_experts, own_indexers
from costmodel.models.families.deepseek_v4 import hyper
from costmodel.models.stack import Stack

#: Entries allowed in ``layer_types``; published configurations call sparse attention full.
DELTA = "linear_attention"
LAYER_TYPES = (DELTA, "indexed_attention", "full_attention")


def _pools(c: Fields) -> int:
    """Return the pools that a query chooses, after checking them."""
    if not c.tail:
        raise CostmodelError("glm5_next: index_kpool_always_select_tail should be True, got False")
    if c.index_top_k % c.pool:
        raise CostmodelError(f"index_topk: wanted a multiple of index_kpool {c.pool}, got {c.index_top_k}")
    return int(c.index_top_k // c.pool)


FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    "tied": UNTIED,
    "act": ACT,
    **LATENT_FIELDS,
    "q_rank": Field(("q_lora_rank",)),
    "rope": Field(("qk_rope_head_dim",), 0, most=0),
    **INDEX_FIELDS,
    "pool": Field(("index_kpool",), 16),
    "tail": Field(("index_kpool_always_select_tail",), True, bool),
    "pools": Field((), _pools),
    **DELTA_FIELDS,
    "own_heads": Field(("linear_num_heads",), 64),
    "layer_types": Field(("layer_types",), (), list),
    "streams": Field(("hc_mult",), 4),
    "experts": Field(("n_routed_experts", "num_local_experts"), 288),
    "top_k": Field(("num_experts_per_tok",)),
    "shared": Field(("n_shared_experts",), 1, may_be_zero=True),
    "d_expert": Field(("moe_intermediate_size",)),
    "mlp_types": Field(("mlp_layer_types",), (), list),
    "dense_first": Field((), 3),
    "sparse_step": Field((), 1),
}

#: Defaults of Glm5NextTextConfig (transformers, configuration_glm5_next.py).
_TEXT = {
    "vocab_size": 154880,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 45,
    "num_attention_heads": 64,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "v_head_dim": 256,
    "qk_nope_head_dim": 256,
    "num_experts_per_tok": 8,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 32,
}
LEFT_TO_DEFAULTS = {"glm5_next": _TEXT, "glm5_next_text": _TEXT}


def attention(c: Fields, use: Use, attends: bool, own: bool) -> Iterator[Part]:
    """Return latent attention, with an indexer of its own or another layer's choice, or delta attention."""
    if not attends:
        return delta_attention(c, use)
    indexer = Indexer(heads=c.index_heads, width=c.index_width, top_k=c.pools, own=own, stride=c.pool)
    return latent_attention(use, Latent.of(c, sparse=indexer, rotated=False))


def layer(c: Fields, use: Use, attends: bool, own: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer: two halves, each behind a norm and inside a hyper-connection, whose mixing ends it."""
    yield norm(use, "attention norm", c.d_model)
    yield from attention(c, use, attends, own)
    yield hyper(c, use)
    yield norm(use, "feed-forward norm", c.d_model)
    if sparse:
        yield from experts(c, use, shared=c.shared * c.d_expert, extra=c.experts)
    else:
        yield feed_forward(use, c.d_model, c.d_ff, function_of(c, "silu"), gated=True)
    yield hyper(c, use)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the mean of the streams, the norm and the logits."""
    types = of_layers(c, LAYER_TYPES)
    attending = [types[i] != DELTA if types else i % 4 == 3 for i in range(c.layers)]
    own = [attends and indexes for attends, indexes in zip(attending, own_indexers(c), strict=True)]
    layers = stacks(zip(attending, own, has_experts(c), strict=True), partial(layer, c, use))
    mean = replace(pointwise(use, "mean of streams", "add", c.d_model), repeats=sp.Integer(c.streams - 1))
    return between_ends(c, use, [*layers, mean])


GLM5_NEXT = Family(
    types=tuple(LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source=(
        "Kimi team, arXiv 2510.26692; DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1; Xie et al., arXiv 2512.24880; "
        "Hugging Face transformers, modeling_glm5_next.py"
    ),
    left_out=(
        "dropout, masks, clipping by constants, sampling; multi-token prediction (MTP); Sinkhorn iterations; "
        "of sparse attention, that a query's incomplete pool is counted as if only its last position were "
        "missing, the keys and weights of that pool in the cache, and the indexer's own loss"
    ),
    cut={"heads": "heads", "delta_heads": "heads of delta attention", "d_ff": "inner width"},
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
)
