"""What attention has to move at least, whatever the order of its loops: FlashAttention's lower bound."""

from __future__ import annotations

import sympy as sp


def attention_accesses(n: sp.Expr, d: sp.Expr, capacity: sp.Expr) -> sp.Expr:
    """Return N²·d²/M, the order of memory accesses that no exact attention can do without [elements].

    Dao et al., arXiv 2205.14135: FlashAttention makes Θ(N²d²/M) of them (Theorem 2), and there is no
    exact algorithm with o(N²d²/M) for all M between d and N·d (Proposition 3): at M = N·d that would be
    less than reading Q, K and V. An order, not a number: constants are left out, so it enters no lower
    bound of a time. It counts traffic between main memory and the on-chip memory of one head's worker.

    Parameters
    ----------
    n, d : Expr
        Length of the sequence, width of the head.
    capacity : Expr
        On-chip memory M [elements], d ≤ M ≤ N·d.
    """
    return n**2 * d**2 / capacity
