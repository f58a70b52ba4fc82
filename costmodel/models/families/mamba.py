"""Mamba: layers that are a selective state space between two products, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.errors import CostmodelError
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

#: Name of the mixer in mamba-ssm's own configurations; Mamba-2 has another.
MIXER = "Mamba1"


def _pure(c: Fields) -> bool:
    """Return True if all layers are Mamba's.

    Raises
    ------
    CostmodelError
        If some are not, which mamba-ssm's configurations allow.
    """
    others = {
        f"layer {c.mixer}": c.mixer != MIXER,
        f"d_intermediate {c.between}": c.between,
        f"attn_layer_idx {c.attending}": c.attending,
    }
    met = [name for name, there in others.items() if there]
    if met:
        raise CostmodelError(f"mamba: wanted {MIXER} in every layer and nothing in between, got {met[0]}")
    return True


def _padded(c: Fields) -> int:
    """Return the rows of the embedding table: the vocabulary, rounded up to a multiple."""
    return int(-(-c.words // c.multiple) * c.multiple)


FIELDS = {
    # mamba-ssm's own configurations have `ssm_cfg`, and pad the vocabulary to a multiple of 8 by default.
    "own": Field(("ssm_cfg",), None, dict),
    "multiple": Field(("pad_vocab_size_multiple",), lambda f: 1 if f.own is None else 8),
    "words": VOCAB,
    "vocab": Field((), _padded),
    "mixer": Field(("layer",), MIXER, str),
    "between": Field(("d_intermediate",), 0),
    "attending": Field(("attn_layer_idx",), None, list),
    "pure": Field((), _pure),
    "rms": Field(("rms_norm",), True, bool),
    "d_model": D_MODEL,
    "layers": LAYERS,
    "state": Field(("state_size", "d_state"), 16),
    "expand": Field(("expand",), 2),
    "inner": Field(("intermediate_size", "d_inner"), lambda f: f.expand * f.d_model),
    "kernel": Field(("conv_kernel", "d_conv"), 4),
    "rank": Field(("time_step_rank", "dt_rank"), lambda f: -(-f.d_model // 16)),
    "conv_bias": Field(("use_conv_bias", "conv_bias"), True, bool),
    "bias": Field(("use_bias", "bias"), False, bool),
    "tied": Field((*TIED.names, "tie_embeddings"), True, bool),
}


def mixer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the input projection; convolution; Δ, B and C; the selective scan; the output projection."""
    yield linear(use, "input projection", c.d_model, 2 * c.inner, bias=c.bias)
    convolution = Part.of(
        "convolution",
        use.layer("causal-conv1d", decode=use.decoding),
        **use.tokens,
        d_model=c.inner,
        k=c.kernel,
    )
    yield with_extra(convolution, c.inner if c.conv_bias else 0)
    yield keeping(
        linear(use, "Δ, B and C projection", c.inner, c.rank + 2 * c.state), 0
    )  # the scan keeps its input
    yield linear(use, "Δ projection", c.rank, c.inner, bias=True)
    scan = use.layer("mamba")
    yield Part.of("selective scan", scan, **use.tokens, d_model=c.d_model, hidden=c.inner, state=c.state)
    if use.decoding:
        yield state(use, "state", c.inner * c.state)
    yield linear(use, "output projection", c.inner, c.d_model, bias=c.bias)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    kind = "rms" if c.rms else "layer"
    layer = residual(use, "mixer", c.d_model, mixer(c, use), kind=kind)
    return between_ends(c, use, [repeated(layer, c.layers)], kind=kind)


MAMBA = Family(
    types=("mamba",),
    fields=FIELDS,
    parts=parts,
    source="Gu & Dao, arXiv 2312.00752, §3.4; Hugging Face transformers, modeling_mamba.py; mamba-ssm",
    cut={"inner": "channels"},
    nested="ssm_cfg",
)
