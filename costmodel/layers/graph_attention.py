"""Attention along the edges of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, Phase, Tensors
from costmodel.layers._attention import DV, HQ, B, D, N, depth_backward, depth_forward, gradient_row_sums
from costmodel.layers._base import Layer
from costmodel.layers._indexed import PLACE_BYTES
from costmodel.layers._refusal import refuse
from costmodel.symbols import CeilLog, ceil_div, symbol

E = symbol("edges")


@dataclass(frozen=True, kw_only=True)
class GraphAttention(Layer):
    """Softmax attention where each node attends to its neighbours: 4·d_h FLOP per edge and head.

    Only edges are computed, not other pairs: the graph is stored in compressed rows (a start for each
    row, a node number for each edge), and one kernel gathers K and V edge by edge. All sequences and
    heads share the graph of `edges` edges, by default n times `degree`, self-loops included.
    The depth is that of a node which has all n nodes as neighbours.
    """

    name: ClassVar[str] = "graph-attention"
    family: ClassVar[str] = "sparse attention"
    source: ClassVar[str] = (
        "Tomczak & Kuppannagari, arXiv 2502.01659 (by edges); Veličković et al., arXiv 1710.10903"
    )
    not_counted: ClassVar[str] = "projections; the scaling of scores; edge features; building the graph"
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {
        "value_dim": "head_dim",
        "degree": 32,
        "edges": "seq*degree",
    }

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that every node has at least one edge, and none twice."""
        edges, nodes = sizes["edges"], sizes["seq"]
        wanted = "wanted edges from seq (one per node) to seq² (all pairs); seq times degree where not given"
        for wrong in (edges < nodes, edges > nodes * nodes):
            refuse(self, wrong, wanted, sizes, "edges", "seq")

    def _kernel(self, name: str, rows_read: int, rows_written: int, **counts: Any) -> Phase:
        """Return a kernel that gathers rows of K and V (and adds to their gradients) edge by edge."""
        return Phase(
            name=name,
            kernel="stream",
            op="elementwise_mul",
            borrowed=True,
            sizes={
                "rows": B * HQ * E,
                "cols": D + DV,
                "reads": sp.Integer(rows_read),
                "writes": sp.Integer(rows_written),
            },
            options={"dtype": self.dtype, "pattern": "elementwise"},
            **counts,
        )

    def forward(self) -> tuple[Phase, ...]:
        """One kernel: per edge a score, maximum, subtract, sum, exp and a value; per row a division."""
        edges, rows, w = B * HQ * E, B * HQ * N, self.bytes
        return (
            self._kernel(
                "attention along edges",
                1,
                0,
                flops={
                    ("matrix", self.dtype): 2 * edges * (D + DV),
                    ("vector", self.accumulate): 3 * edges + rows * DV,
                    ("special", self.accumulate): edges,
                },
                read=self.tensors().inputs + self._index(),
                write=w * rows * DV + self._statistics(),
                l2=w * edges * (D + DV),
                pram_depth=depth_forward(N),
                workspace=self._statistics() + self._index(),
            ),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Row sums of dO∘O; then per edge the score again, and its contributions to dQ, dK and dV."""
        edges, rows, w, stat = B * HQ * E, B * HQ * N, self.bytes, self.stat_bytes
        inputs = self.tensors().inputs
        main = self._kernel(
            "attention along edges, backward",
            2,
            1,
            flops={
                ("matrix", self.dtype): edges * (6 * D + 4 * DV),
                ("vector", self.accumulate): 3 * edges,
                ("special", self.accumulate): edges,
            },
            read=inputs + w * rows * DV + 2 * self._statistics() + self._index(),
            write=inputs,
            # K and V are gathered; dK and dV are accumulated in fp32.
            l2=edges * (D + DV) * (w + 2 * stat),
            pram_depth=depth_backward(N),
            workspace=self._statistics() + self._index() + stat * rows * (D + DV),
        )
        return gradient_row_sums(self), main

    def tensors(self) -> Tensors:
        """Q, K and V in, O out; the graph is no operand, as a rule may generate it."""
        tokens = self.bytes * B * N * HQ
        return Tensors(inputs=tokens * (2 * D + DV), outputs=tokens * DV, kept_outputs=tokens * DV)

    def kept(self) -> sp.Expr:
        """Q, K, V, O and the log-sum-exp."""
        operands = self.tensors()
        return operands.inputs + operands.outputs + self._statistics()

    def path(self) -> sp.Expr:
        """⌈log n⌉ to the base of the edges per node: no graph of that degree has shorter paths (Moore)."""
        return sp.Max(ONE, CeilLog(N, sp.Max(2, ceil_div(E, N))))

    def _statistics(self) -> sp.Expr:
        """Size of one statistic per row [bytes]."""
        return self.stat_bytes * B * HQ * N

    def _index(self) -> sp.Expr:
        """Size of the graph: the rows' starts and the edges' end nodes [bytes]."""
        return PLACE_BYTES * (E + N + 1)
