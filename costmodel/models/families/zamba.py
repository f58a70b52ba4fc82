"""Zamba: layers of Mamba or Mamba-2, some after a Transformer block whose weights several layers share."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    Use,
    between_ends,
    feed_forward,
    keeping,
    linear,
    norm,
    pointwise,
    residual,
    stacks,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, TIED, Field, Fields, fraction, function_of, of_layers, same
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models._state_space import (
    DUAL_CUT,
    DUAL_FIELDS,
    Dual,
    Selective,
    dual,
    selective,
    widened,
)
from costmodel.models.stack import Stack

#: Names of layers, older ones too; hybrid layers have a Transformer block before Mamba-2.
LAYER_TYPES = ("linear_attention", "mamba", "hybrid")

#: What devices divide, besides the heads of the state space.
CUT = {"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width"}

FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    "d_ff": Field(("intermediate_size",), same("d_model", 4)),
    "kv_heads": Field(("num_key_value_heads",), same("heads")),
    "both": Field((), same("d_model", 2)),
    "head_dim": Field((), fraction("both", "heads")),
    "tied": TIED,
    "act": ACT,
    "layer_types": Field(("layers_block_type", "layer_types"), (), list),
}


def adapter(c: Fields, use: Use, what: str, inner: int, outer: int) -> Iterator[Part]:
    """Yield a product of low rank, which each layer has for itself, and its addition to the shared one's."""
    yield keeping(
        linear(use, f"{what} adapter, down", inner, c.adapter_rank), 0
    )  # the shared product keeps its input
    yield linear(use, f"{what} adapter, up", c.adapter_rank, outer)
    yield pointwise(use, f"{what} adapter, sum", "add", outer)


def attention(c: Fields, use: Use) -> Iterator[Part]:
    """Yield attention over the layer's input beside the embedding; its result is as wide as the model."""
    heads = Heads(
        d_model=c.both, heads=c.heads, kv_heads=c.kv_heads, head_dim=c.head_dim, rotary=float(c.rotary)
    )
    first, *middle, last = self_attention(use, heads)
    yield first
    if c.adapted:
        for what in ("query", "key", "value"):
            yield from adapter(c, use, what, c.both, heads.query)
    yield from middle
    narrow = linear(use, last.name, heads.query, c.d_model)
    yield keeping(narrow, last.keeps)


def block(c: Fields, use: Use, *, first: bool) -> Iterator[Part]:
    """Yield a Transformer block without residual sums; its weights are counted in its first layer.

    Adapters and the last product are each layer's own.
    """
    yield pointwise(use, "input beside embedding", "copy", c.both)
    shared = [norm(use, "block norm", c.both), *attention(c, use)]
    shared.append(norm(use, "feed-forward norm", c.d_model))
    for part in shared:
        own = "adapter" in part.name
        yield part if own or first else replace(part, shared=True)
    if c.adapter_rank:
        yield from adapter(c, use, "feed-forward", c.d_model, 2 * c.d_ff)
    inner = feed_forward(use, c.d_model, c.d_ff, function_of(c, "gelu"), gated=True, bias=c.ff_bias)
    yield inner if first else replace(inner, shared=True, extra=inner.extra * 0)
    yield linear(use, "block output projection", c.d_model, c.d_model)
    yield pointwise(use, "block sum", "add", c.d_model)


def layer(c: Fields, use: Use, mixer: Iterable[Part], hybrid: bool, first: bool) -> Iterator[Part]:
    """Yield one layer."""
    if hybrid:
        yield from block(c, use, first=first)
    yield from residual(use, "mixer", c.d_model, mixer)


def kinds(c: Fields, hybrids: Container[int]) -> Iterator[tuple[bool, bool]]:
    """Yield of each layer whether it has a Transformer block, and whether it is the first with that block.

    Parameters
    ----------
    c : Fields
        The fields.
    hybrids : container of int
        Indices of the layers that have one, if the types of layers are not listed.
    """
    default = ["hybrid" if i in hybrids else "mamba" for i in range(c.layers)]
    before = count()
    for name in of_layers(c, LAYER_TYPES) or default:
        hybrid = name == "hybrid"
        yield hybrid, hybrid and next(before) < c.blocks


