"""Matrix products, batched or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm
from costmodel.symbols import symbols

BATCH, M, N, K = symbols("batch m n k")


@dataclass(frozen=True, kw_only=True)
class Matmul(Layer):
    """out[batch, m, n] = A[batch, m, k] · B[batch, k, n].

    2·batch·m·n·k FLOP forward; backward is two products of the same size, for
    the gradients of A and of B. A is taken as the activation, B as the weight.
    """

    name: ClassVar[str] = "matmul"
    family: ClassVar[str] = "matrix product"
    source: ClassVar[str] = "Golub & Van Loan, Matrix Computations, §1.1; 1 MAC = 2 FLOP"
    not_counted: ClassVar[str] = "bias, epilogues, layout changes, fast (Strassen-like) algorithms"
    required: ClassVar[tuple[str, ...]] = ("m", "n", "k")
    defaults: ClassVar[dict[str, str | int]] = {"batch": 1}

    def forward(self) -> tuple[Phase, ...]:
        """One product."""
        return (gemm(self, "product", batch=BATCH, m=M, n=N, k=K),)

    def backward(self) -> tuple[Phase, ...]:
        """Two products: dA = dout · Bᵀ and dB = Aᵀ · dout."""
        return (
            gemm(self, "gradient of A", batch=BATCH, m=M, n=K, k=N),
            gemm(self, "gradient of B", batch=BATCH, m=K, n=N, k=M),
        )

    def tensors(self) -> Tensors:
        """A; B; out."""
        w = self.bytes * BATCH
        return Tensors(inputs=w * M * K, weights=w * K * N, outputs=w * M * N)

    def kept(self) -> sp.Expr:
        """A, for the gradient of B."""
        return self.bytes * BATCH * M * K

    def parameters(self) -> sp.Expr:
        """The entries of B."""
        return BATCH * K * N
