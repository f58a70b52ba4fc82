"""Mamba: a selective state space between two products, and no other layer."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.models._blocks import (
    Use,
    between_ends,
    keeping,
    linear,
    repeated,
    residual,
    state,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import D_MODEL, LAYERS, TIED, VOCAB, Field, Fields
from costmodel.models._part import Part
from costmodel.models.stack import Stack

FIELDS = {
    "vocab": VOCAB,
    "d_model": D_MODEL,
    "layers": LAYERS,
    "state": Field(("state_size",), 16),
    "expand": Field(("expand",), 2),
    "inner": Field(("intermediate_size", "d_inner"), lambda f: f.expand * f.d_model),
    "kernel": Field(("conv_kernel", "d_conv"), 4),
    "rank": Field(("time_step_rank", "dt_rank"), lambda f: -(-f.d_model // 16)),
    "conv_bias": Field(("use_conv_bias",), True, bool),
    "bias": Field(("use_bias",), False, bool),
    "tied": TIED,
}


def mixer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the product in; convolution; Δ, B and C; the selective scan; the product out."""
    yield linear(use, "input projection", c.d_model, 2 * c.inner, bias=c.bias)
    convolution = Part.of(
        "convolution",
        use.layer("causal-conv1d", decode=use.decoding),
        **use.tokens,
        d_model=c.inner,
        k=c.kernel,
    )
    yield with_extra(convolution, c.inner if c.conv_bias else 0)
    yield keeping(linear(use, "step, B and C", c.inner, c.rank + 2 * c.state), 0)  # the scan keeps x
    yield linear(use, "step", c.rank, c.inner, bias=True)
    scan = use.layer("mamba")
    yield Part.of("selective scan", scan, **use.tokens, d_model=c.d_model, hidden=c.inner, state=c.state)
    if use.decoding:
        yield state(use, "state", c.inner * c.state)
    yield linear(use, "output projection", c.inner, c.d_model, bias=c.bias)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return embedding, layers, norm, logits."""
    return between_ends(c, use, [repeated(residual(use, "mixer", c.d_model, mixer(c, use)), c.layers)])


MAMBA = Family(
    types=("mamba",),
    fields=FIELDS,
    parts=parts,
    source="Gu & Dao, arXiv 2312.00752, §3.4; Hugging Face transformers, modeling_mamba.py",
    cut={"inner": "channels"},
)