# -- Zamba -------------------------------------------------------------------------------------


def _inner(c: Fields) -> int:
    """Return the channels of Mamba, which its heads divide."""
    inner = int(c.expand * c.d_model)
    if inner % c.ssm_heads:
        raise CostmodelError(f"zamba: {c.ssm_heads} heads of Mamba should divide its {inner} channels")
    return inner


def zamba(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits of Zamba."""
    hybrids = {2, *(i for i in range(3, c.layers) if (i - 3) % c.period == c.offset)}
    mixer = tuple(selective(use, Selective.of(c, normed="none", heads=c.ssm_heads)))
    return between_ends(c, use, stacks(kinds(c, hybrids), partial(layer, c, use, mixer)))


ZAMBA = Family(
    types=("zamba",),
    fields={
        **FIELDS,
        "head_dim": Field(("attention_head_dim", "head_dim"), fraction("both", "heads")),
        "blocks": Field((), 1),
        "adapted": Field((), False),
        "adapter_rank": Field((), 0),
        "rotary": Field((), False),
        "ff_bias": Field((), False),
        "period": Field(("attn_layer_period",), 6),
        "offset": Field(("attn_layer_offset",), 4, may_be_zero=True),
        "ssm_heads": Field(("n_mamba_heads",), 2),
        "state": Field(("mamba_d_state",), 16),
        "kernel": Field(("mamba_d_conv",), 4),
        "expand": Field(("mamba_expand",), 2),
        "inner": Field((), _inner),
        "rank": Field(("mamba_dt_rank",), lambda f: -(-f.d_model // 16)),
        "conv_bias": Field(("mamba_conv_bias",), True, bool),
        "bias": Field(("mamba_proj_bias",), False, bool),
    },
    parts=zamba,
    source="Glorioso et al., arXiv 2405.16712, §2 (Zamba); Hugging Face transformers, modeling_zamba.py",
    cut={**CUT, "ssm_heads": "heads of Mamba", "inner": "channels of Mamba"},
    alternates=True,
    left_to_defaults={
        "zamba": {
            "vocab_size": 32000,
            "hidden_size": 3712,
            "intermediate_size": 14848,
            "num_hidden_layers": 76,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        }
    },
)


# -- Zamba2 ------------------------------------------------------------------------------------

#: Indices of the hybrid layers by default, among 54 (transformers, configuration_zamba2.py).
HYBRID = (6, 12, 18, 24, 30, 36, 42, 47, 51)


def zamba2(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits of Zamba2."""
    mixer = tuple(dual(use, Dual.of(c)))
    return between_ends(c, use, stacks(kinds(c, HYBRID), partial(layer, c, use, mixer)))


ZAMBA2 = Family(
    types=("zamba2",),
    fields={
        **FIELDS,
        "blocks": Field(("num_mem_blocks",), 1),
        "adapted": Field(("use_shared_attention_adapter",), False, bool),
        "adapter_rank": Field(("adapter_rank",), 128),
        "rotary": Field(("use_mem_rope",), False, bool),
        "ff_bias": Field(("add_bias_linear",), False, bool),
        **DUAL_FIELDS,
        "widened": Field((), widened),
        "ssm_bias": Field((), same("ff_bias")),
        "ssm_out_bias": Field((), same("ff_bias")),
    },
    parts=zamba2,
    source="Glorioso et al., arXiv 2411.15242, §2 (Zamba2); Hugging Face transformers, modeling_zamba2.py",
    cut={**CUT, **DUAL_CUT},
    alternates=True,
    left_to_defaults={"zamba2": {"n_mamba_heads": 8, "mamba_d_state": 64}},
)
