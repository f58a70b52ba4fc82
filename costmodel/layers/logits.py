"""Logits: scores of every token of the vocabulary, with softmax or the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._indexed import TOKEN_BYTES, IndexedTensors
from costmodel.layers._kernels import gemm, softmax, stream
from costmodel.symbols import CeilLog2, symbols

B, N, D, V = symbols("batch seq d_model vocab")

HEADS = ("none", "softmax", "cross-entropy")


@dataclass(frozen=True, kw_only=True)
class Logits(Layer):
    """The product with the vocabulary's vectors: 2·B·n·d·V FLOP.

    Parameters
    ----------
    head : str
        What is computed from the scores. ``none``: nothing, the scores are the result. ``softmax``:
        probabilities. ``cross-entropy``: the loss at the target token; one kernel reads the scores and keeps
        their log-sum-exp, and backward one kernel computes their gradient from it.
    """

    name: ClassVar[str] = "logits"
    family: ClassVar[str] = "tokens"
    source: ClassVar[str] = (
        "Vaswani et al., arXiv 1706.03762, §3.4; the loss in one pass: Hsu et al., arXiv 2410.10989"
    )
    not_counted: ClassVar[str] = "temperature, sampling; work per row: the logarithm, the loss itself"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model", "vocab")

    head: str = "none"

    def __post_init__(self) -> None:
        """Check the head."""
        super().__post_init__()
        self.check_options(head=HEADS)

    @property
    def _scores(self) -> sp.Expr:
        return self.bytes * B * N * V

    def forward(self) -> tuple[Phase, ...]:
        """The product; then softmax, or the loss."""
        rows = {"rows": B * N, "cols": V}
        inner = ZERO if self.head == "none" else self._scores
        product = gemm(self, "logits", m=B * N, n=V, k=D, workspace=inner)
        if self.head == "none":
            return (product,)
        if self.head == "softmax":
            return (product, softmax(self, "softmax", "fwd", **rows))
        # Maximum, subtract, exp, sum; the logarithm of the sum, and the loss: minus the target's score.
        loss = stream(
            self,
            "cross-entropy",
            op="softmax",
            borrowed=True,
            pattern="softmax",
            **rows,
            reads=1,
            writes=0,
            vector=3,
            special=1,
            depth=2 * CeilLog2(V) + 4,
            extra_read=TOKEN_BYTES * B * N,
            extra_write=2 * self.stat_bytes * B * N,
            workspace=self.stat_bytes * B * N,
        )
        return product, loss

    def backward(self) -> tuple[Phase, ...]:
        """The scores' gradient; then the gradients of both operands of the product."""
        rows = {"rows": B * N, "cols": V, "workspace": self._scores}
        products = (
            gemm(self, "input gradient", m=B * N, n=D, k=V),
            gemm(self, "weight gradient", m=D, n=V, k=B * N),
        )
        if self.head == "none":
            return products
        if self.head == "softmax":
            return (softmax(self, "softmax gradient", "bwd", **rows), *products)
        # exp of the score minus the log-sum-exp, times the loss's gradient; minus 1 at the target.
        gradient = stream(
            self,
            "cross-entropy gradient",
            **rows,
            reads=1,
            writes=1,
            vector=2,
            special=1,
            depth=3,
            extra_read=(TOKEN_BYTES + 2 * self.stat_bytes) * B * N,
        )
        return gradient, *products

    def tensors(self) -> Tensors:
        """The vectors, the table and the target tokens in; scores, probabilities or a loss per token out."""
        loss = self.head == "cross-entropy"
        return IndexedTensors(
            inputs=self.bytes * B * N * D,
            weights=self.bytes * D * V,
            outputs=self.stat_bytes * B * N if loss else self._scores,
            indices=TOKEN_BYTES * B * N if loss else ZERO,
            kept_outputs=self._scores if self.head == "softmax" else ZERO,
        )

    def kept(self) -> sp.Expr:
        """The vectors; and the probabilities, or the scores, their log-sum-exp and the target tokens."""
        beyond = {
            "none": ZERO,
            "softmax": self._scores,
            "cross-entropy": self._scores + (self.stat_bytes + TOKEN_BYTES) * B * N,
        }
        return self.bytes * B * N * D + beyond[self.head]

    def parameters(self) -> sp.Expr:
        """The table (often shared with the embedding)."""
        return D * V
