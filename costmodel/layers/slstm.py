"""sLSTM: the xLSTM's scalar memory with exponential gates, whose recurrence is sequential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import Phase
from costmodel.layers._kernels import gemm
from costmodel.layers._recurrent import Cell, Recurrent
from costmodel.layers._refusal import refuse
from costmodel.symbols import ceil_div, symbols, tree_depth

B, T, H, HEADS, L = symbols("batch seq hidden heads num_layers")
#: Width of a head, and of its block of recurrent weights.
BLOCK = ceil_div(H, HEADS)

#: Forward: 4 adds (Wx + Rh); log σ(f) + m₋, maximum, i − m, f − m, 4; c and n 5; o·c/n 2; tanh, σ
#: twice, log, exp twice. Backward: dh accumulated 1; c/n, do, d(c/n) 3; dc 2, dn 2; df′ 3, di′ 2, dz 1;
#: dc and dn passed on 2; through the exps 2, log σ 2, tanh′ 3, σ′ 3.
EXPONENTIAL = Cell(
    gates=4,
    vector=15,
    special=6,
    vector_back=26,
    special_back=0,
    kept=8,
    states=4,
    chain=10,
    chain_back=9,
)


@dataclass(frozen=True, kw_only=True)
class SLSTM(Recurrent):
    """sLSTM: c ← f′ c + i′ z, n ← f′ n + i′, h = o c/n, with exponential gates i′ and f′.

    A running maximum m keeps the exponentials in range. The recurrent weights are block-diagonal, one block
    for each of `heads`: 2·4·B·n·H·(I + H/heads) matrix FLOP, in n dependent steps.
    """

    name: ClassVar[str] = "slstm"
    source: ClassVar[str] = "Beck et al., arXiv 2405.04517, eq. 8–18 and 31–38; NX-AI/xlstm"
    defaults: ClassVar[dict[str, str | int]] = {**Recurrent.defaults, "heads": 1}
    meanings: ClassVar[Mapping[str, str]] = {"heads": "heads, each with its own recurrent weights"}
    cell: ClassVar[Cell] = EXPONENTIAL
    bias_vectors: ClassVar[int] = 1

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that `heads` divides `hidden`."""
        wanted = "hidden must be a multiple of heads"
        refuse(self, sizes["hidden"] % sizes["heads"], wanted, sizes, "hidden", "heads")

    def _recurrent_weights(self) -> sp.Expr:
        return self.cell.gates * H * BLOCK

    def _state(self, states: int) -> sp.Expr:
        return states * H  # h, c, n, m

    def _chain_depth(self, direction: str) -> sp.Expr:
        if direction == "bwd_data":
            return tree_depth(self.cell.gates * BLOCK) + self.cell.chain_back
        return tree_depth(BLOCK) + 1 + self.cell.chain

    def _recurrence(self, direction: str, name: str, *, reads: sp.Expr, writes: sp.Expr) -> Phase:
        phase = super()._recurrence(direction, name, reads=reads, writes=writes)
        return replace(phase, sizes={**phase.sizes, "width": BLOCK})

    def _backward_weights(self) -> tuple[Phase, ...]:
        """The weight gradients of a recurrent layer, with one product per head's block."""
        *others, whole = super()._backward_weights()
        rows, blocks = self.cell.gates * BLOCK, self.ways * HEADS
        product = gemm(self, whole.name, m=rows, n=BLOCK, k=B * T, batch=blocks)
        sums = whole.write - self.bytes * self.ways * self.cell.gates * H * H  # the biases' gradients
        flops = {**whole.flops, **product.flops}
        return (*others, replace(product, flops=flops, write=product.write + sums, repeats=L))
