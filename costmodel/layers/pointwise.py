"""Memory-bound layers: softmax, norms, activations and elementwise arithmetic over an m × n table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import (
    GATED_GRADIENT,
    NORMS,
    POINTWISE,
    POINTWISE_GRADIENT,
    Pointwise,
    gated,
    measured,
    measured_gated,
    norm,
    softmax,
    stream,
)
from costmodel.symbols import symbols

M, N = symbols("m n")


class Operation(NamedTuple):
    """An elementwise operation: elements read per element written, and its arithmetic in each direction."""

    reads: int
    forward: Pointwise
    gradient: Pointwise
    linear: bool = False


#: Suffix of an activation of one table, times another table.
AND_MUL = "-and-mul"

OPERATIONS = {name: Operation(1, cost, POINTWISE_GRADIENT[name]) for name, cost in POINTWISE.items()} | {
    "add": Operation(2, Pointwise(1, 0, 1), Pointwise(0, 0, 0), linear=True),
    "sub": Operation(2, Pointwise(1, 0, 1), Pointwise(0, 0, 0), linear=True),
    "mul": Operation(2, Pointwise(1, 0, 1), Pointwise(2, 0, 1)),
    "div": Operation(2, Pointwise(1, 0, 1), Pointwise(3, 0, 2)),  # g/b, −(g/b)·(a/b)
    "pow": Operation(2, Pointwise(1, 2, 3), Pointwise(5, 2, 5)),  # exp(b · log a); g·aᵇ·(b/a), g·aᵇ·log a
    "add-scalar": Operation(1, Pointwise(1, 0, 1), Pointwise(0, 0, 0), linear=True),
    "sub-scalar": Operation(1, Pointwise(1, 0, 1), Pointwise(0, 0, 0), linear=True),
    "mul-scalar": Operation(1, Pointwise(1, 0, 1), Pointwise(1, 0, 1), linear=True),
    "div-scalar": Operation(1, Pointwise(1, 0, 1), Pointwise(1, 0, 1), linear=True),
    "pow-scalar": Operation(1, Pointwise(1, 2, 3), Pointwise(4, 2, 5)),
    "exp": Operation(1, Pointwise(0, 1, 1), Pointwise(1, 1, 2)),  # g · exp(x)
    "log": Operation(1, Pointwise(0, 1, 1), Pointwise(1, 0, 1)),  # g / x
    "sqrt": Operation(1, Pointwise(0, 1, 1), Pointwise(2, 1, 2)),  # (g / 2) / √x
    "copy": Operation(1, Pointwise(0, 0, 0), Pointwise(0, 0, 0), linear=True),
    **{name + AND_MUL: Operation(2, gated(name), gradient) for name, gradient in GATED_GRADIENT.items()},
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
        ``add``, ``sub``, ``mul``, ``div``, ``pow`` of two tables or, with suffix ``-scalar``,
        of a table and a number; ``copy``, ``exp``, ``log``, ``sqrt``; the activations ``relu``, ``tanh``,
        ``sigmoid``, ``gelu``, ``gelu-tanh``, ``silu``, ``relu2`` and ``xielu`` or, with suffix
        ``-and-mul``, one of these times another table.
    in_place : bool
        Whether the result replaces the first table, forward only: a cache then saves both the read and the
        write, which the lower bound takes into account.
    shared : bool
        Whether two tables may be one, as in x · x, forward only: the lower bound then counts it once.
    """

    name: ClassVar[str] = "elementwise"
    source: ClassVar[str] = "first principles; Hendrycks & Gimpel, arXiv 1606.08415 (GELU)"
    not_counted: ClassVar[str] = "type conversions; exp, log, root, tanh and erf count 1 special FLOP each"

    op: str = "add"
    in_place: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        """Check the operation, and the direction."""
        super().__post_init__()
        self.check_options(op=OPERATIONS)
        self.check_forward_only("in_place=true", chosen=self.in_place)
        self.check_forward_only("shared=true", chosen=self.shared)

    def _measured(self) -> dict[str, Any]:
        """The operation's name in the measurements, with what else `stream` is told of it."""
        if self.op.endswith(AND_MUL):
            return measured_gated(self.op.removesuffix(AND_MUL))
        return measured(self.op) or {"op": f"elementwise_{self.op.replace('-', '_')}"}

    def _pass(self, name: str, **counts: Any) -> tuple[Phase, ...]:
        return (stream(self, name, rows=M, cols=N, **self._measured(), **counts),)

    def forward(self) -> tuple[Phase, ...]:
        """One pass."""
        operation = OPERATIONS[self.op]
        return self._pass(self.op, reads=operation.reads, writes=1, **operation.forward._asdict())

    def backward(self) -> tuple[Phase, ...]:
        """One pass: the operands and the output's gradient in, the operands' gradients out."""
        operation = OPERATIONS[self.op]
        reads = 1 if operation.linear else operation.reads + 1
        counts = operation.gradient._asdict()
        return self._pass(f"{self.op} gradient", reads=reads, writes=operation.reads, **counts)

    def tensors(self) -> Tensors:
        """The operands; the result, unless it replaces the first of them."""
        operation = OPERATIONS[self.op]
        table = self.bytes * M * N
        read = 1 if self.shared else operation.reads
        if self.in_place:
            return Tensors(inputs=(read - 1) * table, updated=table, outputs=ZERO, linear=operation.linear)
        return Tensors(inputs=read * table, outputs=table, linear=operation.linear)

    def kept(self) -> sp.Expr:
        """The operands; nothing if the gradient needs none of them."""
        operation = OPERATIONS[self.op]
        return sp.Integer(0) if operation.linear else operation.reads * self.bytes * M * N


