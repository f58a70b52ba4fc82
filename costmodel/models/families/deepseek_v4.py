"""DeepSeek-V4: attention to near positions and to compressed entries, hyper-connections, experts.

All heads share one key per position, which is the value too. A layer attends to a window of positions, and
beside them to entries that stand for 128 positions each (heavily compressed), or to some of those that stand
for 4, which an indexer chooses (compressed sparse).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import sympy as sp

from costmodel.errors import CostmodelError
from costmodel.models._blocks import (
    B,
    S,
    Use,
    between_ends,
    experts,
    gate,
    keeping,
    linear,
    norm,
    stacks,
    with_extra,
)
from costmodel.models._decoding import LatentCore, SparseLatentCore
from costmodel.models._family import Family
from costmodel.models._fields import ACT, DENSE, UNTIED, Field, Fields, function_of, of_layers
from costmodel.models._heads import after, rotary
from costmodel.models._latent import Indexer, choice
from costmodel.models._part import Part
from costmodel.models.stack import Stack
from costmodel.symbols import ceil_div

NEAR, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
#: Entries allowed in ``layer_types`` and in ``mlp_layer_types``.
LAYER_TYPES, MLP_TYPES = (NEAR, SPARSE, HEAVY), ("hash_moe", "moe")
#: Positions of an entry, in released configurations (``compress_ratios``); 0: the layer has none.
OF_RATIO = {0: NEAR, 4: SPARSE, 128: HEAVY}

FIELDS = {
    **DENSE,
    "tied": UNTIED,
    "head_dim": Field(("head_dim",)),
    "rotary_share": Field(("partial_rotary_factor",), 1 / 8, float),
    "rope": Field(("qk_rope_head_dim",), lambda f: int(f.head_dim * f.rotary_share)),
    "q_rank": Field(("q_lora_rank",)),
    "window": Field(("sliding_window",)),
    "groups": Field(("o_groups",)),
    "o_rank": Field(("o_lora_rank",)),
    "index_heads": Field(("index_n_heads",)),
    "index_width": Field(("index_head_dim",)),
    "index_top_k": Field(("index_topk",)),
    "streams": Field(("hc_mult",)),
    "experts": Field(("n_routed_experts",)),
    "top_k": Field(("num_experts_per_tok",)),
    "shared": Field(("n_shared_experts",), 1, may_be_zero=True),
    "d_expert": Field(("moe_intermediate_size",)),
    "layer_types": Field(("layer_types",), (), list),
    "ratios": Field(("compress_ratios",), (), list),
    "rate_sparse": Field(("compress_rate_csa",), 4),
    "rate_heavy": Field(("compress_rate_hca",), 128),
    "rates": Field(("compress_rates",), {}, dict),
    "mlp_types": Field(("mlp_layer_types",), (), list),
    "hashed": Field(("num_hash_layers",), 3, may_be_zero=True),
    "act": ACT,
}

#: Defaults of DeepseekV4Config (transformers, configuration_deepseek_v4.py).
LEFT_TO_DEFAULTS = {
    "deepseek_v4": {
        "vocab_size": 129280,
        "hidden_size": 4096,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 43,
        "num_attention_heads": 64,
        "head_dim": 512,
        "q_lora_rank": 1024,
        "num_experts_per_tok": 6,
        "n_routed_experts": 256,
        "sliding_window": 128,
        "o_groups": 8,
        "o_lora_rank": 1024,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 512,
        "hc_mult": 4,
    }
}


# -- which layers ------------------------------------------------------------------------------


def attentions(c: Fields) -> list[str]:
    """Return the kind of attention of each layer.

    Raises
    ------
    CostmodelError
        If a ratio is unknown, or there are fewer than layers.
    """
    if c.layer_types:
        return of_layers(c, LAYER_TYPES)
    if c.ratios:
        first = c.ratios[: c.layers]  # multi-token prediction has the others
        unknown = [ratio for ratio in first if ratio not in OF_RATIO]
        if unknown or len(first) < c.layers:
            wanted = ", ".join(map(str, OF_RATIO))
            raise CostmodelError(
                f"compress_ratios: wanted {wanted} for each of {c.layers} layers, got {unknown or len(first)}"
            )
        return [OF_RATIO[ratio] for ratio in first]
    return [HEAVY if i < 2 or i % 2 == 0 else SPARSE for i in range(c.layers)]


def hashes(c: Fields) -> list[bool]:
    """Return for each layer whether a token's experts are looked up, instead of chosen by a router."""
    listed = of_layers(c, MLP_TYPES, "mlp_layer_types", c.mlp_types)
    return [name == "hash_moe" for name in listed] or [i < c.hashed for i in range(c.layers)]


def rate(c: Fields, kind: str) -> int:
    """Return the positions of an entry.

    Raises
    ------
    CostmodelError
        If it is no number of positions.
    """
    found = c.rates.get(kind, {SPARSE: c.rate_sparse, HEAVY: c.rate_heavy}[kind])
    if not isinstance(found, int) or found < 1:
        raise CostmodelError(f"compress_rates: {kind} should be a whole number of positions, got {found!r}")
    return found


# -- parts -------------------------------------------------------------------------------------


def compression(c: Fields, use: Use, name: str, kind: str, width: int, scores: int = 0) -> Iterator[Part]:
    """Yield how entries are made: keys and their weights, a weighted mean over positions, a norm.

    Entries of the sparse kind overlap: each position has a key for its own entry and one for the next.
    `scores` more columns of the product are the weights of the indexer's heads. The product reads the layer's
    input, which the queries' first product keeps already.
    """
    each = width * (2 if kind == SPARSE else 1)
    yield keeping(linear(use, f"{name} key and weight", c.d_model, 2 * each + scores), 0)
    yield with_extra(gate(use, name, each), rate(c, kind) * each)
    made = B if use.decoding else B * ceil_div(use.length, sp.Integer(rate(c, kind)))
    yield norm(use, f"{name} norm", width, rows=made)


