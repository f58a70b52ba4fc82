"""Memory-bound layers: softmax, norms, activations and elementwise arithmetic over an m × n table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.errors import unknown_name
from costmodel.layers._base import Layer
from costmodel.layers._kernels import NORMS, POINTWISE, norm, stream
from costmodel.symbols import symbols

M, N = symbols("m n")

#: Elementwise operations: (elements read, vector FLOP, special FLOP) for each element written.
OPERATIONS = {name: (1, *cost) for name, cost in POINTWISE.items()} | {
    "add": (2, 1, 0),
    "mul": (2, 1, 0),
    "div": (2, 1, 0),
    "scale": (1, 1, 0),
    "copy": (1, 0, 0),
    "silu-and-mul": (2, 4, 1),  # silu of one half, times the other
}


class _Table(Layer):
    """An operation over a table of m rows and n columns."""

    family: ClassVar[str] = "memory-bound"
    required: ClassVar[tuple[str, ...]] = ("m", "n")

    def kept(self) -> sp.Expr:
        """The input (or, for softmax, the output)."""
        return self.bytes * M * N


@dataclass(frozen=True, kw_only=True)
class Elementwise(_Table):
    """An operation on each element of an m × n table.

    Parameters
    ----------
    op : str
        ``add``, ``mul``, ``div``, ``scale``, ``copy``, ``relu``, ``tanh``,
        ``sigmoid``, ``gelu``, ``gelu-tanh``, ``silu``, ``silu-and-mul``.
    """

    name: ClassVar[str] = "elementwise"
    source: ClassVar[str] = "first principles; Hendrycks & Gimpel, arXiv 1606.08415 (GELU)"
    not_counted: ClassVar[str] = "type conversions; an exp, tanh or erf is one special operation"

    op: str = "add"

    def __post_init__(self) -> None:
        """Check the operation."""
        super().__post_init__()
        if self.op not in OPERATIONS:
            raise unknown_name("op of elementwise", self.op, OPERATIONS)

    @property
    def _measured(self) -> str:
        """The name that measurements have for it."""
        named = {"relu", "tanh", "gelu", "silu-and-mul"}
        op = self.op.removesuffix("-tanh")
        return op.replace("-", "_") if op in named else f"elementwise_{op}"

    @property
    def _linear(self) -> bool:
        return self.op in ("add", "scale", "copy")

    def forward(self) -> tuple[Phase, ...]:
        """One pass."""
        reads, vector, special = OPERATIONS[self.op]
        return (
            stream(
                self,
                self.op,
                op=self._measured,
                rows=M,
                cols=N,
                reads=reads,
                writes=1,
                vector=vector,
                special=special,
            ),
        )

    def backward(self) -> tuple[Phase, ...]:
        """One pass: the operands and the output's gradient in, the operands' gradients out.

        The derivative is charged as the operation itself and one product.
        """
        reads, vector, special = OPERATIONS[self.op]
        return (
            stream(
                self,
                f"{self.op} gradient",
                op=self._measured,
                rows=M,
                cols=N,
                reads=1 if self._linear else reads + 1,
                writes=reads,
                vector=vector if self._linear else vector + reads,
                special=special,
            ),
        )

    def tensors(self) -> Tensors:
        """The operands; the result."""
        reads, _, _ = OPERATIONS[self.op]
        table = self.bytes * M * N
        return Tensors(inputs=reads * table, outputs=table, linear=self._linear)


@dataclass(frozen=True, kw_only=True)
class Softmax(_Table):
    """Softmax over each row of an m × n table: 4 vector FLOP and one exp for each element."""

    name: ClassVar[str] = "softmax"
    source: ClassVar[str] = "first principles: maximum, subtract, exp, sum, divide"
    not_counted: ClassVar[str] = "masks; a second read of rows too long for the registers"

    def forward(self) -> tuple[Phase, ...]:
        """One pass: maximum, subtract, sum, divide; exp."""
        return (
            stream(
                self,
                "softmax",
                rows=M,
                cols=N,
                reads=1,
                writes=1,
                op="softmax",
                pattern="softmax",
                vector=4,
                special=1,
            ),
        )

    def backward(self) -> tuple[Phase, ...]:
        """One pass: dx = y ∘ (dy − Σ y∘dy)."""
        return (
            stream(
                self,
                "softmax gradient",
                rows=M,
                cols=N,
                reads=2,
                writes=1,
                op="softmax",
                pattern="softmax",
                vector=4,
            ),
        )

    def tensors(self) -> Tensors:
        """One table in, one out."""
        return Tensors(inputs=self.bytes * M * N, outputs=self.bytes * M * N)


@dataclass(frozen=True, kw_only=True)
class Norm(_Table):
    """Layer norm or RMS norm over each row of an m × n table.

    Parameters
    ----------
    kind : str
        ``layer`` (Ba et al. 2016; 8 FLOP an element) or ``rms`` (Zhang &
        Sennrich 2019; 4 FLOP an element).
    """

    name: ClassVar[str] = "norm"
    source: ClassVar[str] = "Ba et al., arXiv 1607.06450; Zhang & Sennrich, arXiv 1910.07467"
    not_counted: ClassVar[str] = "the reciprocal root: one a row"

    kind: str = "layer"

    def __post_init__(self) -> None:
        """Check the kind."""
        super().__post_init__()
        if self.kind not in NORMS:
            raise unknown_name("kind of norm", self.kind, NORMS)

    def forward(self) -> tuple[Phase, ...]:
        """One pass; gain (and, for layer norm, offset) read once."""
        return (norm(self, self.kind, "fwd", rows=M, cols=N),)

    def backward(self) -> tuple[Phase, ...]:
        """One pass, x and dy in, dx out; gradients of gain and offset summed over rows."""
        return (norm(self, self.kind, "bwd", rows=M, cols=N),)

    def tensors(self) -> Tensors:
        """One table in, one out; the gains."""
        return Tensors(
            inputs=self.bytes * M * N, weights=self.bytes * self.parameters(), outputs=self.bytes * M * N
        )

    def parameters(self) -> sp.Expr:
        """Gain, and offset for layer norm."""
        return NORMS[self.kind][2] * N
