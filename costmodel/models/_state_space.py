"""Layers that are a selective state space between two products: those of Mamba and of Mamba-2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from costmodel.errors import CostmodelError
from costmodel.models._blocks import Use, convolution, gate, keeping, linear, norm, with_extra
from costmodel.models._fields import Field, Fields, same
from costmodel.models._part import Part


@dataclass(frozen=True, kw_only=True)
class Selective:
    """Sizes and traits of Mamba's layer.

    Attributes
    ----------
    d_model, inner, state, rank, kernel : int
        Width of the model, channels, states per channel, rank of Δ, width of the convolution.
    bias, conv_bias : bool
        Whether the products in and out have biases, and whether the convolution has one.
    normed : str
        RMS norms of Δ, B and C: ``none``; ``gain``; ``free``, without gains.
    heads : int
        Heads that have a Δ, B and C each, made of their own channels alone; 0: all channels share them.
    """

    d_model: int
    inner: int
    state: int
    rank: int
    kernel: int
    bias: bool = False
    conv_bias: bool = True
    normed: str = "none"
    heads: int = 0

    @classmethod
    def of(cls, c: Fields, *, normed: str, heads: int = 0) -> Selective:
        """Return the sizes that the fields of a configuration say."""
        return cls(
            d_model=c.d_model,
            inner=c.inner,
            state=c.state,
            rank=c.rank,
            kernel=c.kernel,
            bias=c.bias,
            conv_bias=c.conv_bias,
            normed=normed,
            heads=heads,
        )


def selective(use: Use, a: Selective) -> Iterator[Part]:
    """Yield the input projection; convolution; Δ, B and C; the selective scan; the output projection."""
    yield linear(use, "input projection", a.d_model, 2 * a.inner, bias=a.bias)
    yield convolution(use, a.inner, a.kernel, bias=a.conv_bias)
    scans = max(a.heads, 1)
    own, name = a.inner // scans, "Δ, B and C of each head" if a.heads else "Δ, B and C projection"
    # The scan keeps its input.
    yield keeping(_by_head(use, a, name, own, a.rank + 2 * a.state), 0)
    if a.normed != "none":
        kind = "rms-bare" if a.normed == "free" else "rms"
        yield norm(use, "Δ norm", a.rank, kind)
        both = norm(use, "B and C norm", a.state, kind, rows=2 * use.rows)
        yield both if a.normed == "free" else with_extra(both, a.state)
    yield with_extra(_by_head(use, a, "Δ projection", a.rank, own), a.inner)
    scan = use.layer("mamba", form="recurrent" if use.decoding else "scan")
    sizes: dict[str, Any] = {"d_model": a.d_model, "hidden": own, "state": a.state}
    yield Part.of("selective scan", scan, **use.tokens, **sizes, repeats=scans)
    yield linear(use, "output projection", a.inner, a.d_model, bias=a.bias)


def _by_head(use: Use, a: Selective, name: str, inner: int, outer: int) -> Part:
    """Return a product of all channels, or one of each head's channels."""
    if not a.heads:
        return linear(use, name, inner, outer)
    product = use.layer("matmul", batched=True)
    return Part.of(name, product, batch=a.heads, m=use.rows, n=outer, k=inner)


