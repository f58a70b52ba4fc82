"""Attention masks as counts: the (query, key) pairs each leaves of n × n, and the tiles that blocks compute.

Pairs are exact. A kernel works on blocks of queries, and a block computes every tile of keys that any
of its queries sees, so it computes more scores than pairs. If the last block is shorter, all blocks
are taken to have the mean length.
"""

from __future__ import annotations

from typing import NamedTuple

import sympy as sp

from costmodel.symbols import ChunkPairs, ceil_div

TWO = sp.Integer(2)


class Mask(NamedTuple):
    """Counts of a mask for one head.

    Attributes
    ----------
    pairs : Expr
        Unmasked (query, key) pairs.
    tiles : Expr
        Mean number of tiles that a block of queries computes: those with at least one pair.
    met : Expr
        Keys in these tiles, each tile in full: a kernel also computes the padding of the last one.
    row, column : Expr
        Largest number of keys that a query sees; largest number of queries that see a key, which is at
        least as large.
    """

    pairs: sp.Expr
    tiles: sp.Expr
    met: sp.Expr
    row: sp.Expr
    column: sp.Expr


def window_pairs(n: sp.Expr, before: sp.Expr) -> sp.Expr:
    """Return the pairs if each query sees itself and `before` positions before it: w·n − w(w−1)/2, w ≤ n."""
    before = sp.Min(before, n - 1)
    return (before + 1) * n - before * (before + 1) / 2


def local_pairs(n: sp.Expr, r: sp.Expr) -> sp.Expr:
    """Return the pairs at most r positions apart: n(2r+1) − r(r+1), r < n."""
    r = sp.Min(r, n - 1)
    return n * (2 * r + 1) - r * (r + 1)


def whole_before(n: sp.Expr, length: sp.Expr) -> sp.Expr:
    """Return Σ ⌊i/l⌋ over i < n: pairs of a position and a complete span of l positions before it."""
    spans = ceil_div(n - length, length)  # complete ones before the last position
    return n * spans - length * spans * (spans + 1) / 2


def global_pairs(n: sp.Expr, g: sp.Expr, r: sp.Expr) -> sp.Expr:
    """Return the pairs if g positions see all and are seen by all, and the others see ±r."""
    return g * n + (n - g) * g + local_pairs(n - g, r)


def half_width(w: sp.Expr) -> sp.Expr:
    """Return how far a centred window of w positions reaches to each side: ⌈(w − 1)/2⌉."""
    return ceil_div(w - 1, TWO)


# -- the same divided by n: mean keys per query, mean tiles per block of queries -----------------


def window_mean(n: sp.Expr, before: sp.Expr) -> sp.Expr:
    """Return `window_pairs` divided by n."""
    before = sp.Min(before, n - 1)
    return before + 1 - before * (before + 1) / (2 * n)


def local_mean(n: sp.Expr, r: sp.Expr) -> sp.Expr:
    """Return `local_pairs` divided by n."""
    r = sp.Min(r, n - 1)
    return 2 * r + 1 - r * (r + 1) / n


def global_tiles(blocks: sp.Expr, first: sp.Expr, others: sp.Expr) -> sp.Expr:
    """Return the mean tiles per block: all of them for the `first` global blocks, else `first` + `others`."""
    whole = sp.Min(first, blocks)
    return whole + (1 - whole / blocks) * sp.Min(first + others, blocks)


