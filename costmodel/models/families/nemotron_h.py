"""Nemotron-H: each layer is one of Mamba-2, attention, a feed-forward layer, or experts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from costmodel.errors import CostmodelError, unknown_name
from costmodel.models._blocks import Use, between_ends, experts, feed_forward, residual, stacks
from costmodel.models._family import Family
from costmodel.models._fields import D_MODEL, HEADS, UNTIED, VOCAB, Field, Fields, fraction, function_of, same
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models._state_space import DUAL_CUT, DUAL_FIELDS, Dual, dual
from costmodel.models.stack import Stack

#: Layers by their names, older ones too, and by their letters in ``hybrid_override_pattern``.
KINDS = {
    "linear_attention": "mamba",
    "mamba": "mamba",
    "full_attention": "attention",
    "attention": "attention",
    "mlp": "mlp",
    "moe": "moe",
}
LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def kinds(c: Fields) -> list[str]:
    """Return what each layer is.

    Raises
    ------
    CostmodelError
        If neither a list nor a pattern says it.
    UnknownNameError
        If an entry is unknown.
    """
    if not c.listed and not c.pattern:
        raise CostmodelError("nemotron_h: wanted layers_block_type or hybrid_override_pattern, got neither")
    what, known = ("layers_block_type", KINDS) if c.listed else ("hybrid_override_pattern", LETTERS)
    entries = list(c.listed or c.pattern)
    for entry in entries:
        if entry not in known:
            raise unknown_name(f"entry of {what}", entry, known)
    return [known[entry] for entry in entries]


def _latent(c: Fields) -> None:
    """Refuse experts that work in a narrower space than the model's, whose products are not counted."""
    if c.latent:
        raise CostmodelError(f"nemotron_h: moe_latent_size {c.latent} is not counted; wanted none")


FIELDS = {
    "type": Field(("model_type",), kind=str),
    "vocab": VOCAB,
    "d_model": D_MODEL,
    "heads": HEADS,
    "kv_heads": Field(("num_key_value_heads",), same("heads")),
    "head_dim": Field(("attention_head_dim", "head_dim"), fraction("d_model", "heads")),
    "tied": UNTIED,
    "listed": Field(("layers_block_type", "layer_types"), (), list),
    "pattern": Field(("hybrid_override_pattern",), "", str),
    "kinds": Field((), kinds, list),
    "layers": Field((), lambda f: len(f.kinds)),
    "d_ff": Field(("intermediate_size",)),
    "mlp_bias": Field(("mlp_bias",), False, bool),
    "act": Field(("mlp_hidden_act",), "", str),
    **DUAL_FIELDS,
    "ssm_bias": Field(("use_bias",), False, bool),
    "ssm_out_bias": Field((), same("ssm_bias")),
    "routed": Field(("n_routed_experts", "num_local_experts"), 8),
    "experts": Field((), lambda f: f.routed if "moe" in f.kinds else 0),
    "top_k": Field(("num_experts_per_tok",), 2),
    "d_expert": Field(("moe_intermediate_size",), 7688),
    "d_shared": Field(("moe_shared_expert_intermediate_size",), 7688),
    "latent": Field(("moe_latent_size",), 0),
    "in_model_width": Field((), _latent),
}


def mixer(c: Fields, use: Use, kind: str) -> Iterable[Part]:
    """Return what a layer does; its attention knows no positions, its experts' scores have offsets."""
    if kind == "mamba":
        return dual(use, Dual.of(c))
    if kind == "attention":
        return self_attention(use, Heads.of(c, rotary=0.0))
    function = function_of(c, "relu2")
    if kind == "mlp":
        return [feed_forward(use, c.d_model, c.d_ff, function, bias=c.mlp_bias)]
    # The shared expert has the biases of a feed-forward layer, the others have none.
    biases = c.d_shared + c.d_model if c.mlp_bias else 0
    extra = c.experts + biases
    return experts(c, use, function=function, plain=True, shared=c.d_shared, extra=extra)


def layer(c: Fields, use: Use, kind: str) -> Iterator[Part]:
    """Yield one layer."""
    return residual(use, "mixer", c.d_model, mixer(c, use, kind))


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    return between_ends(c, use, stacks(((kind,) for kind in c.kinds), partial(layer, c, use)))


NEMOTRON_H = Family(
    types=("nemotron_h",),
    fields=FIELDS,
    parts=parts,
    source=(
        "NVIDIA, arXiv 2504.03624 (Nemotron-H) and 2508.14444 (Nemotron Nano 2); Hugging Face transformers, "
        "modeling_nemotron_h.py"
    ),
    left_out="dropout, masks, sampling; multi-token prediction (MTP)",
    cut={"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width", **DUAL_CUT},
    alternates=True,
    left_to_defaults={
        "nemotron_h": {
            "num_key_value_heads": 8,
            "head_dim": 128,
            "mamba_num_heads": 128,
            "mamba_head_dim": 64,
            "ssm_state_size": 128,
            "n_groups": 8,
            "chunk_size": 128,
        }
    },
)