def _head_dim(c: Fields) -> int:
    """Return the default of a head's channels: all channels, divided among the heads."""
    if c.ssm_width % c.ssm_heads:
        raise CostmodelError(
            f"{c.type}: {c.ssm_heads} heads of Mamba-2 should divide its {c.ssm_width} channels"
        )
    return int(c.ssm_width // c.ssm_heads)


def _inner(c: Fields) -> int:
    """Return the channels of all heads of Mamba-2, after checking its heads and groups."""
    if c.ssm_heads % c.groups:
        raise CostmodelError(f"{c.type}: {c.groups} groups should divide {c.ssm_heads} heads of Mamba-2")
    return int(c.ssm_heads * c.ssm_dim)


def widened(c: Fields) -> bool:
    """Return True if the heads of Mamba-2 make up all channels: the model's width times a factor, or as said.

    Raises
    ------
    CostmodelError
        If they do not, which some architectures refuse.
    """
    if c.ssm_inner != c.ssm_width:
        raise CostmodelError(
            f"{c.type}: {c.ssm_heads} heads of Mamba-2 with {c.ssm_dim} channels should make up "
            f"{c.ssm_width} channels"
        )
    return True


#: Fields of Mamba-2's layer, by the keys of all architectures that have it; `type` and `d_model` come before.
DUAL_FIELDS = {
    "ssm_expand": Field(("mamba_expand", "expand"), 2),
    "ssm_width": Field(("mamba_d_ssm",), lambda f: f.ssm_expand * f.d_model),
    "ssm_heads": Field(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads")),
    "ssm_dim": Field(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), _head_dim),
    "groups": Field(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    "ssm_inner": Field((), _inner),
    "state": Field(("mamba_d_state", "ssm_state_size")),
    "kernel": Field(("mamba_d_conv", "conv_kernel"), 4),
    "chunk": Field(("mamba_chunk_size", "chunk_size"), 256),
    "conv_bias": Field(("mamba_conv_bias", "use_conv_bias"), True, bool),
    "ssm_bias": Field(("mamba_proj_bias",), False, bool),
    "ssm_out_bias": Field(("projectors_bias",), same("ssm_bias"), bool),
}


#: How devices divide Mamba-2: by heads, and by the groups of heads that share B and C. Megatron-LM wants as
#: many groups as devices; vLLM also replicates a single group, whose norm then adds its squares over devices.
DUAL_CUT = {"ssm_heads": "heads of Mamba-2", "groups": "groups of Mamba-2"}


@dataclass(frozen=True, kw_only=True)
class Dual:
    """Sizes and traits of Mamba-2's layer.

    Attributes
    ----------
    d_model, heads, head_dim : int
        Width of the model, heads, and channels of a head.
    state, groups : int
        States per channel, and groups of heads that share B and C.
    kernel, chunk : int
        Width of the convolution, and positions that a kernel computes at once.
    bias, out_bias, conv_bias : bool
        Whether the products in and out have biases, and whether the convolution has one.
    normed : bool
        Whether the gated result is normed, each group by itself.
    """

    d_model: int
    heads: int
    head_dim: int
    state: int
    groups: int
    kernel: int
    chunk: int
    bias: bool = False
    out_bias: bool = False
    conv_bias: bool = True
    normed: bool = True

    @classmethod
    def of(cls, c: Fields, *, normed: bool = True) -> Dual:
        """Return the sizes that the fields of `DUAL_FIELDS` say."""
        return cls(
            d_model=c.d_model,
            heads=c.ssm_heads,
            head_dim=c.ssm_dim,
            state=c.state,
            groups=c.groups,
            kernel=c.kernel,
            chunk=c.chunk,
            bias=c.ssm_bias,
            out_bias=c.ssm_out_bias,
            conv_bias=c.conv_bias,
            normed=normed,
        )


def dual(use: Use, a: Dual) -> Iterator[Part]:
    """Yield the product for z, x, B, C and Δ; convolution of x, B and C; the scan; gate and norm; out.

    Each head has an offset of Δ besides A and D.
    """
    inner = a.heads * a.head_dim
    convolved = inner + 2 * a.groups * a.state
    yield linear(use, "input projection", a.d_model, inner + convolved + a.heads, bias=a.bias)
    yield convolution(use, convolved, a.kernel, bias=a.conv_bias)
    form = "recurrent" if use.decoding else "chunked"
    sizes: dict[str, Any] = {"heads": a.heads, "head_dim": a.head_dim, "state": a.state, "block": a.chunk}
    scan = Part.of("selective scan", use.layer("mamba-2", form=form, groups=a.groups), **use.tokens, **sizes)
    yield with_extra(scan, a.heads)
    yield gate(use, "output gate", inner)
    if a.normed:
        one = norm(use, "gated norm", inner // a.groups, rows=use.rows * a.groups)
        yield with_extra(one, inner - inner // a.groups)
    yield linear(use, "output projection", inner, a.d_model, bias=a.out_bias)
