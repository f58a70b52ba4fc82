"""Llama and similar models: norms, rotary positions, mostly gated feed-forward layers or experts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    Use,
    between_ends,
    experts,
    feed_forward,
    parallel,
    residual,
    stacks,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import (
    ACT,
    DENSE,
    Field,
    Fields,
    each_layer,
    function_of,
    of_layers,
    same,
)
from costmodel.models._heads import HEAD_FIELDS, Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack


@dataclass(frozen=True)
class Traits:
    """Differences between an architecture and Llama.

    Attributes
    ----------
    qkv_bias : bool
        Default for biases of Q, K and V.
    attention_bias : bool
        Default for biases of Q, K, V and the output.
    out_bias : bool
        Whether ``attention_bias`` includes the output by default.
    bias : bool
        Default for biases of attention and of the feed-forward layer together.
    qk_norm : str
        See `Heads`.
    qk_asked : bool
        Whether Q and K are normed only if ``use_qk_norm`` or ``qk_layernorm`` is set.
    norm : str
        Kind of the norms of the residual stream; see `costmodel.models._blocks.norm`.
    norms : str
        Where a half has norms: ``before``, ``after`` or ``around``, which is both.
    parallel : bool
        Default for attention and feed-forward that read the same input, after one norm.
    gated : bool
        Whether the feed-forward layer is gated.
    function : str
        Default activation of the feed-forward layer.
    tied : bool
        Default for logits that share the embedding table.
    local : int
        Of every `local` layers, all but the last have a window of `sliding_window` positions; 1: all layers
        have it; 0: none has. ``layer_types`` overrides this.
    ends : bool
        Whether the first two layers and the last have no window, and of each four only the second.
    upper : bool
        Layers from ``max_window_layers`` on have the window, if ``use_sliding_window`` is set.
    asked : bool
        Whether ``use_sliding_window`` is false by default.
    local_rotary : bool
        Whether only layers with a window rotate positions into Q and K, if there are such layers.
    unrotated : int
        Of every `unrotated` layers, the last rotates no positions, and only such a layer may have a window;
        0: all rotate. ``no_rope_layer_interval`` and ``no_rope_layers`` override this.
    dense : bool
        Whether no layer has experts whatever the configuration says: it also describes mixtures.
    expert_bias : bool
        Whether the router and the experts have biases.
    correction : bool
        Whether the router has an offset per expert with which it chooses (arXiv 2408.15664).
    shared : int
        Default number of shared experts.
    shared_gate : bool
        Whether the shared expert is scaled by one number per token.
    sinks : bool
        Whether the softmax of each head has one more, learned score, to which nothing is attended.
    """

    qkv_bias: bool = False
    attention_bias: bool = False
    out_bias: bool = True
    bias: bool = False
    qk_norm: str = "none"
    qk_asked: bool = False
    norm: str = "rms"
    norms: str = "before"
    parallel: bool = False
    gated: bool = True
    function: str = "silu"
    tied: bool = False
    local: int = 0
    ends: bool = False
    upper: bool = False
    asked: bool = False
    local_rotary: bool = False
    unrotated: int = 0
    dense: bool = False
    expert_bias: bool = False
    correction: bool = False
    shared: int = 0
    shared_gate: bool = False
    sinks: bool = False


#: Qwen's defaults: number of first layers without a window, and the window's positions (transformers'
#: configuration_qwen2.py).
MAX_WINDOW_LAYERS, WINDOW = 28, 4096
#: Entries allowed in ``layer_types``.
LAYER_TYPES = ("full_attention", "sliding_attention")
#: Names of the number of experts.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
#: Patterns of layers that are written as words (EXAONE 4.0): local and global layers.
PATTERNS = {"LLLG": 4}
#: Learned numbers of an activation.
LEARNED = {"xielu": 2}

TRAITS = {
    "llama": Traits(),
    "mistral": Traits(local=1),
    "mixtral": Traits(local=1),
    "qwen2": Traits(qkv_bias=True, upper=True, asked=True),
    "qwen2_moe": Traits(qkv_bias=True, upper=True, asked=True, shared_gate=True),
    "qwen3": Traits(qk_norm="head", upper=True, asked=True),
    "qwen3_moe": Traits(qk_norm="head", local=1, asked=True),
    "phi3": Traits(local=1),
    "gpt_oss": Traits(local=2, attention_bias=True, expert_bias=True, sinks=True),
    "gemma": Traits(function="gelu-tanh", tied=True),
    "gemma2": Traits(norms="around", function="gelu-tanh", tied=True, local=2),
    "gemma3_text": Traits(qk_norm="head", norms="around", function="gelu-tanh", tied=True, local=6),
    "gemma3": Traits(qk_norm="head", norms="around", function="gelu-tanh", tied=True, local=6),
    "olmo": Traits(norm="layer-bare"),
    "olmo2": Traits(qk_norm="row", norms="after"),
    "olmo3": Traits(qk_norm="row", norms="after", local=4),
    "smollm3": Traits(tied=True, unrotated=4, asked=True),
    "granite": Traits(),
    "granitemoe": Traits(),
    "seed_oss": Traits(attention_bias=True, out_bias=False),
    "glm": Traits(attention_bias=True, out_bias=False),
    "glm4": Traits(attention_bias=True, out_bias=False, norms="around"),
    "starcoder2": Traits(bias=True, norm="layer", gated=False, function="gelu-tanh", tied=True, local=1),
    "stablelm": Traits(qk_norm="each", qk_asked=True, norm="layer"),
    "cohere": Traits(qk_norm="each", qk_asked=True, norm="layer-gain", parallel=True, tied=True),
    "cohere2": Traits(norm="layer-gain", parallel=True, tied=True, local=4, local_rotary=True),
    "arcee": Traits(gated=False, function="relu2"),
    "nemotron": Traits(norm="layer", gated=False, function="relu2"),
    "apertus": Traits(qk_norm="head", gated=False, function="xielu"),
    "exaone4": Traits(qk_norm="head", norms="after", local=4, local_rotary=True),
    "olmoe": Traits(qk_norm="row"),
    "glm4_moe": Traits(qk_norm="head", qk_asked=True, out_bias=False, correction=True, shared=1),
    "ernie4_5": Traits(tied=True, dense=True),
    "ernie4_5_moe": Traits(tied=True, correction=True, shared=2),
    "minimax_m2": Traits(qk_norm="row", correction=True),
    "hunyuan_v1_dense": Traits(qk_norm="head", dense=True),
    "hunyuan_v1_moe": Traits(qk_norm="head", shared=1),
    "flint": Traits(qk_norm="head", ends=True, local_rotary=True, sinks=True),
    "phimoe": Traits(norm="layer", local=1),
    "kolibri1": Traits(qk_norm="head", norms="around", local=5, local_rotary=True, correction=True),
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
LEFT_TO_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
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
    "olmo3": {"sliding_window": 4096},
    "smollm3": {"num_key_value_heads": 4},
    "granitemoe": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "seed_oss": {"num_key_value_heads": 8, "head_dim": 128},
    "glm": {"num_key_value_heads": 2, "head_dim": 128, "partial_rotary_factor": 0.5},
    "glm4": {"num_key_value_heads": 2, "head_dim": 128, "partial_rotary_factor": 0.5},
    "starcoder2": {"num_key_value_heads": 2},
    "stablelm": {"num_key_value_heads": 32, "partial_rotary_factor": 0.25},
    "cohere2": {"sliding_window": 4096},
    "nemotron": {"partial_rotary_factor": 0.5},
    "exaone4": {"num_key_value_heads": 32, "sliding_window": 4096},
    "olmoe": {"num_experts": 64, "num_experts_per_tok": 8},
    "glm4_moe": {
        "num_key_value_heads": 8,
        "partial_rotary_factor": 0.5,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
        "first_k_dense_replace": 1,
    },
    "ernie4_5": {"num_key_value_heads": 2, "head_dim": 128},
    "ernie4_5_moe": {
        "num_key_value_heads": 4,
        "moe_num_experts": 64,
        "moe_k": 6,
        "moe_intermediate_size": 1536,
        "moe_layer_start_index": 1,
    },
    "minimax_m2": {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
    },
    "flint": {
        "num_key_value_heads": 4,
        "head_dim": 128,
        "sliding_window": 513,
        "num_experts": 256,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 1024,
        "mlp_only_layers": [0, 1],
    },
    "hunyuan_v1_moe": {"num_experts": 1},
    "phimoe": {"num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2},
    "kolibri1": {
        "vocab_size": 128000,
        "hidden_size": 2560,
        "intermediate_size": 512,  # of no layer: all have experts
        "num_hidden_layers": 50,
        "num_attention_heads": 48,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "sliding_window": 513,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 384,
        "num_experts_per_tok": 6,
    },
}


def _window(c: Fields) -> int:
    """Return the default window [positions]; 0: none."""
    return WINDOW if TRAITS[c.type].asked and c.uses_window else 0


FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    **HEAD_FIELDS,
    "tied": Field(("tie_word_embeddings",), lambda f: TRAITS[f.type].tied, bool),
    "bias": Field(("use_bias",), lambda f: TRAITS[f.type].bias, bool),
    "qkv_bias": Field(("qkv_bias", "use_qkv_bias"), lambda f: TRAITS[f.type].qkv_bias, bool),
    "attention_bias": Field(("attention_bias",), lambda f: f.bias or TRAITS[f.type].attention_bias, bool),
    "out_bias": Field(("attention_out_bias",), lambda f: f.attention_bias and TRAITS[f.type].out_bias, bool),
    "mlp_bias": Field(("mlp_bias",), same("bias"), bool),
    "act": ACT,
    "parallel": Field(("use_parallel_residual",), lambda f: TRAITS[f.type].parallel, bool),
    "normed": Field(("use_qk_norm", "qk_layernorm"), lambda f: not TRAITS[f.type].qk_asked, bool),
    "rotary_dim": Field(("rotary_dim",), same("head_dim")),
    "rotary_share": Field(("partial_rotary_factor",), lambda f: f.rotary_dim / f.head_dim, float),
    "rotated": Field(("no_rope_layers",), (), list),
    "unrotated": Field(("no_rope_layer_interval",), lambda f: TRAITS[f.type].unrotated, may_be_zero=True),
    "uses_window": Field(("use_sliding_window",), lambda f: not TRAITS[f.type].asked, bool),
    "window": Field(("sliding_window",), _window, may_be_zero=True),
    "window_from": Field(("max_window_layers",), MAX_WINDOW_LAYERS, may_be_zero=True),
    "layer_types": Field(("layer_types",), (), list),
    "local": Field(("sliding_window_pattern",), lambda f: TRAITS[f.type].local, words=PATTERNS),
    "experts": Field(EXPERTS, 0, listed=True),
    "top_k": Field(
        ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k"), 1, may_be_zero=True, listed=True
    ),
    "d_expert": Field(("moe_intermediate_size",), same("d_ff"), may_be_zero=True, listed=True),
    "shared": Field(
        ("n_shared_experts", "moe_num_shared_experts", "num_shared_expert"),
        lambda f: TRAITS[f.type].shared,
        may_be_zero=True,
        listed=True,
    ),
    "d_shared": Field(
        ("shared_expert_intermediate_size",), lambda f: f.shared * f.d_expert, may_be_zero=True
    ),
    "dense_first": Field(("first_k_dense_replace", "moe_layer_start_index"), 0),
    "sparse_last": Field(("moe_layer_end_index",), -1.0, float),  # −1 is the last layer
    "sparse_step": Field(("decoder_sparse_step", "moe_layer_interval"), 1),
    "head_bias": Field(("lm_head_bias",), False, bool),
    "dense_only": Field(("mlp_only_layers",), (), list),
}


def kinds(c: Fields) -> Counter[tuple[int | None, bool, bool]]:
    """Return the number of layers of each kind: (window or None, whether it rotates, has experts)."""
    found: Counter[tuple[int | None, bool, bool]] = Counter()
    traits = TRAITS[c.type]
    types = of_layers(c, LAYER_TYPES)
    listed = each_layer(c, "no_rope_layers", c.rotated)
    for i in range(c.layers):
        rotates = bool(listed[i]) if listed else not _last_of(c.unrotated, i)
        if types:
            local = types[i] == "sliding_attention"
        elif traits.upper:
            local = i >= c.window_from
        elif traits.ends:
            local = 2 <= i < c.layers - 1 and i % 4 != 1
        elif c.unrotated:
            local = not rotates
        else:
            local = c.local == 1 or (c.local > 1 and not _last_of(c.local, i))
        window = c.window if local and c.window and c.uses_window else None
        if traits.local_rotary and c.window:
            rotates = local
        found[window, rotates, _sparse(c, i)] += 1
    return found


def _sparse(c: Fields, i: int) -> bool:
    """Return whether layer `i` has experts."""
    if (
        TRAITS[c.type].dense
        or not c.experts
        or i in c.dense_only
        or i < c.dense_first
        or (i + 1) % c.sparse_step
    ):
        return False
    return bool(c.sparse_last < 0 or i <= c.sparse_last)


def _last_of(every: int, i: int) -> bool:
    """Return whether layer `i` is the last of `every` layers; of 0, none is."""
    return every > 0 and (i + 1) % every == 0


def layer(c: Fields, use: Use, window: int | None, rotates: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer: attention, and the feed-forward layer or experts, each with norms and an addition."""
    traits = TRAITS[c.type]
    heads = Heads.of(
        c,
        bias=c.qkv_bias or c.attention_bias,
        out_bias=c.out_bias,
        qk_norm=traits.qk_norm if c.normed else "none",
        rotary=c.rotary_share if rotates else 0.0,
        window=window,
    )
    attention = self_attention(use, heads)
    if traits.sinks:
        attention = (with_extra(p, c.heads) if p.name == "attention" else p for p in attention)
    inner = _inner(c, use, sparse)
    if c.parallel:
        yield from parallel(use, c.d_model, attention, inner, kind=traits.norm)
        return
    before, after = traits.norms != "after", traits.norms != "before"
    for name, half in (("attention", attention), ("feed-forward", inner)):
        yield from residual(use, name, c.d_model, half, kind=traits.norm, before=before, after=after)


