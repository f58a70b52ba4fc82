"""Qwen3-Next and Qwen3.5: three layers of gated delta nets for each layer of gated attention.

Qwen3-Next has experts in every layer; Qwen3.5 has them in all layers or in none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

from costmodel.models._blocks import (
    Use,
    between_ends,
    convolution,
    feeding,
    gate,
    keeping,
    linear,
    norm,
    residual,
    stacks,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, fraction, function_of, of_layers
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

#: Entries allowed in ``layer_types``.
LAYER_TYPES = ("full_attention", "linear_attention")

FIELDS = {
    **DENSE,
    "d_ff": Field(("intermediate_size",), may_be_zero=True),
    "kv_heads": Field(("num_key_value_heads",)),
    "head_dim": Field(("head_dim",), fraction("d_model", "heads")),
    "tied": UNTIED,
    "act": ACT,
    "attention_bias": Field(("attention_bias",), False, bool),
    "key_heads": Field(("linear_num_key_heads",)),
    "value_heads": Field(("linear_num_value_heads",)),
    "key_dim": Field(("linear_key_head_dim",)),
    "value_dim": Field(("linear_value_head_dim",)),
    "kernel": Field(("linear_conv_kernel_dim",), 4),
    "interval": Field(("full_attention_interval",), 4),
    "layer_types": Field(("layer_types",), (), list),
    "experts": Field(("num_experts",), may_be_zero=True),
    "top_k": Field(("num_experts_per_tok",), may_be_zero=True),
    "d_expert": Field(("moe_intermediate_size",), may_be_zero=True),
    "d_shared": Field(("shared_expert_intermediate_size",), may_be_zero=True),
    "sparse_step": Field(("decoder_sparse_step",), 1),
    "dense_only": Field(("mlp_only_layers",), (), list),
    "gated": Field(("attn_output_gate",), True, bool),
}

#: What devices divide.
CUT = {
    "heads": "heads",
    "kv_heads": "key and value heads",
    "key_heads": "key heads of the delta net",
    "value_heads": "value heads of the delta net",
    "d_ff": "inner width",
}

#: Defaults of Qwen3.5's configuration classes (transformers, configuration_qwen3_5.py and
#: configuration_qwen3_5_moe.py). What a class does not have is 0: experts, or an inner width.
_QWEN3_5 = {
    "vocab_size": 248320,
    "num_attention_heads": 16,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 32768,
}
_DENSE = {
    **_QWEN3_5,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_key_value_heads": 4,
    "num_experts": 0,
    "num_experts_per_tok": 0,
    "moe_intermediate_size": 0,
    "shared_expert_intermediate_size": 0,
}
_SPARSE = {
    **_QWEN3_5,
    "hidden_size": 2048,
    "intermediate_size": 0,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
LEFT_TO_DEFAULTS = {
    "qwen3_5": _DENSE,
    "qwen3_5_text": _DENSE,
    "qwen3_5_moe": _SPARSE,
    "qwen3_5_moe_text": _SPARSE,
}


def delta_net(c: Fields, use: Use) -> Iterator[Part]:
    """Yield Q, K, V, output gate and decay; convolution; the delta rule; gated norm; output projection.

    Each value head has two more learned numbers: its decay and the offset of its step.
    """
    keys, values = c.key_heads * c.key_dim, c.value_heads * c.value_dim
    yield linear(use, "query, key, value and gate", c.d_model, 2 * keys + 2 * values)
    heads = linear(use, "decay and beta", c.d_model, 2 * c.value_heads)
    yield keeping(with_extra(heads, 2 * c.value_heads), 0)  # the first product keeps the same input
    yield convolution(use, 2 * keys + values, c.kernel)
    yield Part.of(
        "delta rule",
        use.layer("gated-delta-net", form="recurrent" if use.decoding else "chunked"),
        **use.tokens,
        heads=c.key_heads,
        kv_heads=c.value_heads,
        head_dim=c.key_dim,
        value_dim=c.value_dim,
    )
    # The norm has one gain for all heads; its gate, SiLU(z), is counted as a kernel of its own.
    yield norm(use, "gated norm", c.value_dim, rows=use.rows * c.value_heads)
    yield gate(use, "output gate", values)
    yield linear(use, "output projection", values, c.d_model)


def layer(c: Fields, use: Use, full: bool, sparse: bool) -> Iterator[Part]:
    """Yield one layer."""
    gate = "query" if c.gated else "none"
    heads = Heads.of(c, bias=c.attention_bias, out_bias=c.attention_bias, qk_norm="head", gate=gate)
    mixer = self_attention(use, heads) if full else delta_net(c, use)
    yield from residual(use, "attention", c.d_model, mixer)
    yield from feeding(c, use, sparse, function=function_of(c, "silu"), shared=c.d_shared, gated=True)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    kinds: Counter[tuple[bool, bool]] = Counter()
    types = of_layers(c, LAYER_TYPES)
    for i in range(c.layers):
        full = types[i] == "full_attention" if types else (i + 1) % c.interval == 0
        sparse = c.experts > 0 and i not in c.dense_only and (i + 1) % c.sparse_step == 0
        kinds[full, sparse] += 1
    return between_ends(c, use, stacks(kinds, partial(layer, c, use)))


QWEN3_NEXT = Family(
    types=("qwen3_next", *LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source=(
        "Yang et al., arXiv 2412.06464; Hugging Face transformers, modeling_qwen3_next.py, "
        "modeling_qwen3_5.py and modeling_qwen3_5_moe.py"
    ),
    left_out=(
        "dropout, masks, sampling; rotation is counted for whole heads, of which a quarter is rotated; "
        "multi-token prediction (MTP)"
    ),
    cut=CUT,
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
)
