"""Stacks of equal layers, and what backward recomputes instead of keeping it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sympy as sp

from costmodel.errors import unknown_name
from costmodel.layers._recompute import RECOMPUTE
from costmodel.models._part import Part


@dataclass(frozen=True)
class Stack:
    """Equal layers: the parts of one layer, and the number of layers.

    Iteration yields the parts of all layers.
    """

    layer: tuple[Part, ...]
    times: sp.Expr

    def __iter__(self) -> Iterator[Part]:
        """Yield each part once, with the repeats of the whole stack."""
        for part in self.layer:
            yield dataclasses.replace(part, repeats=part.repeats * self.times)

    def input(self) -> sp.Expr:
        """Return the size of one layer's input [bytes], which is what its first part reads."""
        first = self.layer[0]
        return first.expression(first.layer.tensors().inputs)

    def kept(self) -> sp.Expr:
        """Return what one layer keeps for backward without recomputation [bytes]."""
        return sp.Add(*(p.expression(p.layer.kept()) * p.repeats * p.keeps for p in self.layer))


def again(stacks: Iterable[Stack], recompute: str) -> tuple[Stack, ...]:
    """Return what backward recomputes, as stacks of which only each layer's input is kept.

    ``selective`` recomputes the cores of attention with stored scores (Korthikanti et al., arXiv 2205.05198,
    §5).

    Raises
    ------
    UnknownNameError
        If `recompute` is not one of ``RECOMPUTE``.
    """
    if recompute not in RECOMPUTE:
        raise unknown_name("recompute", recompute, RECOMPUTE)
    if recompute == "none":
        return ()
    if recompute == "full":
        return tuple(stacks)
    cores = (
        Stack((dataclasses.replace(part, repeats=sp.Integer(1)),), stack.times * part.repeats)
        for stack in stacks
        for part in stack.layer
        if part.layer.name == "dense-attention"
    )
    return tuple(cores)
