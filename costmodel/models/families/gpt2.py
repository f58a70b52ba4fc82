"""GPT-2, GPT-3, OPT, StarCoder, GPT-Neo: layer norms, learned positions, plain feed-forward layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    Use,
    embedding,
    feed_forward,
    linear,
    logits,
    norm,
    residual,
    residual_then_norm,
    stacks,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, TIED, Field, Fields, fraction, function_of, of_layers, same
from costmodel.models._heads import Heads, self_attention
from costmodel.models._part import Part
from costmodel.models.stack import Stack

#: OPT's position table has two more rows, which its padding used.
OFFSET = {"gpt2": 0, "gpt_bigcode": 0, "opt": 2, "gpt_neo": 0}
FUNCTION = {"gpt2": "gelu-tanh", "gpt_bigcode": "gelu-tanh", "opt": "relu", "gpt_neo": "gelu-tanh"}
#: Layers of GPT-Neo by default: lists of types, each repeated.
ATTENTION_TYPES = [[["global", "local"], 12]]
#: Types of its layers.
LAYER_TYPES = ("global", "local")


def _types(c: Fields) -> list[str]:
    """Return the types of GPT-Neo's layers.

    Raises
    ------
    CostmodelError
        If they are not lists of types, each with how often it is repeated.
    """
    try:
        return [name for names, times in c.repeated_types for _ in range(times) for name in names]
    except (TypeError, ValueError):
        raise CostmodelError(
            f"attention_types: wanted lists of types with a number each, got {c.repeated_types!r}"
        ) from None


FIELDS = {
    "type": Field(("model_type",), kind=str),
    **DENSE,
    "positions": Field(("n_positions", "max_position_embeddings")),
    "d_ff": Field(("n_inner", "ffn_dim", "intermediate_size"), same("d_model", 4)),
    "head_dim": Field(("head_dim",), fraction("d_model", "heads")),
    "multi_query": Field(("multi_query",), lambda f: f.type == "gpt_bigcode", bool),
    "kv_heads": Field((), lambda f: 1 if f.multi_query else f.heads),
    "act": ACT,
    "tied": TIED,
    "embedded": Field(("word_embed_proj_dim",), same("d_model")),
    "norm_first": Field(("do_layer_norm_before",), True, bool),
    "bias": Field(("enable_bias",), True, bool),
    "qkv_bias": Field((), lambda f: f.bias and f.type != "gpt_neo"),
    "window": Field(("window_size",), 256),
    "repeated_types": Field(("attention_types",), ATTENTION_TYPES, list),
    "layer_types": Field((), lambda f: _types(f) if f.type == "gpt_neo" else []),
    "gains": Field(("layer_norm_elementwise_affine",), True, bool),
    "no_last": Field(("_remove_final_layer_norm",), False, bool),
}


def layer(c: Fields, use: Use, kind: str) -> Iterator[Part]:
    """Yield one layer; a local one has a window."""
    window = c.window if kind == "local" else None
    heads = Heads.of(c, bias=c.qkv_bias, out_bias=c.bias, rotary=False, window=window)
    attention = self_attention(use, heads)
    inner = (feed_forward(use, c.d_model, c.d_ff, function_of(c, FUNCTION[c.type]), bias=c.bias),)
    if c.norm_first:
        yield from residual(use, "attention", c.d_model, attention, kind=_norm(c))
        yield from residual(use, "feed-forward", c.d_model, inner, kind=_norm(c))
    else:
        yield from residual_then_norm(use, "attention", c.d_model, attention, kind=_norm(c))
        yield from residual_then_norm(use, "feed-forward", c.d_model, inner, kind=_norm(c))


def _norm(c: Fields) -> str:
    """Return the kind of the norms; see `NORMS`."""
    return "layer" if c.gains else "layer-bare"


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Yield the embedding (with a projection if it is narrower), the layers, the norm and the logits."""
    narrow = c.embedded != c.d_model
    positions = (c.positions + OFFSET[c.type]) * c.d_model
    yield with_extra(embedding(use, c.vocab, c.embedded, tied=c.tied), positions)
    if narrow:
        yield linear(use, "embedding projection", c.embedded, c.d_model)
    types = of_layers(c, LAYER_TYPES, "attention_types") or ["global"] * c.layers
    yield from stacks(((name,) for name in types), partial(layer, c, use))
    if c.norm_first and not c.no_last:
        yield norm(use, "final norm", c.d_model, _norm(c))
    if narrow:
        yield linear(use, "projection to the embedding width", c.d_model, c.embedded)
    yield logits(use, c.vocab, c.embedded)


GPT2 = Family(
    types=tuple(FUNCTION),
    fields=FIELDS,
    parts=parts,
    source=(
        "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, §2.3; Brown et al., "
        "arXiv 2005.14165, Table 2.1; Zhang et al., arXiv 2205.01068; Li et al., arXiv 2305.06161 "
        "(StarCoder); Black et al. 2021 (GPT-Neo); Hugging Face transformers, modeling_gpt2.py, "
        "modeling_opt.py, modeling_gpt_bigcode.py, modeling_gpt_neo.py"
    ),
    cut={"heads": "heads", "kv_heads": "key and value heads", "d_ff": "inner width"},
    alternates=True,
    left_to_defaults={"gpt_neo": {"max_position_embeddings": 2048}},
)
