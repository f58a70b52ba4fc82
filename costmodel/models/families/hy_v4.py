"""Hy4: sparse attention over latents with sinks and a gate on its output, hyper-connections, and experts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.models._blocks import Use, between_ends, experts, feed_forward, norm, stacks, with_extra
from costmodel.models._family import Family
from costmodel.models._fields import Field, Fields, function_of
from costmodel.models._latent import Indexer, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.families import deepseek
from costmodel.models.families.deepseek_v4 import hyper
from costmodel.models.stack import Stack

FIELDS = {
    **deepseek.FIELDS,
    "q_rank": Field(("q_lora_rank",)),
    "streams": Field(("hc_mult",), 4),
    # Layers that are not listed: the first has no experts; it, the second and each fourth after that choose.
    "dense_first": Field((), 1),
    "sparse_step": Field((), 1),
    "index_pattern": Field((), ""),
    "index_every": Field((), 4),
    "index_skip": Field((), 2),
}
#: Defaults of HYV4Config (transformers, configuration_hy_v4.py).
LEFT_TO_DEFAULTS = {
    "hy_v4": {
        "vocab_size": 120832,
        "hidden_size": 2816,
        "intermediate_size": 6912,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 34,
        "num_attention_heads": 32,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64,
        "v_head_dim": 256,
        "index_topk": 2048,
        "index_head_dim": 128,
        "index_n_heads": 16,
        "hc_mult": 4,
    }
}


def layer(c: Fields, use: Use, sparse: bool, own: bool) -> Iterator[Part]:
    """Yield one layer: two halves, each behind a norm and inside a hyper-connection.

    Each head's softmax has one more, learned score.
    """
    indexer = Indexer(heads=c.index_heads, width=c.index_width, top_k=c.index_top_k, own=own)
    yield hyper(c, use, mixes=False)
    yield norm(use, "attention norm", c.d_model)
    for part in latent_attention(use, Latent.of(c, sparse=indexer, gate="own")):
        yield with_extra(part, c.heads) if part.name == "attention" else part
    yield hyper(c, use, mixes=False)
    yield norm(use, "feed-forward norm", c.d_model)
    function = function_of(c, "silu")
    if sparse:
        yield from experts(c, use, function=function, shared=c.shared * c.d_expert, extra=c.experts)
    else:
        yield feed_forward(use, c.d_model, c.d_ff, function, gated=True)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers of each kind, the collapse of the streams, the norm and the logits."""
    kinds = sorted(zip(deepseek.has_experts(c), deepseek.own_indexers(c), strict=True))
    layers = stacks(kinds, partial(layer, c, use))
    return between_ends(c, use, (*layers, hyper(c, use, outward=False)))


HY_V4 = Family(
    types=tuple(LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source="Hugging Face transformers, modeling_hy_v4.py; DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1",
    left_out=(
        "dropout, masks, clipping by constants, sampling; multi-token prediction (MTP); that engines attend "
        "to short prompts without an index, and the indexer's own loss; that logits and the weights of "
        "hyper-connections are in fp32"
    ),
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
)