def indexer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield the indexer's compression, its queries, and the choice among its entries."""
    yield from compression(c, use, "index compression", SPARSE, c.index_width, c.index_heads)
    yield keeping(linear(use, "index query", c.q_rank, c.index_heads * c.index_width), 0)
    stride = rate(c, SPARSE)
    sizes = Indexer(heads=c.index_heads, width=c.index_width, top_k=c.index_top_k, stride=stride)
    yield from choice(use, sizes, c.rope)


def core(c: Fields, use: Use, kind: str) -> Part:
    """Return attention to the window and the entries; each head has one more, learned score."""
    if use.decoding:
        near = sp.Min(S, c.window)
        every = sp.Integer(rate(c, kind)) if kind != NEAR else None
        held = near if every is None else near + ceil_div(S - every + 1, every)
        sizes: dict[str, Any] = {"heads": c.heads, "seq_kv": held, "kv_rank": c.head_dim, "rope_dim": 0}
        if kind == SPARSE:
            found = SparseLatentCore(dtype=use.around)
            part = Part.of("attention", found, batch=B, top_k=c.window + c.index_top_k, **sizes)
        else:
            part = Part.of("attention", LatentCore(dtype=use.around), batch=B, **sizes)
    else:
        sizes = {"heads": c.heads, "kv_heads": 1, "head_dim": c.head_dim, "seq": use.length}
        if kind == NEAR:
            layer = use.layer("sliding-window")
        else:
            layer = use.layer("compressed-attention", listed=kind == SPARSE)
            sizes |= {"stride": rate(c, kind)} | ({"top_k": c.index_top_k} if kind == SPARSE else {})
        part = Part.of("attention", layer, batch=B, window=c.window, **sizes)
    return with_extra(part, c.heads)


def attention(c: Fields, use: Use, kind: str) -> Iterator[Part]:
    """Yield the projections, the entries and the choice among them, the core, the grouped projection."""
    yield linear(use, "query and key down-projection", c.d_model, c.q_rank + c.head_dim)
    yield norm(use, "query latent norm", c.q_rank)
    if kind != NEAR:
        yield from compression(c, use, "compression", kind, c.head_dim)
    if kind == SPARSE:
        yield from indexer(c, use)
    yield linear(use, "query up-projection", c.q_rank, c.heads * c.head_dim)
    yield norm(use, "query norm", c.head_dim, "rms-bare", rows=use.rows * c.heads)
    yield norm(use, "key norm", c.head_dim)
    yield rotary(use, "rotary", c.heads, 1, c.rope)
    middle = core(c, use, kind)
    yield middle
    yield rotary(use, "output rotary", c.heads, 1, c.rope)
    grouped = use.layer("matmul", batched=True)
    inner = c.heads * c.head_dim // c.groups
    down = Part.of("grouped projection", grouped, batch=c.groups, m=use.rows, n=c.o_rank, k=inner)
    yield after(middle, down)
    yield linear(use, "output projection", c.groups * c.o_rank, c.d_model)


def hyper(c: Fields, use: Use, *, outward: bool = True, mixes: bool = True) -> Part:
    """Return the connection around half a layer; each weight has an offset, and each kind of them a scale.

    The kinds: weights that collapse the streams, that add a result to them, and that mix them.
    """
    layer = use.layer("hyper-connection", outward=outward, mixes=mixes)
    part = Part.of("hyper-connection", layer, **use.tokens, d_model=c.d_model, streams=c.streams)
    offsets, kinds = layer.parameters() / (c.streams * c.d_model), 1 + outward * (1 + mixes)
    return with_extra(part, part.expression(offsets) + kinds)


def layer(c: Fields, use: Use, kind: str, hashed: bool) -> Iterator[Part]:
    """Yield one layer: two halves, each behind a norm and inside a hyper-connection."""
    yield hyper(c, use)
    yield norm(use, "attention norm", c.d_model)
    yield from attention(c, use, kind)
    yield hyper(c, use)
    yield norm(use, "feed-forward norm", c.d_model)
    offsets, shared = 0 if hashed else c.experts, c.shared * c.d_expert
    yield from experts(c, use, function=function_of(c, "silu"), shared=shared, extra=offsets)


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers of each kind, the collapse of the streams, the norm and the logits."""
    if c.heads * c.head_dim % c.groups:
        raise CostmodelError(f"o_groups: wanted a divisor of {c.heads * c.head_dim}, got {c.groups}")
    layers = stacks(sorted(zip(attentions(c), hashes(c), strict=True)), partial(layer, c, use))
    return between_ends(c, use, (*layers, hyper(c, use, outward=False)))


DEEPSEEK_V4 = Family(
    types=tuple(LEFT_TO_DEFAULTS),
    fields=FIELDS,
    parts=parts,
    source="DeepSeek-AI 2026, DeepSeek-V4, §2; Hugging Face transformers, modeling_deepseek_v4.py",
    left_out=(
        "dropout, masks, sampling; multi-token prediction (MTP); Sinkhorn iterations; rotation of entries; "
        "the look-up of hashed experts; an entry's weights are a softmax over its positions and are counted "
        "as SiLU gates; the positions of an entry that is not complete yet (at most 127 keys and weights a "
        "sequence and layer); that DeepSeek's cache and indexer are in FP8 and FP4"
    ),
    alternates=True,
    left_to_defaults=LEFT_TO_DEFAULTS,
)
