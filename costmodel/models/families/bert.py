"""BERT: a bidirectional encoder with layer norms after each residual addition, and a pooler."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.models._blocks import (
    B,
    Use,
    embedding,
    feed_forward,
    linear,
    logits,
    norm,
    pointwise,
    repeated,
    residual_then_norm,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, TIED, Field, Fields, fraction, function_of, same
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

FIELDS = {
    **DENSE,
    "positions": Field(("max_position_embeddings",)),
    "kinds": Field(("type_vocab_size",), 2, may_be_zero=True),
    "d_ff": Field(("intermediate_size",), same("d_model", 4)),
    "head_dim": Field(("head_dim",), fraction("d_model", "heads")),
    "act": ACT,
    "tied": TIED,
}


def layer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield one layer."""
    heads = Heads(
        d_model=c.d_model,
        heads=c.heads,
        kv_heads=c.heads,
        head_dim=c.head_dim,
        bias=True,
        out_bias=True,
        rotary=False,
        causal=False,
    )
    yield from residual_then_norm(use, "attention", c.d_model, self_attention(use, heads))
    inner = (feed_forward(use, c.d_model, c.d_ff, function_of(c, "gelu"), bias=True),)
    yield from residual_then_norm(use, "feed-forward", c.d_model, inner)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Yield embeddings and their norm, layers, the pooler of the first token; in training also the heads."""
    tables = (c.positions + c.kinds) * c.d_model
    yield with_extra(embedding(use, c.vocab, c.d_model, tied=c.tied and use.mode == "training"), tables)
    yield norm(use, "embedding norm", c.d_model, "layer")
    yield repeated(layer(c, use), c.layers)
    yield linear(use, "pooler", c.d_model, c.d_model, bias=True, rows=B)
    yield pointwise(use, "pooler's activation", "tanh", c.d_model, rows=B)
    if use.mode == "training":
        yield from heads(c, use)


def heads(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the pre-training heads: transform, norm and word scores of every position; next sentence."""
    yield linear(use, "word transform", c.d_model, c.d_model, bias=True)
    yield pointwise(use, "word transform's activation", function_of(c, "gelu"), c.d_model)
    yield norm(use, "word norm", c.d_model, "layer")
    yield with_extra(logits(use, c.vocab, c.d_model), c.vocab)
    yield linear(use, "next sentence", c.d_model, 2, bias=True, rows=B)


BERT = Family(
    types=("bert",),
    fields=FIELDS,
    parts=parts,
    source=(
        "Devlin et al., arXiv 1810.04805, §3; "
        "Hugging Face transformers, modeling_bert.py (BertForPreTraining)"
    ),
    left_out="dropout, masks; in training, logits are computed at all positions, not only at masked ones",
    decodes=False,
    cut={"heads": "heads", "d_ff": "inner width"},
)
