"""Softmax attention with its projections: over the sequence itself, a cache, or another sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from costmodel.errors import CostmodelError
from costmodel.models._blocks import B, N, S, Use, gate, keeping, linear, norm, pointwise, with_extra
from costmodel.models._decoding import SparseCore
from costmodel.models._fields import Field, Fields, fraction, same
from costmodel.models._part import Part

#: Fields of `Heads`, by the keys of most architectures; `d_model` and `heads` come before.
HEAD_FIELDS = {
    "kv_heads": Field(("num_key_value_heads",), same("heads")),
    "head_dim": Field(("head_dim",), fraction("d_model", "heads")),
}


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Sizes and traits of softmax attention.

    Attributes
    ----------
    d_model, heads, kv_heads, head_dim : int
        Width of the model, query heads, key and value heads, width of a head.
    bias, out_bias : bool
        Whether Q, K and V have biases, and whether the output has one.
    qk_norm : str
        Norms of Q and K. ``none``; ``head``: an RMS norm of each head, with one gain for all; ``free``: the
        same without a gain; ``row``: an RMS norm of all heads together; ``layer``: a layer norm of each head,
        with one gain and offset for all; ``each``: the same with a gain of its own and no offset.
    rotary : float
        Share of the width of Q's and K's heads into which positions are rotated; 0 or False: none.
    window : int, optional
        Positions that a query sees, its own included; None: all.
    chosen : int, optional
        Positions that a query attends to, which something before has chosen; None: all that it sees.
    gate : str
        What the output is multiplied by: ``none``; ``query``: σ of a tensor of the same width, computed with
        Q, with its bias; ``own``: σ of one from a product of its own, without a bias; ``head``: one number
        per head, from such a product.
    out_norm : bool
        Whether each head's output has an RMS norm without a gain.
    causal : bool
        Whether a position sees only itself and those before it.
    value_dim : int, optional
        Width of a head's values; None: that of its keys.
    values : str
        ``own``: values have a projection of their own; ``key``: they are the keys before these are normed and
        rotated.
    value_norm : bool
        Whether each head's values are normed, without a gain.
    reads : bool
        Whether keys and values are those of an earlier layer, which also keeps them for later tokens.
    """

    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False
    out_bias: bool = False
    qk_norm: str = "none"
    rotary: float = 1.0
    window: int | None = None
    chosen: int | None = None
    gate: str = "none"
    out_norm: bool = False
    causal: bool = True
    value_dim: int | None = None
    values: str = "own"
    value_norm: bool = False
    reads: bool = False

    @classmethod
    def of(cls, c: Fields, **traits: Any) -> Heads:
        """Return the sizes that the fields of a configuration say, with an architecture's traits."""
        return cls(d_model=c.d_model, heads=c.heads, kv_heads=c.kv_heads, head_dim=c.head_dim, **traits)

    def __post_init__(self) -> None:
        """Check the share that is rotated."""
        if not 0 <= self.rotary <= 1:
            raise CostmodelError(f"rotary: wanted a share of a head's width of 0 to 1, got {self.rotary}")

    @property
    def query(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys."""
        return self.kv_heads * self.head_dim

    @property
    def value(self) -> int:
        """Width of one head's values."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def output(self) -> int:
        """Width of the results of all heads."""
        return self.heads * self.value

    @property
    def projected(self) -> int:
        """Width of what the first product makes: Q, a gate with it, and K and V unless they are read."""
        queries = self.query * (2 if self.gate == "query" else 1)
        if self.reads:
            return queries
        return queries + self.keys + (self.kv_heads * self.value if self.values == "own" else 0)


def self_attention(use: Use, a: Heads, name: str = "") -> Iterator[Part]:
    """Yield the product for Q, K and V; norms and rotation; the core; the gate; the output projection."""
    made = "query" if a.reads else "query, key and value"
    yield linear(use, f"{name}{made}", a.d_model, a.projected, bias=a.bias)
    if a.qk_norm != "none":
        yield qk_norm(use, f"{name}query norm", a.qk_norm, a.heads, a.head_dim)
        if not a.reads:
            yield qk_norm(use, f"{name}key norm", a.qk_norm, a.kv_heads, a.head_dim)
    if a.value_norm and not a.reads:
        yield qk_norm(use, f"{name}value norm", "free", a.kv_heads, a.value)
    rotated = int(a.head_dim * a.rotary)
    if rotated:
        yield rotary(use, f"{name}rotary", a.heads, 0 if a.reads else a.kv_heads, rotated)
    middle = core(use, f"{name}attention", a)
    yield middle
    kept = keeps_its_output(middle)
    if a.out_norm:
        normed = qk_norm(use, f"{name}output norm", "free", a.heads, a.value)
        yield keeping(normed, 0) if kept else normed
        kept = False
    output = linear(use, f"{name}output projection", a.output, a.d_model, bias=a.out_bias)
    if a.gate == "none":
        yield keeping(output, 0) if kept else output
        return
    yield from gated(use, a.gate, a.d_model, a.heads, a.value, name, kept=kept)
    yield output


def gated(
    use: Use, kind: str, d_model: int, heads: int, width: int, name: str = "", *, kept: bool
) -> Iterator[Part]:
    """Yield the product that makes a gate of attention's results, if it has one of its own, and the gate.

    The product reads the layer's input, which another one keeps.

    Parameters
    ----------
    use : Use
        The use of the model.
    kind : str
        ``head``: one number for each head, of which the traffic is left out; ``own``: one for each number,
        made by a product of its own; any other: one for each number, made with the queries.
    d_model, heads, width : int
        Width of the layer's input; number of heads, and width of the results of one.
    name : str
        Prefix of the parts' names.
    kept : bool
        Whether attention keeps its results for backward.
    """
    if kind == "head":
        yield keeping(linear(use, f"{name}head gate", d_model, heads), 0)
        scaled = pointwise(use, f"{name}heads gated", "mul-scalar", heads * width)
        yield keeping(scaled, 0) if kept else scaled
        return
    if kind == "own":
        yield keeping(linear(use, f"{name}gate projection", d_model, heads * width), 0)
    part = gate(use, f"{name}output gate", heads * width, "sigmoid")
    yield keeping(part, sp.Rational(1, 2)) if kept else part  # only the gate is its own


def qk_norm(use: Use, name: str, kind: str, heads: int, width: int) -> Part:
    """Return the norm of Q or K; see `Heads`."""
    if kind == "row":
        return norm(use, name, heads * width)
    of_head = {"head": "rms", "free": "rms-bare", "layer": "layer", "each": "layer-gain"}[kind]
    part = norm(use, name, width, of_head, rows=use.rows * heads)
    if kind == "each":
        return with_extra(part, (heads - 1) * width)
    return part


def keeps_its_output(core: Part) -> bool:
    """Return whether attention keeps its result for backward: every kind does except with stored scores."""
    return core.layer.name != "dense-attention"


def after(core: Part, output: Part) -> Part:
    """Return the product after attention; it keeps no input of its own if attention keeps that already."""
    return keeping(output, 0) if keeps_its_output(core) else output


def rotary(use: Use, name: str, heads: int, kv_heads: int, width: int) -> Part:
    """Return the rotation of Q and K."""
    return Part.of(name, use.layer("rotary"), **use.tokens, heads=heads, kv_heads=kv_heads, head_dim=width)


def core(use: Use, name: str, a: Heads) -> Part:
    """Return attention of Q over K and V: the sequence's own, or the cache's."""
    sizes: dict[str, Any] = {"batch": B, "heads": a.heads, "kv_heads": a.kv_heads, "head_dim": a.head_dim}
    sizes["value_dim"] = a.value
    if a.chosen is not None:
        sizes["top_k"] = a.chosen
        if use.decoding:
            return Part.of(name, SparseCore(dtype=use.around), seq_kv=S, **sizes)
        return Part.of(name, use.layer("top-k-attention"), seq=use.length, **sizes)
    if use.decoding:
        cached = S if a.window is None else sp.Min(S, a.window)
        part = Part.of(name, use.layer("decode-attention"), seq_kv=cached, **sizes)
        return replace(part, borrows=a.reads)
    if a.window is not None:
        part = Part.of(name, use.layer("sliding-window"), seq=use.length, window=a.window, **sizes)
    else:
        part = Part.of(name, use.scores(causal=a.causal), seq=use.length, **sizes)
    return _of_kept_keys(use, part, a) if a.reads else part


def _of_kept_keys(use: Use, core: Part, a: Heads) -> Part:
    """Return attention that keeps no keys and values for backward, because an earlier layer keeps them."""
    keys = core.layer.bytes * B * use.length * a.kv_heads * (a.head_dim + a.value)
    return keeping(core, 1 - sp.cancel(keys / core.expression(core.layer.kept())))


def cross_attention(use: Use, a: Heads, layers: int) -> Iterator[Part]:
    """Yield attention to another sequence, read by `layers` layers: of `seq_kv` positions, decoding of `seq`.

    In decoding the other sequence's keys and values are cached and not projected again.
    """
    sizes: dict[str, Any] = {"batch": B, "heads": a.heads, "kv_heads": a.kv_heads, "head_dim": a.head_dim}
    yield linear(use, "cross-attention query", a.d_model, a.query, bias=a.bias)
    if use.decoding:
        middle = Part.of("cross-attention", use.layer("decode-attention"), seq_kv=N, **sizes)
    else:
        keys = linear(use, "cross-attention key and value", a.d_model, 2 * a.keys, bias=a.bias, rows=B * S)
        yield keeping(keys, sp.Rational(1, layers))
        middle = Part.of("cross-attention", use.scores(causal=False), seq=N, seq_kv=S, **sizes)
    yield middle
    yield after(middle, linear(use, "cross-attention output", a.query, a.d_model, bias=a.out_bias))
