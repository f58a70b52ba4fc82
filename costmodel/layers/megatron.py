"""Megatron-LM: a Transformer layer cut by heads and inner width, and by positions in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
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
    """`num_layers` Transformer layers over `devices`: norm, attention, add, norm, feed-forward, add.

    A device has ⌈h/t⌉ heads and ⌈d_ff/t⌉ of the inner width, and all of the sequence, so that each of
    the two parts ends with an all-reduce forward, and starts with one backward. With sequence
    parallelism norms, dropout and additions are cut by positions, and each all-reduce becomes an
    all-gather before the part and a reduce-scatter after it, both of a table of all positions that is there
    for a while and not kept (Korthikanti et al., §4.2.2). Counts are of one device.

    Parameters
    ----------
    sequence_parallel : bool
        Whether what lies between the parts is cut by positions.
    attention : str
        ``dense`` (materialised scores) or ``tiled`` (FlashAttention-2).
    recompute : str
        What backward computes again: ``none``; ``selective``, dense attention's scores and softmax;
        ``full``, all of forward from the layer's input.
    causal, dropout : bool
        Causal mask; dropout of probabilities (dense attention), and of both parts' outputs.
    activation, norm : str
        Of the feed-forward layer; ``layer`` or ``rms``.
    gated : bool
        Whether the feed-forward layer is gated (SwiGLU).
    """

    name: ClassVar[str] = "megatron"
    family: ClassVar[str] = "many devices"
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

    def __post_init__(self) -> None:
        """Check the options, each and together."""
        super().__post_init__()
        self.check_options(attention=ATTENTION, recompute=RECOMPUTE, activation=POINTWISE, norm=NORMS)
        check_recompute(self.name, self.recompute, self.attention)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Heads share keys evenly."""
        check_heads(self.name, sizes)

    # -- one device's part -----------------------------------------------------------------

    @property
    def rows(self) -> sp.Expr:
        """Positions of one device between the parts."""
        return B * (CHUNK if self.sequence_parallel else N)

    @property
    def all_rows(self) -> sp.Expr:
        """Positions inside the parts: all of them, with padding."""
        return B * self._length

    @property
    def _length(self) -> sp.Expr:
        return P * CHUNK if self.sequence_parallel else N

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
        size = self.bytes * self.all_rows * D
        room = size if self.sequence_parallel else ZERO  # an all-reduce works in place
        return exchange(self, name, collective, size, overlaps=overlaps, workspace=room)

    def _gather(self, name: str) -> tuple[Phase, ...]:
        """Before a part: all positions, where a device holds only some."""
        return (self._exchange(name, "all-gather"),) if self.sequence_parallel else ()

    def _reduce(self, name: str) -> Phase:
        """After a part: the sum over devices, of all positions or of its own."""
        return self._exchange(name, "reduce-scatter" if self.sequence_parallel else "all-reduce")

    def _drop(self, direction: str) -> tuple[Phase, ...]:
        """Return dropout of a part's output."""
        return (dropout(self, direction, rows=self.rows, cols=D),) if self.dropout else ()

    def _around(self, kernels: tuple[Phase, ...]) -> tuple[Phase, ...]:
        """Return a part of forward: norm, gathered, its kernels, reduced, dropped, added."""
        return (
            norm(self, self.norm, "fwd", rows=self.rows, cols=D),
            *self._gather("input"),
            *at(kernels, self._sizes),
            self._reduce("output"),
            *self._drop("fwd"),
            addition(self, "residual", rows=self.rows, cols=D),
        )

    def _back(self, kernels: tuple[Phase, ...], last: int) -> tuple[Phase, ...]:
        """Return a part of backward; its input, kept in parts, is gathered while gradients are computed.

        `last`: kernels from the first on that needs the input: those of the weights' gradients.
        """
        shared = at(kernels, self._sizes)
        again = (
            (self._exchange("input, for the weights' gradient", "all-gather", overlaps=True),)
            if self.sequence_parallel
            else ()
        )
        return (
            *self._drop("bwd"),
            *self._gather("output's gradient"),
            *shared[:-last],
            *again,
            *shared[-last:],
            self._reduce("input's gradient"),
            norm(self, self.norm, "bwd", rows=self.rows, cols=D),
            addition(self, "residual", rows=self.rows, cols=D),
        )

    # -- the stack -------------------------------------------------------------------------

    def _there(self) -> tuple[Phase, ...]:
        return (*self._around(self._attention().forward()), *self._around(self._inner("fwd")))

    def forward(self) -> tuple[Phase, ...]:
        """Both parts, L times."""
        return times(self._there(), L)

    def backward(self) -> tuple[Phase, ...]:
        """Both parts backwards, after what is computed again, L times."""
        attention = self._attention()
        again = {
            "none": (),
            "selective": at(attention.core_forward(), self._sizes),
            "full": self._there(),
        }[self.recompute]
        one = (*of_forward(again), *self._back(self._inner("bwd"), 1), *self._back(attention.backward(), 4))
        return times(one, L)

    def _inner(self, direction: str) -> tuple[Phase, ...]:
        part = self._feed_forward()
        return part.forward() if direction == "fwd" else part.backward()

    # -- what it needs ---------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """Its rows of the sequence in and out; its part of the weights."""
        sequence = self.bytes * self.rows * D
        offsets = self.bytes * L * 2 * (NORMS[self.norm][2] - 1) * D
        return Tensors(
            inputs=sequence,
            weights=self.bytes * self.parameters() - offsets,
            offsets=offsets,
            outputs=sequence,
        )

    def kept(self) -> sp.Expr:
        """What forward leaves: s·b·h·(10 + 24/t + 5as/(ht)) bytes in 16 bits, dense, with dropout.

        With sequence parallelism (sbh/t)(34 + 5as/h); without scores (selective) 34·sbh/t; computed
        again in full, the layer's input (Korthikanti et al., §4).
        """
        sequence = self.bytes * self.rows * D
        if self.recompute == "full":
            return L * sequence
        outside = 4 * sequence + (2 * self.rows * D if self.dropout else ZERO)  # norms, inputs; masks
        attention = self._attention()
        heads = self.bytes * self.all_rows * HEADS * DV
        core = replace(attention, projections=False).kept().xreplace(self._sizes)
        if self.attention == "tiled":
            core -= heads  # O is the output projection's input, counted there
        elif self.recompute == "selective":
            core = self.bytes * self.all_rows * (HEADS * HD + KV_HEADS * (HD + DV))
        tables = _ffn.tables_kept(_ffn.Form(self.activation, self.gated))
        inner = tables * self.bytes * self.all_rows * INNER
        return L * (outside + core + heads + inner)

    def passes(self) -> sp.Expr:
        """L, one layer after the other."""
        return L

    def parameters(self) -> sp.Expr:
        """Those of one device: its heads' projections, its part of the feed-forward layer, both norms."""
        weights = self._attention().parameters() + self._feed_forward().parameters()
        return L * (weights.xreplace(self._sizes) + 2 * NORMS[self.norm][2] * D)