@dataclass(frozen=True, kw_only=True)
class Softmax(_Table):
    """Softmax over each row of an m × n table: 4 vector FLOP and one exp per element."""

    name: ClassVar[str] = "softmax"
    source: ClassVar[str] = "first principles: maximum, subtract, exp, sum, divide"
    not_counted: ClassVar[str] = "masks; a second read of rows too long for the registers"

    def forward(self) -> tuple[Phase, ...]:
        """One pass: maximum, subtract, sum, divide; exp."""
        return (softmax(self, "softmax", "fwd", rows=M, cols=N),)

    def backward(self) -> tuple[Phase, ...]:
        """One pass: dx = y ∘ (dy − Σ y∘dy)."""
        return (softmax(self, "softmax gradient", "bwd", rows=M, cols=N),)

    def tensors(self) -> Tensors:
        """One table in, one out."""
        return Tensors(inputs=self.bytes * M * N, outputs=self.bytes * M * N)


@dataclass(frozen=True, kw_only=True)
class Norm(_Table):
    """Layer norm or RMS norm over each row of an m × n table.

    Parameters
    ----------
    kind : str
        ``layer`` (Ba et al. 2016; 8 FLOP per element) or ``rms`` (Zhang &
        Sennrich 2019; 4 FLOP per element).
    """

    name: ClassVar[str] = "norm"
    source: ClassVar[str] = "Ba et al., arXiv 1607.06450; Zhang & Sennrich, arXiv 1910.07467"
    not_counted: ClassVar[str] = "work per row: the root, the mean's division, the statistics that are kept"

    kind: str = "layer"

    def __post_init__(self) -> None:
        """Check the kind."""
        super().__post_init__()
        self.check_options(kind=NORMS)

    def forward(self) -> tuple[Phase, ...]:
        """One pass; the gain (and, for layer norm, the offset) is read once."""
        return (norm(self, self.kind, "fwd", rows=M, cols=N),)

    def backward(self) -> tuple[Phase, ...]:
        """One pass: x and dy in, dx out; the gradients of gain and offset are sums over rows."""
        return (norm(self, self.kind, "bwd", rows=M, cols=N),)

    def tensors(self) -> Tensors:
        """One table in, one out; the gains."""
        table, gain = self.bytes * M * N, self.bytes * N
        offsets = self.bytes * self.parameters() - gain
        return Tensors(inputs=table, weights=gain, offsets=offsets, outputs=table)

    def parameters(self) -> sp.Expr:
        """Gain, and offset for layer norm."""
        return NORMS[self.kind][2] * N
