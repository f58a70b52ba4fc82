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
    norm,
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
    leads : bool
        Whether of every `local` layers the first, not the last, is without a window.
    first_whole : bool
        Whether the first layer of all has none either.
    local_rotary : bool
        Whether only layers with a window rotate positions into Q and K, if there are such layers.
    unrotated : int
        Of every `unrotated` layers, the last rotates no positions, and only such a layer may have a window;
        0: all rotate. ``no_rope_layer_interval`` and ``no_rope_layers`` override this.
    prefix : bool
        Whether layers without experts come first with windows by a pattern of their own,
        ``prefix_dense_sliding_window_pattern``, or none (1), and then rotate.
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
    sinks : str
        Where the softmax of each head has one more, learned score, to which nothing is attended: ``all``
        layers, those with a window (``local``), or none.
    gate : str
        What attention's output is multiplied by; see `Heads`.
    embedding_norm : bool
        Whether the embedding is normed.
    own_values : bool
        Whether values have a width of their own, ``v_head_dim``.
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
    leads: bool = False
    first_whole: bool = False
    upper: bool = False
    asked: bool = False
    local_rotary: bool = False
    unrotated: int = 0
    prefix: bool = False
    dense: bool = False
    expert_bias: bool = False
    correction: bool = False
    shared: int = 0
    shared_gate: bool = False
    sinks: str = ""
    gate: str = "none"
    embedding_norm: bool = False
    own_values: bool = False


#: Qwen's defaults: number of first layers without a window, and the window's positions (transformers'
#: configuration_qwen2.py).
MAX_WINDOW_LAYERS, WINDOW = 28, 4096
#: Entries allowed in ``layer_types``.
LAYER_TYPES = ("full_attention", "sliding_attention")
#: Entries allowed in ``mlp_layer_types``.
MLP_TYPES = ("dense", "sparse")
#: Names of the number of experts.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
#: Patterns of layers that are written as words (EXAONE 4.0): local and global layers.
PATTERNS = {"LLLG": 4}
#: Granularities of a gate of attention's output as words: whether it has one number per head (Laguna).
GATES = {"per-head": True, "per-element": False}
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
    "gpt_oss": Traits(local=2, attention_bias=True, expert_bias=True, sinks="all"),
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
    "flint": Traits(qk_norm="head", ends=True, local_rotary=True, sinks="all"),
    "phimoe": Traits(norm="layer", local=1),
    "kolibri1": Traits(qk_norm="head", norms="around", local=5, local_rotary=True, correction=True),
    "ministral": Traits(local=1),
    "ministral3": Traits(local=1),
    "mimo_v2_flash": Traits(
        out_bias=False, local=6, first_whole=True, correction=True, sinks="local", own_values=True
    ),
    "dots1": Traits(qk_norm="head", upper=True, correction=True),
    "solar_open": Traits(out_bias=False, correction=True, shared=1),
    "exaone_moe": Traits(qk_norm="head", local=4, local_rotary=True, correction=True, shared=1),
    "afmoe": Traits(
        qk_norm="head", norms="around", local=4, local_rotary=True, correction=True, shared=2, gate="own"
    ),
    "hy_v3": Traits(qk_norm="head", correction=True, shared=1),
    "cohere2_moe": Traits(
        norm="layer-gain", parallel=True, tied=True, local=4, local_rotary=True, prefix=True
    ),
    "granite_swa": Traits(tied=True, local=4, leads=True, sinks="all"),
    "granitemoe_swa": Traits(local=4, leads=True, sinks="all"),
    "granitemoeshared": Traits(),
    "laguna": Traits(qk_norm="head", correction=True, gate="head"),
    "mellum": Traits(qk_norm="head"),
    "step3p5": Traits(qk_norm="head", correction=True, gate="head"),
    "step3p7": Traits(qk_norm="head", correction=True, gate="head"),
    "jais2": Traits(bias=True, norm="layer", gated=False, function="relu2"),
    "internlm3": Traits(),
    "helium": Traits(out_bias=False),
    "vaultgemma": Traits(function="gelu-tanh", tied=True, local=2),
    "nanochat": Traits(qk_norm="free", norm="rms-bare", gated=False, function="relu2", embedding_norm=True),
    "persimmon": Traits(bias=True, qk_norm="layer", norm="layer", gated=False, function="relu2"),
}

