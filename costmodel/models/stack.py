"""Equal layers one after the other, and what backward makes again instead of keeping it."""

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
    """A layer of the model, as its parts, and how many such layers there are.

    Iterated over, it gives the parts of all of them.
    """

    layer: tuple[Part, ...]
    times: sp.Expr

    def __iter__(self) -> Iterator[Part]:
        """Yield each part, as often as the stack has it."""
        for part in self.layer:
            yield dataclasses.replace(part, repeats=part.repeats * self.times)

    def input(self) -> sp.Expr:
        """Return the size of one layer's input [bytes]: it is what the first part reads."""
        first = self.layer[0]
        return first.expression(first.layer.tensors().inputs)

    def kept(self) -> sp.Expr:
        """Return what one layer keeps for backward, if nothing is computed again [bytes]."""
        return sp.Add(*(p.expression(p.layer.kept()) * p.repeats * p.keeps for p in self.layer))


def again(stacks: Iterable[Stack], recompute: str) -> tuple[Stack, ...]:
    """Return what backward computes again, as stacks of each of which only the input is kept.

    Selectively: the cores of attention that store their scores (Korthikanti et al., arXiv 2205.05198, §5).

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
