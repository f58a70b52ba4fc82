"""Attention under sparse masks: the Sparse Transformer's, BigBird's, and arbitrary block masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase
from costmodel.layers import _pairs
from costmodel.layers._attention import DV, HQ, B, D, N, depth_backward
from costmodel.layers._masked import BLOCK, _MaskedAttention
from costmodel.layers._pairs import Mask
from costmodel.layers._refusal import refuse
from costmodel.layers.tiled_attention import SCHEDULES
from costmodel.symbols import CeilLog2, ceil_div, symbols

STRIDE, SUMMARY, W, G, RANDOM, DENSITY = symbols("stride summary window globals random density")
PATTERNS = ("strided", "fixed")
TWO = sp.Integer(2)


@dataclass(frozen=True, kw_only=True)
class Strided(_MaskedAttention):
    """The Sparse Transformer's causal masks, both parts in one head: O(n·√n) pairs for a stride near √n.

    Parameters
    ----------
    pattern : str
        ``strided``: the `stride` positions before a query, and every `stride`-th position before it.
        ``fixed``: the query's own block of `stride` positions, and the last `summary` positions of
        every earlier block.
    """

    name: ClassVar[str] = "strided"
    source: ClassVar[str] = "Child et al., arXiv 1904.10509, §4.3, §5.1 (parts merged in a head), §5.5"
    defaults: ClassVar[dict[str, str | int]] = {**_MaskedAttention.defaults, "stride": 128, "summary": 8}

    pattern: str = "strided"

    def __post_init__(self) -> None:
        """Check the pattern."""
        super().__post_init__()
        self.check_options(pattern=PATTERNS)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that a summary is no longer than its block."""
        super().check_sizes(sizes)
        if self.pattern == "fixed":
            wanted = "summary must be at most stride, the length of a block"
            refuse(self, sizes["summary"] > sizes["stride"], wanted, sizes, "summary", "stride")

    def mask(self) -> Mask:
        """Return the pattern's mask."""
        if self.pattern == "fixed":
            return _pairs.fixed(N, STRIDE, SUMMARY, BLOCK)
        return _pairs.strided(N, STRIDE, BLOCK)

    def path(self) -> sp.Expr:
        """Two steps, along the stride (or to a summary) and in a block; one if queries see all positions."""
        if self.pattern == "strided":
            return sp.Min(TWO, STRIDE, sp.Max(ONE, ceil_div(N - 1, STRIDE)))
        return sp.Min(TWO, ceil_div(N, STRIDE), ceil_div(STRIDE, SUMMARY))


@dataclass(frozen=True, kw_only=True)
class BigBird(_MaskedAttention):
    """BigBird: global, window and random blocks of `block` tokens, O(n) tiles.

    The first `globals` tokens, a window of `window` tokens around the query's own block, and `random` tokens,
    each rounded up to whole blocks; all pairs of a kept tile count.
    """

    name: ClassVar[str] = "bigbird"
    source: ClassVar[str] = "Zaheer et al., arXiv 2007.14062, §2, Appendix D (blocks), Table 8 (base, ITC)"
    defaults: ClassVar[dict[str, str | int]] = {
        **_MaskedAttention.defaults,
        "block": 64,
        "window": 192,
        "globals": 128,
        "random": 192,
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "window": "tokens in the window of blocks around a token's own block, which is included"
    }

    def mask(self) -> Mask:
        """Return all pairs of the kept tiles."""
        return _pairs.bigbird(N, ceil_div(W, BLOCK), G, RANDOM, BLOCK)

    def path(self) -> sp.Expr:
        """Two steps, through a global block; one if all tiles are kept."""
        blocks = ceil_div(N, BLOCK)
        kept = ceil_div(G, BLOCK) + ceil_div(W, BLOCK) + ceil_div(RANDOM, BLOCK)
        return sp.Min(TWO, ceil_div(blocks, kept))


@dataclass(frozen=True, kw_only=True)
class BlockSparse(_MaskedAttention):
    """Block-sparse FlashAttention: `density` % of the `block` × `block` tiles are kept, 4·n²·d_h·s FLOP.

    Every block of queries keeps equally many tiles, and at least one; s is the share that is kept.

    Parameters
    ----------
    schedule : str
        ``fa1``: as in the paper, with blocks of K and V in the outer loop: 2·n·d + s·T_c·(3·n·d + 4·n)
        elements per head; backward as Algorithm 4, without the empty tiles. ``fa2``: blocks of Q in the
        outer loop, and O is written once.
    """

    name: ClassVar[str] = "block-sparse"
    source: ClassVar[str] = "Dao et al., arXiv 2205.14135, §3.3, Algorithm 5, Proposition 4"
    defaults: ClassVar[dict[str, str | int]] = {**_MaskedAttention.defaults, "density": 25}

    schedule: str = "fa1"

    def __post_init__(self) -> None:
        """Check the schedule."""
        super().__post_init__()
        self.check_options(schedule=SCHEDULES)

    def mask(self) -> Mask:
        """Return s·n² pairs, or at least those of one tile per block of queries."""
        return _pairs.blocks_of_density(N, DENSITY / 100, BLOCK)

    def path(self) -> sp.Expr:
        """⌈log₂⌉ of the number of blocks, as in the paper's butterfly pattern (§3.3)."""
        return sp.Max(ONE, CeilLog2(ceil_div(N, BLOCK)))

    def forward(self) -> tuple[Phase, ...]:
        """One kernel; with FA-1, the rows of Q, O, l and m go through memory for each tile."""
        (phase,) = super().forward()
        if self.schedule == "fa2":
            return (phase,)
        heads, w, visits = B * HQ, self.bytes, self.visits
        output = w * DV + 2 * self.stat_bytes
        vector, special = ("vector", self.accumulate), ("special", self.accumulate)
        # O is kept normalised: per tile two scalings, four operations on the statistics and two exps.
        flops = {
            **phase.flops,
            vector: heads * (3 * self.pairs + (2 * DV + 4) * visits),
            special: heads * (self.pairs + 2 * visits),
        }
        spared = {vector: heads * ((2 * DV + 4) * visits - N * DV), special: heads * 2 * visits}
        read = self._keys() + heads * visits * (w * D + output)
        write = heads * visits * output
        return (replace(phase, flops=flops, spared=spared, read=read, write=write, l2=ZERO),)

    def backward(self) -> tuple[Phase, ...]:
        """The scores again, and all gradients; FA-1's Q, O, dO, dQ, l and m go through memory per tile."""
        rows, main = super().backward()
        if self.schedule == "fa2":
            return rows, main
        heads, w, visits = B * HQ, self.bytes, self.visits
        # P = exp(S − m)/l; the row sum of dO∘O is recomputed at each visit.
        vector = ("vector", self.accumulate)
        return (
            replace(
                main,
                flops={**main.flops, vector: heads * (4 * self.pairs + 2 * DV * visits)},
                # FA-2 computes the row sums once, and P by an exponential alone.
                spared={vector: heads * (self.pairs + 2 * DV * (visits - N))},
                read=self._keys() + heads * visits * 2 * (w * (D + DV) + self.stat_bytes),
                write=self._keys() + heads * visits * w * D,
                l2=ZERO,
                pram_depth=depth_backward(self.mask().column, weighted=3),
                workspace=self._statistics(),
            ),
        )

    def _statistics(self) -> sp.Expr:
        """FA-1 stores l and m, FA-2 their log-sum-exp [bytes]."""
        return (2 if self.schedule == "fa1" else 1) * super()._statistics()
