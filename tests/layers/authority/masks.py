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
    """Of one head: pairs; tiles and keys that a block of queries meets on average; longest row, column."""

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
    """Tiles of b × b in which some query sees some key."""
    cut = blocks(n, b)
    return sum(any(sees(i, j) for i in rows for j in cols) for rows in cut for cols in cut)


def by_tiles(n: int, b: int, kept: Number) -> tuple[Number, Number]:
    """(tiles, keys) of a block of queries: tiles are computed whole, as far as there are keys."""
    each = Fraction(kept) / len(blocks(n, b))
    return each, min(Fraction(n), each * b)


def causal_class(length: int, b: int) -> tuple[Number, Number]:
    return by_tiles(length, b, tiles(length, b, lambda i, j: j <= i))


# -- masks, in the papers' words ---------------------------------------------------------------


def window(w: int) -> Sees:
    return lambda i, j: 0 <= i - j < w


def local(r: int) -> Sees:
    return lambda i, j: abs(i - j) <= r


def around(w: int, g: int) -> Sees:
    """Longformer: half a window to each side (the odd position out at both), g tokens with all."""
    r = math.ceil((w - 1) / 2)
    return lambda i, j: i < g or j < g or abs(i - j) <= r


def strided(stride: int) -> Sees:
    """Child et al. §4.3: {max(0, i − l), …, i}, and {j : (i − j) mod l = 0}."""
    return lambda i, j: j <= i and (j >= max(0, i - stride) or (i - j) % stride == 0)


def fixed(stride: int, c: int) -> Sees:
    """{j : ⌊j/l⌋ = ⌊i/l⌋}, and {j : j mod l among the last c}."""
    return lambda i, j: j <= i and (j // stride == i // stride or j % stride >= stride - c)


@cache
def global_tiles(blocks: int, first: int, others: int) -> int:
    """Rows of global blocks are whole; every other has those and so many others, as long as there are."""
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
    """A window and the classes of the stride; or a block's own positions, and summaries gathered."""
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
        met = max(share * n, min(b, n))  # a block for each query at least
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
        # Spans of the binary digits of i, and i itself; a length between powers of two is padded.
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
    # Two tiles a query: its span, and the summaries of those before.
    return Counts(len(keys), 2, side + Fraction(before, n), max(map(len, seen)), column)
