"""Multi-head latent attention (MLA): keys and values are projected from one narrow vector per token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sympy as sp

from costmodel.models._blocks import B, S, Use, gate, keeping, linear, norm, with_extra
from costmodel.models._decoding import LatentCore, SparseLatentCore
from costmodel.models._fields import Field, Fields
from costmodel.models._heads import Heads, after, core, gated, keeps_its_output, rotary
from costmodel.models._part import Part

#: Fields of `Latent`, by the keys of all architectures that have it; `d_model` and `heads` come before.
LATENT_FIELDS = {
    "q_rank": Field(("q_lora_rank",), 0),
    "kv_rank": Field(("kv_lora_rank",)),
    "nope": Field(("qk_nope_head_dim",)),
    "rope": Field(("qk_rope_head_dim",)),
    "value_dim": Field(("v_head_dim",)),
    "attention_bias": Field(("attention_bias",), False, bool),
}


@dataclass(frozen=True, kw_only=True)
class Indexer:
    """Sizes of DeepSeek's sparse attention (DeepSeek-V3.2-Exp, §1).

    Attributes
    ----------
    heads, width : int
        Heads of the lightning indexer, and the width of each and of the key that they share.
    top_k : int
        Keys of the indexer that a query chooses.
    own : bool
        Whether the layer has an indexer, or attends to the positions that the layer before it chose.
    stride : int
        Positions that a key of the indexer stands for. If more than one, it is a weighted mean of theirs, and
        a query also attends to those that have none yet.
    """

    heads: int
    width: int
    top_k: int
    own: bool = True
    stride: int = 1

    @property
    def seen(self) -> int:
        """Most positions that a query attends to."""
        return self.top_k * self.stride + self.stride - 1


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Sizes of latent attention (DeepSeek-V2, §2.1 and appendix C).

    Attributes
    ----------
    d_model, heads : int
        Width of the model, number of heads.
    q_rank, kv_rank : int
        Width of the latent vector of the queries (0: none), and of that of the keys and values.
    nope, rope, value_dim : int
        Width of one head's keys without and with rotation, and of its values.
    bias : bool
        Whether the latent projections and the output have biases.
    sparse : Indexer, optional
        How the positions that a query attends to are chosen; None: it attends to all before it.
    rotated : bool
        Whether `rope` numbers of queries and keys are rotated, or used as they are.
    gate : str
        What the output is multiplied by: ``none``; ``latent``: a gate of each number, made with the queries
        from their latent vector before and behind its norm; ``own``: one of each number, from the layer's
        input; ``head``: one of each head, from there too.
    key_norm : bool
        Whether the rotated part of a key has a norm.
    window : int, optional
        Positions that a query sees, its own included; None: all.
    """

    d_model: int
    heads: int
    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    value_dim: int
    bias: bool = False
    sparse: Indexer | None = None
    rotated: bool = True
    gate: str = "none"
    key_norm: bool = False
    window: int | None = None

    @classmethod
    def of(cls, c: Fields, **traits: Any) -> Latent:
        """Return the sizes that the fields of `LATENT_FIELDS` say, with an architecture's traits."""
        return cls(
            d_model=c.d_model,
            heads=c.heads,
            q_rank=c.q_rank,
            kv_rank=c.kv_rank,
            nope=c.nope,
            rope=c.rope,
            value_dim=c.value_dim,
            bias=c.attention_bias,
            **traits,
        )

    @property
    def query(self) -> int:
        """Width of one head's queries."""
        return self.nope + self.rope


def latent_attention(use: Use, a: Latent) -> Iterator[Part]:
    """Yield the projections through the latent vectors, the core, the output projection.

    Serving frameworks multiply with both down-projections at once (``fused_qkv_a_proj`` of vLLM and SGLang).
    In decoding only the latent vector and the rotated key of each token are cached; the products that would
    expand them into keys and values are absorbed into the queries and outputs. Sparse attention is computed
    in that form for whole sequences too, because all heads of a query gather the same latents.
    """
    together = bool(a.q_rank) and use.mode != "training"
    latent = a.kv_rank + a.rope
    if a.q_rank:
        if together:
            yield linear(use, "query and latent down-projection", a.d_model, a.q_rank + latent, bias=a.bias)
        else:
            yield linear(use, "query down-projection", a.d_model, a.q_rank, bias=a.bias)
        yield norm(use, "query latent norm", a.q_rank)
    if a.sparse is not None and a.sparse.own:
        yield from _choice(use, a, a.sparse)
    yield _queries(use, a)
    if not together:
        # It reads the layer's input, which the queries' first product keeps already.
        yield keeping(linear(use, "latent down-projection", a.d_model, latent, bias=a.bias), 0)
    yield norm(use, "latent norm", a.kv_rank)
    if a.key_norm:
        yield norm(use, "key norm", a.rope)
    if a.rotated and a.rope:
        yield rotary(use, "rotary", a.heads, 1, a.rope)
    absorbed = a.sparse is not None or use.decoding
    middle = tuple(_absorbed(use, a) if absorbed else _expanded(use, a))
    yield from middle
    output = linear(use, "output projection", a.heads * a.value_dim, a.d_model, bias=a.bias)
    if a.gate != "none":
        kept = not absorbed and keeps_its_output(middle[-1])
        yield from gated(use, a.gate, a.d_model, a.heads, a.value_dim, kept=kept)
        yield output
    else:
        yield output if absorbed else after(middle[-1], output)


