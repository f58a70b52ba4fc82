"""Megatron-LM: a Transformer layer split by heads and inner width, and between its parts by positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.dtypes import dtype as parse_dtype
from costmodel.layers import _ffn
from costmodel.layers._attention import HKV, HQ, NKV, _Attention, check_heads
from costmodel.layers._base import Layer
from costmodel.layers._devices import P, exchange
from costmodel.layers._kernels import NORMS, POINTWISE, addition, norm
from costmodel.layers._phases import at, of_forward, times
from costmodel.layers._recompute import RECOMPUTE, check_recompute
from costmodel.layers.dense_attention import DenseAttention
from costmodel.layers.dropout import dropout
from costmodel.layers.feed_forward import FeedForward
from costmodel.layers.swiglu import SwiGLU
from costmodel.layers.tiled_attention import TiledAttention
from costmodel.symbols import ceil_div, symbols

B, N, D, F, L, HD, DV = symbols("batch seq d_model d_ff num_layers head_dim value_dim")
HEADS, KV_HEADS, INNER, CHUNK = ceil_div(HQ, P), ceil_div(HKV, P), ceil_div(F, P), ceil_div(N, P)

ATTENTION = ("dense", "tiled")


@dataclass(frozen=True, kw_only=True)
class Megatron(Layer):
    """Megatron-LM tensor parallelism: `num_layers` Transformer layers shared by `devices`.

    A layer is norm, attention, residual addition, norm, feed-forward, residual addition. Each of t devices
    holds ⌈h/t⌉ heads and ⌈d_ff/t⌉ of the inner width, and processes the whole sequence, so that each of the
    two parts (attention, feed-forward) ends with an all-reduce forward and starts with one backward. With
    sequence parallelism, norms, dropout and additions are split by positions; each all-reduce becomes an
    all-gather before the part and a reduce-scatter after it, both on a table of all positions that is held
    temporarily and not kept (Korthikanti et al., §4.2.2). All counts are per device.

    Parameters
    ----------
    sequence_parallel : bool
        Whether the operations between the parts are split by positions.
    attention : str
        ``dense`` (materialised scores) or ``tiled`` (FlashAttention-2).
    recompute : str
        What backward recomputes: ``none``; ``selective``, the scores and softmax of dense attention;
        ``full``, all of forward from the layer's input.
    causal : bool
        Whether attention has a causal mask.
    dropout : bool
        Dropout of the probabilities (dense attention only) and of both parts' outputs.
    activation : str
        Activation of the feed-forward layer.
    norm : str
        ``layer`` or ``rms``.
    gated : bool
        Whether the feed-forward layer is gated (SwiGLU).
    around : str, optional
        Format of all but the products with weights: norms, attention, additions and what is exchanged.
        Default: `dtype`. Training in FP8 keeps 16 bits there (Micikevicius et al., arXiv 2209.05433, §3.1).
    """

    name: ClassVar[str] = "megatron"
    family: ClassVar[str] = "distributed"
    source: ClassVar[str] = (
        "Shoeybi et al., arXiv 1909.08053, §3; Korthikanti et al., arXiv 2205.05198, §4.1–4.2"
    )
    not_counted: ClassVar[str] = "biases, rotary embedding, embeddings and logits, random numbers of dropout"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model", "heads", "devices")
    defaults: ClassVar[dict[str, str | int]] = {
        "head_dim": "d_model/heads",
        "value_dim": "head_dim",
        "kv_heads": "heads",
        "d_ff": "4*d_model",
        "num_layers": 1,
        "node": "devices",
    }

    sequence_parallel: bool = False
    attention: str = "dense"
    recompute: str = "none"
    causal: bool = False
    dropout: bool = False
    activation: str = "gelu"
    norm: str = "layer"
    gated: bool = False
    around: str | None = None

    def __post_init__(self) -> None:
        """Check the options and their combination."""
        super().__post_init__()
        if self.around is not None:
            object.__setattr__(self, "around", parse_dtype(self.around).name)
        self.check_options(attention=ATTENTION, recompute=RECOMPUTE, activation=POINTWISE, norm=NORMS)
        check_recompute(self.name, self.recompute, self.attention)

    check_sizes = check_heads

    # -- one device's part -----------------------------------------------------------------

    @property
    def rows(self) -> sp.Expr:
        """Number of positions that a device processes between the parts."""
        return B * (CHUNK if self.sequence_parallel else N)

    @property
    def all_rows(self) -> sp.Expr:
        """Number of positions inside the parts: all of them, with padding."""
        return B * self._length

    @property
    def _length(self) -> sp.Expr:
        return P * CHUNK if self.sequence_parallel else N

    @property
    def _wide(self) -> Megatron:
        """The same layer with all of it in the format of what is around the products."""
        return replace(self, dtype=self.around or self.dtype, around=None)

    def _attention(self) -> _Attention:
        shared: dict[str, Any] = {
            "dtype": self.dtype,
            "convention": self.convention,
            "causal": self.causal,
            "projections": True,
        }
        if self.attention == "tiled":
            return TiledAttention(**shared)
        return DenseAttention(dropout=self.dropout, **shared)

    def _feed_forward(self) -> FeedForward | SwiGLU:
        kind = SwiGLU if self.gated else FeedForward
        return kind(dtype=self.dtype, convention=self.convention, activation=self.activation)

    @property
    def _sizes(self) -> dict[sp.Symbol, sp.Expr]:
        return {HQ: HEADS, HKV: KV_HEADS, F: INNER, N: self._length, NKV: self._length}

    # -- between the parts -----------------------------------------------------------------

    def _exchange(self, name: str, collective: str, *, overlaps: bool = False) -> Phase:
        wide = self._wide
        size = wide.bytes * self.all_rows * D
        room = size if self.sequence_parallel else ZERO  # an all-reduce works in place
        return exchange(wide, f"{name} {collective}", collective, size, overlaps=overlaps, workspace=room)

    def _gather(self, name: str) -> tuple[Phase, ...]:
        """Return the all-gather before a part, if a device holds only some of the positions."""
        return (self._exchange(name, "all-gather"),) if self.sequence_parallel else ()

    def _reduce(self, name: str) -> Phase:
        """Return the sum over devices after a part, of all positions or of the device's own."""
        return self._exchange(name, "reduce-scatter" if self.sequence_parallel else "all-reduce")

    def _dropout(self, direction: str) -> tuple[Phase, ...]:
        """Return the dropout of a part's output."""
        return (dropout(self._wide, direction, rows=self.rows, cols=D),) if self.dropout else ()

    def _part_forward(self, kernels: tuple[Phase, ...]) -> tuple[Phase, ...]:
        """Return a part of forward: norm, all-gather, its kernels, reduction, dropout, residual addition."""
        return (
            norm(self._wide, self.norm, "fwd", rows=self.rows, cols=D),
            *self._gather("input"),
            *at(kernels, self._sizes),
            self._reduce("output"),
            *self._dropout("fwd"),
            addition(self._wide, "residual", rows=self.rows, cols=D),
        )

    def _part_backward(self, kernels: tuple[Phase, ...], last: int) -> tuple[Phase, ...]:
        """Return a part of backward; its input, kept split, is gathered while other gradients are computed.

        The last `last` kernels, of the weight gradients, need the gathered input.
        """
        shared = at(kernels, self._sizes)
        again = (self._exchange("input", "all-gather", overlaps=True),) if self.sequence_parallel else ()
        return (
            *self._dropout("bwd"),
            *self._gather("output gradient"),
            *shared[:-last],
            *again,
            *shared[-last:],
            self._reduce("input gradient"),
            norm(self._wide, self.norm, "bwd", rows=self.rows, cols=D),
            addition(self._wide, "residual", rows=self.rows, cols=D),
        )

    # -- the stack -------------------------------------------------------------------------

    def _layer_forward(self) -> tuple[Phase, ...]:
        return (
            *self._part_forward(self._attention_kernels("fwd")),
            *self._part_forward(self._feed_forward_kernels("fwd")),
        )

    def forward(self) -> tuple[Phase, ...]:
        """Both parts, L times."""
        return times(self._layer_forward(), L)

    def backward(self) -> tuple[Phase, ...]:
        """Recomputation, then both parts in reverse, L times."""
        again = {
            "none": (),
            "selective": at(self._wide._attention().core_forward(), self._sizes),
            "full": self._layer_forward(),
        }[self.recompute]
        one = (
            *of_forward(again),
            *self._part_backward(self._feed_forward_kernels("bwd"), 1),
            *self._part_backward(self._attention_kernels("bwd"), 4),
        )
        return times(one, L)

    def _feed_forward_kernels(self, direction: str) -> tuple[Phase, ...]:
        part = self._feed_forward()
        return part.forward() if direction == "fwd" else part.backward()

    def _attention_kernels(self, direction: str) -> tuple[Phase, ...]:
        """Return attention's kernels: its projections in `dtype`, all else in the format around them."""

        def of(layer: Megatron) -> tuple[Phase, ...]:
            attention = layer._attention()
            return attention.forward() if direction == "fwd" else attention.backward()

        pairs = zip(of(self), of(self._wide), strict=True)
        return tuple(product if "projection" in product.name else other for product, other in pairs)

    # -- operands and memory ---------------------------------------------------------------

    def tensors(self) -> Tensors:
        """The device's rows of the sequence in and out; its share of the weights."""
        wide = self._wide.bytes
        sequence = wide * self.rows * D
        gains, offsets = L * 2 * D, L * 2 * (NORMS[self.norm][2] - 1) * D
        products = self.parameters() - gains - offsets
        return Tensors(
            inputs=sequence,
            weights=self.bytes * products + wide * gains,
            offsets=wide * offsets,
            outputs=sequence,
        )

    def kept(self) -> sp.Expr:
        """What forward keeps: s·b·h·(10 + 24/t + 5as/(ht)) bytes in 16 bits with dense attention and dropout.

        With sequence parallelism it is (sbh/t)(34 + 5as/h); without the scores (selective) 34·sbh/t; with
        full recomputation the layer's input only (Korthikanti et al., §4).
        """
        wide = self._wide.bytes
        sequence = self.rows * D
        if self.recompute == "full":
            return L * wide * sequence
        # Inputs of norms and of products; masks.
        outside = 2 * (wide + self.bytes) * sequence + (2 * sequence if self.dropout else ZERO)
        heads = self.bytes * self.all_rows * HEADS * DV
        core = replace(self._wide._attention(), projections=False).kept().xreplace(self._sizes)
        if self.attention == "tiled":
            heads = ZERO  # O, the output projection's input, is kept by the core
        elif self.recompute == "selective":
            core = wide * self.all_rows * (HEADS * HD + KV_HEADS * (HD + DV))
        tables = _ffn.tables_kept(_ffn.Form(self.activation, self.gated))
        inner = tables * self.bytes * self.all_rows * INNER
        return L * (outside + core + heads + inner)

    def passes(self) -> sp.Expr:
        """L: the layers run in turn."""
        return L

    def parameters(self) -> sp.Expr:
        """Parameters per device: its heads' projections, its share of the feed-forward layer, both norms."""
        weights = self._attention().parameters() + self._feed_forward().parameters()
        return L * (weights.xreplace(self._sizes) + 2 * NORMS[self.norm][2] * D)
