"""Dropout: values set to 0 at random, with a stored mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import stream
from costmodel.symbols import symbols

M, N = symbols("m n")


@dataclass(frozen=True, kw_only=True)
class Dropout(Layer):
    """Multiply each value of an m × n table by 0 or 1/(1 − p); the mask is stored, one byte per value."""

    name: ClassVar[str] = "dropout"
    family: ClassVar[str] = "memory-bound"
    source: ClassVar[str] = (
        "Srivastava et al., JMLR 15 (2014); masks of one byte: Korthikanti et al., arXiv 2205.05198, §4.1"
    )
    not_counted: ClassVar[str] = "random numbers"
    required: ClassVar[tuple[str, ...]] = ("m", "n")

    def forward(self) -> tuple[Phase, ...]:
        """One pass: multiply by the mask and by 1/(1 − p); write the mask."""
        return (dropout(self, "fwd", rows=M, cols=N),)

    def backward(self) -> tuple[Phase, ...]:
        """The same pass over the gradient; the mask is read."""
        return (dropout(self, "bwd", rows=M, cols=N),)

    def tensors(self) -> Tensors:
        """One table in, one out; the mask is no operand, as it could be drawn again."""
        table = self.bytes * M * N
        return Tensors(inputs=table, outputs=table, linear=True)

    def kept(self) -> sp.Expr:
        """The mask."""
        return M * N


def dropout(layer: Layer, direction: str, *, rows: sp.Expr, cols: sp.Expr) -> Phase:
    """Return dropout of a rows × cols table, or of its gradient, in one pass."""
    mask = rows * cols
    name, more = "dropout", {"extra_write": mask, "workspace": mask}
    if direction != "fwd":
        name, more = "dropout gradient", {"extra_read": mask}
    return stream(layer, name, rows=rows, cols=cols, reads=1, writes=1, vector=2, depth=2, **more)
