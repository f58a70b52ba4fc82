"""Bamba and Granite 4.0: Mamba-2 in most layers, attention in the others, and a feed-forward half in all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.errors import CostmodelError, unknown_name
from costmodel.models._blocks import Use, between_ends, feed_forward, feeding, residual, stacks
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of, of_layers
from costmodel.models._heads import HEAD_FIELDS, Heads, self_attention
from costmodel.models._part import Part
from costmodel.models._state_space import DUAL_CUT, DUAL_FIELDS, Dual, dual, widened
from costmodel.models.stack import Stack

#: Names of layers, older ones too, and which of them attend.
ATTENDING = ("full_attention", "attention")
LAYER_TYPES = (*ATTENDING, "linear_attention", "mamba")
#: Share of a head that Bamba rotates (transformers, configuration_bamba.py).
ROTATED = 0.5
#: Granite's entries of ``position_embedding_type``.
POSITIONS = ("rope", "nope")

#: What devices divide.
CUT = {"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width", **DUAL_CUT}

FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    **HEAD_FIELDS,
    "attention_bias": Field(("attention_bias",), False, bool),
    "tied": UNTIED,
    "act": ACT,
    **DUAL_FIELDS,
    "widened": Field((), widened),
}


def mixer(c: Fields, use: Use, attends: bool, *, rotary: float) -> Iterator[Part]:
    """Yield attention, or Mamba-2."""
    heads = Heads.of(c, bias=c.attention_bias, out_bias=c.attention_bias, rotary=rotary)
    return self_attention(use, heads) if attends else dual(use, Dual.of(c))


# -- Bamba -------------------------------------------------------------------------------------


def attending(c: Fields) -> set[int]:
    """Return the indices of the layers with attention.

    Raises
    ------
    CostmodelError
        If one is not that of a layer.
    """
    for index in c.indices:
        if not isinstance(index, int) or not 0 <= index < c.layers:
            raise CostmodelError(
                f"bamba: attn_layer_indices should be of layers 0 to {c.layers - 1}, got {index!r}"
            )
    return set(c.indices)


def bamba_layer(c: Fields, use: Use, attends: bool) -> Iterator[Part]:
    """Yield one layer of Bamba."""
    yield from residual(use, "mixer", c.d_model, mixer(c, use, attends, rotary=ROTATED))
    inner = feed_forward(use, c.d_model, c.d_ff, function_of(c, "silu"), gated=True, bias=c.mlp_bias)
    yield from residual(use, "feed-forward", c.d_model, [inner])


def bamba(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits of Bamba."""
    chosen = attending(c)
    kinds = ((i in chosen,) for i in range(c.layers))
    return between_ends(c, use, stacks(kinds, partial(bamba_layer, c, use)))


BAMBA = Family(
    types=("bamba",),
    fields={
        **FIELDS,
        "d_ff": Field(("intermediate_size",)),
        "mlp_bias": Field(("mlp_bias",), False, bool),
        "indices": Field(("attn_layer_indices",), (), list),
    },
    parts=bamba,
    source="Hugging Face transformers, modeling_bamba.py; Dao & Gu, arXiv 2405.21060, §9.2.2 (hybrids)",
    cut=CUT,
    alternates=True,
    left_to_defaults={"bamba": {"num_key_value_heads": 8, "mamba_n_heads": 128, "mamba_d_state": 256}},
)


# -- Granite 4.0 -------------------------------------------------------------------------------


def granite_layer(c: Fields, use: Use, attends: bool) -> Iterator[Part]:
    """Yield one layer of Granite 4.0; without experts, the shared one that all tokens pass is alone."""
    yield from residual(use, "mixer", c.d_model, mixer(c, use, attends, rotary=float(c.positions == "rope")))
    yield from feeding(c, use, c.experts > 0, function=function_of(c, "silu"), shared=c.d_shared)


def granite(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits of Granite 4.0."""
    if c.positions not in POSITIONS:
        raise unknown_name("position_embedding_type", c.positions, POSITIONS)
    types = of_layers(c, LAYER_TYPES) or ["linear_attention"] * c.layers
    kinds = ((name in ATTENDING,) for name in types)
    return between_ends(c, use, stacks(kinds, partial(granite_layer, c, use)))


GRANITE = Family(
    types=("granitemoehybrid",),
    fields={
        **FIELDS,
        "d_expert": Field(("intermediate_size",)),
        "d_shared": Field(("shared_intermediate_size",), 1024),
        "experts": Field(("num_local_experts",), 8, may_be_zero=True),
        "d_ff": Field((), lambda f: 0 if f.experts else f.d_shared),
        "top_k": Field(("num_experts_per_tok",), 2, may_be_zero=True),
        "layer_types": Field(("layer_types", "layers_block_type"), (), list),
        "positions": Field(("position_embedding_type",), "nope", str),
    },
    parts=granite,
    source="Hugging Face transformers, modeling_granitemoehybrid.py; model cards of Granite 4.0",
    left_out="dropout, masks, the scaling of embeddings, residual sums and logits, sampling",
    cut=CUT,
    alternates=True,
    left_to_defaults={"granitemoehybrid": {"mamba_n_heads": 128, "mamba_d_state": 256}},
)
