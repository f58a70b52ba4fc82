"""Masks written out: which query sees which key, counted pair by pair and tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

from .counted import blocks
from .kernels import Number

Sees = Callable[[int, int], bool]


@dataclass(frozen=True)
class Counts:
    """Counts of one head: pairs; mean tiles and keys per block of queries; longest row and column."""

    pairs: Number
    tiles: Number
    met: Number
    row: Number
    column: Number


def count(n: int, sees: Sees) -> int:
    return sum(sees(i, j) for i in range(n) for j in range(n))


def longest(n: int, sees: Sees) -> tuple[int, int]:
    rows = [sum(sees(i, j) for j in range(n)) for i in range(n)]
    columns = [sum(sees(i, j) for i in range(n)) for j in range(n)]
    return max(rows), max(columns)


def tiles(n: int, b: int, sees: Sees) -> int:
    """Count the tiles of b × b in which some query sees some key."""
    cut = blocks(n, b)
    return sum(any(sees(i, j) for i in rows for j in cols) for rows in cut for cols in cut)


def by_tiles(n: int, b: int, kept: Number) -> tuple[Number, Number]:
    """Return (tiles, keys) per block of queries; tiles are computed whole, up to the last key."""
    each = Fraction(kept) / len(blocks(n, b))
    return each, min(Fraction(n), each * b)


def causal_class(length: int, b: int) -> tuple[Number, Number]:
    return by_tiles(length, b, tiles(length, b, lambda i, j: j <= i))


# -- masks as the papers define them -----------------------------------------------------------


def window(w: int) -> Sees:
    return lambda i, j: 0 <= i - j < w


def local(r: int) -> Sees:
    return lambda i, j: abs(i - j) <= r


def around(w: int, g: int) -> Sees:
    """Return Longformer's mask: half a window to each side (rounded up), and g global tokens."""
    r = math.ceil((w - 1) / 2)
    return lambda i, j: i < g or j < g or abs(i - j) <= r


def strided(stride: int) -> Sees:
    """Return Child et al.'s strided mask (§4.3): {max(0, i − l), …, i} and {j : (i − j) mod l = 0}."""
    return lambda i, j: j <= i and (j >= max(0, i - stride) or (i - j) % stride == 0)


def fixed(stride: int, c: int) -> Sees:
    """Return Child et al.'s fixed mask: {j : ⌊j/l⌋ = ⌊i/l⌋} and {j : j mod l among the last c}."""
    return lambda i, j: j <= i and (j // stride == i // stride or j % stride >= stride - c)


@cache
def global_tiles(blocks: int, first: int, others: int) -> int:
    """Count tiles: rows of global blocks are whole, others have the global blocks and `others` more."""
    return sum(blocks if row < first else min(blocks, first + others) for row in range(blocks))


def of_layer(name: str, o: dict[str, Any], s: dict[str, int]) -> Counts:
    return _counted(name, tuple(sorted(o.items())), tuple(sorted(s.items())))


@cache
def _counted(name: str, options: tuple[Any, ...], sizes: tuple[Any, ...]) -> Counts:
    o, s = dict(options), dict(sizes)
    if name == "combiner":
        return _combiner(o["pattern"], s["seq"])
    if name in ("block-sparse", "bigbird", "compressive-memory"):
        return _of_blocks(name, o, s)
    n, b = s["seq"], s["block"]
    sees = {
        "sliding-window": lambda: window(s["window"]) if o["causal"] else local(s["window"] - 1),
        "longformer": lambda: around(s["window"], s["globals"]),
        "strided": lambda: (
            strided(s["stride"]) if o["pattern"] == "strided" else fixed(s["stride"], s["summary"])
        ),
    }[name]()
    pairs = count(n, sees)
    met = by_tiles(n, b, tiles(n, b, sees))
    if name == "longformer":
        side = 2 * math.ceil(math.ceil((s["window"] - 1) / 2) / b) + 1
        met = by_tiles(n, b, global_tiles(len(blocks(n, b)), math.ceil(s["globals"] / b), side))
    if name == "strided":
        met = _along_strides(o["pattern"], s, pairs)
    return Counts(pairs, *met, *longest(n, sees))


def _along_strides(pattern: str, s: dict[str, int], pairs: int) -> tuple[Number, Number]:
    """Return tiles and keys of a window and the stride's classes, or of a block and gathered summaries."""
    n, b, stride = s["seq"], s["block"], s["stride"]
    if pattern == "strided":
        near = by_tiles(n, b, tiles(n, b, window(stride + 1)))
        far = causal_class(math.ceil(n / stride), b)
        return near[0] + far[0], near[1] + far[1]
    own = causal_class(min(stride, n), b)
    gathered = pairs - sum(len(span) * (len(span) + 1) // 2 for span in blocks(n, stride))
    return own[0] + Fraction(gathered, n * b), own[1] + Fraction(gathered, n)


def _of_blocks(name: str, o: dict[str, Any], s: dict[str, int]) -> Counts:
    n, b = s["seq"], s["block"]
    cut = blocks(n, b)
    if name == "block-sparse":
        share = Fraction(s["density"], 100)
        met = max(share * n, min(b, n))  # at least one block per query
        return Counts(n * met, max(share * len(cut), 1), met, met, met)
    if name == "bigbird":
        first, near, drawn = (math.ceil(s[size] / b) for size in ("globals", "window", "random"))
        kept = global_tiles(len(cut), first, near + drawn)
        each, met = by_tiles(n, b, kept)
        return Counts(n * each * Fraction(n, len(cut)), each, met, n, n)
    full = o["convention"] == "torch"
    pairs = sum(1 for span in cut for i in span for j in span if full or j <= i)
    return Counts(pairs, 1, Fraction(n, len(cut)), len(cut[0]), len(cut[0]))


def _combiner(pattern: str, n: int) -> Counts:
    if pattern == "logsparse":
        # One span per binary digit 1 of i, and i itself; lengths between powers of two are padded.
        length = 1
        while length < n:
            length *= 2
        share = Fraction(n, length)
        digits = sum(bin(i).count("1") for i in range(length)) * share
        most = 1 + length.bit_length() - 1
        return Counts(n + digits, 1, most, most, n)
    side = math.isqrt(n - 1) + 1
    seen = [[*range(i - i % side, i + 1)] + [("span", k) for k in range(i // side)] for i in range(n)]
    keys = [key for row in seen for key in row]
    before = sum(i // side for i in range(n))
    column = max(keys.count(key) for key in set(keys))
    # Two tiles per query: its own span, and the summaries of earlier spans.
    return Counts(len(keys), 2, side + Fraction(before, n), max(map(len, seen)), column)
