"""Matrix products, batched or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.errors import CostmodelError
from costmodel.layers._stored import StoredWeights
from costmodel.symbols import symbols

BATCH, M, N, K = symbols("batch m n k")


@dataclass(frozen=True, kw_only=True)
class Matmul(StoredWeights):
    """Matrix product, out[batch, m, n] = A[batch, m, k] · B[batch, k, n].

    2·batch·m·n·k FLOP forward; backward is two products of the same size, for
    the gradients of A and of B. A is the activation, B the weight.

    Parameters
    ----------
    batched : bool
        Whether libraries would call a batched kernel, or a plain one
        (whose `batch` is 1).
    quantise : bool
        Dynamic quantisation: A arrives in 16 bits, and is scaled and rounded to the layer's dtype
        row by row before the product; the result has 16 bits.
        Backward, dout and dA also have 16 bits. The summed dimension can have only one scale, so
        dB uses A and dout rounded column by column.
    """

    name: ClassVar[str] = "matmul"
    family: ClassVar[str] = "matrix product"
    source: ClassVar[str] = "Golub & Van Loan, Matrix Computations, §1.1; 1 MAC = 2 FLOP"
    not_counted: ClassVar[str] = "bias, epilogues, layout changes, fast (Strassen-like) algorithms"
    required: ClassVar[tuple[str, ...]] = ("m", "n", "k")
    defaults: ClassVar[dict[str, str | int]] = {"batch": 1}
    meanings: ClassVar[Mapping[str, str]] = {"batch": "products, each with its own matrices"}

    batched: bool = False
    quantise: bool = False

    def __post_init__(self) -> None:
        """Refuse combinations of options that no kernel supports."""
        super().__post_init__()
        other = "batched" if self.batched else "quantise" if self.quantise else None
        if self.weights and other:
            raise CostmodelError(
                f"weights of {self.name}: wanted with neither batched nor quantise, got {other} too"
            )

    def _product(self, name: str, m: sp.Expr, n: sp.Expr, k: sp.Expr) -> Phase:
        product = self.product(name, batch=BATCH, m=m, n=n, k=k)
        return product if self.weights else replace(product, op="bmm" if self.batched else "gemm")

    def forward(self) -> tuple[Phase, ...]:
        """One product; with `quantise`, after rounding A."""
        product = self._product("product", M, N, K)
        return (self._rounding(product, M, K, out=2 * N * M) if self.quantise else product,)

    def backward(self) -> tuple[Phase, ...]:
        """Two products: dA = dout · Bᵀ and dB = Aᵀ · dout."""
        of_a = self._product("gradient of A", M, K, N)
        of_b = self._product("gradient of B", K, N, M)
        if not self.quantise:
            return of_a, of_b
        # One pass over dout rounds it by rows and by columns; the second product uses the columns.
        return (
            self._rounding(of_a, M, N, out=2 * M * K, both=True),
            self._rounding(of_b, K, M, out=self.bytes * K * N),
        )

    def _rounding(
        self, product: Phase, rows: sp.Expr, cols: sp.Expr, *, out: sp.Expr, both: bool = False
    ) -> Phase:
        """Return a product together with the rounding of its first operand, with which it was measured.

        The rounding takes the maximum, scales and rounds each element in one pass; with `both`, also by
        columns. `out` is the size of one result [bytes].
        """
        ways, lines = (2, rows + cols) if both else (1, rows)
        rounded = BATCH * (ways * self.bytes * rows * cols + lines * self.stat_bytes)
        return replace(
            product,
            name=f"quantisation and {product.name}",
            op=f"gemm_{self.dtype}_dynquant",
            options={**product.options, "quantise": True},
            flops={**product.flops, ("vector", self.accumulate): ways * 3 * BATCH * rows * cols},
            read=product.read + BATCH * (2 * rows * cols + rows * self.stat_bytes),
            write=BATCH * out + rounded,
            launches=sp.Integer(2),
            workspace=rounded,
        )

    def tensors(self) -> Tensors:
        """A and B in, the result out; with `quantise`, activations have 16 bits."""
        return Tensors(
            inputs=self._activation_bytes * M * K,
            weights=BATCH * self.held(K, N),
            outputs=self._activation_bytes * M * N,
        )

    @property
    def _activation_bytes(self) -> sp.Expr:
        """Size of an activation's element [bytes], times the batch."""
        return (2 if self.quantise else self.bytes) * BATCH

    def kept(self) -> sp.Expr:
        """A, for the gradient of B."""
        return self._activation_bytes * M * K

    def parameters(self) -> sp.Expr:
        """The entries of B."""
        return BATCH * K * N
