"""RecurrentGemma (Griffin): two layers with a gated linear recurrence for each layer of local attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice

from costmodel.errors import CostmodelError, unknown_name
from costmodel.models._blocks import (
    Use,
    between_ends,
    convolution,
    feed_forward,
    gate,
    linear,
    residual,
    stacks,
    state,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, TIED, Field, Fields, fraction, function_of, same
from costmodel.models._heads import HEAD_FIELDS, Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

#: Entries allowed in ``block_types``, in their default order.
BLOCKS = ["recurrent", "recurrent", "attention"]


def _half(c: Fields) -> int:
    """Return the inner width: Hugging Face's configurations have that of gate and value together."""
    if c.both % 2:
        raise CostmodelError(f"recurrent_gemma: intermediate_size {c.both} should be even")
    return int(c.both // 2)


FIELDS = {
    **DENSE,
    "both": Field(("intermediate_size",)),
    "d_ff": Field((), _half),
    **HEAD_FIELDS,
    "attention_bias": Field(("attention_bias",), False, bool),
    "rotary": Field(("partial_rotary_factor",), 0.5, float),
    "window": Field(("attention_window_size", "sliding_window"), 2048),
    "width": Field(("lru_width",), same("d_model")),
    "block_width": Field((), fraction("width", "heads")),
    "kernel": Field(("conv1d_width",), 4),
    "blocks": Field(("block_types",), BLOCKS, list),
    "tied": TIED,
    "act": ACT,
}


def recurrent(c: Fields, use: Use) -> Iterator[Part]:
    """Yield both branches' product; the convolution and recurrence of one; the gate; the product out."""
    yield linear(use, "recurrent input projection", c.d_model, 2 * c.width, bias=True)
    yield convolution(use, c.width, c.kernel, bias=True)
    yield Part.of("recurrence", use.layer("rg-lru"), **use.tokens, hidden=c.width, heads=c.heads)
    if use.decoding:
        yield state(use, "state", c.width)
    yield gate(use, "output gate", c.width, function_of(c, "gelu-tanh"))
    yield linear(use, "recurrent output projection", c.width, c.d_model, bias=True)


def layer(c: Fields, use: Use, block: str) -> Iterator[Part]:
    """Yield one layer."""
    heads = Heads.of(c, bias=c.attention_bias, out_bias=True, window=c.window, rotary=c.rotary)
    mixer = recurrent(c, use) if block == "recurrent" else self_attention(use, heads)
    yield from residual(use, "mixer", c.d_model, mixer)
    inner = feed_forward(use, c.d_model, c.d_ff, function_of(c, "gelu-tanh"), gated=True, bias=True)
    yield from residual(use, "feed-forward", c.d_model, [inner])


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    for name in c.blocks:
        if name not in BLOCKS:
            raise unknown_name("entry of block_types", name, sorted(set(BLOCKS)))
    if not c.blocks:
        raise CostmodelError("recurrent_gemma: block_types should have an entry at least")
    kinds = ((block,) for block in islice(cycle(c.blocks), c.layers))
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


RECURRENT_GEMMA = Family(
    types=("recurrent_gemma",),
    fields=FIELDS,
    parts=parts,
    source=(
        "De et al., arXiv 2402.19427, §2 (Griffin); Botev et al., arXiv 2404.07839 (RecurrentGemma); Hugging "
        "Face transformers, modeling_recurrent_gemma.py"
    ),
    left_out="dropout, masks, the scaling of embeddings and logits, sampling",
    cut={
        "heads": "heads",
        "kv_heads": "key and value heads",
        "width": "width of the recurrence",
        "d_ff": "inner width",
    },
    alternates=True,
)
