"""DeepSeek V2 to V3.2, Kimi K2, GLM-4.7-Flash, GLM-5, Mistral Small 4 and A.X K1.

Latent attention (MLA), in the newest over positions that an indexer chooses, and experts beside shared ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from costmodel.errors import CostmodelError
from costmodel.models._blocks import Use, between_ends, feeding, residual, stacks
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of, of_layers
from costmodel.models._latent import LATENT_FIELDS, Indexer, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.families.llama import MLP_TYPES
from costmodel.models.stack import Stack


@dataclass(frozen=True)
class Traits:
    """Differences between the architectures.

    Attributes
    ----------
    correction : bool
        Whether the router learns an offset per expert (V3's load balancing without an auxiliary loss).
    sparse : bool
        Whether an indexer chooses the positions that a query attends to.
    normed : bool
        Whether a norm follows the experts.
    """

    correction: bool = False
    sparse: bool = False
    normed: bool = False


TRAITS = {
    "deepseek_v2": Traits(),
    "deepseek_v3": Traits(correction=True),
    "kimi_k2": Traits(correction=True),
    "kimi_k25": Traits(correction=True),
    "deepseek_v32": Traits(correction=True, sparse=True),
    "glm_moe_dsa": Traits(correction=True, sparse=True),
    "glm4_moe_lite": Traits(correction=True),
    "mistral4": Traits(),
    "axk1": Traits(correction=True, normed=True),
}
#: Defaults of DeepseekV3Config, which is also the class of Kimi's language models (transformers,
#: configuration_deepseek_v3.py and configuration_kimi_k25.py).
_V3 = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "first_k_dense_replace": 3,
}
#: Of DeepseekV32Config and GlmMoeDsaConfig (transformers, configuration_deepseek_v32.py and
#: configuration_glm_moe_dsa.py).
_V32 = {**_V3, "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 64}
_GLM = {
    **_V32,
    "vocab_size": 154880,
    "hidden_size": 6144,
    "intermediate_size": 12288,
    "num_hidden_layers": 78,
    "num_attention_heads": 64,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "index_n_heads": 32,
}
#: Of Glm4MoeLiteConfig (configuration_glm4_moe_lite.py); all layers but the first have experts.
_LITE = {
    **_V3,
    "vocab_size": 154880,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "first_k_dense_replace": 1,
}
#: Of Mistral4Config (configuration_mistral4.py); all layers have experts.
_MISTRAL = {
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 128,
    "num_experts_per_tok": 4,
    "kv_lora_rank": 256,
    "q_lora_rank": 1024,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
#: Of AXK1Config (configuration_axk1.py).
_AXK1 = {
    **_V3,
    "vocab_size": 163840,
    "num_attention_heads": 64,
    "n_routed_experts": 192,
    "first_k_dense_replace": 1,
}
LEFT_TO_DEFAULTS = {
    **dict.fromkeys(("deepseek_v3", "kimi_k2", "kimi_k25"), _V3),
    "deepseek_v32": _V32,
    "glm_moe_dsa": _GLM,
    "glm4_moe_lite": _LITE,
    "mistral4": _MISTRAL,
    "axk1": _AXK1,
}
#: Entries allowed in ``indexer_types`` and ``layer_types``; the letters of a pattern.
INDEXER_TYPES, LAYER_TYPES = ("full", "shared"), ("indexed_attention",)
LETTERS = {"F": "full", "S": "shared"}

#: Sizes of the indexers, and which layers have one.
INDEX_FIELDS = {
    "index_heads": Field(("index_n_heads",), 0),
    "index_width": Field(("index_head_dim",), 0),
    "index_top_k": Field(("index_topk",), 0),
    "indexers": Field(("indexer_types",), (), list),
    "index_pattern": Field(("index_topk_pattern",), "", str),
    "index_every": Field(("index_topk_freq",), 1, may_be_zero=True),
    "index_skip": Field(("index_skip_topk_offset",), 2, may_be_zero=True),
}

FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    "tied": UNTIED,
    **LATENT_FIELDS,
    "experts": Field(("n_routed_experts",)),
    "top_k": Field(("num_experts_per_tok",)),
    "shared": Field(("n_shared_experts",), 0),
    "d_expert": Field(("moe_intermediate_size",)),
    "dense_first": Field(("first_k_dense_replace",), 0),
    "sparse_step": Field(("moe_layer_freq",), 1),
    "mlp_types": Field(("mlp_layer_types",), (), list),
    "layer_types": Field(("layer_types",), (), list),
    **INDEX_FIELDS,
    "act": ACT,
}


def _indexer(c: Fields, own: bool) -> Indexer | None:
    """Return how a layer's positions are chosen, by an indexer of its own or another layer's; or None.

    Raises
    ------
    CostmodelError
        If an indexer has no latent vector to make its queries from.
    """
    if not TRAITS[c.type].sparse:
        return None
    if not c.q_rank:
        raise CostmodelError("q_lora_rank: wanted a width, as an indexer makes its queries from it, got none")
    return Indexer(heads=c.index_heads, width=c.index_width, top_k=c.index_top_k, own=own)


def layer(c: Fields, use: Use, sparse: bool, own: bool) -> Iterator[Part]:
    """Yield one layer."""
    latent = latent_attention(use, Latent.of(c, sparse=_indexer(c, own)))
    yield from residual(use, "attention", c.d_model, latent)
    traits = TRAITS[c.type]
    offsets = c.experts if traits.correction else 0
    function, shared = function_of(c, "silu"), c.shared * c.d_expert
    yield from feeding(
        c, use, sparse, function=function, shared=shared, extra=offsets, after=traits.normed and sparse
    )


def has_experts(c: Fields) -> list[bool]:
    """Return for each layer whether it has experts."""
    listed = of_layers(c, MLP_TYPES, "mlp_layer_types", c.mlp_types)
    if listed:
        return [name == "sparse" for name in listed]
    return [i >= c.dense_first and i % c.sparse_step == 0 for i in range(c.layers)]


def _has_indexer(c: Fields) -> list[bool]:
    """Return for each layer whether it has an indexer of its own."""
    if not TRAITS[c.type].sparse:
        return [False] * c.layers
    of_layers(c, LAYER_TYPES)
    return [True] * c.layers if c.type == "deepseek_v32" else own_indexers(c)


def own_indexers(c: Fields) -> list[bool]:
    """Return for each layer whether its attention has an indexer of its own, by GLM's keys."""
    named = [LETTERS.get(letter, letter) for letter in c.index_pattern]
    listed = of_layers(c, INDEXER_TYPES, "indexer_types", c.indexers or named)
    if listed:
        return [name == "full" for name in listed]
    return [max(i - c.index_skip + 1, 0) % max(c.index_every, 1) == 0 for i in range(c.layers)]


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers of each kind, the norm and the logits."""
    kinds = sorted(zip(has_experts(c), _has_indexer(c), strict=True))
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


DEEPSEEK = Family(
    types=tuple(TRAITS),
    fields=FIELDS,
    parts=parts,
    source=(
        "DeepSeek-AI, arXiv 2405.04434 (V2), §2.1 and appendix C; arXiv 2412.19437 (V3), §2; Hugging Face "
        "transformers, modeling_deepseek_v2.py and modeling_deepseek_v3.py; Kimi team, arXiv 2507.20534; "
        "DeepSeek-AI 2025, DeepSeek-V3.2-Exp, §1; transformers, modeling_deepseek_v32.py and "
        "modeling_glm_moe_dsa.py, modeling_glm4_moe_lite.py, modeling_mistral4.py and modeling_axk1.py"
    ),
    left_out=(
        "dropout, masks, sampling; multi-token prediction (MTP); of sparse attention, that engines attend to "
        "short prompts without an index, that DeepSeek's indexer computes in FP8, and the indexer's own loss"
    ),
    cut={"heads": "heads", "d_ff": "inner width"},
    left_to_defaults=LEFT_TO_DEFAULTS,
)
