"""Symbolic sizes: which dimensions of the inputs are symbols, and torch's symbols in ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy as sp

from costmodel.capture._data import CannotRun, caller
from costmodel.errors import CostmodelError
from costmodel.symbols import symbol

#: A dimension: (position or keyword of the input, axis).
Place = tuple[int | str, int]
Dims = Mapping[str, Place | Sequence[Place]]


def places(dims: Dims | None) -> dict[str, tuple[Place, ...]]:
    """Return the places of each named size, checked.

    Parameters
    ----------
    dims : mapping, optional
        ``{"batch": (0, 0), "seq": [(0, 1), ("mask", 1)]}``: size → (input, axis), or several of these.

    Raises
    ------
    UnknownNameError
        If a name is not a size of the vocabulary.
    CostmodelError
        If a place is not (input, axis).
    """
    found = {}
    for name, where in (dims or {}).items():
        symbol(name)
        several: Any = where if isinstance(where, list) else (where,)
        if isinstance(where, tuple) and where and isinstance(where[-1], tuple):
            several = where
        found[name] = tuple(_place(name, place) for place in several)
    return found


def _place(name: str, place: Any) -> Place:
    """Return a place, checked."""
    if isinstance(place, (tuple, list)) and len(place) == 2:
        where, axis = place
        if isinstance(where, (int, str)) and isinstance(axis, int):
            return where, axis
    raise CostmodelError(
        f"dims of {name!r}: wanted (input, axis), such as (0, 1) or ('input_ids', 1), got {place!r}"
    )


def from_dynamic_shapes(shapes: Mapping[str | int, Any] | Sequence[Any]) -> dict[str, list[Place]]:
    """Return dims from the notation of ``torch.export`` (``{"x": {0: Dim("batch")}}``).

    Raises
    ------
    CostmodelError
        If a dimension has no name.
    """
    found: dict[str, list[Place]] = {}
    inputs = shapes.items() if isinstance(shapes, Mapping) else enumerate(shapes)
    for where, axes in inputs:
        pairs = axes.items() if isinstance(axes, Mapping) else enumerate(axes or ())
        for axis, dim in pairs:
            if dim is None:
                continue
            name = dim if isinstance(dim, str) else getattr(dim, "__name__", None)
            if name is None:
                raise CostmodelError(
                    f"dims of input {where!r}, axis {axis}: wanted a name or torch.export.Dim, got {dim!r}"
                )
            found.setdefault(name, []).append((where, axis))
    return found


def _mod(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    return a - b * sp.floor(a / b)


def _half_to_even(a: sp.Expr) -> sp.Expr:
    """Return the nearest whole number, of two the even one, like Python's ``round``."""
    up = a + sp.Rational(1, 2)
    # The last difference is 0 where `up` is an odd whole number, else 1.
    return sp.floor(up) - 1 + sp.ceiling((up + 1) / 2) - sp.floor((up + 1) / 2)


#: torch's functions in size expressions, in SymPy's own functions.
_FUNCTIONS: Mapping[str, Callable[..., sp.Expr]] = {
    "FloorDiv": lambda a, b: sp.floor(a / b),
    "CleanDiv": lambda a, b: a / b,
    "IntTrueDiv": lambda a, b: a / b,
    "FloatTrueDiv": lambda a, b: a / b,
    "Mod": _mod,
    "PythonMod": _mod,
    "ModularIndexing": lambda a, b, c: _mod(sp.floor(a / b), c),
    "Max": sp.Max,
    "Min": sp.Min,
    "PowByNatural": sp.Pow,
    "FloatPow": sp.Pow,
    "ToFloat": lambda a: a,
    "FloorToInt": sp.floor,
    "TruncToInt": sp.floor,
    "CeilToInt": sp.ceiling,
    "RoundToInt": _half_to_even,
}


class Translation:
    """Translation of torch's symbolic sizes to the vocabulary's symbols, with a cache."""

    def __init__(self) -> None:
        self.names: dict[sp.Symbol, sp.Symbol] = {}
        self._known: dict[Any, sp.Expr] = {}

    def of(self, size: Any) -> sp.Expr:
        """Return a size (a number, or one of torch's) as an expression.

        Raises
        ------
        CannotRun
            If it depends on data.
        """
        if isinstance(size, int):
            return sp.Integer(size)
        return self.expression(size.node.expr)

    def expression(self, expression: Any) -> sp.Expr:
        """Return one of torch's expressions in the vocabulary's symbols."""
        if expression not in self._known:
            self._known[expression] = self._translate(expression)
        return self._known[expression]

    def _translate(self, expression: Any) -> sp.Expr:
        if expression.is_Symbol:
            if expression not in self.names:
                raise CannotRun(f"a size depends on data ({caller()}): give inputs of equal length, padded")
            return self.names[expression]
        if not expression.args:
            return sp.sympify(expression)
        arguments = [self.expression(argument) for argument in expression.args]
        return _FUNCTIONS.get(type(expression).__name__, expression.func)(*arguments)
