"""MiniCPM3 and Youtu-LLM: latent attention, and a feed-forward layer with a gate in every layer."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.models._blocks import Use, between_ends, feed_forward, repeated, residual
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, TIED, Field, Fields, fraction, function_of
from costmodel.models._latent import LATENT_FIELDS, Latent, latent_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size",)),
    "tied": TIED,
    **LATENT_FIELDS,
    "value_dim": Field(("v_head_dim",), fraction("d_model", "heads")),
    "mlp_bias": Field(("mlp_bias",), False, bool),
    "act": ACT,
}
#: Defaults of MiniCPM3Config and YoutuConfig (transformers, configuration_minicpm3.py and
#: configuration_youtu.py).
LEFT_TO_DEFAULTS = {
    "minicpm3": {
        "vocab_size": 73448,
        "hidden_size": 2560,
        "intermediate_size": 6400,
        "num_hidden_layers": 62,
        "num_attention_heads": 40,
        "kv_lora_rank": 256,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
    },
    "youtu": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    },
}


def layer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield one layer."""
    yield from residual(use, "attention", c.d_model, latent_attention(use, Latent.of(c)))
    inner = feed_forward(use, c.d_model, c.d_ff, function_of(c, "silu"), gated=True, bias=c.mlp_bias)
    yield from residual(use, "feed-forward", c.d_model, [inner])


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    return between_ends(c, use, [repeated(layer(c, use), c.layers)])


MINICPM3 = Family(
    types=tuple(LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source=(
        "Hu et al., arXiv 2404.06395 (MiniCPM); DeepSeek-AI, arXiv 2405.04434 (latent attention), §2.1; "
        "Hugging Face transformers, modeling_minicpm3.py and modeling_youtu.py"
    ),
    left_out="dropout, masks, scaling by constants, sampling",
    cut={"heads": "heads", "d_ff": "inner width"},
    left_to_defaults=LEFT_TO_DEFAULTS,
)
