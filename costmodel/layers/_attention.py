"""Code shared by dense and tiled attention: pair counts, operands, projections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.errors import CostmodelError
from costmodel.layers._base import Layer
from costmodel.layers._kernels import gemm, gradient_sum, gradients, stream
from costmodel.layers._phases import leaving
from costmodel.layers._refusal import refuse
from costmodel.symbols import CeilLog2, symbols, tree_depth

B, N, NKV, HQ, HKV, D, DV, DM = symbols("batch seq seq_kv heads kv_heads head_dim value_dim d_model")


def causal_pairs(n: sp.Expr, n_kv: sp.Expr) -> sp.Expr:
    """Return the (query, key) pairs under a causal mask: n new queries after a prefix of n_kv − n keys.

    n·(n_kv − n) + n(n+1)/2; without a prefix n(n+1)/2.
    """
    return n * (n_kv - n) + n * (n + 1) / 2


@dataclass(frozen=True, kw_only=True)
class _Attention(Layer):
    """Softmax attention, softmax(Q Kᵀ / √d_h) V, in every head.

    Parameters
    ----------
    causal : bool
        Each query attends to the keys up to its own position. If `seq_kv` > `seq`,
        the keys before the queries are a cached prefix, which every query attends to.
    projections : bool
        Include the projections: Q, K and V are computed from the input (width `d_model`),
        and the output from the heads' outputs.
    cross : bool
        With `projections`: K and V are computed from another sequence of `seq_kv`
        positions (an encoder's output) instead of the queries' own sequence.
    """

    family: ClassVar[str] = "attention"
    required: ClassVar[tuple[str, ...]] = ("batch", "heads", "seq", "head_dim")
    defaults: ClassVar[dict[str, str | int]] = {
        "seq_kv": "seq",
        "kv_heads": "heads",
        "value_dim": "head_dim",
        "d_model": "heads*head_dim",
    }

    causal: bool = False
    projections: bool = False
    cross: bool = False

    def __post_init__(self) -> None:
        """Check the combination of options."""
        super().__post_init__()
        if self.cross and self.causal:
            raise CostmodelError(f"{self.name}: causal and cross exclude each other; give one of them")

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that `kv_heads` divides `heads`, and that the queries' own keys are among the keys."""
        check_heads(self, sizes)
        own = self.causal or (self.projections and not self.cross)
        if own:
            kind = "causal" if self.causal else "self"
            wanted = f"{kind} attention needs seq_kv of at least seq: the queries' own keys count"
            refuse(self, sizes["seq_kv"] < sizes["seq"], wanted, sizes, "seq_kv", "seq")

    # -- counts ----------------------------------------------------------------------------

    @property
    def pairs(self) -> sp.Expr:
        """Number of (query, key) pairs of one head."""
        if self.causal and self.convention != "torch":
            return causal_pairs(N, NKV)
        return N * NKV

    def tensors(self) -> Tensors:
        """Q, K and V in, O out; with projections, the sequence in and out and the projection weights."""
        w = self.bytes
        if not self.projections:
            queries, values = B * N * HQ, B * NKV * HKV
            return Tensors(inputs=w * (queries * D + values * (D + DV)), outputs=w * queries * DV)
        other = B * NKV * DM if self.cross else ZERO
        prefix = ZERO if self.cross else B * (NKV - N) * HKV * (D + DV)
        return Tensors(
            inputs=w * (B * N * DM + other + prefix),
            weights=w * self.parameters(),
            outputs=w * B * N * DM,
        )

    def parameters(self) -> sp.Expr:
        """Weights of the four projections, without bias."""
        if not self.projections:
            return ZERO
        return DM * (HQ * D + HKV * (D + DV) + HQ * DV)

    def _core_kept(self) -> sp.Expr:
        """Size of Q, K and V [bytes]."""
        return self.bytes * B * (N * HQ * D + NKV * HKV * (D + DV))

    def kept(self) -> sp.Expr:
        """What the core keeps; with projections, also the input and the heads' outputs."""
        outside = B * N * (DM + HQ * DV) + (B * NKV * DM if self.cross else 0)
        return self._core_kept() + (self.bytes * outside if self.projections else ZERO)

    # -- projections -----------------------------------------------------------------------

    def core_forward(self) -> tuple[Phase, ...]:
        """Return the kernels between projected Q, K, V and the heads' outputs."""
        raise NotImplementedError

    def core_backward(self) -> tuple[Phase, ...]:
        """Return the kernels of the core's backward pass."""
        raise NotImplementedError

    def _projections(self) -> tuple[tuple[str, sp.Expr, sp.Expr, sp.Expr], ...]:
        """(name, rows, input width, output width) of each projection."""
        keys = B * (NKV if self.cross else N)
        return (
            ("query projection", B * N, DM, HQ * D),
            ("key and value projection", keys, DM, HKV * (D + DV)),
            ("output projection", B * N, HQ * DV, DM),
        )

    def _project(self, name: str, rows: sp.Expr, inner: sp.Expr, outer: sp.Expr) -> Phase:
        intermediate = ZERO if name.startswith("output") else self.bytes * rows * outer
        return gemm(self, name, m=rows, n=outer, k=inner, workspace=intermediate)

    def forward(self) -> tuple[Phase, ...]:
        """The core, with the projections around it if they are included."""
        if not self.projections:
            return self.core_forward()
        query, keys, output = (self._project(*p) for p in self._projections())
        core = leaving(self.core_forward(), self.bytes * B * N * HQ * DV)
        return (query, replace(keys, beside=True), *core, output)

    def backward(self) -> tuple[Phase, ...]:
        """Two products per projection (input gradient, weight gradient), around the core's backward kernels.

        In self-attention the input receives one gradient through the queries and one through the keys and
        values; a last kernel adds the two.
        """
        if not self.projections:
            return self.core_backward()
        # Intermediates: dO of the heads, and the second of the two input gradients that are added.
        between = (ZERO, ZERO if self.cross else self.bytes * B * N * DM, self.bytes * B * N * HQ * DV)
        query, keys, output = (
            gradients(self, name, rows=rows, inner=inner, outer=outer, workspace=room)
            for (name, rows, inner, outer), room in zip(self._projections(), between, strict=True)
        )
        added = () if self.cross else (gradient_sum(self, rows=B * N, cols=DM),)
        core = leaving(self.core_backward(), self._core_kept())  # dQ, dK and dV are as large as Q, K and V
        return (*output, *core, *query, *keys, *added)


def gradient_row_sums(layer: Layer) -> Phase:
    """Return the row sums of dO∘O that backward needs for every query: D in FlashAttention's Algorithm 4."""
    heads = B * HQ
    return stream(
        layer,
        "row sums of dO∘O",
        rows=heads * N,
        cols=DV,
        reads=2,
        writes=0,
        # Rows are short and many fit a thread block, so this runs like an elementwise pass over both
        # tables, not like a norm with one block per row.
        op="elementwise_mul",
        borrowed=True,
        vector=2,
        depth=tree_depth(DV),
        extra_write=layer.stat_bytes * heads * N,
    )


def depth_forward(keys: sp.Expr, width: sp.Expr = D) -> sp.Expr:
    """Return the depth of attention to `keys` keys: score, softmax (a maximum and a sum), weighted values."""
    return tree_depth(width) + 2 * CeilLog2(keys) + 3 + tree_depth(keys)


def depth_backward(queries: sp.Expr, weighted: int = 2) -> sp.Expr:
    """Return the depth of attention's gradients over `queries` queries: P and dP recomputed, dS, the sum.

    `weighted` is the number of dependent operations that turn a score into P.
    """
    return sp.Max(tree_depth(D) + weighted, tree_depth(DV) + 1) + 1 + tree_depth(queries)


def check_heads(layer: Layer, sizes: Mapping[str, Any]) -> None:
    """Check that `kv_heads` divides `heads`: the method `check_sizes` of layers that need no more."""
    wanted = "heads must be a multiple of kv_heads, so that heads share keys evenly"
    refuse(layer, sizes["heads"] % sizes["kv_heads"], wanted, sizes, "heads", "kv_heads")
