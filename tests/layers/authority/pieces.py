"""Exponentials of flash-linear-attention's kernels for decays of channels, in pieces of a chunk."""

from __future__ import annotations

from fractions import Fraction

#: Tokens of a piece.
PIECE = 16


def squares(n: int, c: int) -> int:
    """Return those of pairs within pieces, per channel of a head, where a loop over a piece takes all."""
    return n * min(PIECE, c, n)


def triangles(n: int, c: int) -> int:
    """Return the same where a token's loop ends with itself."""
    size = min(PIECE, c)
    return sum(i + 1 for first in range(0, n, size) for i in range(min(size, n - first)))


def by_pair(n: int, c: int) -> Fraction:
    """Return those between pieces if a block has one pair of them: 16 queries and 16 keys.

    Chunks count whole, however many tokens the last one has: as many for each token.
    """
    pieces = -(-c // PIECE)
    pairs = [(i, j) for i in range(pieces) for j in range(i)]
    return n * Fraction(len(pairs) * 2 * PIECE, pieces * PIECE)


def by_row(n: int, c: int) -> Fraction:
    """Return the same if a block has one piece of queries, and all pieces of keys before it."""
    pieces = -(-c // PIECE)
    taken = sum(PIECE + i * PIECE for i in range(1, pieces))
    return n * Fraction(taken, pieces * PIECE)
