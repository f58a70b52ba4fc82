"""Muse Spark: attention with a norm and a gate of its output, narrow experts, gated residuals.

Windows in all layers but every fourth, counted from the last, which rotates no positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import sympy as sp

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    Use,
    between_ends,
    experts,
    feed_forward,
    keeping,
    linear,
    norm,
    pointwise,
    stacks,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import (
    ACT,
    DENSE,
    UNTIED,
    Field,
    Fields,
    each_layer,
    function_of,
    of_layers,
)
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.families.llama import LAYER_TYPES, MLP_TYPES
from costmodel.models.stack import Stack

FIELDS = {
    **DENSE,
    "kv_heads": Field(("num_key_value_heads",)),
    "head_dim": Field(("head_dim",)),
    "d_ff": Field(("intermediate_size",)),
    "tied": UNTIED,
    "attention_bias": Field(("attention_bias",), False, bool),
    "window": Field(("sliding_window",)),
    "layer_types": Field(("layer_types",), (), list),
    "bases": Field(("layer_rope_theta",), (), list),
    "experts": Field(("num_local_experts",)),
    "top_k": Field(("num_experts_per_tok",)),
    "d_expert": Field(("moe_intermediate_size",)),
    "d_narrow": Field(("moe_hidden_size",)),
    "mlp_types": Field(("mlp_layer_types",), (), list),
    "act": ACT,
}
#: Defaults of MuseSparkTextConfig (transformers, configuration_muse_spark.py).
_DEFAULTS = {
    "vocab_size": 202048,
    "hidden_size": 8192,
    "intermediate_size": 16384,
    "num_hidden_layers": 62,
    "num_attention_heads": 128,
    "num_key_value_heads": 16,
    "head_dim": 64,
    "sliding_window": 2048,
    "moe_intermediate_size": 4096,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
    "moe_hidden_size": 4096,
}


def kinds(c: Fields) -> Iterator[tuple[bool, bool, bool]]:
    """Yield the kind of each layer: (has a window, rotates, has experts)."""
    types, bases = of_layers(c, LAYER_TYPES), each_layer(c, "layer_rope_theta", c.bases)
    listed = of_layers(c, MLP_TYPES, "mlp_layer_types", c.mlp_types)
    for i in range(c.layers):
        fourth = (c.layers - 1 - i) % 4 == 0
        near = types[i] == "sliding_attention" if types else not fourth
        rotates = bool(bases[i]) if bases else not fourth
        yield near, rotates, listed[i] == "sparse" if listed else True


def mixture(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the experts between two projections, with norms of their input and of each one's output.

    The router reads the layer's input; what that has beyond the experts' width is a product of its own.
    """
    yield linear(use, "experts' down-projection", c.d_model, c.d_narrow)
    yield norm(use, "experts' norm", c.d_narrow)
    narrow = c.replaced(d_model=c.d_narrow)
    yield from experts(narrow, use, function=function_of(c, "silu"), extra=c.experts)
    if c.d_model > c.d_narrow:
        yield keeping(linear(use, "router", c.d_model - c.d_narrow, c.experts), 0)
    yield norm(use, "norm of each expert", c.d_narrow, rows=use.rows * c.top_k)
    yield linear(use, "experts' up-projection", c.d_narrow, c.d_model)


def gated_residual(use: Use, name: str, width: int, half: Iterable[Part], after: Part) -> Iterator[Part]:
    """Yield half a layer between two norms, and the sum with its input, each channel of both with a weight.

    One learned number of a channel makes both weights. The first norm keeps the half's input.
    """
    yield norm(use, f"{name} norm", width)
    yield from half
    yield after
    total = pointwise(use, "gated residual", "mul", width)
    yield with_extra(keeping(total, sp.Rational(1, 2)), width)


def layer(c: Fields, use: Use, near: bool, rotates: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer."""
    window = c.window if near else None
    heads = Heads.of(c, qk_norm="free", rotary=rotates, window=window, gate="query", out_norm=True)
    after = norm(use, "post-attention norm", c.d_model, "rms-bare")
    yield from gated_residual(use, "attention", c.d_model, self_attention(use, heads), after)
    dense = feed_forward(use, c.d_model, c.d_ff, function_of(c, "silu"), gated=True)
    half = mixture(c, use) if sparse else (dense,)
    after = norm(use, "post-feed-forward norm", c.d_model)
    yield from gated_residual(use, "feed-forward", c.d_model, half, after)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding with its norm, the layers of each kind, the norm and the logits.

    Raises
    ------
    CostmodelError
        If products of attention have biases, or experts are wider than the model.
    """
    if c.attention_bias:
        raise CostmodelError("attention_bias: wanted false, as the gate of muse_spark has none, got true")
    if c.d_narrow > c.d_model:
        raise CostmodelError(f"moe_hidden_size: wanted at most {c.d_model}, got {c.d_narrow}")
    layers = stacks(sorted(kinds(c)), partial(layer, c, use))
    return between_ends(c, use, (norm(use, "embedding norm", c.d_model, "rms-bare"), *layers))


MUSE_SPARK = Family(
    types=("muse_spark", "muse_spark_text"),
    fields=FIELDS,
    parts=parts,
    source="Hugging Face transformers, modeling_muse_spark.py",
    left_out=(
        "dropout, masks, scaling and capping by constants, sampling; the models that see and hear; making "
        "the weights of the residual of its gates"
    ),
    alternates=True,
    left_to_defaults=dict.fromkeys(("muse_spark", "muse_spark_text"), _DEFAULTS),
)
