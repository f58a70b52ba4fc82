"""A layer inside a model, with its sizes written in the model's own."""

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
        What it is in the model ("attention", "experts", "logits"): parts of one name are shown as one.
    layer : Layer
        With its static options; its direction is the model's.
    sizes : tuple of (str, Expr)
        Every size the layer takes, see `Part.of`.
    repeats : Expr
        How often the model has it, each time with weights of its own.
    shared : bool
        Whether its weights are not its own, and counted elsewhere or not at all: an earlier part's
        (tied embeddings), or an activation (a product of two activations).
    extra : Expr
        Learned numbers of the model that the layer does not count (biases, mixing weights, a table of
        positions), each time it runs; they occupy memory, and cost no time.
    keeps : Expr
        Share of what it keeps for backward that no other part keeps: 0 where that is another's input or
        result too, 1/L of a table that all L layers read.
    cached : Expr
        Numbers that it reads and an earlier step or pass wrote, each time it runs, where its layer does not
        say so (a decoder's states, an encoder's outputs).
    """

    name: str
    layer: Layer
    sizes: tuple[tuple[str, sp.Expr], ...]
    repeats: sp.Expr = ONE
    shared: bool = False
    extra: sp.Expr = ZERO
    keeps: sp.Expr = ONE
    cached: sp.Expr = ZERO

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
            As the part has them.
        **sizes : Expr or int
            The layer's sizes: symbols of `costmodel.symbols`, arithmetic on them, or numbers.

        Raises
        ------
        UnknownNameError
            If the layer takes no size of that name.
        SizeError
            If a size that it needs is missing, or whole numbers do not go together.
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
        """The layer's symbols, and what stands for them in the model."""
        return {symbol(name): value for name, value in self.sizes}

    def expression(self, of_layer: sp.Expr) -> sp.Expr:
        """Return one of the layer's expressions in the model's sizes."""
        return sp.sympify(of_layer).xreplace(self.replacements)

    def phase(self, of_layer: Phase) -> Phase:
        """Return one of the layer's kernels in the model's sizes, as often as the model has it."""
        one = of_layer.at(self.replacements)
        return dataclasses.replace(one, name=f"{self.name}: {one.name}", repeats=one.repeats * self.repeats)


def part_of(kernel: Mapping[str, Any]) -> str:
    """Return the part of a model that a kernel is of, a row of `Prediction.phases`: see `Part.phase`."""
    return str(kernel["phase"]).partition(": ")[0]
