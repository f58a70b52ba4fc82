"""LFM2 and LFM3: short convolutions between two gates in many layers, attention in the others."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.models._blocks import (
    Use,
    between_ends,
    convolution,
    feeding,
    linear,
    pointwise,
    residual,
    stacks,
)
from costmodel.models._family import Family
from costmodel.models._fields import DENSE, TIED, Field, Fields, of_layers, same
from costmodel.models._heads import HEAD_FIELDS, Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

#: Entries allowed in ``layer_types``; only LFM3 has windows.
FULL, NEAR, CONV = "full_attention", "sliding_attention", "conv"


def _third(c: Fields) -> bool:
    """Return whether it is LFM3, with norms around each half, gated heads and windows."""
    return bool(c.type == "lfm3")


def _d_ff(c: Fields) -> int:
    """Return the inner width: as said, or two thirds of that, times a factor, rounded up to a multiple."""
    if not c.adjusted:
        return int(c.said_d_ff)
    width = int(int(2 * c.said_d_ff / 3) * c.ff_factor)
    return int(-(-width // c.ff_multiple) * c.ff_multiple)


FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    **HEAD_FIELDS,
    "tied": Field(("tie_embedding", *TIED.names), True, bool),
    "channels": Field((), same("d_model")),
    "kernel": Field(("conv_L_cache",), lambda f: 7 if _third(f) else 3),
    "conv_bias": Field(("conv_bias",), False, bool),
    "said_d_ff": Field(("block_ff_dim", "intermediate_size")),
    "adjusted": Field(("block_auto_adjust_ff_dim",), lambda f: f.type == "lfm2", bool),
    "ff_factor": Field(("block_ffn_dim_multiplier",), 1.0, float),
    "ff_multiple": Field(("block_multiple_of",), 256),
    "d_ff": Field((), _d_ff),
    "sandwich": Field(("use_sandwich_norm",), _third, bool),
    "head_gated": Field(("use_attention_gate",), _third, bool),
    "attention_bias": Field(("attention_bias",), False, bool),
    "window": Field(("sliding_window",), 0),
    "layer_types": Field(("layer_types",), (), list),
    "attending": Field(("full_attn_idxs",), None, list),
    "experts": Field(("num_experts",), lambda f: 32 if f.type == "lfm2_moe" else 0),
    "top_k": Field(("num_experts_per_tok",), 4),
    "d_expert": Field(("moe_intermediate_size",), 1792),
    "dense_first": Field(("num_dense_layers",), 2, may_be_zero=True),
    "offsets": Field(("use_expert_bias",), True, bool),
}


def short_convolution(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the product for both gates and the input; gate, convolution, gate; the product out."""
    yield linear(use, "input projection", c.d_model, 3 * c.channels, bias=c.conv_bias)
    yield pointwise(use, "input gate", "mul", c.channels)
    yield convolution(use, c.channels, c.kernel, bias=c.conv_bias)
    yield pointwise(use, "output gate", "mul", c.channels)
    yield linear(use, "output projection", c.channels, c.d_model, bias=c.conv_bias)


def kinds(c: Fields) -> Iterator[tuple[str, bool]]:
    """Yield of each layer its type, and whether it has experts."""
    types = of_layers(c, (FULL, NEAR, CONV) if _third(c) else (FULL, CONV))
    if not types and _third(c):
        types = [FULL if i % 4 == 2 else NEAR if i and i % 4 == 0 else CONV for i in range(c.layers)]
    attending = range(c.layers) if c.attending is None else c.attending
    for i in range(c.layers):
        default = FULL if i in attending else CONV
        yield types[i] if types else default, c.experts > 0 and i >= c.dense_first


def layer(c: Fields, use: Use, kind: str, sparse: bool) -> Iterator[Part]:
    """Yield one layer; a window of 0 positions is none."""
    heads = Heads.of(
        c,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        qk_norm="head",
        window=(c.window or None) if kind == NEAR else None,
        gate="head" if c.head_gated else "none",
    )
    mixer = short_convolution(c, use) if kind == CONV else self_attention(use, heads)
    yield from residual(use, "mixer", c.d_model, mixer, after=c.sandwich)
    yield from feeding(c, use, sparse, extra=c.experts if c.offsets else 0, after=c.sandwich)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    return between_ends(c, use, stacks(kinds(c), partial(layer, c, use)))


LFM2 = Family(
    types=("lfm2", "lfm2_moe", "lfm3"),
    fields=FIELDS,
    parts=parts,
    source=(
        "Liquid AI, arXiv 2511.23404 (LFM2); Hugging Face transformers, modeling_lfm2.py, "
        "modeling_lfm2_moe.py and modeling_lfm3.py"
    ),
    left_out=(
        "dropout, masks, sampling; rotation is counted for whole heads, of which LFM3's layers without a "
        "window rotate half"
    ),
    cut={
        "heads": "heads",
        "kv_heads": "key and value heads",
        "channels": "channels of the convolution",
        "d_ff": "inner width",
    },
    alternates=True,
    left_to_defaults={
        "lfm2": {"num_key_value_heads": 8, "intermediate_size": 12288},
        "lfm2_moe": {"num_key_value_heads": 8, "intermediate_size": 7168},
        "lfm3": {
            "vocab_size": 128000,
            "hidden_size": 2048,
            "intermediate_size": 7680,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "sliding_window": 256,
        },
    },
)
