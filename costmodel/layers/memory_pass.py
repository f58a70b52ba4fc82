"""One pass over memory that reads and writes given numbers of bytes, in any mixture of number formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import Pointwise, stream
from costmodel.layers._refusal import refuse
from costmodel.symbols import CeilLog2, symbols

M, N, READ, WRITTEN, LEAST, LEAST_WRITTEN = symbols(
    "m n read_bytes written_bytes least_bytes least_written_bytes"
)

#: Operations of which only the moves are counted.
MOVES = ("copy", "cast", "concatenate", "gather", "scatter", "fill", "integer")
#: Arithmetic per element of the table, by operation.
OPERATIONS: Mapping[str, Pointwise] = {
    **dict.fromkeys(MOVES, Pointwise(0, 0, 0)),
    "scatter-add": Pointwise(1, 0, 1),
    "arithmetic": Pointwise(1, 0, 1),
    "multiply-add": Pointwise(3, 0, 3),  # x + v·a·b, x + v·a/b, a + w·(b − a)
    "function": Pointwise(0, 1, 1),
    "dropout": Pointwise(2, 0, 2),
    "sum": Pointwise(1, 0, 1),
}


@dataclass(frozen=True, kw_only=True)
class MemoryPass(Layer):
    """A cast, a copy, a sum, a concatenation: one pass over a table of m × n elements, forward only.

    It states the bytes themselves, for operations whose operands differ in size or format: a cast reads one
    format and writes another, a sum writes less than it reads, and a row that is added to each row of a table
    is read once.

    Parameters
    ----------
    op : str
        ``copy``, ``cast``, ``concatenate``, ``gather``, ``scatter`` and ``fill`` (which reads nothing) only
        move, and of ``integer`` (arithmetic on whole numbers) only the moves are counted; ``arithmetic`` (one
        operation per element), ``multiply-add`` (x + v·a·b), ``function`` (one root, exponential or the
        like), ``dropout``, ``sum`` (or maximum) and ``scatter-add`` compute.
    in_place : bool
        Whether the result replaces part of what is read: a cache then saves both the read and the write.
    """

    name: ClassVar[str] = "memory-pass"
    family: ClassVar[str] = "memory-bound"
    source: ClassVar[str] = "first principles: each byte of the operands and of the result moves once"
    not_counted: ClassVar[str] = (
        "conversions of formats; arithmetic on whole numbers; random numbers; additions that collide"
    )
    required: ClassVar[tuple[str, ...]] = ("m", "n", "written_bytes")
    defaults: ClassVar[dict[str, str | int]] = {
        "read_bytes": "written_bytes",
        "least_bytes": "read_bytes",
        "least_written_bytes": "written_bytes",
    }
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    op: str = "copy"
    in_place: bool = False

    def __post_init__(self) -> None:
        """Check the operation."""
        super().__post_init__()
        self.check_options(op=OPERATIONS)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that the least bytes are at most the bytes moved, and that replaced bytes are read."""
        pairs = [("least_written_bytes", "written_bytes", "")]
        if self.op != "fill":
            pairs.append(("least_bytes", "read_bytes", ""))
            if self.in_place:
                replaced = " with in_place=true: what is replaced is read"
                pairs.append(("least_written_bytes", "least_bytes", replaced))
        for less, more, why in pairs:
            wanted = f"{less} must be no more than {more}{why}"
            refuse(self, sizes[less] > sizes[more], wanted, sizes, less, more)

    @property
    def _read(self) -> sp.Expr:
        return ZERO if self.op == "fill" else READ

    def forward(self) -> tuple[Phase, ...]:
        """One pass."""
        table = self.bytes * M * N
        counts: dict[str, Any] = OPERATIONS[self.op]._asdict()
        if self.op == "sum":
            counts["depth"] = CeilLog2(M * N)  # of one sum over the whole table, the deepest there is
        one = stream(
            self,
            self.op,
            op="elementwise_copy" if self.op in MOVES else None,
            borrowed=True,
            rows=M,
            cols=N,
            reads=self._read / table,
            writes=WRITTEN / table,
            **counts,
        )
        return (replace(one, direction="fwd"),)

    def tensors(self) -> Tensors:
        """The bytes that are read and written at least."""
        if self.op == "fill":
            return Tensors(inputs=ZERO, outputs=LEAST_WRITTEN)
        if self.in_place:
            return Tensors(inputs=LEAST - LEAST_WRITTEN, updated=LEAST_WRITTEN, outputs=ZERO)
        return Tensors(inputs=LEAST, outputs=LEAST_WRITTEN)

    def kept(self) -> sp.Expr:
        """Nothing: there is no backward pass."""
        return ZERO
