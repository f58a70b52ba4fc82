"""Llama and similar models: RMS norms, rotary positions, gated feed-forward layers or experts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from costmodel.models._blocks import (
    Use,
    between_ends,
    experts,
    feed_forward,
    residual,
    stacks,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import DENSE, Field, Fields, fraction, of_layers, same
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack


@dataclass(frozen=True)
class Traits:
    """Differences between an architecture and Llama.

    Attributes
    ----------
    qkv_bias : bool
        Default for biases of Q, K and V.
    qk_norm : str
        See `Heads`.
    norms : int
        Norms per layer: 2, before each half; or 4, before and after each half.
    function : str
        Activation of the gated layer.
    tied : bool
        Default for logits that share the embedding table.
    local : int
        Of every `local` layers, all but the last have a window of `sliding_window` positions; 1: all layers
        have it; 0: none has. ``layer_types`` overrides this.
    upper : bool
        Layers from ``max_window_layers`` on have the window, if ``use_sliding_window`` is set.
    asked : bool
        Whether ``use_sliding_window`` is false by default.
    attention_bias : bool
        Default for biases of Q, K, V and the output.
    expert_bias : bool
        Whether the router and the experts have biases.
    sinks : bool
        Whether the softmax of each head has one more, learned score, to which nothing is attended.
    """

    qkv_bias: bool = False
    qk_norm: str = "none"
    norms: int = 2
    function: str = "silu"
    tied: bool = False
    local: int = 0
    upper: bool = False
    asked: bool = False
    attention_bias: bool = False
    expert_bias: bool = False
    sinks: bool = False


#: Qwen's defaults: number of first layers without a window, and the window's positions (transformers'
#: configuration_qwen2.py).
MAX_WINDOW_LAYERS, WINDOW = 28, 4096
#: Entries allowed in ``layer_types``.
LAYER_TYPES = ("full_attention", "sliding_attention")

TRAITS = {
    "llama": Traits(),
    "mistral": Traits(local=1),
    "mixtral": Traits(local=1),
    "qwen2": Traits(qkv_bias=True, upper=True, asked=True),
    "qwen2_moe": Traits(qkv_bias=True, upper=True, asked=True),
    "qwen3": Traits(qk_norm="head", upper=True, asked=True),
    "qwen3_moe": Traits(qk_norm="head", local=1, asked=True),
    "phi3": Traits(local=1),
    "gpt_oss": Traits(local=2, attention_bias=True, expert_bias=True, sinks=True),
    "gemma": Traits(function="gelu-tanh", tied=True),
    "gemma2": Traits(norms=4, function="gelu-tanh", tied=True, local=2),
    "gemma3_text": Traits(qk_norm="head", norms=4, function="gelu-tanh", tied=True, local=6),
    "gemma3": Traits(qk_norm="head", norms=4, function="gelu-tanh", tied=True, local=6),
}

#: Defaults of transformers' configuration classes. A language model saved inside another lacks keys that
#: equal these (Gemma 3 from 4B on has neither heads nor vocabulary).
_GEMMA3 = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
}
LEFT_TO_DEFAULTS = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8, "num_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    "qwen3_moe": {
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    "qwen3": {"head_dim": 128},
    "gemma": {"num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
}


def _window(c: Fields) -> int:
    """Return the default window [positions]; 0: none."""
    return WINDOW if TRAITS[c.type].asked and c.uses_window else 0


FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    "kv_heads": Field(("num_key_value_heads",), same("heads")),
    "head_dim": Field(("head_dim",), fraction("d_model", "heads")),
    "tied": Field(("tie_word_embeddings",), lambda f: TRAITS[f.type].tied, bool),
    "qkv_bias": Field(("qkv_bias",), lambda f: TRAITS[f.type].qkv_bias, bool),
    "attention_bias": Field(("attention_bias",), lambda f: TRAITS[f.type].attention_bias, bool),
    "mlp_bias": Field(("mlp_bias",), False, bool),
    "uses_window": Field(("use_sliding_window",), lambda f: not TRAITS[f.type].asked, bool),
    "window": Field(("sliding_window",), _window, may_be_zero=True),
    "window_from": Field(("max_window_layers",), MAX_WINDOW_LAYERS, may_be_zero=True),
    "layer_types": Field(("layer_types",), (), list),
    "local": Field(("sliding_window_pattern",), lambda f: TRAITS[f.type].local),
    "experts": Field(("num_local_experts", "num_experts"), 0),
    "top_k": Field(("num_experts_per_tok", "experts_per_token"), 1, may_be_zero=True),
    "d_expert": Field(("moe_intermediate_size",), same("d_ff"), may_be_zero=True),
    "d_shared": Field(("shared_expert_intermediate_size",), 0),
    "sparse_step": Field(("decoder_sparse_step",), 1),
    "dense_only": Field(("mlp_only_layers",), (), list),
}


def kinds(c: Fields) -> Counter[tuple[int | None, bool]]:
    """Return the number of layers of each kind: (window or None, whether it has experts)."""
    found: Counter[tuple[int | None, bool]] = Counter()
    types = of_layers(c, LAYER_TYPES)
    for i in range(c.layers):
        if types:
            local = types[i] == "sliding_attention"
        elif TRAITS[c.type].upper:
            local = i >= c.window_from
        else:
            local = c.local == 1 or (c.local > 1 and (i + 1) % c.local != 0)
        window = c.window if local and c.window and c.uses_window else None
        sparse = c.experts > 0 and i not in c.dense_only and (i + 1) % c.sparse_step == 0
        found[window, sparse] += 1
    return found


def layer(c: Fields, use: Use, window: int | None, sparse: bool) -> Iterator[Part]:
    """Yield one layer: norm, attention, addition, norm, feed-forward or experts, addition."""
    traits = TRAITS[c.type]
    heads = Heads(
        d_model=c.d_model,
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        bias=c.qkv_bias or c.attention_bias,
        out_bias=c.attention_bias,
        qk_norm=traits.qk_norm,
        window=window,
    )
    attention = self_attention(use, heads)
    if traits.sinks:
        attention = (with_extra(p, c.heads) if p.name == "attention" else p for p in attention)
    yield from residual(use, "attention", c.d_model, attention, after=traits.norms == 4)
    yield from residual(use, "feed-forward", c.d_model, _inner(c, use, sparse), after=traits.norms == 4)


def _inner(c: Fields, use: Use, sparse: bool) -> Iterator[Part]:
    """Yield the gated layer, or the experts; a shared expert is scaled by a gate of one number per token."""
    if not sparse:
        function = TRAITS[c.type].function
        yield feed_forward(use, c.d_model, c.d_ff, function, gated=True, bias=c.mlp_bias)
        return
    shared = c.d_shared
    # The router's output, gate and up projections, and the projection down.
    biases = c.experts * (1 + 2 * c.d_expert + c.d_model) if TRAITS[c.type].expert_bias else 0
    yield from experts(
        use, c.d_model, c.d_expert, c.experts, c.top_k, shared=shared, gated=shared > 0, extra=biases
    )


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    return between_ends(c, use, stacks(kinds(c), partial(layer, c, use)))


LLAMA = Family(
    types=tuple(TRAITS),
    fields=FIELDS,
    parts=parts,
    source=(
        "Touvron et al., arXiv 2302.13971 and 2307.09288 (Llama); Jiang et al., arXiv 2310.06825 and "
        "2401.04088 (Mistral, Mixtral); arXiv 2407.10671 and 2505.09388 (Qwen); arXiv 2403.08295, "
        "2408.00118 and 2503.19786 (Gemma); arXiv 2404.14219 (Phi-3); arXiv 2508.10925 (gpt-oss); Hugging "
        "Face transformers, modeling_*.py"
    ),
    cut={"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width"},
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
)