def _inner(c: Fields, use: Use, sparse: bool) -> Iterator[Part]:
    """Yield the feed-forward layer, or the experts.

    Raises
    ------
    CostmodelError
        If experts have biases, of which only gpt-oss's are known.
    """
    traits = TRAITS[c.type]
    function = function_of(c, traits.function)
    if not sparse:
        part = feed_forward(use, c.d_model, c.d_ff, function, gated=traits.gated, bias=c.mlp_bias)
        yield with_extra(part, LEARNED.get(function, 0))
        return
    if c.mlp_bias:
        raise CostmodelError(f"{c.type}: wanted experts without biases (use_bias, mlp_bias: false), got true")
    # The router's output, gate and up projections, and the projection down.
    biases = c.experts * (1 + 2 * c.d_expert + c.d_model) if traits.expert_bias else 0
    extra, gated = biases + (c.experts if traits.correction else 0), traits.shared_gate and c.d_shared > 0
    yield from experts(c, use, function=function, shared=c.d_shared, gated=gated, extra=extra)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    return between_ends(
        c, use, stacks(kinds(c), partial(layer, c, use)), kind=TRAITS[c.type].norm, bias=c.head_bias
    )


LLAMA = Family(
    types=tuple(TRAITS),
    fields=FIELDS,
    parts=parts,
    source=(
        "Touvron et al., arXiv 2302.13971 and 2307.09288 (Llama); Jiang et al., arXiv 2310.06825 and "
        "2401.04088 (Mistral, Mixtral); arXiv 2407.10671 and 2505.09388 (Qwen); arXiv 2403.08295, "
        "2408.00118 and 2503.19786 (Gemma); arXiv 2404.14219 (Phi-3); arXiv 2508.10925 (gpt-oss); "
        "arXiv 2501.00656 and 2409.02060 (OLMo); arXiv 2508.06471 (GLM); Hugging Face transformers, "
        "modeling_*.py"
    ),
    left_out="dropout, masks, scaling and clipping by constants, sampling",
    cut={"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width"},
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
    nested="rope_parameters",
)
