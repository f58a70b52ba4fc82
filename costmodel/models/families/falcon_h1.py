"""Falcon-H1: in every layer attention and Mamba-2 side by side, whose results are added."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.models._blocks import (
    Use,
    between_ends,
    feed_forward,
    keeping,
    pointwise,
    repeated,
    residual,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of
from costmodel.models._heads import HEAD_FIELDS, Heads, self_attention
from costmodel.models._part import Part
from costmodel.models._state_space import DUAL_CUT, DUAL_FIELDS, Dual, dual, widened
from costmodel.models.stack import Stack

FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    **HEAD_FIELDS,
    "attention_bias": Field(("attention_bias",), False, bool),
    "mlp_bias": Field(("mlp_bias",), False, bool),
    "tied": UNTIED,
    "act": ACT,
    **DUAL_FIELDS,
    "widened": Field((), widened),
    "ssm_out_bias": Field(("projectors_bias",), False, bool),
    "normed": Field(("mamba_rms_norm",), False, bool),
}


def mixer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield Mamba-2, the addition of its result to the residual stream, and attention of the same input.

    Devices sum the results of both one by one, as in vLLM.
    """
    yield from dual(use, Dual.of(c, normed=c.normed))
    yield pointwise(use, "residual", "add", c.d_model)
    heads = Heads.of(c, bias=c.attention_bias, out_bias=c.attention_bias)
    first, *rest = self_attention(use, heads)
    yield keeping(first, 0)  # Mamba-2's first product keeps the same input
    yield from rest


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    inner = feed_forward(use, c.d_model, c.d_ff, function_of(c, "silu"), gated=True, bias=c.mlp_bias)
    layer = [
        *residual(use, "mixer", c.d_model, mixer(c, use)),
        *residual(use, "feed-forward", c.d_model, [inner]),
    ]
    return between_ends(c, use, [repeated(layer, c.layers)])


FALCON_H1 = Family(
    types=("falcon_h1",),
    fields=FIELDS,
    parts=parts,
    source="Zuo et al., arXiv 2507.22448, §2 (Falcon-H1); Hugging Face transformers, modeling_falcon_h1.py",
    left_out="dropout, masks, the scaling of embeddings, branches and logits, sampling",
    cut={"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width", **DUAL_CUT},
    left_to_defaults={
        "falcon_h1": {
            "num_key_value_heads": 8,
            "mamba_d_ssm": 1024,
            "mamba_n_heads": 128,
            "mamba_d_state": 256,
        }
    },
)