def _queries(use: Use, a: Latent) -> Part:
    """Return the product that makes the queries, and the gate with them if it is of their latent vector."""
    if not a.q_rank:
        return linear(use, "query projection", a.d_model, a.heads * a.query)
    if a.gate != "latent":
        return linear(use, "query up-projection", a.q_rank, a.heads * a.query)
    both = linear(use, "query and gate up-projection", 2 * a.q_rank, a.heads * (a.query + a.value_dim))
    return keeping(both, sp.Rational(1, 2))  # the norm keeps what it normed


def _expanded(use: Use, a: Latent) -> Iterator[Part]:
    """Yield the product for keys and values of all heads, and ordinary attention."""
    yield linear(use, "key and value up-projection", a.kv_rank, a.heads * (a.nope + a.value_dim))
    heads = Heads(
        d_model=a.d_model,
        heads=a.heads,
        kv_heads=a.heads,
        head_dim=a.query,
        value_dim=a.value_dim,
        window=a.window,
    )
    yield core(use, "attention", heads)


def _choice(use: Use, a: Latent, i: Indexer) -> Iterator[Part]:
    """Yield the indexer's projections, norm and rotation, and the choice of the positions.

    Its queries come from the latent vector of the queries or, without one, from the layer's input behind a
    norm; its keys and the weights of its heads from the layer's input. Other products keep both already. Keys
    of several positions are means, of which each position's own channels and place are the weights.
    """
    if a.q_rank:
        yield keeping(linear(use, "index query", a.q_rank, i.heads * i.width), 0)
    else:
        yield keeping(norm(use, "index query norm", a.d_model, "layer"), 0)
        yield linear(use, "index query", a.d_model, i.heads * i.width)
    pooled = i.stride > 1
    keys = i.width * (2 if pooled else 1)
    yield keeping(linear(use, "index key and weights", a.d_model, keys + i.heads), 0)
    yield norm(use, "index key norm", i.width, "layer")
    if pooled:
        yield with_extra(gate(use, "index pool", i.width), i.stride * i.width)
    yield from choice(use, i, a.rope if a.rotated else 0)


def choice(use: Use, i: Indexer, rope: int) -> Iterator[Part]:
    """Yield the rotation of an index's queries and keys, if there is any, and the choice."""
    if rope:
        yield rotary(use, "index rotary", i.heads, 1, rope)
    layer = use.layer("lightning-indexer", decode=use.decoding)
    positions = S if use.decoding else use.length
    sizes: dict[str, Any] = {"heads": i.heads, "head_dim": i.width, "top_k": i.top_k, "stride": i.stride}
    yield Part.of("indexer", layer, batch=B, seq=positions, **sizes)


def _absorbed(use: Use, a: Latent) -> Iterator[Part]:
    """Yield the projection of queries to the latent space, attention there, and the projection back."""
    product = use.layer("matmul", batched=True)
    yield Part.of("query to latent (W_UK)", product, batch=a.heads, m=use.rows, n=a.kv_rank, k=a.nope)
    middle = _latent_core(use, a)
    yield middle
    back = Part.of("latent to value (W_UV)", product, batch=a.heads, m=use.rows, n=a.value_dim, k=a.kv_rank)
    yield after(middle, back)


def _latent_core(use: Use, a: Latent) -> Part:
    """Return attention to the latents: of one new token to those of the cache, or of whole sequences."""
    chosen: dict[str, Any] = {} if a.sparse is None else {"top_k": a.sparse.seen}
    if use.decoding:
        kind = SparseLatentCore if chosen else LatentCore
        sizes = {**chosen, "kv_rank": a.kv_rank, "rope_dim": a.rope}
        held = S if a.window is None else sp.Min(S, a.window)
        return Part.of("attention", kind(dtype=use.around), batch=B, heads=a.heads, seq_kv=held, **sizes)
    layer = use.layer("top-k-attention", latent=True)
    sizes = {**chosen, "kv_heads": 1, "head_dim": a.kv_rank + a.rope, "value_dim": a.kv_rank}
    return Part.of("attention", layer, batch=B, heads=a.heads, seq=use.length, **sizes)