def by_blocks(n: sp.Expr, b: sp.Expr, tiles: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Return (tiles, keys) per block of queries, on average; the keys are those of whole tiles."""
    return tiles, sp.Min(n, tiles * b)


def causal_blocks(length: sp.Expr, b: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Return (tiles, keys) per block of a causal sequence, on average."""
    return by_blocks(length, b, (ceil_div(length, b) + 1) / 2)


# -- masks -------------------------------------------------------------------------------------


def window(n: sp.Expr, w: sp.Expr, b: sp.Expr) -> Mask:
    """Return a causal window of w positions; below the diagonal, ⌈(w−1)/b⌉ diagonals of tiles hold pairs."""
    tiles = window_mean(ceil_div(n, b), ceil_div(w - 1, b))
    seen = sp.Min(w, n)
    return Mask(window_pairs(n, w - 1), *by_blocks(n, b, tiles), seen, seen)


def local(n: sp.Expr, r: sp.Expr, b: sp.Expr) -> Mask:
    """Return the mask ±r; ⌈r/b⌉ diagonals of tiles on each side hold pairs."""
    tiles = local_mean(ceil_div(n, b), ceil_div(r, b))
    seen = sp.Min(2 * r + 1, n)
    return Mask(local_pairs(n, r), *by_blocks(n, b, tiles), seen, seen)


def longformer(n: sp.Expr, r: sp.Expr, g: sp.Expr, b: sp.Expr) -> Mask:
    """Return Longformer's mask: g global tokens in front, ±r between the others.

    Windows at the ends of the sequence are counted with all their tiles.
    """
    tiles = global_tiles(ceil_div(n, b), ceil_div(g, b), 2 * ceil_div(r, b) + 1)
    return Mask(global_pairs(n, sp.Min(g, n), r), *by_blocks(n, b, tiles), n, n)


def bigbird(n: sp.Expr, near: sp.Expr, g: sp.Expr, drawn: sp.Expr, b: sp.Expr) -> Mask:
    """Return BigBird's mask of whole tiles: g global tokens, `near` blocks around, `drawn` random tokens.

    At the ends of the sequence, random blocks replace the blocks that the window lacks: all non-global
    blocks see equally many. A partial last block counts in proportion to its length, without padding.
    """
    blocks = ceil_div(n, b)
    tiles, met = by_blocks(n, b, global_tiles(blocks, ceil_div(g, b), near + ceil_div(drawn, b)))
    return Mask(n * tiles * n / blocks, tiles, met, n, n)


def blocks_of_density(n: sp.Expr, share: sp.Expr, b: sp.Expr) -> Mask:
    """Return a mask that keeps this share of the tiles, spread evenly, and at least one block per query."""
    met = sp.Max(share * n, sp.Min(b, n))
    return Mask(n * met, sp.Max(share * ceil_div(n, b), 1), met, met, met)


def strided(n: sp.Expr, stride: sp.Expr, b: sp.Expr) -> Mask:
    """Return the strided mask: the l positions before a query, and every l-th position before it.

    The nearest strided position also ends the window: i sees ⌊i/l⌋ − 1 positions beyond it. Kernels compute
    the strided part on the transposed sequence: causal attention within l classes of ⌈n/l⌉ positions.
    """
    near = window(n, stride + 1, b)
    far = whole_before(n, stride) - sp.Max(n - stride, 0)
    tiles, met = causal_blocks(ceil_div(n, stride), b)
    seen = near.row + sp.Max(ceil_div(n, stride) - 2, 0)
    return Mask(near.pairs + far, near.tiles + tiles, near.met + met, seen, seen)


def fixed(n: sp.Expr, stride: sp.Expr, c: sp.Expr, b: sp.Expr) -> Mask:
    """Return the fixed mask: a query's own block of l up to itself, and the last c positions of earlier ones.

    Kernels gather these summary positions first: all queries of a block see the same ones.
    """
    blocks, own = ceil_div(n, stride), sp.Min(stride, n)
    summaries = c * whole_before(n, stride)
    tiles, met = causal_blocks(own, b)
    last = n - stride * (blocks - 1)
    return Mask(
        ChunkPairs(n, stride) + summaries,
        tiles + summaries / (n * b),
        met + summaries / n,
        sp.Max(last + c * (blocks - 1), own + c * (blocks - 2)),
        sp.Max(own, n - stride + c),
    )
