"""Matrix products, batched or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
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

    Parameters
    ----------
    batched : bool
        Whether libraries would call a batched kernel for it, or a plain one
        (whose `batch` is 1).
    quantise : bool
        A arrives in 16 bits, and is scaled and rounded to the layer's dtype,
        row by row, before the product (dynamic quantisation).
    """

    name: ClassVar[str] = "matmul"
    family: ClassVar[str] = "matrix product"
    source: ClassVar[str] = "Golub & Van Loan, Matrix Computations, §1.1; 1 MAC = 2 FLOP"
    not_counted: ClassVar[str] = "bias, epilogues, layout changes, fast (Strassen-like) algorithms"
    required: ClassVar[tuple[str, ...]] = ("m", "n", "k")
    defaults: ClassVar[dict[str, str | int]] = {"batch": 1}

    batched: bool = False
    quantise: bool = False

    def _product(self, name: str, m: sp.Expr, n: sp.Expr, k: sp.Expr) -> Phase:
        return replace(gemm(self, name, batch=BATCH, m=m, n=n, k=k), op="bmm" if self.batched else "gemm")

    def forward(self) -> tuple[Phase, ...]:
        """One product, after the rounding of A where that is asked for."""
        product = self._product("product", M, N, K)
        if not self.quantise:
            return (product,)
        # Maximum, scale and round of each element of A: one pass that is measured with the product.
        pass_over = {("vector", self.accumulate): 3 * BATCH * M * K}
        return (
            replace(
                product,
                name="rounding and product",
                op=f"gemm_{self.dtype}_dynquant",
                options={**product.options, "quantise": True},
                flops={**product.flops, **pass_over},
                read=product.read + BATCH * M * (2 * K + self.stat_bytes),
                write=BATCH * M * (2 * N + self.bytes * K + self.stat_bytes),
                launches=sp.Integer(2),
                workspace=BATCH * M * (self.bytes * K + self.stat_bytes),
            ),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Two products: dA = dout · Bᵀ and dB = Aᵀ · dout."""
        return (
            self._product("gradient of A", M, K, N),
            self._product("gradient of B", K, N, M),
        )

    def tensors(self) -> Tensors:
        """A; B; out, in 16 bits where A arrives so."""
        w = self.bytes * BATCH
        wide = 2 * BATCH if self.quantise else w
        return Tensors(inputs=wide * M * K, weights=w * K * N, outputs=wide * M * N)

    def kept(self) -> sp.Expr:
        """A, for the gradient of B."""
        return self.bytes * BATCH * M * K

    def parameters(self) -> sp.Expr:
        """The entries of B."""
        return BATCH * K * N
