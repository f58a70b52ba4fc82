"""GNMT: LSTM layers in encoder and decoder, with additive attention between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from costmodel.cost import ZERO
from costmodel.models._blocks import B, N, S, Use, embedding, linear, logits, pointwise, repeated
from costmodel.models._family import Family
from costmodel.models._fields import D_MODEL, LAYERS, VOCAB, Field, Fields, same
from costmodel.models._part import Part

FIELDS = {
    "vocab": VOCAB,
    "d_model": D_MODEL,
    "layers": LAYERS,
    "decoder_layers": Field(("num_decoder_layers",), same("layers")),
}


def encoder(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the first layer, which is bidirectional, the second, which reads both directions, and others."""
    both, one = use.layer("lstm", bidirectional=True), use.layer("lstm")
    width = {**use.tokens, "hidden": c.d_model}
    yield Part.of("encoder", both, **width, input=c.d_model)
    yield Part.of("encoder", one, **width, input=2 * c.d_model)
    yield Part.of("encoder", one, **width, input=c.d_model, num_layers=c.layers - 2)
    yield from repeated([pointwise(use, "residual", "add", c.d_model)], c.layers - 2)


def attention(c: Fields, use: Use) -> Iterator[Part]:
    """Yield vᵀ tanh(W q + U k) for each pair, the softmax, and the weighted sum of the encoder's outputs.

    In decoding, the outputs and U k of the encoder's `seq` positions are in memory already.
    """
    source = N if use.decoding else S
    pairs = use.rows * source
    yield linear(use, "attention query", c.d_model, c.d_model)
    if not use.decoding:
        yield linear(use, "attention key", c.d_model, c.d_model, rows=B * S)
    there = B * source * c.d_model if use.decoding else ZERO
    yield replace(pointwise(use, "attention sum", "add", c.d_model, rows=pairs), cached=there)
    yield pointwise(use, "attention tanh", "tanh", c.d_model, rows=pairs)
    yield linear(use, "attention score", c.d_model, 1, rows=pairs)
    yield Part.of("attention softmax", use.layer("softmax"), m=use.rows, n=source)
    product = use.layer("matmul", batched=True)
    sizes = {"batch": B, "m": use.positions, "n": c.d_model, "k": source}
    yield replace(Part.of("attention values", product, **sizes, shared=True), cached=there)


def decoder(c: Fields, use: Use) -> Iterator[Part]:
    """Yield layers that each read the layer below and the result of attention for the first layer."""
    layer = use.layer("lstm")
    width = {**use.tokens, "hidden": c.d_model}
    states = 2 * B * c.d_model if use.decoding else ZERO  # h and c
    part = Part.of("decoder", layer, **width, input=2 * c.d_model, repeats=c.decoder_layers)
    yield replace(part, cached=states)
    yield from repeated([pointwise(use, "residual", "add", c.d_model)], c.decoder_layers - 2)


def parts(c: Fields, use: Use) -> Iterator[Part]:
    """Yield embeddings, encoder (unless decoding), attention and decoder, logits."""
    if not use.decoding:
        source = replace(use, length=S)
        yield embedding(source, c.vocab, c.d_model, tied=False)
        yield from encoder(c, source)
    yield embedding(use, c.vocab, c.d_model, tied=False)
    yield from attention(c, use)
    yield from decoder(c, use)
    yield logits(use, c.vocab, c.d_model)


GNMT = Family(
    types=("gnmt",),
    fields=FIELDS,
    parts=parts,
    source="Wu et al., arXiv 1609.08144, §3",
    left_out=(
        "dropout, masks, beam search; attention needs the decoder's first layer position by position, "
        "but is counted as if it ran for all positions at once"
    ),
    encodes=True,
)