#: Types that another file reads.
STEP = ("step3p5", "step3p7")

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
    "ministral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "ministral3": {
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 34,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
    },
    "mimo_v2_flash": {
        "num_key_value_heads": 4,
        "head_dim": 192,
        "v_head_dim": 128,
        "partial_rotary_factor": 0.334,
        "sliding_window": 129,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": 1,
    },
    "dots1": {
        "num_key_value_heads": 32,
        "moe_intermediate_size": 1408,
        "sliding_window": 4096,
        "max_window_layers": 62,
    },
    "solar_open": {
        "intermediate_size": 10240,  # of no layer: its class has no such key
        "num_key_value_heads": 8,
        "head_dim": 128,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1280,
    },
    "exaone_moe": {
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1024,
        "first_k_dense_replace": 1,
    },
    "afmoe": {
        "head_dim": 128,
        "sliding_window": 1024,
        "num_experts": 64,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 1408,
        "num_dense_layers": 1,
    },
    "hy_v3": {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_experts": 192,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1536,
        "first_k_dense_replace": 1,
    },
    "cohere2_moe": {
        "head_dim": 128,
        "sliding_window": 4096,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    "granite_swa": {"num_key_value_heads": 4, "sliding_window": 128},
    "granitemoe_swa": {"sliding_window": 128, "num_local_experts": 8, "num_experts_per_tok": 2},
    "granitemoeshared": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "laguna": {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "sliding_window": 512,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "first_k_dense_replace": 1,
        "full_attention": {"partial_rotary_factor": 0.5},
    },
    "mellum": {
        "num_key_value_heads": 4,
        "head_dim": 128,
        "sliding_window": 1024,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 896,
    },
    "internlm3": {"num_key_value_heads": 2, "head_dim": 128},
    "helium": {"num_key_value_heads": 20, "head_dim": 128},
    "vaultgemma": {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
    "persimmon": {"partial_rotary_factor": 0.5},
}


def _window(c: Fields) -> int:
    """Return the default window [positions]; 0: none."""
    if c.window_before:  # MiMo's number of positions, which leaves out the query's own
        return int(c.window_before) + 1
    return int(c.said_window)


def _said_window(c: Fields) -> int:
    """Return the default window of a configuration that states none [positions]."""
    return WINDOW if TRAITS[c.type].asked and c.uses_window else 0


def _local_heads(c: Fields) -> int:
    """Return the default heads of layers with a window: the one number that a list has for them.

    Raises
    ------
    CostmodelError
        If heads are listed that differ by more than that.
    """
    listed = each_layer(c, "num_attention_heads_per_layer", c.listed_heads)
    types = of_layers(c, LAYER_TYPES) or [LAYER_TYPES[0]] * c.layers
    pairs = set(zip(listed, types, strict=True)) if listed else set()
    whole, local = ({heads for heads, of in pairs if of == kind} for kind in LAYER_TYPES)
    if whole - {c.heads} or len(local) > 1:
        raise CostmodelError(
            f"num_attention_heads_per_layer: wanted {c.heads} of all layers without a window and one number "
            f"of the others, got {listed}"
        )
    return int(local.pop()) if local else int(c.heads)


def _local_kv_heads(c: Fields) -> int:
    """Return the default heads of keys of layers with a window, of which MiMo has twice as many."""
    return int(c.kv_heads) * (2 if c.type == "mimo_v2_flash" else 1)


def _norm(c: Fields) -> str:
    """Return the kind of the norms: of Cohere's mixtures, that whose ε is said."""
    return "rms" if c.type == "cohere2_moe" and c.rms else TRAITS[c.type].norm


FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    "said_d_ff": Field(("intermediate_size",)),
    "d_ff": Field(("prefix_dense_intermediate_size",), same("said_d_ff")),
    **HEAD_FIELDS,
    "value_dim": Field(("v_head_dim",), same("head_dim")),
    "tied": Field(("tie_word_embeddings",), lambda f: TRAITS[f.type].tied, bool),
    "bias": Field(("use_bias", "bias"), lambda f: TRAITS[f.type].bias, bool),
    "qkv_bias": Field(("qkv_bias", "use_qkv_bias"), lambda f: TRAITS[f.type].qkv_bias, bool),
    "attention_bias": Field(("attention_bias",), lambda f: f.bias or TRAITS[f.type].attention_bias, bool),
    "out_bias": Field(("attention_out_bias",), lambda f: f.attention_bias and TRAITS[f.type].out_bias, bool),
    "mlp_bias": Field(("mlp_bias",), same("bias"), bool),
    "act": ACT,
    "rms": Field(("rms_norm_eps",), 0.0, float),
    "norm": Field((), _norm),
    "head_gate": Field(("gating",), True, bool, words=GATES),
    "parallel": Field(("use_parallel_residual",), lambda f: TRAITS[f.type].parallel, bool),
    "normed": Field(("use_qk_norm", "qk_layernorm"), lambda f: not TRAITS[f.type].qk_asked, bool),
    "rotary_dim": Field(("rotary_dim",), same("head_dim")),
    "rotary_share": Field(("partial_rotary_factor",), lambda f: f.rotary_dim / f.head_dim, float),
    "rope_whole": Field(("full_attention",), {}, dict),
    "rope_local": Field(("sliding_attention",), {}, dict),
    "rotated": Field(("no_rope_layers", "layer_rope_theta"), (), list),
    "unrotated": Field(("no_rope_layer_interval",), lambda f: TRAITS[f.type].unrotated, may_be_zero=True),
    "uses_window": Field(("use_sliding_window",), lambda f: not TRAITS[f.type].asked, bool),
    "said_window": Field(("sliding_window",), _said_window, may_be_zero=True),
    "window_before": Field(("sliding_window_size",), 0),
    "window": Field((), _window),
    "window_from": Field(("max_window_layers",), MAX_WINDOW_LAYERS, may_be_zero=True),
    "layer_types": Field(("layer_types",), (), list),
    "local": Field(
        ("sliding_window_pattern", "global_attn_every_n_layers"),
        lambda f: TRAITS[f.type].local,
        words=PATTERNS,
    ),
    "prefix_local": Field(("prefix_dense_sliding_window_pattern",), 1),
    "listed_heads": Field(("num_attention_heads_per_layer",), (), list),
    "local_heads": Field((), _local_heads),
    "local_kv_heads": Field(("swa_num_key_value_heads",), _local_kv_heads),
    "experts": Field(EXPERTS, 0, listed=True),
    "top_k": Field(
        ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k"), 1, may_be_zero=True, listed=True
    ),
    "d_expert": Field(("moe_intermediate_size",), same("said_d_ff"), may_be_zero=True, listed=True),
    "shared": Field(
        ("n_shared_experts", "moe_num_shared_experts", "num_shared_expert", "num_shared_experts"),
        lambda f: TRAITS[f.type].shared,
        may_be_zero=True,
        listed=True,
    ),
    "d_shared": Field(
        (
            "shared_expert_intermediate_size",
            "shared_intermediate_size",
        ),
        lambda f: f.shared * f.d_expert,
        may_be_zero=True,
    ),
    "mlp_types": Field(("mlp_layer_types",), (), list),
    "dense_first": Field(("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers"), 0),
    "sparse_last": Field(("moe_layer_end_index",), -1.0, float),  # −1 is the last layer
    "sparse_step": Field(("decoder_sparse_step", "moe_layer_interval"), 1),
    "head_bias": Field(("lm_head_bias",), False, bool),
    "dense_only": Field(("mlp_only_layers",), (), list),
}


