"""Decay of the state in linear attention: the factors applied to keys, queries and scores of a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import sympy as sp

from costmodel.cost import ZERO
from costmodel.layers._base import Layer
from costmodel.symbols import CeilLog2, ceil_div, symbols

N, DK, DV, C = symbols("seq head_dim value_dim block")


class Work(NamedTuple):
    """Arithmetic besides the matrix products [FLOP], and its depth.

    The counts are per token, per pair, per chunk's state or per entry of it.
    """

    vector: sp.Expr
    special: sp.Expr
    depth: sp.Expr


@dataclass(frozen=True, kw_only=True)
class _Decaying(Layer):
    """A layer with a matrix-valued state that decays in one of four ways."""

    #: How the state decays: ``none``, ``fixed`` (one constant per head), ``scalar`` (one gate per token and
    #: head), ``vector`` (one gate per row of the state).
    decay: ClassVar[str] = "none"
    #: Whether the keys have their own gate (one per token and head, added in the exponent).
    gated_keys: ClassVar[bool] = False
    #: Whether outputs are divided by the sum of their weights.
    normalised: ClassVar[bool] = False
    #: Number of dependent operations that compute a gate's logarithm from the values in memory.
    gate_depth: ClassVar[int] = 0

    # -- sizes -----------------------------------------------------------------------------

    @property
    def key_dim(self) -> sp.Expr:
        """Number of rows of a state."""
        return DK

    @property
    def value_width(self) -> sp.Expr:
        """Number of columns of a state."""
        return DV

    @property
    def chunks(self) -> sp.Expr:
        """Number of chunks, ⌈n/C⌉."""
        return ceil_div(N, C)

    @property
    def longest(self) -> sp.Expr:
        """Number of tokens of the longest chunk."""
        return sp.Min(C, N)

    # -- factors ---------------------------------------------------------------------------

    def _weighted_keys(self) -> Work:
        """Keys weighted by their decay until the end of the chunk (per token)."""
        dk, log = self.key_dim, self.gate_depth + CeilLog2(self.longest)
        gate = int(self.gated_keys)
        return {
            "none": Work(ZERO, ZERO, ZERO),
            "fixed": Work(dk, ZERO, sp.Integer(1)),
            # The gates' running sum, its distance from the chunk's end, exp, and the product.
            "scalar": Work(2 + gate + dk, sp.Integer(1), log + 3 + gate),
            "vector": Work(3 * dk, dk, log + 3),
        }[self.decay]

    def _weighted_queries(self) -> Work:
        """Queries weighted by the decay since the beginning of the chunk (per token)."""
        dk, log = self.key_dim, self.gate_depth + CeilLog2(self.longest)
        return {
            "none": Work(ZERO, ZERO, ZERO),
            "fixed": Work(dk, ZERO, sp.Integer(1)),
            "scalar": Work(1 + dk, sp.Integer(1), log + 2),
            "vector": Work(2 * dk, dk, log + 2),
        }[self.decay]

    def _mask(self) -> Work:
        """Scores times the decay from key to query (per pair); the depth is that of the factor."""
        gate, log = int(self.gated_keys), self.gate_depth + CeilLog2(self.longest)
        return {
            "none": Work(ZERO, ZERO, ZERO),
            "fixed": Work(sp.Integer(1), ZERO, ZERO),
            "scalar": Work(sp.Integer(2 + gate), sp.Integer(1), log + 2 + gate),
            "vector": Work(ZERO, ZERO, ZERO),  # applied to queries and keys instead
        }[self.decay]

    def _forgetting(self) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        """Passing a head's state from chunk to chunk: (vector FLOP, exps, dependent operations)."""
        entries = self.chunks * self.key_dim * (self.value_width + int(self.normalised))
        exps = {"scalar": self.chunks, "vector": self.chunks * self.key_dim}.get(self.decay, ZERO)
        if self.decay == "none":
            return ZERO, ZERO, self.chunks
        return entries, exps, 2 * self.chunks - 1
