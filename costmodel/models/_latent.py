"""Multi-head latent attention (MLA): keys and values are projected from one narrow vector per token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from costmodel.models._blocks import B, S, Use, keeping, linear, norm
from costmodel.models._decoding import LatentCore, SparseLatentCore
from costmodel.models._fields import Field, Fields
from costmodel.models._heads import Heads, after, core, rotary
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
        Positions that a query attends to.
    own : bool
        Whether the layer has an indexer, or attends to the positions that the layer before it chose.
    """

    heads: int
    width: int
    top_k: int
    own: bool = True


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

    @classmethod
    def of(cls, c: Fields, sparse: Indexer | None = None, *, rotated: bool = True) -> Latent:
        """Return the sizes that the fields of `LATENT_FIELDS` say."""
        return cls(
            d_model=c.d_model,
            heads=c.heads,
            q_rank=c.q_rank,
            kv_rank=c.kv_rank,
            nope=c.nope,
            rope=c.rope,
            value_dim=c.value_dim,
            bias=c.attention_bias,
            sparse=sparse,
            rotated=rotated,
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
    yield linear(
        use,
        "query up-projection" if a.q_rank else "query projection",
        a.q_rank or a.d_model,
        a.heads * a.query,
    )
    if not together:
        # It reads the layer's input, which the queries' first product keeps already.
        yield keeping(linear(use, "latent down-projection", a.d_model, latent, bias=a.bias), 0)
    yield norm(use, "latent norm", a.kv_rank)
    if a.rotated:
        yield rotary(use, "rotary", a.heads, 1, a.rope)
    output = linear(use, "output projection", a.heads * a.value_dim, a.d_model, bias=a.bias)
    if a.sparse is not None or use.decoding:
        yield from (*_absorbed(use, a), output)
    else:
        yield from _expanded(use, a, output)


def _expanded(use: Use, a: Latent, output: Part) -> Iterator[Part]:
    """Yield the product for keys and values of all heads, ordinary attention, and the output projection."""
    yield linear(use, "key and value up-projection", a.kv_rank, a.heads * (a.nope + a.value_dim))
    heads = Heads(d_model=a.d_model, heads=a.heads, kv_heads=a.heads, head_dim=a.query, value_dim=a.value_dim)
    middle = core(use, "attention", heads)
    yield middle
    yield after(middle, output)


def _choice(use: Use, a: Latent, i: Indexer) -> Iterator[Part]:
    """Yield the indexer's projections, norm and rotation, and the choice of the positions.

    Its queries come from the latent vector of the queries, its keys and the weights of its heads from the
    layer's input, which the first product keeps already.
    """
    yield linear(use, "index query", a.q_rank, i.heads * i.width)
    yield keeping(linear(use, "index key and weights", a.d_model, i.width + i.heads), 0)
    yield norm(use, "index key norm", i.width, "layer")
    yield from choice(use, i, a.rope)


def choice(use: Use, i: Indexer, rope: int, *, stride: int = 1) -> Iterator[Part]:
    """Yield the rotation of an index's queries and keys, and the choice; of every `stride` positions one."""
    yield rotary(use, "index rotary", i.heads, 1, rope)
    layer = use.layer("lightning-indexer", decode=use.decoding)
    positions = S if use.decoding else use.length
    sizes: dict[str, Any] = {"heads": i.heads, "head_dim": i.width, "top_k": i.top_k, "stride": stride}
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
    chosen: dict[str, Any] = {} if a.sparse is None else {"top_k": a.sparse.top_k}
    if use.decoding:
        kind = SparseLatentCore if chosen else LatentCore
        sizes = {**chosen, "kv_rank": a.kv_rank, "rope_dim": a.rope}
        return Part.of("attention", kind(dtype=use.around), batch=B, heads=a.heads, seq_kv=S, **sizes)
    layer = use.layer("top-k-attention", latent=True)
    sizes = {**chosen, "kv_heads": 1, "head_dim": a.kv_rank + a.rope, "value_dim": a.kv_rank}
    return Part.of("attention", layer, batch=B, heads=a.heads, seq=use.length, **sizes)
