"""Softmax attention under a mask, in one kernel that visits only the tiles with unmasked pairs.

The base of sliding-window, strided, global and block-sparse attention. The loop order is
FlashAttention-2's (blocks of queries in the outer loop); tiles that are fully masked are skipped.
FlexAttention (Dong et al., arXiv 2412.05496) runs arbitrary masks this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import Phase, Tensors
from costmodel.layers._attention import (
    DV,
    HKV,
    HQ,
    B,
    D,
    N,
    check_heads,
    depth_backward,
    depth_forward,
    gradient_row_sums,
)
from costmodel.layers._base import Layer
from costmodel.layers._pairs import Mask
from costmodel.symbols import symbol

BLOCK = symbol("block")


@dataclass(frozen=True, kw_only=True)
class _MaskedAttention(Layer):
    """softmax(Q Kᵀ / √d_h + mask) V in every head, without projections.

    FLOPs count the pairs that the mask leaves; the size of the blocks of queries and keys, `block`,
    determines how often K and V are read again through the cache, and how many scores a kernel computes.
    """

    family: ClassVar[str] = "sparse attention"
    not_counted: ClassVar[str] = (
        "projections; the scaling by 1/√d_h (folded into Q); the index of the kept tiles; "
        "in FLOPs, masked scores of a kept tile"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {"kv_heads": "heads", "value_dim": "head_dim", "block": 128}

    check_sizes = check_heads

    def mask(self) -> Mask:
        """Return the mask's pairs and tiles for one head."""
        raise NotImplementedError

    # -- derived from the mask -------------------------------------------------------------

    @property
    def pairs(self) -> sp.Expr:
        """Number of unmasked (query, key) pairs of one head; ``torch`` counts all n²."""
        return N**2 if self.convention == "torch" else self.mask().pairs

    @property
    def visits(self) -> sp.Expr:
        """Number of (row of Q, block of K) visits in one head; the same for (block of Q, row of K)."""
        return N * self.mask().tiles

    def forward(self) -> tuple[Phase, ...]:
        """One kernel: maximum, subtract, sum, exp per score; O is rescaled at each tile and divided once."""
        heads, w, mask = B * HQ, self.bytes, self.mask()
        vector, special = ("vector", self.accumulate), ("special", self.accumulate)
        return (
            Phase(
                name="attention",
                kernel="attention",
                op=self._op,
                borrowed=True,
                sizes=self._sizes(),
                options=self._kernel_options("fwd"),
                flops={
                    ("matrix", self.dtype): 2 * heads * self.pairs * (D + DV),
                    vector: heads * (3 * self.pairs + DV * self.visits + N * DV),
                    special: heads * (self.pairs + self.visits),
                },
                spared={vector: heads * DV * self.visits, special: heads * self.visits},
                read=w * heads * N * D + self._keys(),
                write=w * heads * N * DV + self._statistics(),
                l2=w * heads * (D + DV) * self.visits,
                pram_depth=depth_forward(mask.row),
                workspace=self._statistics(),
            ),
        )

    def backward(self) -> tuple[Phase, ...]:
        """Row sums of dO∘O; then one kernel that recomputes the scores and makes dV, dP, dQ and dK."""
        heads, w, stat, mask = B * HQ, self.bytes, self.stat_bytes, self.mask()
        rows = gradient_row_sums(self)
        main = Phase(
            name="attention, backward",
            kernel="attention",
            op=self._op,
            borrowed=True,
            sizes=self._sizes(),
            options=self._kernel_options("bwd"),
            flops={
                ("matrix", self.dtype): heads * self.pairs * (6 * D + 4 * DV),
                # P = exp(S − LSE), dS = P∘(dP − D).
                ("vector", self.accumulate): 3 * heads * self.pairs,
                ("special", self.accumulate): heads * self.pairs,
            },
            read=self._keys() + w * heads * N * (D + DV) + 2 * stat * heads * N,
            write=self._keys() + w * heads * N * D,
            # Each block of K visits blocks of Q: it reads Q, dO and statistics again, and adds to dQ in fp32.
            l2=heads * self.visits * (w * (D + DV) + 2 * stat * (1 + D)),
            pram_depth=depth_backward(mask.column),
            workspace=self._statistics() * (1 + D),
        )
        return rows, main

    def tensors(self) -> Tensors:
        """Q, K and V in, O out; O is kept for backward."""
        outputs = self.bytes * B * N * HQ * DV
        inputs = self.bytes * B * N * HQ * D + self._keys()
        return Tensors(inputs=inputs, outputs=outputs, kept_outputs=outputs)

    def kept(self) -> sp.Expr:
        """Q, K, V, O and the log-sum-exp."""
        operands = self.tensors()
        return operands.inputs + operands.outputs + self._statistics()

    def _keys(self) -> sp.Expr:
        """Size of K and V [bytes]."""
        return self.bytes * B * N * HKV * (D + DV)

    def _statistics(self) -> sp.Expr:
        """Size of one statistic per row [bytes]."""
        return self.stat_bytes * B * HQ * N

    @property
    def _op(self) -> str:
        """The nearest measured kernel, by its name in the measurements."""
        return "attention_prefill_noncausal"

    def _sizes(self) -> Mapping[str, sp.Expr]:
        """Arguments of the kernel model: all queries, each with the mean number of keys in its tiles."""
        return {
            "batch": B,
            "heads": HQ,
            "kv_heads": HKV,
            "seq": N,
            "seq_kv": self.mask().met,
            "held": N,
            "head_dim": D,
            "value_dim": DV,
        }

    def _kernel_options(self, direction: str) -> Mapping[str, Any]:
        return {"dtype": self.dtype, "causal": False, "direction": direction}
