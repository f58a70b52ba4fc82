"""Passes over a table that a framework makes although the mathematics does not need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from costmodel.cost import ONE, Phase
from costmodel.layers._kernels import stream
from costmodel.layers.pointwise import Elementwise
from costmodel.models import Model, Part
from costmodel.symbols import symbols
from costmodel.validation.case import Case

ROWS, COLS = symbols("m n")
B, H, N, D = symbols("batch heads seq head_dim")


@dataclass(frozen=True, kw_only=True)
class Pass(Elementwise):
    """One call, or a few that always occur together, over an m × n table.

    Parameters
    ----------
    called : str
        The operation, which names its constants.
    reads, writes : Expr
        Elements read and written per element of the table.
    """

    source: ClassVar[str] = "the framework's own code, named where the pass is used"
    not_counted: ClassVar[str] = "arithmetic, beyond one operation an element"

    called: str
    reads: Any = ONE
    writes: Any = ONE

    def forward(self) -> tuple[Phase, ...]:
        """One pass."""
        return (self._counted(self.called, self.reads, self.writes),)

    def backward(self) -> tuple[Phase, ...]:
        """One pass: reads the gradient and what forward kept, writes a gradient."""
        return (self._counted(f"{self.called} gradient", 2 * ONE, ONE),)

    def _counted(self, name: str, reads: Any, writes: Any) -> Phase:
        return stream(self, name, op=self.called, rows=ROWS, cols=COLS, reads=reads, writes=writes, vector=1)


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
