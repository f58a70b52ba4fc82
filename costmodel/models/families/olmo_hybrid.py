"""OLMo Hybrid: three layers of gated delta nets for each layer of attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.models._blocks import Use, between_ends, feed_forward, residual, stacks
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of, of_layers, same
from costmodel.models._heads import HEAD_FIELDS, Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.families.qwen3_next import CUT, LAYER_TYPES, delta_net
from costmodel.models.stack import Stack

#: Of as many layers the last has attention, if ``layer_types`` does not say otherwise.
PERIOD = 4

FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    **HEAD_FIELDS,
    "attention_bias": Field(("attention_bias",), False, bool),
    "tied": UNTIED,
    "act": ACT,
    "layer_types": Field(("layer_types",), (), list),
    "rope": Field(("rope_parameters", "rope_scaling"), {}, dict),
    "key_heads": Field(("linear_num_key_heads",), same("heads")),
    "value_heads": Field(("linear_num_value_heads",), same("heads")),
    "key_dim": Field(("linear_key_head_dim",), lambda f: int(0.75 * f.d_model / f.key_heads)),
    "value_dim": Field(("linear_value_head_dim",), same("key_dim", 2)),
    "kernel": Field(("linear_conv_kernel_dim",), 4),
}


def layer(c: Fields, use: Use, attends: bool) -> Iterator[Part]:
    """Yield one layer: norms stand after the halves of one with attention, else before them.

    A base of the rotation that is null means that no positions are rotated.
    """
    heads = Heads.of(
        c,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        qk_norm="row",
        rotary=float(c.rope.get("rope_theta", ...) is not None),
    )
    mixer = self_attention(use, heads) if attends else delta_net(c, use)
    inner = feed_forward(use, c.d_model, c.d_ff, function_of(c, "silu"), gated=True)
    for name, half in (("attention", mixer), ("feed-forward", iter([inner]))):
        yield from residual(use, name, c.d_model, half, before=not attends, after=attends)


def kinds(c: Fields) -> Iterator[tuple[bool]]:
    """Yield of each layer whether it has attention; by default the last has it if no other does."""
    types = of_layers(c, LAYER_TYPES)
    last = min(c.layers, PERIOD) - 1
    for i in range(c.layers):
        yield (types[i] == "full_attention" if types else i % PERIOD == last,)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    return between_ends(c, use, stacks(kinds(c), partial(layer, c, use)))


OLMO_HYBRID = Family(
    types=("olmo_hybrid",),
    fields=FIELDS,
    parts=parts,
    source="Yang et al., arXiv 2412.06464; Hugging Face transformers, modeling_olmo_hybrid.py",
    cut=CUT,
    alternates=True,
)
