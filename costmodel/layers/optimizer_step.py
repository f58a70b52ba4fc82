"""One optimiser step: every weight, its gradient and its state pass through memory once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._base import Layer
from costmodel.layers._kernels import stream
from costmodel.layers._refusal import refuse
from costmodel.symbols import symbols

P, TENSORS = symbols("params tensors")


class Operation(NamedTuple):
    """An operation on every number: the tables it reads and writes, and its arithmetic per number.

    Tables are ``p`` (weight), ``g`` (gradient), ``m``, ``v`` (state) and ``t`` (a temporary).
    """

    name: str
    reads: str
    writes: str
    vector: int
    special: int = 0


#: As written in torch.optim, without maximum, Nesterov momentum or damping; the bias corrections of the
#: first steps are scalars, not tables. AdamW's first line is the decay of Loshchilov & Hutter.
_ADAM = (
    Operation("first moment update", "mg", "m", 3),  # m + (1 − β₁)(g − m)
    Operation("second moment decay", "v", "v", 1),  # β₂·v
    Operation("second moment update", "vg", "v", 3),  # v + (1 − β₂)·g·g
    Operation("square root", "v", "t", 0, 1),
    Operation("bias correction", "t", "t", 1),
    Operation("epsilon addition", "t", "t", 1),
    Operation("update", "pmt", "p", 3),  # p − η·m/t
)
OPTIMISERS = {
    "sgd": (Operation("update", "pg", "p", 2),),  # p − η·g
    "momentum": (
        Operation("momentum decay", "m", "m", 1),
        Operation("momentum update", "mg", "m", 1),
        Operation("update", "pm", "p", 2),
    ),
    "adam": _ADAM,
    "adamw": (Operation("weight decay", "p", "p", 1), *_ADAM),
}
#: Dependent operations: the longest chain.
DEPTH = {"sgd": 2, "momentum": 4, "adam": 9, "adamw": 9}
IMPLEMENTATIONS = ("fused", "foreach", "loop")


@dataclass(frozen=True, kw_only=True)
class OptimizerStep(Layer):
    """The update of `params` parameters from their gradients.

    Mixed precision with Adam takes 2 bytes of weight and 2 of gradient, and 4 each of master weight, m and v:
    16 bytes per parameter occupied, 28 moved.

    Parameters
    ----------
    optimiser : str
        ``sgd``, ``momentum``, ``adam`` or ``adamw``.
    implementation : str
        ``fused``: one kernel for everything. ``foreach``: one kernel per operation, over all tensors.
        ``loop``: one kernel per operation and tensor, for `tensors` tensors of equal size.
    master : bool
        Whether weights narrower than fp32 have a master copy in fp32, and state in fp32. Otherwise
        everything is in the layer's dtype.
    """

    name: ClassVar[str] = "optimizer-step"
    family: ClassVar[str] = "training"
    source: ClassVar[str] = (
        "Kingma & Ba, arXiv 1412.6980, Algorithm 1; Loshchilov & Hutter, arXiv 1711.05101; "
        "Rajbhandari et al., arXiv 1910.02054, §3.1 (16 bytes)"
    )
    not_counted: ClassVar[str] = "gradient norms and clipping, loss scaling, first-step corrections"
    required: ClassVar[tuple[str, ...]] = ("params",)
    defaults: ClassVar[dict[str, str | int]] = {"tensors": 1}
    directions: ClassVar[tuple[str, ...]] = ("fwd",)

    optimiser: str = "adamw"
    implementation: str = "fused"
    master: bool = True

    def __post_init__(self) -> None:
        """Check the optimiser and the implementation."""
        super().__post_init__()
        self.check_options(optimiser=OPTIMISERS, implementation=IMPLEMENTATIONS)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that there are no more tensors than parameters."""
        wanted = "tensors must be no more than params: each has at least one number"
        refuse(self, sizes["tensors"] > sizes["params"], wanted, sizes, "tensors", "params")

    @property
    def _has_master(self) -> bool:
        """Whether the model's weights are narrow copies of fp32 master weights."""
        return self.master and self.bytes < self.stat_bytes

    @property
    def _state_width(self) -> sp.Expr:
        """Size of one number of state, and of the updated weight [bytes]."""
        return self.stat_bytes if self._has_master else self.bytes

    @property
    def _state(self) -> str:
        """The tables that persist from step to step, including the weight."""
        return "p" + "".join(sorted({x for o in OPTIMISERS[self.optimiser] for x in o.writes if x in "mv"}))

    @property
    def state_bytes(self) -> sp.Expr:
        """State per parameter, besides weight and gradient [bytes]: m, v and the master copy, if any."""
        tables = len(self._state) if self._has_master else len(self._state) - 1
        return tables * self._state_width

    def _pass(self, name: str, read: sp.Expr, write: sp.Expr, vector: int, special: int, depth: int) -> Phase:
        """Return a pass over all parameters that reads and writes this many bytes of each."""
        each = P / TENSORS if self.implementation == "loop" else P
        one = stream(
            self,
            name,
            rows=ONE,
            cols=each,
            reads=read / self.bytes,
            writes=write / self.bytes,
            vector=vector,
            special=special,
            depth=depth,
        )
        return replace(one, repeats=TENSORS) if self.implementation == "loop" else one

    def forward(self) -> tuple[Phase, ...]:
        """One kernel, or one per operation; further kernels convert narrow gradients and weights."""
        steps = OPTIMISERS[self.optimiser]
        if self.implementation == "fused":
            state = len(self._state) * self._state_width
            back = self.bytes if self._has_master else ZERO
            vector, special = sum(s.vector for s in steps), sum(s.special for s in steps)
            depth = DEPTH[self.optimiser]
            return (self._pass(self.optimiser, state + self.bytes, state + back, vector, special, depth),)
        return tuple(self._separate())

    def _separate(self) -> Iterator[Phase]:
        """Yield one kernel per operation."""
        if self._has_master:
            yield self._temporary(self._pass("gradient cast to fp32", self.bytes, self._state_width, 0, 0, 0))
        for step in OPTIMISERS[self.optimiser]:
            read, write = len(step.reads) * self._state_width, len(step.writes) * self._state_width
            depth = step.vector + step.special
            found = self._pass(step.name, read, write, step.vector, step.special, depth)
            yield self._temporary(found) if step.name == "square root" else found
        if self._has_master:
            yield self._pass(f"weight cast to {self.dtype}", self._state_width, self.bytes, 0, 0, 0)

    def _temporary(self, phase: Phase) -> Phase:
        """Return a kernel whose result is a temporary table, freed after the step."""
        return replace(phase, workspace=phase.write)

    def tensors(self) -> Tensors:
        """Gradients in; weights and state updated; narrow weights out."""
        return Tensors(
            inputs=self.bytes * P,
            updated=len(self._state) * self._state_width * P,
            outputs=self.bytes * P if self._has_master else ZERO,
        )

    def kept(self) -> sp.Expr:
        """Nothing."""
        return ZERO
