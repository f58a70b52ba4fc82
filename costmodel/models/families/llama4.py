"""Llama 4: experts in every layer or every other, one of which all tokens pass; chunked attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from costmodel.models._blocks import Use, between_ends, experts, feed_forward, repeated, residual
from costmodel.models._family import Family
from costmodel.models._fields import DENSE, UNTIED, Field, Fields, fraction
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size_mlp",)),
    "d_expert": Field(("intermediate_size",)),
    "kv_heads": Field(("num_key_value_heads",)),
    "head_dim": Field(("head_dim",), fraction("d_model", "heads")),
    "tied": UNTIED,
    "experts": Field(("num_local_experts",)),
    "top_k": Field(("num_experts_per_tok",), 1),
    "sparse_step": Field(("interleave_moe_layer_step",), 1),
    "qk_norm": Field(("use_qk_norm",), True, bool),
    "chunk": Field(("attention_chunk_size",), 8192),
    "global_step": Field(("no_rope_layer_interval",), 4),
}


def layer(c: Fields, use: Use, whole: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer: a global one sees all positions and rotates none."""
    heads = Heads(
        d_model=c.d_model,
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        qk_norm="free" if c.qk_norm and not whole else "none",
        rotary=not whole,
        window=None if whole else c.chunk,
    )
    yield from residual(use, "attention", c.d_model, self_attention(use, heads))
    if sparse:
        half = experts(use, c.d_model, c.d_expert, c.experts, c.top_k, shared=c.d_expert)
    else:
        half = iter([feed_forward(use, c.d_model, c.d_ff, "silu", gated=True)])
    yield from residual(use, "feed-forward", c.d_model, half)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return embedding, layers, norm, logits."""
    kinds = Counter(((i + 1) % c.global_step == 0, (i + 1) % c.sparse_step == 0) for i in range(c.layers))
    layers = (repeated(layer(c, use, *kind), count) for kind, count in kinds.items())
    return between_ends(c, use, layers)


LLAMA4 = Family(
    types=("llama4", "llama4_text"),
    fields=FIELDS,
    parts=parts,
    source="Hugging Face transformers, modeling_llama4.py (Llama4ForCausalLM: the text model)",
    left_out=(
        "dropout, masks, sampling; the vision model; chunked attention is taken as a window of a chunk's "
        "length, which costs up to twice as much"
    ),
    cut={"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width"},
    alternates=True,
)
