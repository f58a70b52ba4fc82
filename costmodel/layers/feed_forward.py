"""The position-wise feed-forward layer of a Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.errors import unknown_name
from costmodel.layers._base import Layer
from costmodel.layers._kernels import POINTWISE, POINTWISE_GRADIENT, activation, gemm, stream
from costmodel.symbols import symbols

B, N, D, F = symbols("batch seq d_model d_ff")


@dataclass(frozen=True, kw_only=True)
class FeedForward(Layer):
    """Two products around an activation, y = f(x W₁) W₂: 4·B·n·d·d_ff FLOP.

    Parameters
    ----------
    activation : str
        ``relu``, ``gelu``, ``gelu-tanh``, ``silu``, ``tanh``, ``sigmoid``; a
        kernel of its own.
    """

    name: ClassVar[str] = "feed-forward"
    family: ClassVar[str] = "feed-forward"
    source: ClassVar[str] = "Vaswani et al., arXiv 1706.03762, eq. 2"
    not_counted: ClassVar[str] = "biases, dropout"
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")
    defaults: ClassVar[dict[str, str | int]] = {"d_ff": "4*d_model"}

    activation: str = "relu"

    def __post_init__(self) -> None:
        """Check the activation."""
        super().__post_init__()
        if self.activation not in POINTWISE:
            raise unknown_name("activation", self.activation, POINTWISE)

    def forward(self) -> tuple[Phase, ...]:
        """Up, activation, down."""
        inner = self.bytes * B * N * F
        return (
            gemm(self, "up projection", m=B * N, n=F, k=D, workspace=inner),
            activation(self, self.activation, self.activation, rows=B * N, cols=F, workspace=inner),
            gemm(self, "down projection", m=B * N, n=D, k=F),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Two products for each product forward, and the activation's derivative."""
        inner = self.bytes * B * N * F
        return (
            gemm(self, "down projection, input gradient", m=B * N, n=F, k=D, workspace=inner),
            gemm(self, "down projection, weight gradient", m=F, n=D, k=B * N),
            stream(
                self,
                f"{self.activation} gradient",
                rows=B * N,
                cols=F,
                reads=2,
                writes=1,
                workspace=inner,
                **POINTWISE_GRADIENT[self.activation]._asdict(),
            ),
            gemm(self, "up projection, input gradient", m=B * N, n=D, k=F),
            gemm(self, "up projection, weight gradient", m=D, n=F, k=B * N),
        )

    def tensors(self) -> Tensors:
        """The sequence in and out; both weights."""
        sequence = self.bytes * B * N * D
        return Tensors(inputs=sequence, weights=self.bytes * self.parameters(), outputs=sequence)

    def kept(self) -> sp.Expr:
        """The input, and the inner values before and after the activation."""
        return self.bytes * B * N * (D + 2 * F)

    def parameters(self) -> sp.Expr:
        """W₁ and W₂."""
        return 2 * D * F
