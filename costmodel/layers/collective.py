"""A single collective between devices, as used between the parts of a layer that devices share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.errors import CostmodelError
from costmodel.layers._base import Layer
from costmodel.layers._devices import OTHERS, SENT, exchange
from costmodel.symbols import symbols

M, COLS = symbols("m n")
#: Each collective's adjoint, which its gradient runs. Where forward sums parts that the devices compute,
#: every device uses the sum, so that backward sums the gradients.
ADJOINT = {
    "all-reduce": "all-reduce",
    "all-gather": "reduce-scatter",
    "reduce-scatter": "all-gather",
    "all-to-all": "all-to-all",
    "send-receive": "send-receive",
}

#: Algorithms of an all-reduce; the other collectives have one each (`costmodel.kernels.collective`).
ALGORITHMS = ("auto", "custom", "ring", "tree", "switch", "one-shot", "two-shot", "multicast")


@dataclass(frozen=True, kw_only=True)
class Collective(Layer):
    """A collective between `devices`, over a buffer of m × n numbers per device.

    Parameters
    ----------
    collective : str
        ``all-reduce`` (every device gets the sum), ``all-gather`` (every device gets all parts),
        ``reduce-scatter`` (every device gets its part of the sum), ``all-to-all`` (devices exchange parts)
        or ``send-receive`` (every device sends its buffer on).
    algorithm : str
        ``auto``, the fastest of NCCL's; for an all-reduce also one of them (``ring``, ``tree``, ``switch``),
        a kernel in which the devices of a node read each other's memory (``one-shot``, ``two-shot``,
        ``multicast``), or ``custom``, the fastest of all six, as inference engines choose. It sets the time;
        the bytes sent are counted as in a ring, where no device sends more than it has to.
    """

    name: ClassVar[str] = "collective"
    family: ClassVar[str] = "distributed"
    source: ClassVar[str] = "Thakur et al. 2005, §4; Patarasuk & Yuan 2009; Chan et al. 2007, Table 1"
    not_counted: ClassVar[str] = "the library's own buffers; the smaller traffic of reductions in a switch"
    required: ClassVar[tuple[str, ...]] = ("m", "n", "devices")
    defaults: ClassVar[dict[str, str | int]] = {"node": "devices"}

    collective: str = "all-reduce"
    algorithm: str = "auto"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        self.check_options(collective=SENT)
        self.check_options(algorithm=ALGORITHMS)
        if self.algorithm != "auto" and self.collective != "all-reduce":
            raise CostmodelError(
                f"algorithm {self.algorithm} of collective: applies to an all-reduce, not to "
                f"collective={self.collective}; leave it out"
            )

    def forward(self) -> tuple[Phase, ...]:
        """The collective."""
        return (self._exchange(self.collective),)

    def backward(self) -> tuple[Phase, ...]:
        """The adjoint collective."""
        return (self._exchange(ADJOINT[self.collective]),)

    def _exchange(self, collective: str) -> Phase:
        # A single device has no neighbour to send to; in the other collectives its part to send is already 0.
        repeats = OTHERS if collective == "send-receive" else ONE
        named = None if self.algorithm == "auto" else self.algorithm
        size = self.bytes * M * COLS
        return exchange(self, collective, collective, size, repeats=repeats, algorithm=named)

    def tensors(self) -> Tensors:
        """The buffer, processed in place; a single device does nothing with it."""
        return Tensors(inputs=OTHERS * self.bytes * M * COLS, outputs=ZERO, linear=True)

    def kept(self) -> sp.Expr:
        """Nothing: the next layer keeps the result."""
        return ZERO
