"""Operands of layers that read by integer indices: table rows, experts, target tokens."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from costmodel.cost import ZERO, Tensors

#: Bytes of a token id (int64), and of an index into a list (int32): of an expert, an entry, a page, a node.
TOKEN_BYTES = sp.Integer(8)
PLACE_BYTES = sp.Integer(4)


@dataclass(frozen=True, kw_only=True)
class IndexedTensors(Tensors):
    """Operands where some have no gradient, and some may stay unread [bytes].

    `weights` are those read for the least demanding data: a lower bound also holds for a batch that
    repeats a single token.

    Attributes
    ----------
    indices : Expr
        Integers that select what is read, or name the target; kept for the backward pass.
    unread : Expr
        Weights that occupy memory, with their gradients, whether or not the data selects them.
    """

    indices: sp.Expr = ZERO
    unread: sp.Expr = ZERO

    def compulsory(self, direction: str) -> sp.Expr:
        """Return the bytes that have to move at least once; indices are read, and have no gradient."""
        return super().compulsory(direction) + self.indices

    def footprint(self, direction: str, kept: sp.Expr, workspace: sp.Expr) -> sp.Expr:
        """Return the memory occupied at once [bytes]: all weights, and for training all gradients."""
        occupied = super().footprint(direction, kept, workspace)
        return occupied + (self.indices + self.unread if direction == "fwd" else 2 * self.unread)
