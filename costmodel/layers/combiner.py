"""Combiner: full causal attention through summaries of spans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase
from costmodel.layers._attention import DV, HQ, B, D, N, depth_backward
from costmodel.layers._masked import _MaskedAttention
from costmodel.layers._pairs import Mask, whole_before
from costmodel.symbols import CeilLog2, ChunkPairs, ceil_div, tree_depth

PATTERNS = ("fixed", "logsparse")
#: Length of a fixed span; number of binary digits of a position.
SPAN = sp.ceiling(sp.sqrt(N))
DIGITS = CeilLog2(N)


@dataclass(frozen=True, kw_only=True)
class Combiner(_MaskedAttention):
    """Combiner: causal attention to some keys directly, and to all others through summaries of spans.

    A span has a query and a key, each the maximum over its positions, and a value: the attention output of
    its query over its positions. Each query then attends to keys and spans in one softmax.

    Parameters
    ----------
    pattern : str
        ``fixed``: spans of ⌈√n⌉ positions; a query attends to the keys of its own span, and to the earlier
        spans: O(n·√n). ``logsparse``: the binary digits of a query's position divide the positions before
        it into spans of 1, 2, 4, … positions, half of ⌈log₂ n⌉ spans on average: O(n·log n).
    """

    name: ClassVar[str] = "combiner"
    source: ClassVar[str] = "Ren et al., arXiv 2107.05768, eq. 4–8 and §4 (fixed, logsparse)"
    not_counted: ClassVar[str] = (
        "projections; the scaling by 1/√d_h; networks instead of the maximum for a span's query and key; "
        "the smaller number of spans at lengths between powers of two (logsparse)"
    )
    defaults: ClassVar[dict[str, str | int]] = {"value_dim": "head_dim"}

    pattern: str = "fixed"

    def __post_init__(self) -> None:
        """Check the pattern."""
        super().__post_init__()
        self.check_options(pattern=PATTERNS)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Accept any sizes: every head has its own keys."""

    # -- spans -----------------------------------------------------------------------------

    @property
    def spans(self) -> sp.Expr:
        """Number of spans of a head, for ``logsparse`` n/2 of two positions, n/4 of four, …"""
        return ceil_div(N, SPAN) if self.pattern == "fixed" else sp.Max(N - 2, 0)

    @property
    def levels(self) -> sp.Expr:
        """Number of spans, of at least two positions, that a position belongs to."""
        return ONE if self.pattern == "fixed" else sp.Max(DIGITS - 1, 0)

    @property
    def longest(self) -> sp.Expr:
        """Number of positions of the longest span."""
        return SPAN if self.pattern == "fixed" else ceil_div(N, sp.Integer(2))

    @property
    def _again(self) -> sp.Expr:
        """Number of levels after the first, for which the cache serves the positions."""
        return ZERO if self.pattern == "fixed" else sp.Max(DIGITS - 2, 0)

    @property
    def pairs(self) -> sp.Expr:
        """Number of (query, key or span) pairs of one head, in both conventions: it is no mask of n²."""
        return self.mask().pairs

    def mask(self) -> Mask:
        """Return the pairs of queries with keys and spans."""
        if self.pattern == "fixed":
            before, blocks = whole_before(N, SPAN), ceil_div(N, SPAN)
            last = N - SPAN * (blocks - 1)
            return Mask(
                ChunkPairs(N, SPAN) + before,
                sp.Integer(2),  # the query's own span, and the summaries
                SPAN + before / N,
                sp.Max(last + blocks - 1, SPAN + blocks - 2),
                sp.Max(SPAN, N - SPAN),
            )
        seen = 1 + DIGITS
        return Mask(N + N * DIGITS / 2, ONE, seen, seen, N)

    def _keys(self) -> sp.Expr:
        """Size of K and V [bytes]."""
        return self.bytes * B * N * HQ * (D + DV)

    def _sizes(self) -> Mapping[str, sp.Expr]:
        return {**super()._sizes(), "kv_heads": HQ}

    def _summaries(self) -> sp.Expr:
        """Size of the spans' keys and values [bytes]."""
        return self.bytes * B * HQ * self.spans * (D + DV)

    def _operands(self) -> sp.Expr:
        """Size of Q, K and V [bytes]."""
        return self.bytes * B * N * HQ * (2 * D + DV)

    def _span_kernel(self, name: str, *, reads: int, writes: int, **counts: Any) -> Phase:
        """Return a kernel over the positions of all spans; further levels read them from the cache."""
        rows = B * HQ * N * sp.Max(self.levels, 1)
        return Phase(
            name=name,
            kernel="stream",
            op="softmax",
            borrowed=True,
            sizes={
                "rows": rows,
                "cols": 2 * D + DV,
                "reads": sp.Integer(reads),
                "writes": sp.Integer(writes),
            },
            options={"dtype": self.dtype, "pattern": "elementwise"},
            l2=self._operands() * self._again,
            **counts,
        )

    # -- kernels ---------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """The spans' keys and values; then attention to keys and spans."""
        entries, spans = B * HQ * N * self.levels, B * HQ * self.spans
        summarise = self._span_kernel(
            "span summaries",
            reads=1,
            writes=0,
            flops={
                ("matrix", self.dtype): 2 * entries * (D + DV),
                # The maxima of queries and keys; per score maximum, subtract, sum; the division.
                ("vector", self.accumulate): entries * (2 * D + 3) + spans * DV,
                ("special", self.accumulate): entries,
            },
            read=self._operands(),
            write=self._summaries(),
            pram_depth=3 * CeilLog2(self.longest) + tree_depth(D) + 3 + tree_depth(self.longest),
            workspace=self._summaries(),
        )
        (attend,) = super().forward()
        return summarise, replace(attend, read=attend.read + self._summaries())

    def backward(self) -> tuple[Phase, ...]:
        """The gradients of attention and of the spans; then the spans', passed on to the positions."""
        rows, attend = super().backward()
        summaries, operands = self._summaries(), self._operands()
        attend = replace(
            attend,
            read=attend.read + summaries,
            write=attend.write + summaries,
            workspace=attend.workspace + summaries,
        )
        entries, spans = B * HQ * N * self.levels, B * HQ * self.spans
        spread = self._span_kernel(
            "span summaries, backward",
            reads=2,
            writes=1,
            flops={
                ("matrix", self.dtype): entries * (6 * D + 4 * DV),
                # The maxima again; P = exp(S − LSE), dS = P∘(dP − D), where D sums over each span's value.
                ("vector", self.accumulate): entries * (2 * D + 3) + 2 * spans * DV,
                ("special", self.accumulate): entries,
            },
            # The operands, and the gradients accumulated so far.
            read=2 * operands + 2 * summaries,
            write=operands,
            pram_depth=CeilLog2(self.longest) + depth_backward(self.longest),
        )
        return rows, attend, spread

    def kept(self) -> sp.Expr:
        """Q, K, V, O and the log-sum-exp; the spans' keys and values, and a log-sum-exp of each."""
        return super().kept() + self._summaries() + self.stat_bytes * B * HQ * self.spans