def kinds(c: Fields) -> Counter[tuple[bool, bool, bool]]:
    """Return the number of layers of each kind: (has a window, rotates, has experts)."""
    found: Counter[tuple[bool, bool, bool]] = Counter()
    traits = TRAITS[c.type]
    types = of_layers(c, LAYER_TYPES)
    listed = each_layer(c, "no_rope_layers", c.rotated)
    mlps = of_layers(c, MLP_TYPES, "mlp_layer_types", c.mlp_types)
    for i in range(c.layers):
        rotates = bool(listed[i]) if listed else not _last_of(c.unrotated, i)
        if types:
            local = types[i] == "sliding_attention"
        elif traits.ends:
            local = 2 <= i < c.layers - 1 and i % 4 != 1
        elif c.unrotated:
            local = not rotates
        else:
            local = _has_window(c, i)
        sparse = mlps[i] == "sparse" if mlps else _sparse(c, i)
        if traits.local_rotary and c.window:
            rotates = local or (traits.prefix and not sparse and c.prefix_local == 1)
        found[local and c.window > 0 and c.uses_window, rotates, sparse] += 1
    return found


def _has_window(c: Fields, i: int) -> bool:
    """Return whether layer `i` has a window, by the pattern of the layers."""
    traits = TRAITS[c.type]
    if traits.upper:
        return bool(i >= c.window_from)
    if traits.first_whole and i == 0:
        return False
    every = int(c.local)
    if traits.prefix:
        i, every = (i, int(c.prefix_local)) if i < c.dense_first else (i - c.dense_first, every)
        return not _last_of(every, i)
    return every == 1 or (every > 1 and not _last_of(every, i - 1 if traits.leads else i))


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


