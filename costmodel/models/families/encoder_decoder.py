"""Encoder-decoders: the Transformer of 2017 and T5.

`seq` is the decoder's length and `seq_kv` the encoder's, which the decoder attends to. In decoding, `seq_kv`
is the length of the decoder's own cache, and `seq` the encoder's, whose keys and values are cached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from costmodel.models._blocks import (
    S,
    Use,
    embedding,
    feed_forward,
    logits,
    norm,
    repeated,
    residual,
    residual_then_norm,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import D_MODEL, DENSE, TIED, Field, Fields, fraction, function_of, same
from costmodel.models._heads import Heads, cross_attention, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

CUT = {"heads": "heads", "d_ff": "inner width"}

Half = Callable[[Use, str, int, Iterable[Part]], Iterator[Part]]


def _stack(c: Fields, use: Use, half: Half, inner: Callable[[Use, str], Part]) -> Iterator[Stack]:
    """Yield the encoder's layers, unless decoding, then the decoder's."""
    own = Heads(
        d_model=c.d_model, heads=c.heads, kv_heads=c.heads, head_dim=c.head_dim, rotary=False, causal=True
    )
    both_ways = dataclasses.replace(own, causal=False)
    if not use.decoding:
        encoder = dataclasses.replace(use, length=S)
        one = [
            *half(
                encoder, "encoder's attention", c.d_model, self_attention(encoder, both_ways, "encoder's ")
            ),
            *half(encoder, "encoder's feed-forward", c.d_model, [inner(encoder, "encoder's feed-forward")]),
        ]
        yield repeated(one, c.layers)
    one = [
        *half(use, "attention", c.d_model, self_attention(use, own)),
        *half(use, "cross-attention", c.d_model, cross_attention(use, own, c.decoder_layers)),
        *half(use, "feed-forward", c.d_model, [inner(use, "feed-forward")]),
    ]
    yield repeated(one, c.decoder_layers)


# -- Vaswani et al. 2017 -----------------------------------------------------------------------


def transformer_parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Yield embeddings, encoder, decoder, logits; both embeddings and the logits share one table."""

    def inner(use: Use, name: str) -> Part:
        return feed_forward(use, c.d_model, c.d_ff, "relu", bias=True, name=name)

    if not use.decoding:
        yield embedding(dataclasses.replace(use, length=S), c.vocab, c.d_model, tied=True)
    yield with_extra(embedding(use, c.vocab, c.d_model, tied=True), c.other_rows * c.d_model)
    yield from _stack(c, use, residual_then_norm, inner)
    yield logits(use, c.vocab, c.d_model)


TRANSFORMER = Family(
    types=("transformer",),
    fields={
        **DENSE,
        "decoder_layers": Field(("num_decoder_layers",), same("layers")),
        "d_ff": Field(("d_ff",), same("d_model", 4)),
        "head_dim": Field(("d_kv",), fraction("d_model", "heads")),
        "other_rows": Field(("other_embedding_rows",), 0),
    },
    parts=transformer_parts,
    source="Vaswani et al., arXiv 1706.03762, §3 and Table 3",
    encodes=True,
    cut=CUT,
)

# -- T5 ----------------------------------------------------------------------------------------

#: Prefix of the form of a feed-forward layer with a gate; the rest is the activation.
GATED = "gated-"

T5_FIELDS = {
    "type": Field(("model_type",), kind=str),
    "vocab": DENSE["vocab"],
    "d_model": D_MODEL,
    "layers": DENSE["layers"],
    "decoder_layers": Field(("num_decoder_layers",), same("layers")),
    "heads": DENSE["heads"],
    "head_dim": Field(("d_kv",)),
    "d_ff": Field(("d_ff",)),
    "form": Field(("feed_forward_proj",), lambda f: "relu" if f.type == "t5" else "gated-gelu", str),
    "gated": Field((), lambda f: f.form.startswith(GATED)),
    # A form by these words has the approximation by tanh (transformers, configuration_t5.py).
    "act": Field((), lambda f: "gelu_new" if f.form == "gated-gelu" else f.form.removeprefix(GATED)),
    "buckets": Field(("relative_attention_num_buckets",), 32),
    "tied": TIED,
}


def t5_parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Yield embeddings, encoder, norm, decoder, norm, logits; norms have no offset, products no bias.

    The first layer of each stack (in UMT5 every layer) has a table of biases by distance for each head.
    """

    def inner(use: Use, name: str) -> Part:
        return feed_forward(use, c.d_model, c.d_ff, function_of(c, "relu"), gated=c.gated, name=name)

    encoder = dataclasses.replace(use, length=S)
    if not use.decoding:
        yield embedding(encoder, c.vocab, c.d_model, tied=True)
    tables = c.layers + c.decoder_layers if c.type == "umt5" else 2
    table = tables * c.buckets * c.heads
    yield with_extra(embedding(use, c.vocab, c.d_model, tied=c.tied), table)
    yield from _stack(c, use, residual, inner)
    if not use.decoding:
        yield norm(encoder, "encoder's final norm", c.d_model)
    yield norm(use, "final norm", c.d_model)
    yield logits(use, c.vocab, c.d_model)


T5 = Family(
    types=("t5", "mt5", "umt5"),
    fields=T5_FIELDS,
    parts=t5_parts,
    source="Raffel et al., arXiv 1910.10683, §2.1; Hugging Face transformers, modeling_t5.py",
    left_out="dropout, masks, adding relative position biases to the scores",
    encodes=True,
    cut=CUT,
)
