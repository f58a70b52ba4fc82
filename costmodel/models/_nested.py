"""Language models inside the configurations of models that also see or hear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: Keys under which a multimodal configuration keeps that of its language model.
KEYS = ("text_config", "llm_config")
#: The key with which the outer model, not the language model inside it, says whether its ends share a table.
TIED = "tie_word_embeddings"


class Alias(NamedTuple):
    """An architecture that is computed like another one.

    Attributes
    ----------
    type : str
        The ``model_type`` that it is read as.
    defaults : mapping
        Defaults of its own class in transformers, which saved configurations leave out.
    """

    type: str
    defaults: Mapping[str, Any]


_QWEN3_VL = Alias(
    "qwen3",
    {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 128000,
    },
)
_QWEN3_VL_MOE = Alias(
    "qwen3_moe",
    {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "max_position_embeddings": 128000,
    },
)
#: Qwen3-VL's language model differs from Qwen3 in the angles of its rotation alone (a position has three
#: coordinates); its first layers add what the vision model found, at the places of pictures.
ALIASES = {
    "qwen3_vl": _QWEN3_VL,
    "qwen3_vl_text": _QWEN3_VL,
    "qwen3_vl_moe": _QWEN3_VL_MOE,
    "qwen3_vl_moe_text": _QWEN3_VL_MOE,
}


def key_of(config: Mapping[str, Any]) -> str:
    """Return the key under which a configuration keeps that of its language model; empty: there is none."""
    return next((key for key in KEYS if isinstance(config.get(key), Mapping)), "")


def language_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the fields of its language model at the top level."""
    key = key_of(config)
    if not key:
        return dict(config)
    outer = {name: value for name, value in config.items() if name not in KEYS}
    told = {} if outer.get(TIED) is None else {TIED: outer[TIED]}
    return {**outer, **config[key], **told}
