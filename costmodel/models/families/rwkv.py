"""RWKV-4: time mixing by a decaying average, channel mixing with a squared ReLU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import sympy as sp

from costmodel.models._blocks import (
    Use,
    between_ends,
    gate,
    keeping,
    linear,
    norm,
    pointwise,
    repeated,
    residual,
    state,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import D_MODEL, LAYERS, UNTIED, VOCAB, Field, Fields, same
from costmodel.models._part import Part
from costmodel.models.stack import Stack

FIELDS = {
    "vocab": VOCAB,
    "d_model": D_MODEL,
    "layers": LAYERS,
    "width": Field(("attention_hidden_size",), same("d_model")),
    "d_ff": Field(("intermediate_size",), same("d_model", 4)),
    "tied": UNTIED,
}


def time_mixing(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the mix with the previous token, three products, the average, its gate, the output projection."""
    # Key, value and receptance each learn a vector that weighs the previous token.
    yield with_extra(pointwise(use, "token shift", "add", 3 * c.d_model), 3 * c.d_model)
    # These are three products because each reads another mix.
    yield replace(linear(use, "key, value and receptance", c.d_model, c.width), repeats=sp.Integer(3))
    yield Part.of("wkv", use.layer("rwkv"), **use.tokens, d_model=c.width)
    if use.decoding:
        # The state holds the average's numerator, denominator and exponent, and the previous token.
        yield state(use, "state", 3 * c.width + c.d_model)
    one = gate(use, "receptance gate", c.width, "sigmoid")
    yield keeping(one, sp.Rational(1, 2))  # the average keeps its result
    yield linear(use, "output projection", c.width, c.d_model)


def channel_mixing(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the mix with the previous token; key, squared ReLU, value; receptance and its gate."""
    yield with_extra(pointwise(use, "token shift", "add", 2 * c.d_model), 2 * c.d_model)
    yield linear(use, "channel key", c.d_model, c.d_ff)
    yield pointwise(use, "squared relu", "relu2", c.d_ff)
    yield linear(use, "channel value", c.d_ff, c.d_model)
    yield linear(use, "channel receptance", c.d_model, c.d_model)
    yield gate(use, "receptance gate", c.d_model, "sigmoid")
    if use.decoding:
        yield state(use, "state", c.d_model)


def layer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield one layer."""
    yield from residual(use, "time mixing", c.d_model, time_mixing(c, use), kind="layer")
    yield from residual(use, "channel mixing", c.d_model, channel_mixing(c, use), kind="layer")


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding and its norm, the layers, the norm and the logits."""
    first = norm(use, "embedding norm", c.d_model, "layer")
    return between_ends(c, use, [first, repeated(layer(c, use), c.layers)], kind="layer")


RWKV = Family(
    types=("rwkv",),
    fields=FIELDS,
    parts=parts,
    source="Peng et al., arXiv 2305.13048, §3 (RWKV-4); Hugging Face transformers, modeling_rwkv.py",
    cut={"width": "channels", "d_ff": "inner width"},
)
