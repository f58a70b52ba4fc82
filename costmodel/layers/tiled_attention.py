"""Tiled attention (FlashAttention): exact attention whose scores never leave the chip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.dtypes import dtype as parse_dtype
from costmodel.layers._attention import (
    DV,
    HKV,
    HQ,
    NKV,
    B,
    D,
    N,
    _Attention,
    depth_backward,
    depth_forward,
    gradient_row_sums,
)
from costmodel.symbols import CausalTiles, ceil_div, symbol

SCHEDULES = ("fa1", "fa2")


@dataclass(frozen=True, kw_only=True)
class TiledAttention(_Attention):
    """Exact attention in tiles with an online softmax: FlashAttention-1 and -2 (FA-1, FA-2).

    Parameters
    ----------
    schedule : str
        ``fa1``: blocks of K and V in the outer loop, blocks of Q in the inner one (FlashAttention
        Algorithm 1); O and the statistics go through memory T_c times.
        ``fa2``: blocks of Q in the outer loop (FlashAttention-2); O is written once, K
        and V are read again for each block of Q, mostly from the L2 cache.
        The measured kernels are of this kind, so above rung ``bound`` ``fa1`` differs in
        counts, not in time. The lower bound is the same for both schedules:
        it leaves out work that a tile repeats.
    tile : (int, int), optional
        Rows of Q and rows of K in a tile, B_r × B_c. The default is that of
        the paper for an on-chip memory of M elements: B_c = ⌈M/4d⌉; B_r = min(⌈M/4d⌉, d) for
        FA-1 and B_r = B_c for FA-2, where M is `sram`/element size. A tile that does not fit into
        a compute unit of a GPU is refused above rung ``bound``.
    """

    name: ClassVar[str] = "tiled-attention"
    source: ClassVar[str] = "Dao et al., arXiv 2205.14135, Algorithms 1 and 4; Dao, arXiv 2307.08691"
    not_counted: ClassVar[str] = (
        "the scaling by 1/√d_h (folded into Q), masks other than causal, dropout; above rung bound, the "
        "extra time of schedule=fa1"
    )

    schedule: str = "fa2"
    tile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the schedule."""
        super().__post_init__()
        self.check_options(schedule=SCHEDULES)

    # -- tiles -----------------------------------------------------------------------------

    @property
    def tile_rows(self) -> sp.Expr:
        """B_r, rows of Q in a tile."""
        if self.tile:
            return sp.Integer(self.tile[0])
        return sp.Min(self.tile_cols, D) if self.schedule == "fa1" else self.tile_cols

    @property
    def tile_cols(self) -> sp.Expr:
        """B_c, rows of K and V in a tile."""
        return sp.Integer(self.tile[1]) if self.tile else ceil_div(symbol("sram") / self.bytes, 4 * D)

    def on_chip(self, sizes: Mapping[str, Any]) -> Any:
        """Return the size of a given tile on chip: its Q, K and V, and O in fp32 (Algorithm 1, lines 6, 8).

        The scores are left out, as they may be computed piece by piece.
        """
        if self.tile is None:
            return 0.0
        rows, cols = self.tile
        width, values = sizes["head_dim"], sizes["value_dim"]
        operands = parse_dtype(self.dtype).bytes * (rows * width + cols * (width + values))
        return operands + int(self.stat_bytes) * rows * values

    @property
    def row_blocks(self) -> sp.Expr:
        """Number of blocks of Q, T_r = ⌈n/B_r⌉."""
        return ceil_div(N, self.tile_rows)

    @property
    def col_blocks(self) -> sp.Expr:
        """Number of blocks of K, T_c = ⌈n_kv/B_c⌉."""
        return ceil_div(NKV, self.tile_cols)

    @property
    def _masked(self) -> bool:
        return self.causal and self.convention != "torch"

    @property
    def visits(self) -> sp.Expr:
        """Number of (row of Q, block of K) visits in one head: Σ_i ⌈(keys seen by row i)/B_c⌉."""
        if not self._masked:
            return N * self.col_blocks
        return CausalTiles(N, NKV, self.tile_cols)

    @property
    def keys_met(self) -> sp.Expr:
        """Number of keys that blocks of Q read in one head: Σ over blocks of the keys their last row sees."""
        if not self._masked:
            return NKV * self.row_blocks
        # A new key is not read by the blocks of Q before its own block.
        return NKV * self.row_blocks + N - CausalTiles(N, N, self.tile_rows)

    # -- kernels ---------------------------------------------------------------------------

    def core_forward(self) -> tuple[Phase, ...]:
        """One kernel."""
        heads = B * HQ
        # Per score: maximum, subtract, sum. Per tile that a row visits: O is rescaled
        # (FA-1 keeps O normalised: twice), and at the end (FA-2) divided once.
        visits = self.visits
        rescale = {"fa1": 2 * DV * visits + 4 * visits, "fa2": DV * visits + N * DV}[self.schedule]
        exponents = {"fa1": 2 * visits, "fa2": visits}[self.schedule]  # of differences between statistics
        vector, special = ("vector", self.accumulate), ("special", self.accumulate)
        read, write, again = self._fa1_traffic() if self.schedule == "fa1" else self._fa2_traffic()
        return (
            Phase(
                name="attention",
                kernel="attention",
                op=self._op,
                sizes=self._sizes(),
                options=self._kernel_options("fwd"),
                flops={
                    ("matrix", self.dtype): 2 * heads * self.pairs * (D + DV),
                    vector: heads * (3 * self.pairs + rescale),
                    special: heads * (self.pairs + exponents),
                },
                # Whatever the tiles, O has to be divided once.
                spared={vector: heads * (rescale - N * DV), special: heads * exponents},
                read=read,
                write=write,
                l2=again,
                pram_depth=depth_forward(NKV),
                workspace=self._statistics(),
            ),
        )

    def core_backward(self) -> tuple[Phase, ...]:
        """Row sums of dO∘O, then one kernel that recomputes the scores."""
        heads, w = B * HQ, self.bytes
        keys = w * B * NKV * HKV * (D + DV)
        rows = gradient_row_sums(self)
        if self.schedule == "fa1":
            # Algorithm 4: K and V are read and dK and dV written once; per block of K, Q, O, dO and
            # the statistics are read, and dQ is read and written.
            visits = heads * self.visits
            read = keys + visits * (2 * w * (D + DV) + 2 * self.stat_bytes)
            write, again = keys + visits * w * D, ZERO
            # P = exp(S − m)/l, dS = P∘(dP − rowsum(dO∘O)): the row sum is recomputed at each visit.
            vector, weighted = heads * 4 * self.pairs + 2 * DV * visits, 3
            # FA-2 computes the row sums once, and P by an exponential alone.
            spared = heads * self.pairs + 2 * DV * (visits - heads * N)
        else:
            queries = w * heads * N * (D + DV)  # Q and dO
            stats = 2 * self.stat_bytes * heads * N
            read, write = keys + queries + stats, keys + w * heads * N * D
            # Each block of K visits blocks of Q: it reads Q, dO and statistics again, and adds to dQ in fp32.
            again = heads * self.visits * (w * (D + DV) + 2 * self.stat_bytes * (1 + D))
            # P = exp(S − LSE), dS = P∘(dP − D).
            vector, weighted, spared = heads * 3 * self.pairs, 2, ZERO
        recompute = 2 * heads * self.pairs * D
        products = 4 * heads * self.pairs * (D + DV)  # dV, dP; dQ, dK
        main = Phase(
            name="attention, backward",
            kernel="attention",
            op=self._op,
            sizes=self._sizes(),
            options=self._kernel_options("bwd"),
            flops={
                ("matrix", self.dtype): recompute + products,
                ("vector", self.accumulate): vector,
                ("special", self.accumulate): heads * self.pairs,
            },
            spared={("vector", self.accumulate): spared},
            read=read,
            write=write,
            l2=again,
            pram_depth=depth_backward(sp.Max(N, NKV), weighted),
            workspace=self._statistics()
            + (ZERO if self.schedule == "fa1" else self.stat_bytes * heads * N * D),
        )
        return (main,) if self.schedule == "fa1" else (rows, main)

    def _fa1_traffic(self) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        """FA-1: K and V once; per block of K, Q in, and O, l and m in (not the first time) and out."""
        w, heads, visits = self.bytes, B * HQ, self.visits
        keys = w * B * NKV * HKV * (D + DV)
        output = w * DV + 2 * self.stat_bytes
        read = keys + heads * (visits * w * D + (visits - N) * output)
        return read, heads * visits * output, ZERO

    def _fa2_traffic(self) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        """FA-2: Q, K and V in, O and the log-sum-exp out; K and V from the cache for every block of Q."""
        w, rows = self.bytes, B * HQ * N
        keys = w * B * NKV * HKV * (D + DV)
        again = w * B * HQ * (D + DV) * self.keys_met
        return w * rows * D + keys, w * rows * DV + self.stat_bytes * rows, again

    def _statistics(self) -> sp.Expr:
        """Size of the stored statistics: l and m for FA-1, their log-sum-exp for FA-2 [bytes]."""
        return (2 if self.schedule == "fa1" else 1) * self.stat_bytes * B * HQ * N

    @property
    def _op(self) -> str:
        return "attention_prefill" if self.causal else "attention_prefill_noncausal"

    def _sizes(self) -> Mapping[str, sp.Expr]:
        return {
            "batch": B,
            "heads": HQ,
            "kv_heads": HKV,
            "seq": N,
            "seq_kv": NKV,
            "head_dim": D,
            "value_dim": DV,
        }

    def _kernel_options(self, direction: str) -> Mapping[str, Any]:
        return {"dtype": self.dtype, "causal": self.causal, "tile": self.tile, "direction": direction}

    def tensors(self) -> Tensors:
        """The operands of any attention; without projections, O is kept for backward."""
        found = super().tensors()
        return found if self.projections else replace(found, kept_outputs=found.outputs)

    def kept(self) -> sp.Expr:
        """Q, K, V, O and the statistics: nothing of size n²."""
        outputs = ZERO if self.projections else self.bytes * B * N * HQ * DV
        return super().kept() + outputs + self._statistics()
