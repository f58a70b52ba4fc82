"""Attention with materialised scores: every n × n matrix is written to memory and read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import Phase
from costmodel.layers._attention import DV, HKV, HQ, NKV, B, D, N, _Attention
from costmodel.layers._kernels import gemm, softmax, stream


@dataclass(frozen=True, kw_only=True)
class DenseAttention(_Attention):
    """Attention as a chain of whole-matrix kernels (FlashAttention paper, Algorithm 0).

    The scores S = QKᵀ are written; softmax reads S and writes P; the product P V reads P:
    4 N² elements per head besides Q, K, V and O. A causal mask halves the required
    FLOPs, not the memory.

    Parameters
    ----------
    mask : bool
        A separate kernel adds a mask to the scores (one more read
        and write of N²), as eager frameworks do.
    dropout : bool
        A separate kernel drops out probabilities, forward and backward (one more read and
        write of N², and a mask of one byte per element).
    """

    name: ClassVar[str] = "dense-attention"
    source: ClassVar[str] = (
        "Vaswani et al., arXiv 1706.03762, eq. 1; Dao et al., arXiv 2205.14135, Algorithm 0"
    )
    not_counted: ClassVar[str] = (
        "the scaling by 1/√d_h (folded into Q), biases, rotary embedding, reading the mask, random numbers"
    )

    mask: bool = False
    dropout: bool = False

    def _score_product(self, name: str, **sizes: sp.Expr) -> Phase:
        """Return a product in which one operand, or the result, is n × n per head."""
        share = self.pairs / (N * NKV)
        return gemm(self, name, batch=B * HQ, share=share, **sizes)

    def _score_pass(self, name: str, **counts: Any) -> Phase:
        """Return a pass over the n × n values of all heads."""
        share = self.pairs / (N * NKV)
        return stream(self, name, rows=B * HQ * N, cols=NKV, share=share, **counts)

    def _softmax(self, name: str, direction: str) -> Phase:
        """Return softmax of the scores, or its gradient, with an output matrix of its own."""
        share = self.pairs / (N * NKV)
        more = {"share": share, "workspace": self.bytes * B * HQ * N * NKV}
        return softmax(self, name, direction, rows=B * HQ * N, cols=NKV, **more)

    def core_forward(self) -> tuple[Phase, ...]:
        """QKᵀ; mask; softmax; dropout; PV."""
        scores = B * HQ * N * NKV
        matrix = self.bytes * scores
        phases = [self._score_product("scores", m=N, n=NKV, k=D, b_batch=B * HKV, workspace=matrix)]
        if self.mask:
            # In place, without a further matrix; the mask itself is one small matrix shared by all heads.
            phases.append(self._score_pass("mask", reads=1, writes=1, vector=1))
        phases.append(self._softmax("softmax", "fwd"))
        if self.dropout:
            kept = {"extra_write": scores, "workspace": matrix + scores}
            phases.append(self._score_pass("dropout", reads=1, writes=1, vector=2, depth=2, **kept))
        phases.append(self._score_product("values", m=N, n=DV, k=NKV, b_batch=B * HKV))
        return tuple(phases)

    def core_backward(self) -> tuple[Phase, ...]:
        """dV = PᵀdO; dP = dO Vᵀ; softmax's gradient; dQ = dS K; dK = dSᵀ Q."""
        scores = B * HQ * N * NKV
        matrix = self.bytes * scores
        phases = [
            self._score_product("value gradient", m=NKV, n=DV, k=N, out_batch=B * HKV),
            self._score_product("probability gradient", m=N, n=NKV, k=DV, b_batch=B * HKV, workspace=matrix),
        ]
        if self.dropout:
            counts = {"vector": 2, "depth": 2, "extra_read": scores}
            phases.append(self._score_pass("dropout gradient", reads=1, writes=1, **counts))
        phases.append(self._softmax("softmax gradient", "bwd"))
        if self.mask:
            phases.append(self._score_pass("mask gradient", reads=1, writes=1, vector=1))
        phases.append(self._score_product("query gradient", m=N, n=D, k=NKV, b_batch=B * HKV))
        phases.append(self._score_product("key gradient", m=NKV, n=D, k=N, out_batch=B * HKV))
        return tuple(phases)

    def kept(self) -> sp.Expr:
        """Q, K, V and P; with dropout also the dropout mask (one byte per element) and the dropped-out P."""
        scores = B * HQ * N * NKV
        return super().kept() + scores * (self.bytes + ((1 + self.bytes) if self.dropout else 0))
