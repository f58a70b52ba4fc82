"""Operands of layers that are told by integers what to read: rows of a table, experts, the right word."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from costmodel.cost import ZERO, Tensors

#: Bytes of a token's number (int64), and of a place in a list (int32): an expert, an entry, a page, a node.
TOKEN_BYTES = sp.Integer(8)
PLACE_BYTES = sp.Integer(4)


@dataclass(frozen=True, kw_only=True)
class IndexedTensors(Tensors):
    """Operands of which some have no gradient, and some may stay unread [bytes].

    `weights` are those that the least favourable data has to read: a lower bound holds for a batch of
    one and the same token too.

    Attributes
    ----------
    indices : Expr
        Integers that say what is read, or what is right; kept for the backward pass.
    unread : Expr
        Weights that occupy memory, and their gradients, whether the data asks for them or not.
    """

    indices: sp.Expr = ZERO
    unread: sp.Expr = ZERO

    def compulsory(self, direction: str) -> sp.Expr:
        """Return the bytes that have to move at least once; integers are read, and have no gradient."""
        return super().compulsory(direction) + self.indices

    def footprint(self, direction: str, kept: sp.Expr, workspace: sp.Expr) -> sp.Expr:
        """Return the memory occupied at once [bytes]: all weights, and for training all gradients."""
        occupied = super().footprint(direction, kept, workspace)
        return occupied + (self.indices + self.unread if direction == "fwd" else 2 * self.unread)
