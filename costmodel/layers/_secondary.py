"""Exponentials of decays for single channels, which flash-linear-attention applies piece by piece.

A chunk's scores of keys that decay by channel are products of q e^b and k e^−b, and the second overflows
where decays are strong. Chunks are therefore cut into secondary chunks (Yang et al., arXiv 2312.06635,
section 4.3), of 16 tokens in flash-linear-attention. Scores between two of them are products relative to the
beginning of the later one; within one, the exponential of each pair is taken.

Functions of tokens return exponentials for each channel of a head, over all tokens.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from costmodel.cost import Phase
from costmodel.symbols import ChunkPairs, ceil_div

#: Tokens of a secondary chunk.
PIECE = 16


def squares(tokens: sp.Expr, chunk: sp.Expr | int) -> sp.Expr:
    """Return those of kernels that take whole squares of a piece: one for each token of it."""
    return tokens * sp.Min(PIECE, chunk, tokens)


def triangles(tokens: sp.Expr, chunk: sp.Expr | int) -> sp.Expr:
    """Return those of kernels that take each pair with itself or an earlier token of the piece."""
    return ChunkPairs(tokens, sp.Min(PIECE, chunk))


def between(tokens: sp.Expr, chunk: sp.Expr | int) -> sp.Expr:
    """Return those of kernels for each pair of pieces: of m, (m − 1)/2 for each query, as many for a key."""
    return tokens * (ceil_div(chunk, PIECE) - 1)


def in_rows(tokens: sp.Expr, chunk: sp.Expr | int) -> sp.Expr:
    """Return those of kernels for each row of pieces: all but the first of m once, (m − 1)/2 for each key."""
    pieces = ceil_div(chunk, PIECE)
    return tokens * (pieces - 1) * (1 / pieces + sp.Rational(1, 2))


def timed(phase: Phase, exponentials: sp.Expr) -> Phase:
    """Return a phase with exponentials that are timed, but are not part of its FLOPs."""
    return replace(phase, sizes={**phase.sizes, "exponentials": exponentials})
