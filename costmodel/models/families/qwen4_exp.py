"""Qwen4-Exp: three gated delta nets for each layer of sparse attention, experts, several residual streams.

An indexer chooses blocks of positions. Some layers add embeddings of n-grams to the streams.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial

import sympy as sp

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    B,
    Use,
    convolution,
    embedding,
    experts,
    gate,
    keeping,
    linear,
    logits,
    norm,
    pointwise,
    stacks,
    with_extra,
)
from costmodel.models._family import Family
from costmodel.models._fields import DENSE, Field, Fields, function_of, of_layers, same
from costmodel.models._heads import Heads, self_attention
from costmodel.models._latent import Indexer, choice
from costmodel.models._part import Part
from costmodel.models.families import qwen3_next
from costmodel.models.families.qwen3_next import delta_net
from costmodel.models.stack import Stack
from costmodel.symbols import ceil_div

#: Entries allowed in ``layer_types``; published configurations call sparse attention full.
DELTA = "linear_attention"
LAYER_TYPES = (DELTA, "indexed_attention", "full_attention")
#: Fields that are Qwen3-Next's.
_SAME = (
    *("kv_heads", "head_dim", "tied", "act", "attention_bias", "key_heads", "value_heads", "key_dim"),
    *("value_dim", "kernel", "interval", "layer_types", "experts", "top_k", "d_expert", "d_shared"),
)


def _blocks(c: Fields) -> int:
    """Return the blocks that a query chooses."""
    if c.budget % c.block:
        raise CostmodelError(
            f"indexer_budget: wanted a multiple of indexer_compress_ratio {c.block}, got {c.budget}"
        )
    return int(c.budget // c.block)


def _gram_width(c: Fields) -> int:
    """Return the width of a row of the n-grams' table; a token has rows of each length and head."""
    if c.gram_dim % c.gram_rows:
        raise CostmodelError(f"ple_embed_dim: wanted a multiple of {c.gram_rows}, got {c.gram_dim}")
    return int(c.gram_dim // c.gram_rows)


FIELDS = {
    **DENSE,
    **{name: qwen3_next.FIELDS[name] for name in _SAME},
    "streams": Field(("hc_count",), 4),
    "rank": Field(("hc_lowrank",), 320),
    "index_heads": Field(("indexer_n_heads",)),
    "index_keys": Field(("indexer_kv_heads",), 1, most=1),
    "index_width": Field(("indexer_head_dim",)),
    "budget": Field(("indexer_budget",)),
    "block": Field(("indexer_compress_ratio",)),
    "blocks": Field((), _blocks),
    "gram_layers": Field(("ple_layer_ids",), (), list),
    "gram_dim": Field(("ple_embed_dim",), same("d_model")),
    "gram_kernel": Field(("ple_conv_kernel_size",), 4),
    "gram": Field(("ngram_size",), 3),
    "gram_heads": Field(("heads_per_ngram",), 8),
    "gram_base": Field(("ngram_vocab_size_base",), 20_000_000),
    "gram_multiple": Field(("make_ngram_vocab_size_divisible_by",), 128),
    "gram_rows": Field((), lambda f: (f.gram - 1) * f.gram_heads),
    "gram_width": Field((), lambda f: _gram_width(f) if f.gram_layers else 0),
}

#: Defaults of Qwen4ExpTextConfig (transformers, configuration_qwen4_exp.py).
_TEXT = {
    "vocab_size": 248320,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
}
LEFT_TO_DEFAULTS = {"qwen4_exp": _TEXT, "qwen4_exp_text": _TEXT}


# -- streams -----------------------------------------------------------------------------------


def stream_norm(c: Fields, use: Use, name: str) -> Part:
    """Return a norm of each stream by itself, with gains of its own."""
    part = norm(use, name, c.d_model, rows=use.rows * c.streams)
    return with_extra(part, (c.streams - 1) * c.d_model)


def mixed(c: Fields, use: Use, *, inward: bool = True) -> Iterator[Part]:
    """Yield the mean of the normed streams, each channel times a gate that is a product of low rank.

    `inward`, one more product makes the weights with which a result is added to the streams.
    """
    wide = c.streams * c.d_model
    yield stream_norm(c, use, "stream norm")
    yield linear(use, "mix down-projection", wide, c.rank)
    if inward:
        yield keeping(linear(use, "injection weights", wide, c.streams), 0)
    yield pointwise(use, "mix activation", "silu", c.rank)
    yield linear(use, "mix up-projection", c.rank, wide)
    yield gate(use, "mix", wide, "sigmoid")


def half(c: Fields, use: Use, inner: Iterable[Part]) -> Iterator[Part]:
    """Yield half a layer: the mean of the streams, the half itself, and its addition to all of them."""
    yield from mixed(c, use)
    yield from inner
    yield pointwise(use, "injection", "add", c.streams * c.d_model)


# -- n-grams -----------------------------------------------------------------------------------


def gram_table(c: Fields, place: int) -> int:
    """Return the rows of a layer's table: for each head another prime number, as Hugging Face chooses them.

    Parameters
    ----------
    c : Fields
        The fields.
    place : int
        Place of the layer among those with n-grams.
    """
    before = c.gram_base - 1
    first = place * c.gram_rows
    rows = sum(int(sp.nextprime(before, first + i + 1)) for i in range(c.gram_rows))
    return int(-(-rows // c.gram_multiple) * c.gram_multiple)


def grams(c: Fields, use: Use, place: int) -> Iterator[Part]:
    """Yield what a layer adds to the streams: rows of its table, gated by each stream, and a convolution."""
    wide = c.streams * c.d_model
    rows = {"batch": B, "seq": use.positions * c.gram_rows}
    table = use.layer("embedding")
    yield Part.of("n-gram embedding", table, **rows, vocab=gram_table(c, place), d_model=c.gram_width)
    yield linear(use, "n-gram key", c.gram_dim, wide)
    yield keeping(linear(use, "n-gram value", c.gram_dim, c.d_model), 0)
    yield stream_norm(c, use, "n-gram key norm")
    yield stream_norm(c, use, "n-gram query norm")
    yield pointwise(use, "n-gram scores", "mul", wide)
    yield gate(use, "n-gram value gated", wide, "sigmoid")
    yield stream_norm(c, use, "n-gram convolution norm")
    convolved = convolution(use, wide, c.gram_kernel)
    # It skips positions, which wait in its state.
    waiting = B * (c.gram_kernel - 1) * (c.gram - 1) * wide if use.decoding else sp.Integer(0)
    yield dataclasses.replace(convolved, name="n-gram convolution", cached=waiting)
    yield pointwise(use, "n-gram sum", "add", wide)
    yield pointwise(use, "n-gram sum", "add", wide)


# -- layers ------------------------------------------------------------------------------------


def sparse_attention(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the index, whose keys are means over blocks, and gated attention to what it chose."""
    i = Indexer(heads=c.index_heads, width=c.index_width, top_k=c.blocks, stride=c.block)
    # The attention's first product keeps the same input.
    yield keeping(linear(use, "index query and key", c.d_model, (i.heads + 1) * i.width), 0)
    yield norm(use, "index query norm", i.width, rows=use.rows * i.heads)
    yield pointwise(use, "index pool", "add-scalar", i.width)
    made = B if use.decoding else B * ceil_div(use.length, sp.Integer(i.stride))
    yield norm(use, "index key norm", i.width, rows=made)
    yield from choice(use, i, i.width)
    biased = c.attention_bias
    heads = Heads.of(c, bias=biased, out_bias=biased, qk_norm="head", gate="query", chosen=i.seen)
    yield from self_attention(use, heads)


def layer(c: Fields, use: Use, delta: bool, place: int | None) -> Iterator[Part]:
    """Yield one layer; `place` is its place among those with n-grams, if it has any."""
    if place is not None:
        yield from grams(c, use, place)
    yield from half(c, use, delta_net(c, use) if delta else sparse_attention(c, use))
    function = function_of(c, "silu")
    yield from half(c, use, experts(c, use, function=function, shared=c.d_shared, gated=True))


def kinds(c: Fields) -> Iterator[tuple[bool, int | None]]:
    """Yield of each layer whether it has a delta net, and its place among those with n-grams.

    Raises
    ------
    CostmodelError
        If n-grams are wanted in a layer that is not there, or has no delta net.
    """
    types = of_layers(c, LAYER_TYPES)
    delta = [types[i] == DELTA if types else (i + 1) % c.interval != 0 for i in range(c.layers)]
    wrong = [i for i in c.gram_layers if not isinstance(i, int) or not 0 < i <= c.layers or not delta[i - 1]]
    if wrong:
        raise CostmodelError(f"ple_layer_ids: wanted layers with a delta net, counted from 1, got {wrong}")
    places = {i: place for place, i in enumerate(sorted(set(c.gram_layers)))}
    return ((delta[i], places.get(i + 1)) for i in range(c.layers))


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Yield the embedding, the layers, the mean of the streams, and the logits."""
    yield embedding(use, c.vocab, c.d_model, tied=c.tied)
    yield from stacks(kinds(c), partial(layer, c, use))
    yield from mixed(c, use, inward=False)
    yield logits(use, c.vocab, c.d_model)


QWEN4_EXP = Family(
    types=tuple(LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source="Yang et al., arXiv 2412.06464; Hugging Face transformers, modeling_qwen4_exp.py",
    left_out=(
        "dropout, masks, sampling; rotation is counted for whole heads, of which a part is rotated; hashes "
        "of n-grams, and the last tokens kept for them; of sparse attention, that a query's incomplete block "
        "is counted as if only its last position were missing, and that block's keys in the cache; "
        "multi-token prediction (MTP)"
    ),
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
)
