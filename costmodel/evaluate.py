"""Evaluate symbolic counts: check and bind sizes, compile expressions once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray
from sympy.printing.numpy import NumPyPrinter

from costmodel.arguments import typed
from costmodel.errors import SizeError, shown, unknown_name
from costmodel.layers import Layer
from costmodel.symbols import DEVICE_SIZES, GLOSSARY, symbol
from costmodel.units import in_full

Array = NDArray[np.float64]
Number = float | Array


def _ceil_log2(x: Number) -> Number:
    """⌈log₂ x⌉ exactly: the exponent of x, less one where x is a power of two."""
    mantissa, exponent = np.frexp(x)
    return (exponent - (mantissa == 0.5)).astype(np.float64)  # type: ignore[no-any-return]


class _Printer(NumPyPrinter):  # type: ignore[misc]
    """Print NumPy code that broadcasts; SymPy's own ``Max`` and ``Min`` stack their arguments first."""

    def _nest(self, function: str, arguments: Sequence[sp.Expr]) -> str:
        text: str = self._print(arguments[0])
        for argument in arguments[1:]:
            text = f"{function}({text}, {self._print(argument)})"
        return text

    def _print_Max(self, expr: sp.Max) -> str:
        return self._nest("maximum", expr.args)

    def _print_Min(self, expr: sp.Min) -> str:
        return self._nest("minimum", expr.args)

    def _print_Piecewise(self, expr: sp.Piecewise) -> str:
        *cases, (otherwise, _) = expr.args
        text: str = self._print(otherwise)
        for value, condition in reversed(cases):
            text = f"where({self._print(condition)}, {self._print(value)}, {text})"
        return text

    def _print_Integer(self, expr: sp.Integer) -> str:
        # In int64, 4·B·H·N²·D overflows to 0, so every number is a float.
        return repr(float(expr))

    def _print_Pow(self, expr: sp.Pow, rational: bool = False) -> str:
        # A product is several times faster than numpy's power.
        base, exponent = expr.as_base_exp()
        if exponent.is_Integer and 2 <= int(exponent) <= 4:
            return "(" + "*".join([f"({self._print(base)})"] * int(exponent)) + ")"
        text: str = super()._print_Pow(expr, rational)
        return text


_NAMES = {
    "ceil": np.ceil,
    "ceil_log2": _ceil_log2,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "where": np.where,
}


def compile_expressions(
    expressions: Sequence[sp.Expr], arguments: Sequence[str]
) -> Callable[..., tuple[Number, ...]]:
    """Return a function of the named sizes that returns the expressions' values.

    Arguments are floats or float64 arrays, in the order of ``arguments``. Equal expressions are compiled
    once.
    """
    return _compiled(tuple(expressions), tuple(arguments))


@lru_cache(maxsize=4096)
def _compiled(
    expressions: tuple[sp.Expr, ...], arguments: tuple[str, ...]
) -> Callable[..., tuple[Number, ...]]:
    printer = _Printer({"fully_qualified_modules": False, "inline": True, "allow_unknown_functions": True})
    compiled: Callable[..., tuple[Number, ...]] = sp.lambdify(
        [symbol(name) for name in arguments],
        expressions,
        # The module itself: for its name SymPy would run `from numpy import *`, which takes 50 ms.
        modules=[_NAMES, np],
        printer=printer,
        cse=True,
        docstring_limit=0,  # writing the expressions out again takes as long as compiling them
    )
    return compiled


# -- shapes ------------------------------------------------------------------------------------


def as_size(name: str, value: ArrayLike) -> Number:
    """Check a size and return it as float or float64 array.

    Raises
    ------
    SizeError
        If it is not a number, not finite, not whole, below 1, or absurdly large.
    """
    return as_whole(f"size {name}", value, GLOSSARY[name].largest)


