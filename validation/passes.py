"""Passes over a table that a framework makes although the mathematics does not need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from costmodel.cost import ONE, Phase
from costmodel.layers._kernels import stream
from costmodel.layers.pointwise import Elementwise
from costmodel.models import Model, Part
from costmodel.symbols import symbols
from costmodel.validation.case import Case

ROWS, COLS = symbols("m n")
B, H, N, D = symbols("batch heads seq head_dim")


class Call(NamedTuple):
    """One call over a table: the operation, and elements read and written per element of the table."""

    op: str
    reads: Any = ONE
    writes: Any = ONE


@dataclass(frozen=True, kw_only=True)
class Pass(Elementwise):
    """One call, or a few that always occur together, over an m × n table.

    Parameters
    ----------
    called : str
        The operation, which names its constants.
    reads, writes : Expr
        Elements read and written per element of the table.
    gradient : tuple of Call, optional
        Calls of the backward pass that forward passes make as well, such as the product of two tables; by
        default one of its own, which reads the gradient and what forward kept, and writes a gradient.
    """

    source: ClassVar[str] = "the framework's own code, named where the pass is used"
    not_counted: ClassVar[str] = "arithmetic, beyond one operation an element"

    called: str
    reads: Any = ONE
    writes: Any = ONE
    gradient: tuple[Call, ...] | None = None

    def forward(self) -> tuple[Phase, ...]:
        """One pass."""
        return (self._counted(self.called, Call(self.called, self.reads, self.writes)),)

    def backward(self) -> tuple[Phase, ...]:
        """The calls of the gradient."""
        if self.gradient is None:
            return (self._counted(f"{self.called} gradient", Call(self.called, 2 * ONE)),)
        return tuple(
            replace(self._counted(f"{self.called} gradient: {call.op}", call), direction="fwd")
            for call in self.gradient
        )

    def _counted(self, name: str, call: Call) -> Phase:
        op, reads, writes = call
        return stream(self, name, op=op, rows=ROWS, cols=COLS, reads=reads, writes=writes, vector=1)


def in_calls(name: str, case: Case, parts: Sequence[Part]) -> Model:
    """Return attention as a sequence of framework calls: Q, K and V in, a table like Q out.

    Parameters
    ----------
    name : str
        Name of the layer that it implements.
    case : Case
        The case, for format and direction.
    parts : sequence of Part
        The calls.
    """
    elements = parts[0].layer.bytes * B * H * N * D
    return Model(
        title=name,
        dtype=case.dtype,
        direction=case.direction,
        parts=tuple(parts),
        inputs=3 * elements,
        outputs=elements,
    )
