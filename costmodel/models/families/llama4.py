"""Llama 4: experts in every or every other layer, with one shared expert; chunked attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

from costmodel.models._blocks import Use, between_ends, feeding, residual, stacks
from costmodel.models._family import Family
from costmodel.models._fields import (
    ACT,
    DENSE,
    UNTIED,
    Field,
    Fields,
    each_layer,
    fraction,
    function_of,
    of_layers,
)
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

#: Entries allowed in ``layer_types``.
LAYER_TYPES = ("full_attention", "chunked_attention")

FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size_mlp",)),
    "d_expert": Field(("intermediate_size",)),
    "kv_heads": Field(("num_key_value_heads",)),
    "head_dim": Field(("head_dim",), fraction("d_model", "heads")),
    "tied": UNTIED,
    "experts": Field(("num_local_experts",)),
    "top_k": Field(("num_experts_per_tok",), 1),
    "sparse_step": Field(("interleave_moe_layer_step",), 1),
    "qk_norm": Field(("use_qk_norm",), True, bool),
    "chunk": Field(("attention_chunk_size",), 8192),
    "global_step": Field(("no_rope_layer_interval",), 4),
    # If layers are listed, the intervals above are ignored.
    "sparse_layers": Field(("moe_layers",), None, list),
    "rotated": Field(("no_rope_layers",), (), list),
    "layer_types": Field(("layer_types",), (), list),
    "attention_bias": Field(("attention_bias",), False, bool),
    "act": ACT,
}


def kinds(c: Fields) -> Counter[tuple[bool, bool, bool]]:
    """Return the number of layers of each kind: (sees all positions, rotates, has experts).

    Layers with rotation see one chunk and the others all positions, unless ``layer_types`` says otherwise.
    """
    found: Counter[tuple[bool, bool, bool]] = Counter()
    rotated = each_layer(c, "no_rope_layers", c.rotated)
    types = of_layers(c, LAYER_TYPES)
    for i in range(c.layers):
        rotates = bool(rotated[i]) if rotated else (i + 1) % c.global_step != 0
        whole = types[i] == "full_attention" if types else not rotates
        listed = c.sparse_layers
        sparse = (i + 1) % c.sparse_step == 0 if listed is None else i in listed
        found[whole, rotates, sparse] += 1
    return found


def layer(c: Fields, use: Use, whole: bool, rotates: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer; queries and keys without rotation are not normed either."""
    heads = Heads.of(
        c,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        qk_norm="free" if c.qk_norm and rotates else "none",
        rotary=rotates,
        window=None if whole else c.chunk,
    )
    yield from residual(use, "attention", c.d_model, self_attention(use, heads))
    yield from feeding(c, use, sparse, function=function_of(c, "silu"), shared=c.d_expert)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    return between_ends(c, use, stacks(kinds(c), partial(layer, c, use)))


LLAMA4 = Family(
    types=("llama4", "llama4_text"),
    fields=FIELDS,
    parts=parts,
    source="Hugging Face transformers, modeling_llama4.py (Llama4ForCausalLM: the text model)",
    left_out=(
        "dropout, masks, sampling; the vision model; chunked attention is taken as a window of a chunk's "
        "length, which costs up to twice as much"
    ),
    cut={"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width"},
    alternates=True,
)
