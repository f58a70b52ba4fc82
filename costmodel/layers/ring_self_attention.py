"""Ring Self-Attention: dense attention across devices; first the keys circulate, then the values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase, Tensors
from costmodel.layers._blockwise import CHUNK, DV, HKV, HQ, B, D, P, SequenceParallel
from costmodel.layers._devices import exchange
from costmodel.layers._kernels import addition, gemm, softmax
from costmodel.layers._phases import times

#: Number of positions of the whole sequence, with padding.
ALL = P * CHUNK


@dataclass(frozen=True, kw_only=True)
class RingSelfAttention(SequenceParallel):
    """Ring Self-Attention: dense attention of each device's queries with the keys of all devices.

    First the keys are passed from device to device p − 1 times, then, after the softmax, the values; each
    block is computed with once it has arrived. Nothing hides the transfers; a block is received in a buffer
    besides the one that is sent. Backward, both circulate again, and all-reduces sum the gradients of all
    keys and values: in all 8 (p − 1) messages of the size of a device's keys, as in tensor parallelism (Li et
    al. 2021, §3.2).
    """

    name: ClassVar[str] = "ring-self-attention"
    source: ClassVar[str] = "Li et al., arXiv 2105.13120, §3.1–3.2"
    not_counted: ClassVar[str] = "projections and feed-forward; masks (no block is skipped), dropout"

    def forward(self) -> tuple[Phase, ...]:
        """Q Kᵀ block by block, softmax, P V block by block."""
        scores = self.bytes * B * HQ * CHUNK * ALL
        return (
            self._pass_on("key transfer", self.keys),
            self._blocks("scores", m=CHUNK, n=CHUNK, k=D, b_batch=B * HKV, workspace=scores / P),
            softmax(self, "softmax", "fwd", rows=B * HQ * CHUNK, cols=ALL, workspace=scores),
            self._pass_on("value transfer", self.values),
            self._blocks("partial outputs", m=CHUNK, n=DV, k=CHUNK, b_batch=B * HKV),
            self._sum("sum of partial outputs", DV),
        )

    def backward(self) -> tuple[Phase, ...]:
        """The gradients of the values' product, of softmax and of the scores; two all-reduces."""
        scores = self.bytes * B * HQ * CHUNK * ALL
        return (
            self._pass_on("value transfer", self.values),
            self._blocks(
                "probability gradient", m=CHUNK, n=CHUNK, k=DV, b_batch=B * HKV, workspace=scores / P
            ),
            gemm(self, "value gradient", m=ALL, n=DV, k=CHUNK, batch=B * HQ, out_batch=B * HKV),
            self._add_up("value gradient all-reduce", self.values),
            softmax(self, "softmax gradient", "bwd", rows=B * HQ * CHUNK, cols=ALL, workspace=scores),
            self._pass_on("key transfer", self.keys),
            self._blocks("partial query gradients", m=CHUNK, n=D, k=CHUNK, b_batch=B * HKV),
            self._sum("sum of partial query gradients", D),
            gemm(self, "key gradient", m=ALL, n=D, k=CHUNK, batch=B * HQ, out_batch=B * HKV),
            self._add_up("key gradient all-reduce", self.keys),
        )

    def _pass_on(self, name: str, size: sp.Expr) -> Phase:
        return exchange(self, name, "send-receive", size, repeats=P - ONE, workspace=size)

    def _add_up(self, name: str, own: sp.Expr) -> Phase:
        """Return the all-reduce of all positions' gradients, of which only the device's own are a result."""
        return exchange(self, name, "all-reduce", P * own, workspace=(P - 1) * own)

    def _blocks(self, name: str, **sizes: sp.Expr) -> Phase:
        """Return a product in every head, once per device's block of keys or values."""
        return times((gemm(self, name, batch=B * HQ, **sizes),), P)[0]

    def _sum(self, name: str, cols: sp.Expr) -> Phase:
        """Return the additions that sum the blocks' results."""
        phase = addition(self, name, rows=B * HQ * CHUNK, cols=cols)
        return times((phase,), P - ONE)[0]

    def tensors(self) -> Tensors:
        """The device's Q, K and V in, its outputs out."""
        return replace(super().tensors(), kept_outputs=ZERO)

    def kept(self) -> sp.Expr:
        """Q, K, V and the probabilities of the device's queries over all keys."""
        return self.queries + self.keys + self.values + self.bytes * B * HQ * CHUNK * ALL
