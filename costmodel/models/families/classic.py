"""GPT-NeoX, GPT-J, Falcon, BLOOM, Phi and MPT: layer norms, plain feed-forward layers, rotation or ALiBi."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from costmodel.errors import CostmodelError
from costmodel.models._blocks import Use, between_ends, feed_forward, norm, parallel, repeated, residual
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, Field, Fields, fraction, function_of, same
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack


@dataclass(frozen=True)
class Traits:
    """Differences between architectures.

    Attributes
    ----------
    parallel : int
        Default number of norms before attention and feed-forward that read the same input, 1 for both or 2;
        0: the second reads the first's result.
    attention_bias, mlp_bias : bool
        Defaults for biases of attention and of the feed-forward layer.
    head_bias, embedding_norm : bool
        Whether the logits have a bias; whether the embedding is normed.
    alibi : bool
        Default for offsets of the scores that grow with the distance (ALiBi) instead of rotation.
    multi_query : bool
        Default for one head of keys and values.
    norm : str
        Kind of the norms; see `costmodel.models._blocks.norm`.
    function : str
        Default activation.
    tied : bool
        Default for logits that share the embedding table.
    """

    parallel: int = 0
    attention_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    embedding_norm: bool = False
    alibi: bool = False
    multi_query: bool = False
    norm: str = "layer"
    function: str = "gelu"
    tied: bool = False


TRAITS = {
    "gpt_neox": Traits(parallel=2, attention_bias=True, mlp_bias=True),
    "gptj": Traits(parallel=1, mlp_bias=True, head_bias=True, function="gelu-tanh"),
    "codegen": Traits(parallel=1, mlp_bias=True, head_bias=True, function="gelu-tanh"),
    "falcon": Traits(parallel=1, multi_query=True, tied=True),
    "bloom": Traits(
        attention_bias=True, mlp_bias=True, embedding_norm=True, alibi=True, function="gelu-tanh", tied=True
    ),
    "phi": Traits(parallel=1, attention_bias=True, mlp_bias=True, head_bias=True, function="gelu-tanh"),
    "mpt": Traits(alibi=True, norm="layer-gain", tied=True),
}

#: Defaults of transformers' configuration classes.
LEFT_TO_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gpt_neox": {"rotary_pct": 0.25},
    "gptj": {"rotary_dim": 64},
    "codegen": {"rotary_dim": 64},
    "phi": {"partial_rotary_factor": 0.5},
}


def _kv_heads(c: Fields) -> int:
    """Return the heads of keys and values: of Falcon, those stated count in its newer architecture alone."""
    if c.multi_query and not c.grouped:
        return 1
    return int(c.stated_kv_heads) if c.grouped or c.type != "falcon" else int(c.heads)


def _norms(c: Fields) -> int:
    """Return the norms before parallel halves: Falcon's newer architecture has two."""
    return 2 if c.grouped else TRAITS[c.type].parallel


FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    "expansion": Field(("expansion_ratio",), 4),
    "d_ff": Field(("intermediate_size", "n_inner", "ffn_hidden_size"), lambda f: f.d_model * f.expansion),
    "head_dim": Field(("head_dim",), fraction("d_model", "heads")),
    "grouped": Field(("new_decoder_architecture",), False, bool),
    "multi_query": Field(("multi_query",), lambda f: TRAITS[f.type].multi_query, bool),
    "stated_kv_heads": Field(("num_key_value_heads", "num_kv_heads"), same("heads")),
    "kv_heads": Field((), _kv_heads),
    "tied": Field(("tie_word_embeddings",), lambda f: TRAITS[f.type].tied, bool),
    "bias": Field(("bias",), False, bool),
    "attention_bias": Field(("attention_bias",), lambda f: f.bias or TRAITS[f.type].attention_bias, bool),
    "act": ACT,
    "parallel": Field(
        ("use_parallel_residual", "parallel_attn"), lambda f: TRAITS[f.type].parallel > 0, bool
    ),
    "norms": Field(("num_ln_in_parallel_attn",), _norms, may_be_zero=True, most=2),
    "normed": Field(("qk_layernorm",), False, bool),
    "alibi": Field(("alibi",), lambda f: TRAITS[f.type].alibi, bool),
    "rotary_dim": Field(("rotary_dim",), same("head_dim")),
    "rotary_share": Field(
        ("partial_rotary_factor", "rotary_pct"), lambda f: f.rotary_dim / f.head_dim, float
    ),
}


def layer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield one layer."""
    traits = TRAITS[c.type]
    heads = Heads.of(
        c,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        qk_norm="layer" if c.normed else "none",
        rotary=0.0 if c.alibi else c.rotary_share,
    )
    attention = self_attention(use, heads)
    bias = c.bias or traits.mlp_bias
    inner = [feed_forward(use, c.d_model, c.d_ff, function_of(c, traits.function), bias=bias)]
    if c.parallel:
        yield from parallel(use, c.d_model, attention, inner, kind=traits.norm, norms=c.norms)
        return
    yield from residual(use, "attention", c.d_model, attention, kind=traits.norm)
    yield from residual(use, "feed-forward", c.d_model, inner, kind=traits.norm)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, with its norm if it has one, the layers, the norm and the logits."""
    traits = TRAITS[c.type]
    first = [norm(use, "embedding norm", c.d_model, traits.norm)] if traits.embedding_norm else []
    layers: list[Part | Stack] = [*first, repeated(layer(c, use), c.layers)]
    return between_ends(c, use, layers, kind=traits.norm, bias=traits.head_bias)


LEFT_OUT = "dropout, masks, ALiBi's offsets of the scores, scaling and clipping by constants, sampling"
CUT = {"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width"}

CLASSIC = Family(
    types=tuple(name for name in TRAITS if name != "mpt"),
    fields=FIELDS,
    parts=parts,
    source=(
        "Black et al., arXiv 2204.06745 (GPT-NeoX); Wang & Komatsuzaki 2021 (GPT-J); Nijkamp et al., "
        "arXiv 2203.13474 (CodeGen); Almazrouei et al., arXiv 2311.16867 (Falcon); BigScience, "
        "arXiv 2211.05100 (BLOOM); Li et al., arXiv 2309.05463 (Phi); Hugging Face transformers, "
        "modeling_*.py"
    ),
    left_out=LEFT_OUT,
    cut=CUT,
    left_to_defaults=LEFT_TO_DEFAULTS,
    nested="rope_parameters",
)

#: Options of MPT with the only values that Hugging Face's code knows.
FIXED = {"alibi": True, "qk_ln": False, "no_bias": True, "attn_type": "multihead_attention"}


def mpt_parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Yield the parts of an MPT.

    Raises
    ------
    CostmodelError
        If an option has a value that Hugging Face's code ignores.
    """
    for name, only in FIXED.items():
        value = getattr(c, name)
        if value != only:
            raise CostmodelError(f"a configuration of mpt: {name} should be {only!r}, got {value!r}")
    return parts(c, use)


MPT = Family(
    types=("mpt",),
    fields={
        **FIELDS,
        "qk_ln": Field(("qk_ln",), False, bool),
        "no_bias": Field(("no_bias",), True, bool),
        "attn_type": Field(("attn_type",), "multihead_attention", str),
    },
    parts=mpt_parts,
    source="MosaicML 2023, Introducing MPT-7B; Hugging Face transformers, modeling_mpt.py",
    left_out=LEFT_OUT,
    cut=CUT,
    nested="attn_config",
)
