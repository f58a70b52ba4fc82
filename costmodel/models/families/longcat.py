"""LongCat-Flash: two latent attentions and two feed-forward layers per layer, with experts beside them.

A token chooses among experts and among `zero_experts` that return it as it is, so that the number of experts
that compute differs by token. The mean is counted: all are equally likely, which the router's offsets are
steered to.
"""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    Use,
    between_ends,
    experts,
    feed_forward,
    keeping,
    linear,
    pointwise,
    repeated,
    residual,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of
from costmodel.models._latent import LATENT_FIELDS, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

FIELDS = {
    **DENSE,
    "layers": Field(("num_layers",), most=10**6),
    "d_ff": Field(("ffn_hidden_size", "intermediate_size")),
    "tied": UNTIED,
    **LATENT_FIELDS,
    "q_rank": Field(("q_lora_rank",)),
    "experts": Field(("n_routed_experts",)),
    "zero_experts": Field(("zero_expert_num",), 0),
    "zero_type": Field(("zero_expert_type",), "identity", str),
    "top_k": Field(("moe_topk", "num_experts_per_tok")),
    "d_expert": Field(("expert_ffn_hidden_size", "moe_intermediate_size")),
    "router_bias": Field(("router_bias",), False, bool),
    "act": ACT,
}

#: Defaults of LongcatFlashConfig (transformers, configuration_longcat_flash.py).
LEFT_TO_DEFAULTS = {
    "longcat_flash": {
        "vocab_size": 131072,
        "hidden_size": 6144,
        "num_layers": 28,
        "num_attention_heads": 64,
        "ffn_hidden_size": 12288,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "moe_topk": 12,
        "n_routed_experts": 512,
        "zero_expert_num": 256,
        "expert_ffn_hidden_size": 2048,
    }
}


def computing(c: Fields) -> int:
    """Return the mean number of a token's experts that compute.

    Raises
    ------
    CostmodelError
        If it is not whole, or the others do more than return the token.
    """
    if c.zero_type != "identity":
        raise CostmodelError(f"zero_expert_type: wanted identity, got {c.zero_type!r}")
    whole, rest = divmod(c.top_k * c.experts, c.experts + c.zero_experts)
    if rest:
        raise CostmodelError(
            f"moe_topk: wanted a number of which the {c.experts} experts that compute, of "
            f"{c.experts + c.zero_experts}, have a whole share, got {c.top_k}"
        )
    return int(whole)


def mixture(c: Fields, use: Use, function: str) -> Iterator[Part]:
    """Yield the experts, and the router's scores of those that do nothing; each score has an offset."""
    scored = c.experts + c.zero_experts
    offsets = scored * (2 if c.router_bias else 1)
    yield from experts(c.replaced(top_k=computing(c)), use, function=function, extra=offsets)
    if c.zero_experts:
        yield keeping(linear(use, "zero experts' scores", c.d_model, c.zero_experts), 0)


def layer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield one layer; its experts read what the first feed-forward layer reads, and are added at the end."""
    latent, function = Latent.of(c), function_of(c, "silu")
    inner = feed_forward(use, c.d_model, c.d_ff, function, gated=True)
    for _ in range(2):
        yield from residual(use, "attention", c.d_model, latent_attention(use, latent))
        yield from residual(use, "feed-forward", c.d_model, [inner])
    yield from mixture(c, use, function)
    yield pointwise(use, "residual", "add", c.d_model)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    return between_ends(c, use, [repeated(layer(c, use), c.layers)])


LONGCAT = Family(
    types=tuple(LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source=(
        "Meituan LongCat team, arXiv 2509.01322, §2; Hugging Face transformers, modeling_longcat_flash.py"
    ),
    left_out=(
        "dropout, masks, sampling; multi-token prediction (MTP); that the experts and their exchanges run "
        "beside the dense parts of a layer; tokens whose experts compute more or less than the mean"
    ),
    cut={"heads": "heads", "d_ff": "inner width"},
    left_to_defaults=LEFT_TO_DEFAULTS,
)
