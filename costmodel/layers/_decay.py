"""How the state of linear attention forgets: the factors that chunks of keys, queries and scores get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import sympy as sp

from costmodel.cost import ZERO
from costmodel.layers._base import Layer
from costmodel.symbols import CeilLog2, ceil_div, symbols

N, DK, DV, C = symbols("seq head_dim value_dim block")


class Work(NamedTuple):
    """Arithmetic besides the products, for each token, pair, chunk's state or entry of it [FLOP]."""

    vector: sp.Expr
    special: sp.Expr
    depth: sp.Expr


@dataclass(frozen=True, kw_only=True)
class _Decaying(Layer):
    """A layer with a matrix-valued state that forgets, in one of four ways."""

    #: How a state forgets: ``none``, ``fixed`` (a constant a head), ``scalar`` (one gate a token and
    #: head), ``vector`` (one gate a row of the state).
    decay: ClassVar[str] = "none"
    #: Whether the keys have a gate of their own (one a token and head, added in the exponent).
    gated_keys: ClassVar[bool] = False
    #: Whether outputs are divided by the sum of their weights.
    normalised: ClassVar[bool] = False
    #: Dependent operations that make a gate's logarithm from what is read.
    gate_depth: ClassVar[int] = 0

    # -- sizes -----------------------------------------------------------------------------

    @property
    def key_dim(self) -> sp.Expr:
        """Rows of a state."""
        return DK

    @property
    def value_width(self) -> sp.Expr:
        """Columns of a state."""
        return DV

    @property
    def chunks(self) -> sp.Expr:
        """⌈n/C⌉."""
        return ceil_div(N, C)

    @property
    def longest(self) -> sp.Expr:
        """Tokens of the longest chunk."""
        return sp.Min(C, N)

    # -- factors ---------------------------------------------------------------------------

    def _weighted_keys(self) -> Work:
        """Keys (each entry) as the chunk's end sees them: times what is forgotten until then."""
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
        """Queries as the chunk's beginning sees them."""
        dk, log = self.key_dim, self.gate_depth + CeilLog2(self.longest)
        return {
            "none": Work(ZERO, ZERO, ZERO),
            "fixed": Work(dk, ZERO, sp.Integer(1)),
            "scalar": Work(1 + dk, sp.Integer(1), log + 2),
            "vector": Work(2 * dk, dk, log + 2),
        }[self.decay]

    def _mask(self) -> Work:
        """Scores (each pair) times what is forgotten from key to query; depth is that of the factor."""
        gate, log = int(self.gated_keys), self.gate_depth + CeilLog2(self.longest)
        return {
            "none": Work(ZERO, ZERO, ZERO),
            "fixed": Work(sp.Integer(1), ZERO, ZERO),
            "scalar": Work(sp.Integer(2 + gate), sp.Integer(1), log + 2 + gate),
            "vector": Work(ZERO, ZERO, ZERO),  # in queries and keys
        }[self.decay]

    def _forgetting(self) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        """(vector FLOP and exps of handing on the states of one head, dependent operations of it)."""
        entries = self.chunks * self.key_dim * (self.value_width + int(self.normalised))
        exps = {"scalar": self.chunks, "vector": self.chunks * self.key_dim}.get(self.decay, ZERO)
        if self.decay == "none":
            return ZERO, ZERO, self.chunks
        return entries, exps, 2 * self.chunks - 1