def _gate(c: Fields) -> str:
    """Return what attention's output is multiplied by; see `Heads`."""
    gate = TRAITS[c.type].gate
    return "own" if gate == "head" and not c.head_gate else gate


def layer(c: Fields, use: Use, local: bool, rotates: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer: attention, and the feed-forward layer or experts, each with norms and an addition."""
    traits = TRAITS[c.type]
    share = (c.rope_local if local else c.rope_whole).get("partial_rotary_factor", c.rotary_share)
    heads = Heads(
        d_model=c.d_model,
        heads=c.local_heads if local else c.heads,
        kv_heads=c.local_kv_heads if local else c.kv_heads,
        head_dim=c.head_dim,
        value_dim=c.value_dim if traits.own_values else None,
        bias=c.qkv_bias or c.attention_bias,
        out_bias=c.out_bias,
        qk_norm=traits.qk_norm if c.normed else "none",
        rotary=share if rotates else 0.0,
        window=c.window if local else None,
        gate=_gate(c),
    )
    attention = self_attention(use, heads)
    if traits.sinks == "all" or (traits.sinks == "local" and local):
        attention = (with_extra(p, heads.heads) if p.name == "attention" else p for p in attention)
    inner = _inner(c, use, sparse)
    if c.parallel:
        yield from parallel(use, c.d_model, attention, inner, kind=c.norm)
        return
    before, after = traits.norms != "after", traits.norms != "before"
    for name, half in (("attention", attention), ("feed-forward", inner)):
        yield from residual(use, name, c.d_model, half, kind=c.norm, before=before, after=after)


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
    """Return the embedding, with its norm if it has one, the layers, the norm and the logits."""
    first = [norm(use, "embedding norm", c.d_model, c.norm)] if TRAITS[c.type].embedding_norm else []
    layers: list[Part | Stack] = [*first, *stacks(kinds(c), partial(layer, c, use))]
    return between_ends(c, use, layers, kind=c.norm, bias=c.head_bias)


LEFT_OUT = (
    "dropout, masks, scaling and clipping by constants, sampling; modules for multi-token prediction (MTP)"
)
CUT = {
    "heads": "heads",
    "local_heads": "heads of layers with a window",
    "kv_heads": "key and value heads",
    "local_kv_heads": "key and value heads of layers with a window",
    "d_ff": "inner width",
}

LLAMA = Family(
    types=tuple(name for name in TRAITS if name not in STEP),
    fields=FIELDS,
    parts=parts,
    source=(
        "Touvron et al., arXiv 2302.13971 and 2307.09288 (Llama); Jiang et al., arXiv 2310.06825 and "
        "2401.04088 (Mistral, Mixtral); arXiv 2407.10671 and 2505.09388 (Qwen); arXiv 2403.08295, "
        "2408.00118 and 2503.19786 (Gemma); arXiv 2404.14219 (Phi-3); arXiv 2508.10925 (gpt-oss); "
        "arXiv 2501.00656 and 2409.02060 (OLMo); arXiv 2508.06471 (GLM); Hugging Face transformers, "
        "modeling_*.py"
    ),
    left_out=LEFT_OUT,
    cut=CUT,
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
    nested="rope_parameters",
)
