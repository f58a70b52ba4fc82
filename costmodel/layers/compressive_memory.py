"""Compressive memory: attention within segments, and a matrix of fixed size for everything before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.layers._attention import DV, HKV, HQ, B, D, N
from costmodel.layers._kernels import gemm, gradient_sum, multiplied_out, stream
from costmodel.layers._masked import BLOCK, _MaskedAttention
from costmodel.layers._pairs import Mask
from costmodel.symbols import CeilLog2, ChunkPairs, ceil_div, tree_depth

SEGMENTS = ceil_div(N, BLOCK)
#: Mean number of positions of a segment, and that of the longest one.
MEAN, LONGEST = N / SEGMENTS, sp.Min(BLOCK, N)


@dataclass(frozen=True, kw_only=True)
class CompressiveMemory(_MaskedAttention):
    """Infini-attention: causal softmax attention in segments of `block`, and a d_k × d_v memory of the past.

    After each segment M ← M + σ(K)ᵀ V and z ← z + Σ σ(k). A query reads σ(q) M / (σ(q) z), and a
    learned gate per head mixes that with the attention within the segment: 4·n·d_k·d_v FLOP per head,
    besides 4·d_h per pair. σ(x) = elu(x) + 1.
    """

    name: ClassVar[str] = "compressive-memory"
    family: ClassVar[str] = "sparse attention"
    source: ClassVar[str] = "Munkhdalai et al., arXiv 2404.07143, eq. 3–10 (Infini-attention, linear update)"
    not_counted: ClassVar[str] = (
        "projections; the scaling by 1/√d_h (folded into Q); the gate's sigmoid; the delta-rule variant"
    )
    defaults: ClassVar[dict[str, str | int]] = {**_MaskedAttention.defaults, "block": 2048}

    def mask(self) -> Mask:
        """Return the causal pairs of the segments, each of which is one tile."""
        return Mask(ChunkPairs(N, BLOCK), sp.Integer(1), MEAN, LONGEST, LONGEST)

    @property
    def pairs(self) -> sp.Expr:
        """Number of (query, key) pairs within the segments of one head; ``torch`` does not halve them."""
        pairs = self.mask().pairs
        return 2 * pairs - N if self.convention == "torch" else pairs

    def _kernel_options(self, direction: str) -> Mapping[str, Any]:
        return {**super()._kernel_options(direction), "causal": True}

    def _local(self, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        """Return the attention within the segments, which runs a causal kernel."""
        return tuple(
            replace(phase, op="attention_prefill") if phase.kernel == "attention" else phase
            for phase in phases
        )

    # -- sizes -----------------------------------------------------------------------------

    @property
    def _mapped(self) -> sp.Expr:
        """Number of elements of σ(Q) and σ(K)."""
        return B * N * (HQ + HKV) * D

    @property
    def _memory(self) -> sp.Expr:
        """Size of the memories between segments, with their sums, in the layer's format [bytes]."""
        return self.bytes * B * HKV * SEGMENTS * D * (DV + 1)

    def _product(
        self, name: str, m: sp.Expr, n: sp.Expr, k: sp.Expr, *, keys: bool = False, **more: Any
    ) -> Phase:
        """Return one product per segment and head, or with `keys` per segment and key head."""
        batch = B * SEGMENTS * (HKV if keys else HQ)
        phase = gemm(self, name, m=m, n=n, k=k, batch=batch, **more)
        return replace(phase, pram_depth=tree_depth(LONGEST if k == MEAN else k))

    def _pass(self, name: str, rows: sp.Expr, cols: sp.Expr, reads: int, writes: int, **counts: Any) -> Phase:
        return multiplied_out(stream(self, name, rows=rows, cols=cols, reads=reads, writes=writes, **counts))

    def _walk(self, name: str) -> Phase:
        """Return the running sums over segments, one segment after the other."""
        memory = self._pass(name, B * HKV * SEGMENTS, D * (DV + 1), 1, 1, vector=1, workspace=self._memory)
        return replace(memory, steps=SEGMENTS, pram_depth=SEGMENTS)

    # -- kernels ---------------------------------------------------------------------------

    def forward(self) -> tuple[Phase, ...]:
        """σ; each segment's update; the memories; the queries' reads of them; local attention; the gate."""
        rows, w, sums = B * HQ * N, self.bytes, self.bytes * B * HKV * SEGMENTS * D
        read_back = w * rows * DV
        mapped = self._pass(
            "feature map",
            B * N * (HQ + HKV),
            D,
            1,
            1,
            vector=3,
            special=1,
            depth=3,
            workspace=w * self._mapped,
        )
        return (
            mapped,
            self._product("segment states", D, DV, MEAN, keys=True, workspace=self._memory - sums),
            self._pass(
                "key sums", B * HKV * N, D, 1, 0,
                vector=1, depth=CeilLog2(LONGEST), extra_write=sums, workspace=sums,
            ),
            self._walk("memory accumulation"),
            self._product(
                "memory read", MEAN, DV, D, b_batch=B * SEGMENTS * HKV, workspace=read_back
            ),
            *self._local(super().forward()),
            # σ(q)·z takes 2·d_k, the division 1, and g·A_mem + (1 − g)·A_dot 3.
            self._pass(
                "gate", rows, DV, 2, 1,
                vector=4 + 2 * D / DV, depth=tree_depth(D) + 3, extra_read=w * rows * D + sums,
            ),
        )  # fmt: skip

    def backward(self) -> tuple[Phase, ...]:
        """The gate; local attention; two products per memory product, the memory sums from the end; σ.

        Q, K and V enter local attention and the memory: their gradients from the two are added.
        """
        rows, w, sums = B * HQ * N, self.bytes, self.bytes * B * HKV * SEGMENTS * D
        gate = self._pass(
            "gate gradient", rows, DV, 3, 2,
            # dA_dot, dA_mem 2; the gate's gradient 3 (difference, product, sum); over σ(q)·z 1, its sum 2.
            vector=8, depth=sp.Max(2 + CeilLog2(rows * DV), 2 + tree_depth(DV)),
            extra_read=self.stat_bytes * rows, extra_write=self.stat_bytes * rows,
            workspace=2 * w * rows * DV + self.stat_bytes * rows,
        )  # fmt: skip
        of_queries = self._pass(
            "query gradient, normaliser", rows, D, 2, 1,
            # dσ(q) − s·z 2; for z, a product and a sum over queries.
            vector=4, depth=sp.Max(2, 1 + CeilLog2(LONGEST)),
            extra_read=self.stat_bytes * rows + sums, extra_write=sums, workspace=sums,
        )  # fmt: skip
        of_keys = self._pass("key gradient, normaliser", B * HKV * N, D, 1, 1, vector=1, extra_read=sums)
        # Multiply by min(σ, 1), and add the local attention's gradients of Q and K.
        unmap = self._pass("feature map gradient", B * N * (HQ + HKV), D, 3, 1, vector=3, depth=3)
        values = self._product(
            "value gradient, memory", MEAN, DV, D, keys=True, workspace=w * B * N * HKV * DV
        )
        both = {"b_batch": B * SEGMENTS * HKV}
        return (
            gate,
            *self._local(super().backward()),
            self._product("query gradient, memory", MEAN, D, DV, **both),
            of_queries,
            self._product(
                "memory gradient", D, DV, MEAN, out_batch=B * SEGMENTS * HKV, workspace=self._memory - sums
            ),
            self._walk("memory gradient accumulation"),
            self._product("key gradient, memory", MEAN, D, DV, keys=True),
            of_keys,
            values,
            gradient_sum(self, rows=B * N * HKV, cols=DV),
            unmap,
        )

    def tensors(self) -> Tensors:
        """Q, K and V in, O out; the kept outputs are those of the two parts before the gate mixes them."""
        return replace(super().tensors(), kept_outputs=ZERO)

    def kept(self) -> sp.Expr:
        """What local attention keeps; σ(Q), σ(K), the memories, the queries' reads and their divisors."""
        rows = B * HQ * N
        return (
            super().kept() + self._memory + self.bytes * (self._mapped + rows * DV) + self.stat_bytes * rows
        )

    def parameters(self) -> sp.Expr:
        """One gate per head."""
        return HQ

    def path(self) -> sp.Expr:
        """The number of segments: the memory passes through each of them."""
        return SEGMENTS
