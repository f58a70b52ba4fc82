"""What devices that share a layer tell each other between its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers import Layer
from costmodel.layers._devices import exchange
from costmodel.symbols import symbols

M, COLS = symbols("m n")
#: A collective, and the one that its gradient takes: the adjoint. What each device computes a part of is
#: summed forward; backward each has used the sum, so that its gradients are summed.
ADJOINT = {"all-gather": "reduce-scatter", "reduce-scatter": "all-gather", "all-reduce": "all-reduce"}
#: Parts whose inner width is cut and whose result every device needs: their results are summed.
SUMMED = ("step, B and C",)


@dataclass(frozen=True, kw_only=True)
class Exchange(Layer):
    """Rows of all positions from each device's part of them, sums of them to each its part, or to all."""

    name: ClassVar[str] = "positions"
    family: ClassVar[str] = "many devices"
    source: ClassVar[str] = "Korthikanti et al., arXiv 2205.05198, §4.2.2: g and its conjugate"
    not_counted: ClassVar[str] = "gathering the input again for the weights' gradient, hidden behind products"
    required: ClassVar[tuple[str, ...]] = ("m", "n", "devices", "node")

    collective: str = "all-gather"

    def forward(self) -> tuple[Phase, ...]:
        """The collective."""
        return (exchange(self, "positions", self.collective, self.bytes * M * COLS),)

    def backward(self) -> tuple[Phase, ...]:
        """Its adjoint."""
        return (exchange(self, "positions", ADJOINT[self.collective], self.bytes * M * COLS),)

    def tensors(self) -> Tensors:
        """Rows of all positions, and one device's part of them."""
        return Tensors(inputs=self.bytes * M * COLS, outputs=ZERO)

    def kept(self) -> sp.Expr:
        """Nothing: what comes out is kept by what it goes into."""
        return ZERO
