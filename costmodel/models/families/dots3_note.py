"""dots3-note: sparse attention over latents, or latents and heads of other sizes in a window; experts.

Rotated keys have a norm, and each head's output a gate.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.models._blocks import Use, between_ends, feeding, residual, stacks
from costmodel.models._family import Family
from costmodel.models._fields import (
    PER_LAYER,
    Field,
    Fields,
    check_overridden,
    function_of,
    of_layers,
    overridden,
)
from costmodel.models._latent import Indexer, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.families import deepseek
from costmodel.models.stack import Stack

FULL, INDEXED, NEAR = "full_attention", "indexed_attention", "sliding_attention"
#: Entries allowed in ``layer_types``.
LAYER_TYPES = (FULL, INDEXED, NEAR)
#: Sizes that layers with a window have of their own, and their keys.
SIZES = {
    "heads": "num_attention_heads",
    "q_rank": "q_lora_rank",
    "kv_rank": "kv_lora_rank",
    "nope": "qk_nope_head_dim",
    "rope": "qk_rope_head_dim",
    "value_dim": "v_head_dim",
}
#: Further keys of ``per_layer_config``, which follow from those.
FOLLOWING = ("num_key_value_heads", "head_dim")


def attentions(c: Fields) -> list[str]:
    """Return the kind of attention of each layer; ``use_dsa`` overrides which of two the others have."""
    chooses = c.chooses if c.chooses is not None or c.per_layer else True
    other = FULL if chooses is False else INDEXED
    listed = of_layers(c, LAYER_TYPES)
    if not listed:
        listed = [other if not c.windows or i < 2 or i % 4 == 1 else NEAR for i in range(c.layers)]
    return listed if chooses is None else [name if name == NEAR else other for name in listed]


def _own(name: str, default: int) -> Field:
    """Return the field of a size that layers with a window have of their own; what is listed, all have."""
    key = SIZES[name]
    return Field((f"swa_{key}",), overridden(key, lambda f: getattr(f, name) if f.per_layer else default))


FIELDS = {
    **deepseek.FIELDS,
    "q_rank": Field(("q_lora_rank",)),
    "d_shared": Field(("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"), 1536),
    "windows": Field(("use_sliding_window",), True, bool),
    "window": Field(("sliding_window", "sliding_window_size"), 512),
    "chooses": Field(("use_dsa",), None, bool),
    "per_layer": PER_LAYER,
    "near_heads": _own("heads", 64),
    "near_q_rank": _own("q_rank", 1024),
    "near_kv_rank": _own("kv_rank", 1024),
    "near_nope": _own("nope", 192),
    "near_width": Field(("swa_head_dim",), 256),
    "near_rope": Field(
        (f"swa_{SIZES['rope']}",),
        overridden(SIZES["rope"], lambda f: f.rope if f.per_layer else f.near_width - f.near_nope),
    ),
    "near_value_dim": _own("value_dim", 128),
}
#: Defaults of Dots3NoteTextConfig (transformers, configuration_dots3_note.py).
_DEFAULTS = {
    "vocab_size": 152064,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 46,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "q_lora_rank": 1024,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "first_k_dense_replace": 1,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 64,
}


def layer(c: Fields, use: Use, kind: str, sparse: bool) -> Iterator[Part]:
    """Yield one layer."""
    indexer, window = None, None
    if kind == INDEXED:
        indexer = Indexer(heads=c.index_heads, width=c.index_width, top_k=c.index_top_k)
    sizes = c
    if kind == NEAR:
        sizes, window = c.replaced(**{name: getattr(c, f"near_{name}") for name in SIZES}), c.window
    latent = Latent.of(sizes, sparse=indexer, gate="head", key_norm=True, window=window)
    yield from residual(use, "attention", c.d_model, latent_attention(use, latent))
    function, shared = function_of(c, "silu"), c.shared * c.d_shared
    yield from feeding(c, use, sparse, function=function, shared=shared, extra=c.experts)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers of each kind, the norm and the logits."""
    kind = attentions(c)
    check_overridden(c, (*SIZES.values(), *FOLLOWING), [i for i, name in enumerate(kind) if name == NEAR])
    kinds = sorted(zip(kind, deepseek.has_experts(c), strict=True))
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


DOTS3_NOTE = Family(
    types=("dots3_note", "dots3_note_text"),
    fields=FIELDS,
    parts=parts,
    source="Hugging Face transformers, modeling_dots3_note.py; DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1",
    left_out=(
        "dropout, masks, scaling by constants, sampling; the models that see and hear; multi-token "
        "prediction (MTP); that engines attend to short prompts without an index, and the indexer's own loss"
    ),
    cut={"heads": "heads", "near_heads": "heads of layers with a window", "d_ff": "inner width"},
    alternates=True,
    left_to_defaults=dict.fromkeys(("dots3_note", "dots3_note_text"), _DEFAULTS),
)