def as_one_size(name: str, value: ArrayLike) -> int:
    """Check a size that has to be one number, and return it.

    Raises
    ------
    SizeError
        As `as_size`, or if there are several numbers.
    """
    size = as_size(name, value)
    if not isinstance(size, float):
        raise SizeError(f"size {name}: wanted one whole number, got {size.size} of them")
    return int(size)


def as_whole(what: str, value: ArrayLike, largest: float) -> Number:
    """Check whole numbers of at least 1 and return them as float or float64 array; see `as_size`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 1 <= value <= largest and value == math.floor(value):
            return float(value)
        raise _size_error(what, value, largest)
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise SizeError(f"{what}: wanted a whole number of at least 1, got {shown(value)}") from None
    if array.size == 0:
        raise SizeError(f"{what}: wanted at least one value, got an empty array")
    if np.ma.is_masked(value):
        raise SizeError(f"{what}: wanted whole numbers, got an array with masked ones")
    if not (array.min() >= 1 and array.max() <= largest and (array == np.floor(array)).all()):
        good = (array >= 1) & (array <= largest) & (array == np.floor(array))
        raise _size_error(what, array[~good].flat[0], largest)
    return array if array.ndim else float(array)


def _size_error(what: str, value: object, largest: float) -> SizeError:
    number = float(value) if isinstance(value, (float, np.floating)) else value
    wanted = "a whole number of at least 1"
    if isinstance(number, (int, float)) and number > largest:
        wanted = f"at most {in_full(largest)}"
    if isinstance(number, int) and number.bit_length() > 64:
        text = f"a number of {number.bit_length()} bits"
    else:
        text = in_full(number) if isinstance(number, float) else str(number)
    return SizeError(f"{what}: wanted {wanted}, got {text}")


def bind(layer: Layer, shapes: Mapping[str, ArrayLike]) -> dict[str, Number]:
    """Return every size that a layer takes: the given ones, checked, and defaults for the rest.

    Raises
    ------
    UnknownNameError
        If a size is not in the vocabulary, or the layer does not take it.
    SizeError
        If a required size is missing, or a value is not a valid size.
    """
    bound: dict[str, Number] = {}
    for name, value in shapes.items():
        if name not in layer.required and name not in layer.defaults and name not in DEVICE_SIZES:
            raise layer.unknown_size(name)
        bound[name] = as_size(name, value)
    missing = [name for name in layer.required if name not in bound]
    if missing:
        raise SizeError(f"{layer.name} needs {', '.join(f'{n} ({layer.meaning(n)})' for n in missing)}")
    _check_shapes(layer, bound)
    for name, default in layer.defaults.items():
        if name not in bound:
            bound[name] = _default(layer, name, default, bound)
    layer.check_sizes(bound)
    return bound


def check_taken(names: Iterable[str], layers: Sequence[Layer]) -> None:
    """Raise UnknownNameError if there is a size that none of the layers takes."""
    taken = {name for layer in layers for name in layer.sizes()}
    for name in names:
        if name not in taken:
            raise unknown_name(f"size of {', '.join(layer.name for layer in layers)}", name, taken)


def _check_shapes(layer: Layer, bound: Mapping[str, Number]) -> None:
    """Raise SizeError unless the arrays broadcast against each other."""
    try:
        common_shape(bound.values())
    except ValueError:
        shapes = ", ".join(f"{name} {v.shape}" for name, v in bound.items() if not isinstance(v, float))
        raise SizeError(f"sizes of {layer.name} do not broadcast against each other: {shapes}") from None


def _default(layer: Layer, name: str, default: str | int, bound: Mapping[str, Number]) -> Number:
    if isinstance(default, int):
        return float(default)
    if default in bound:
        return bound[default]
    value: Number = eval(_arithmetic(default), _NO_NAMES, bound)
    whole = value.is_integer() if isinstance(value, float) else bool(np.all(value == np.floor(value)))
    if not whole:
        raise SizeError(f"{layer.name}: {name} defaults to {default}, which is not whole here; give {name}")
    return value


#: Builtins available to a default's expression: none.
_NO_NAMES: dict[str, Any] = {"__builtins__": {}}


@lru_cache(maxsize=256)
def _arithmetic(default: str) -> CodeType:
    """Compile a layer's default size, such as ``heads*head_dim``: arithmetic on other sizes."""
    return compile(default, "<default>", "eval")


