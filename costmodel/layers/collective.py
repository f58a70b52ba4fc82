"""A collective between devices, by itself: what they tell each other between the parts of a shared layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._devices import OTHERS, SENT, exchange
from costmodel.symbols import symbols

M, COLS = symbols("m n")
#: A collective, and the one that its gradient takes: the adjoint. What each device computes a part of is
#: summed forward; backward each has used the sum, so that its gradients are summed.
ADJOINT = {
    "all-reduce": "all-reduce",
    "all-gather": "reduce-scatter",
    "reduce-scatter": "all-gather",
    "all-to-all": "all-to-all",
    "send-receive": "send-receive",
}

#: Of an all-reduce; the others have one each (`costmodel.kernels.collective`).
ALGORITHMS = ("auto", "ring", "tree", "switch")


@dataclass(frozen=True, kw_only=True)
class Collective(Layer):
    """A collective of `devices` over a buffer of m × n numbers a device: its sum, its parts, its exchange.

    Gathered from each device's part of it, summed to all or to each its part, or turned: sent on.

    Parameters
    ----------
    collective : str
        ``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all`` or ``send-receive``.
    algorithm : str
        ``auto``, the fastest there is; of an all-reduce ``ring``, ``tree`` or ``switch``. The time is its;
        what is sent is counted as in a ring, where no device sends more than it has to.
    """

    name: ClassVar[str] = "collective"
    family: ClassVar[str] = "many devices"
    source: ClassVar[str] = "Thakur et al. 2005, §4; Patarasuk & Yuan 2009; Chan et al. 2007, Table 1"
    not_counted: ClassVar[str] = "the library's own buffers; sums in a switch send less than is counted here"
    required: ClassVar[tuple[str, ...]] = ("m", "n", "devices")
    defaults: ClassVar[dict[str, str | int]] = {"node": "devices"}

    collective: str = "all-reduce"
    algorithm: str = "auto"

    def __post_init__(self) -> None:
        """Check which it is."""
        super().__post_init__()
        self.check_options(collective=SENT)
        self.check_options(algorithm=ALGORITHMS if self.collective == "all-reduce" else ALGORITHMS[:1])

    def forward(self) -> tuple[Phase, ...]:
        """The collective."""
        return (self._exchange(self.collective),)

    def backward(self) -> tuple[Phase, ...]:
        """Its adjoint."""
        return (self._exchange(ADJOINT[self.collective]),)

    def _exchange(self, collective: str) -> Phase:
        # Who has no neighbour sends it nothing; in all others there is then no part to send.
        repeats = OTHERS if collective == "send-receive" else ONE
        named = None if self.algorithm == "auto" else self.algorithm
        size = self.bytes * M * COLS
        return exchange(self, collective, collective, size, repeats=repeats, algorithm=named)

    def tensors(self) -> Tensors:
        """The buffer, worked on where it is; alone, a device has nothing to do with it."""
        return Tensors(inputs=OTHERS * self.bytes * M * COLS, outputs=ZERO, linear=True)

    def kept(self) -> sp.Expr:
        """Nothing: what comes out is kept by what it goes into."""
        return ZERO
