"""Token embedding: rows of a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._indexed import TOKEN_BYTES, IndexedTensors
from costmodel.layers._kernels import stream
from costmodel.symbols import CeilLog2, Distinct, symbols

B, N, V, D = symbols("batch seq vocab d_model")


@dataclass(frozen=True, kw_only=True)
class Embedding(Layer):
    """Look up a row of d numbers per token in a table of V rows: no arithmetic.

    Each distinct row is read from main memory once. For tokens drawn uniformly from the vocabulary the
    expected number of distinct rows is V·(1 − (1 − 1/V)^(B·n)); text, with its uneven word frequencies,
    touches fewer. Repetitions are re-reads that a cache may serve. Backward fills the table's gradient
    with zeros, and adds each row of the output's gradient to its token's row.
    """

    name: ClassVar[str] = "embedding"
    family: ClassVar[str] = "tokens"
    source: ClassVar[str] = "Vaswani et al., arXiv 1706.03762, §3.4; rows touched: Cardenas, CACM 18 (1975)"
    not_counted: ClassVar[str] = "scaling by √d, added positions, sorting the tokens (backward)"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "vocab", "d_model")

    @property
    def rows(self) -> sp.Expr:
        """Expected number of distinct table rows that the tokens touch."""
        return Distinct(V, ONE, B * N)

    def forward(self) -> tuple[Phase, ...]:
        """One kernel that copies each token's row."""
        copy = stream(
            self, "row gather", op="elementwise_copy", rows=B * N, cols=D, reads=1, writes=1, depth=ZERO
        )
        again = self.bytes * D * (B * N - self.rows)
        return (replace(copy, read=self.bytes * D * self.rows + TOKEN_BYTES * B * N, l2=again),)

    def backward(self) -> tuple[Phase, ...]:
        """A fill of the table's gradient with zeros; then the sums of rows."""
        zeros = stream(
            self, "gradient zero fill", op="elementwise_copy", rows=V, cols=D, reads=0, writes=1, depth=ZERO
        )
        # The deepest sum is that of a token which is at every position.
        sums = stream(
            self,
            "gradient scatter-add",
            rows=B * N,
            cols=D,
            reads=1,
            writes=1,
            vector=1,
            depth=CeilLog2(B * N),
        )
        written = self.bytes * D * self.rows
        return (zeros, replace(sums, read=sums.read + TOKEN_BYTES * B * N, write=written))

    def tensors(self) -> Tensors:
        """Token ids, at least one row, the rest of the table (unread); the vectors out."""
        row = self.bytes * D
        return IndexedTensors(
            inputs=ZERO,
            weights=row,
            outputs=B * N * row,
            linear=True,
            indices=TOKEN_BYTES * B * N,
            unread=(V - 1) * row,
        )

    def kept(self) -> sp.Expr:
        """The token ids."""
        return TOKEN_BYTES * B * N

    def parameters(self) -> sp.Expr:
        """The table."""
        return V * D
