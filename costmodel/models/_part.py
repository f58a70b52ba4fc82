"""A layer inside a model, with its sizes as expressions of the model's sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy as sp

from costmodel.arguments import typed
from costmodel.cost import ONE, ZERO, Phase
from costmodel.errors import SizeError, unknown_name
from costmodel.layers import Layer
from costmodel.symbols import as_symbols, symbol

Replacements = Mapping[sp.Symbol, sp.Expr]


@dataclass(frozen=True)
class Part:
    """A layer inside a model, with its sizes as expressions of the model's sizes.

    Attributes
    ----------
    name : str
        Its role in the model ("attention", "experts", "logits"); parts of the same name are shown as one.
    layer : Layer
        The layer with its options; its direction is the model's.
    sizes : tuple of (str, Expr)
        Every size that the layer takes; see `Part.of`.
    repeats : Expr
        How many times the model has it, each with its own weights.
    shared : bool
        Whether its weights are counted elsewhere (tied embeddings) or not at all (the second operand of a
        product is an activation).
    extra : Expr
        Learned numbers that the layer does not count (biases, mixing weights, a position table), per repeat;
        they occupy memory and take no time.
    keeps : Expr
        Share of what it keeps for backward that no other part keeps: 0 if another part keeps the same tensor,
        1/L for a tensor that all L layers read.
    cached : Expr
        Numbers, per repeat, that it reads from an earlier step or pass and that its layer does not declare
        (a decoder's states, an encoder's outputs).
    borrows : bool
        Whether the cache that it reads is that of another part, which counts it.
    """

    name: str
    layer: Layer
    sizes: tuple[tuple[str, sp.Expr], ...]
    repeats: sp.Expr = ONE
    shared: bool = False
    extra: sp.Expr = ZERO
    keeps: sp.Expr = ONE
    cached: sp.Expr = ZERO
    borrows: bool = False

    @classmethod
    @typed
    def of(
        cls,
        name: str,
        layer: Layer,
        *,
        repeats: sp.Expr | int = 1,
        shared: bool = False,
        **sizes: sp.Expr | int,
    ) -> Part:
        """Return a part; sizes that are not given have the layer's defaults.

        Parameters
        ----------
        name, layer, repeats, shared
            Attributes of the part.
        **sizes : Expr or int
            The layer's sizes: symbols of `costmodel.symbols`, arithmetic on them, or numbers.

        Raises
        ------
        UnknownNameError
            If the layer has no size of that name.
        SizeError
            If a required size is missing, or whole numbers are inconsistent.
        """
        for size in sizes:
            if size not in layer.sizes():
                raise unknown_name(f"size of {layer.name}", size, layer.sizes())
        given = {size: sp.sympify(value) for size, value in sizes.items()}
        missing = [size for size in layer.required if size not in given]
        if missing:
            raise SizeError(f"{name} ({layer.name}) needs {', '.join(missing)}")
        for size, default in layer.defaults.items():
            if size not in given:
                terms = {symbol(other): value for other, value in given.items()}
                given[size] = as_symbols(default).xreplace(terms)
        numbers = {size: float(value) for size, value in given.items() if value.is_number}
        if len(numbers) == len(given):
            layer.check_sizes(numbers)
        return cls(name, layer, tuple(given.items()), sp.sympify(repeats), shared)

    @cached_property
    def replacements(self) -> Replacements:
        """The layer's size symbols with their expressions in the model's sizes."""
        return {symbol(name): value for name, value in self.sizes}

    def expression(self, of_layer: sp.Expr) -> sp.Expr:
        """Return an expression of the layer in the model's sizes."""
        return sp.sympify(of_layer).xreplace(self.replacements)

    def phase(self, of_layer: Phase) -> Phase:
        """Return a kernel of the layer in the model's sizes, repeated as often as the model has the part."""
        one = of_layer.at(self.replacements)
        return dataclasses.replace(one, name=f"{self.name}: {one.name}", repeats=one.repeats * self.repeats)


def part_of(kernel: Mapping[str, Any]) -> str:
    """Return the part of a model that a row of `Prediction.phases` belongs to; see `Part.phase`."""
    return str(kernel["phase"]).partition(": ")[0]
