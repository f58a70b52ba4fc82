"""Masks as numbers: how many of n × n (query, key) pairs each leaves, exactly, and what blocks make of it.

A kernel works on blocks of queries, and a block computes every tile of keys that one of its queries
sees: more scores than pairs. Where the last block is shorter, all blocks are taken to be of mean length.
"""

from __future__ import annotations

from typing import NamedTuple

import sympy as sp

from costmodel.symbols import ChunkPairs, ceil_div

TWO = sp.Integer(2)


class Mask(NamedTuple):
    """What a mask leaves of the scores of one head.

    Attributes
    ----------
    pairs : Expr
        (query, key) pairs.
    tiles : Expr
        Tiles that a block of queries computes, on average: those with a pair.
    met : Expr
        Keys in these tiles, taken whole: a kernel computes what pads the last one, too.
    row, column : Expr
        Most keys that a query sees; most queries that see a key, which are no fewer.
    """

    pairs: sp.Expr
    tiles: sp.Expr
    met: sp.Expr
    row: sp.Expr
    column: sp.Expr


def window_pairs(n: sp.Expr, before: sp.Expr) -> sp.Expr:
    """Return the pairs where each query sees itself and so many before it: w·n − w(w−1)/2, w ≤ n."""
    before = sp.Min(before, n - 1)
    return (before + 1) * n - before * (before + 1) / 2


def local_pairs(n: sp.Expr, r: sp.Expr) -> sp.Expr:
    """Return the pairs at most r apart: n(2r+1) − r(r+1), r < n."""
    r = sp.Min(r, n - 1)
    return n * (2 * r + 1) - r * (r + 1)


def whole_before(n: sp.Expr, length: sp.Expr) -> sp.Expr:
    """Return Σ ⌊i/l⌋ over i < n: pairs of a position and a whole span of l positions before it."""
    spans = ceil_div(n - length, length)  # whole ones before the last position
    return n * spans - length * spans * (spans + 1) / 2


def global_pairs(n: sp.Expr, g: sp.Expr, r: sp.Expr) -> sp.Expr:
    """Return the pairs where g positions see all and all see them, and the others see ±r."""
    return g * n + (n - g) * g + local_pairs(n - g, r)


def half_width(w: sp.Expr) -> sp.Expr:
    """Return how far a window of w positions reaches to each side: ⌈(w − 1)/2⌉."""
    return ceil_div(w - 1, TWO)


# -- the same over n, the division done: keys that a query sees on average, tiles that a block meets --


def window_mean(n: sp.Expr, before: sp.Expr) -> sp.Expr:
    """Return `window_pairs` over n."""
    before = sp.Min(before, n - 1)
    return before + 1 - before * (before + 1) / (2 * n)


def local_mean(n: sp.Expr, r: sp.Expr) -> sp.Expr:
    """Return `local_pairs` over n."""
    r = sp.Min(r, n - 1)
    return 2 * r + 1 - r * (r + 1) / n


def global_tiles(blocks: sp.Expr, first: sp.Expr, others: sp.Expr) -> sp.Expr:
    """Return the tiles that a block meets on average: all for `first` global ones, else these and others."""
    whole = sp.Min(first, blocks)
    return whole + (1 - whole / blocks) * sp.Min(first + others, blocks)


def by_blocks(n: sp.Expr, b: sp.Expr, tiles: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Return the tiles that a block of queries meets on average, and the keys in them, tiles taken whole."""
    return tiles, sp.Min(n, tiles * b)


def causal_blocks(length: sp.Expr, b: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Return (tiles, keys) that a block of a causal sequence meets on average."""
    return by_blocks(length, b, (ceil_div(length, b) + 1) / 2)


# -- masks -------------------------------------------------------------------------------------


def window(n: sp.Expr, w: sp.Expr, b: sp.Expr) -> Mask:
    """Return a causal window of w; below the diagonal ⌈(w−1)/b⌉ diagonals of tiles hold a pair."""
    tiles = window_mean(ceil_div(n, b), ceil_div(w - 1, b))
    seen = sp.Min(w, n)
    return Mask(window_pairs(n, w - 1), *by_blocks(n, b, tiles), seen, seen)


def local(n: sp.Expr, r: sp.Expr, b: sp.Expr) -> Mask:
    """Return ±r: ⌈r/b⌉ diagonals of tiles on each side."""
    tiles = local_mean(ceil_div(n, b), ceil_div(r, b))
    seen = sp.Min(2 * r + 1, n)
    return Mask(local_pairs(n, r), *by_blocks(n, b, tiles), seen, seen)


def longformer(n: sp.Expr, r: sp.Expr, g: sp.Expr, b: sp.Expr) -> Mask:
    """Return g global tokens in front, ±r between the others; a window at the edge has all its tiles."""
    tiles = global_tiles(ceil_div(n, b), ceil_div(g, b), 2 * ceil_div(r, b) + 1)
    return Mask(global_pairs(n, sp.Min(g, n), r), *by_blocks(n, b, tiles), n, n)


def bigbird(n: sp.Expr, near: sp.Expr, g: sp.Expr, drawn: sp.Expr, b: sp.Expr) -> Mask:
    """Return BigBird's mask of whole tiles: g global tokens, `near` blocks around, `drawn` random tokens.

    At the edges random blocks take the place of those that the window lacks: all that are not global
    see equally many. A last block that is not full counts as its share of all, what pads it not at all.
    """
    blocks = ceil_div(n, b)
    tiles, met = by_blocks(n, b, global_tiles(blocks, ceil_div(g, b), near + ceil_div(drawn, b)))
    return Mask(n * tiles * n / blocks, tiles, met, n, n)


def blocks_of_density(n: sp.Expr, share: sp.Expr, b: sp.Expr) -> Mask:
    """Return a mask that keeps this share of the tiles, evenly, and for each query at least a block."""
    met = sp.Max(share * n, sp.Min(b, n))
    return Mask(n * met, sp.Max(share * ceil_div(n, b), 1), met, met, met)


def strided(n: sp.Expr, stride: sp.Expr, b: sp.Expr) -> Mask:
    """Return the l positions before a query, and every l-th before it.

    The first of the stride is the last of the window: i sees ⌊i/l⌋ − 1 beyond it. Blocks compute the
    stride with the sequence transposed: causal attention inside l classes of ⌈n/l⌉ positions.
    """
    near = window(n, stride + 1, b)
    far = whole_before(n, stride) - sp.Max(n - stride, 0)
    tiles, met = causal_blocks(ceil_div(n, stride), b)
    seen = near.row + sp.Max(ceil_div(n, stride) - 2, 0)
    return Mask(near.pairs + far, near.tiles + tiles, near.met + met, seen, seen)


def fixed(n: sp.Expr, stride: sp.Expr, c: sp.Expr, b: sp.Expr) -> Mask:
    """Return a query's own block of l up to itself, and the last c positions of every block before.

    Blocks compute the summaries gathered: all queries of a block see the same.
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