def common_shape(sizes: Iterable[Number]) -> tuple[int, ...]:
    """Return the shape that sizes broadcast to: () if all are scalars."""
    shapes = [size.shape for size in sizes if not isinstance(size, float)]
    return np.broadcast_shapes(*shapes) if shapes else ()


# -- counts ------------------------------------------------------------------------------------


class Counts(dict[str, Any]):
    """Counts by name; accessing one that depends on a size that was not given raises an error naming it."""

    def __init__(self, values: Mapping[str, Any], absent: Mapping[str, tuple[str, ...]], layer: str) -> None:
        super().__init__(values)
        self._absent = absent
        self._layer = layer

    def __missing__(self, name: str) -> Any:
        """Raise an error that says why there is no such count."""
        if name in self._absent:
            sizes = " and ".join(f"{size}=… [bytes]" for size in self._absent[name])
            raise SizeError(f"{name} of {self._layer} depends on the device's on-chip memory: give {sizes}")
        raise unknown_name("count", name, self)


@lru_cache(maxsize=4096)
def _compiled_rows(
    layer: Layer, available: frozenset[str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]], tuple[str, ...], Callable[..., tuple[Number, ...]]]:
    needs = {name: sorted(s.name for s in row.free_symbols) for name, row in layer.cost.rows().items()}
    absent = {name: tuple(s for s in sizes if s not in available) for name, sizes in needs.items()}
    names = tuple(name for name in needs if not absent[name])
    arguments = tuple(sorted({size for name in names for size in needs[name]}))
    rows = layer.cost.rows()
    function = compile_expressions([rows[name] for name in names], arguments)
    return names, {name: sizes for name, sizes in absent.items() if sizes}, arguments, function


@typed
def evaluate(layer: Layer, **shapes: ArrayLike) -> Counts:
    """Return a layer's counts as numbers.

    Parameters
    ----------
    layer : Layer
        With its options.
    **shapes : int, float or array
        Its sizes by name, positive whole numbers; arrays broadcast against each other. Counts that
        depend on the on-chip memory need ``sram`` or ``onchip`` [bytes] too.

    Returns
    -------
    Counts
        ``matrix_flops``, ``vector_flops``, ``special_flops`` [FLOP],
        ``hbm_bytes``, ``l2_bytes``, ``compulsory_bytes``, ``footprint_bytes``,
        ``kept_bytes`` [bytes], ``depth``, ``pram_depth``, ``path``,
        ``launches``, ``parameters``: floats, or float64 arrays of the shape
        that the sizes broadcast to. `Cost` says what each of them counts.

    Raises
    ------
    UnknownNameError
        If the layer has no such size.
    SizeError
        If a size is missing, not a whole number of at least 1, or does not go with the others.
    """
    return counts_of(layer, bind(layer, shapes))


def counts_of(layer: Layer, bound: Mapping[str, Number]) -> Counts:
    """Return a layer's counts for sizes that `bind` has returned; see `evaluate`."""
    names, absent, arguments, function = _compiled_rows(layer, frozenset(bound))
    values = function(*(bound[name] for name in arguments))
    shape = common_shape(bound.values())
    counts = {name: spread(value, shape) for name, value in zip(names, values, strict=True)}
    return Counts(counts, absent, layer.name)


def spread(value: Any, shape: tuple[int, ...]) -> Any:
    """Return a value as float, or broadcast to that shape (constant expressions evaluate to 0-d values)."""
    if not shape:
        return float(value)
    return value if np.shape(value) == shape else np.broadcast_to(np.asarray(value, dtype=np.float64), shape)
