"""Conditions on a sweep's rows, ``seconds < 1e-3``, and formulas of its columns, ``cost / batch``.

Both are parsed as Python expressions; only arithmetic, comparisons, ``and``, ``or``, ``not``, ``in`` and a
few functions are allowed. They are never executed: their syntax trees are evaluated with NumPy's functions.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from costmodel.errors import CostmodelError, shown, unknown_name

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}


def _equal(one: Any, other: Any) -> Any:
    """Return where values are equal; comparing text with numbers is an error."""
    if len({np.asarray(value).dtype.kind in "USO" for value in (one, other)}) > 1:
        raise TypeError
    return one == other


def _is_among(value: Any, choices: tuple[Any, ...]) -> Any:
    """Return where a value equals one of the choices."""
    return functools.reduce(np.logical_or, (_equal(value, one) for one in choices), False)


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: _equal,
    ast.NotEq: lambda value, other: np.logical_not(_equal(value, other)),
    ast.In: _is_among,
    ast.NotIn: lambda value, choices: np.logical_not(_is_among(value, choices)),
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: np.logical_not,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "log2": np.log2,
    "max": lambda *values: functools.reduce(np.maximum, values),
    "min": lambda *values: functools.reduce(np.minimum, values),
    "sqrt": np.sqrt,
}
#: Functions of any number of values; to the others NumPy would take a second one as the place for the result.
_OF_MANY = ("max", "min")
#: Largest nesting depth.
_DEPTH = 100


@dataclass(frozen=True)
class _Expression:
    """An expression of columns.

    Attributes
    ----------
    text : str
        The expression as written.
    columns : frozenset of str
        The columns that it reads.
    """

    text: str
    columns: frozenset[str]

    #: Kind of NumPy's values that it has to have, and how messages call them, with an example.
    _kind: ClassVar[str]
    _wanted: ClassVar[str]

    def __call__(self, column: Callable[[str], Any]) -> Any:
        """Return the value at each row.

        Parameters
        ----------
        column : callable
            Returns a column by name: numbers, text, or arrays that broadcast against each other.

        Raises
        ------
        CostmodelError
            If text is compared with numbers or used in arithmetic, or the values are of another kind.
        """
        told = f"{type(self).__name__.lower()} {self.text!r}"
        try:
            with np.errstate(all="ignore"):
                found = np.asarray(_value(ast.parse(self.text, mode="eval").body, column))
        except (TypeError, ValueError):
            # NumPy's message names its own array types.
            raise CostmodelError(f"{told}: mixes text and numbers; compare like with like") from None
        if found.dtype.kind != self._kind:
            raise CostmodelError(f"{told}: wanted {self._wanted}")
        return found


class Condition(_Expression):
    """Whether each row is wanted."""

    _kind, _wanted = "b", "a comparison, such as 'seconds < 1e-3'"

    def parts(self) -> list[Condition]:
        """Return the conditions that are joined by ``and`` at the top level."""
        body = ast.parse(self.text, mode="eval").body
        joined = body.values if isinstance(body, ast.BoolOp) and isinstance(body.op, ast.And) else [body]
        return [Condition(ast.unparse(part), frozenset(_names(part))) for part in joined]


class Formula(_Expression):
    """A number for each row."""

    _kind, _wanted = "f", "a number, such as 'cost / batch'"


def condition(text: str, known: Collection[str]) -> Condition:
    """Return a condition, parsed and checked.

    Parameters
    ----------
    text : str
        The condition, such as ``"seconds < 1e-3 and bound == 'hbm'"``.
    known : collection of str
        The available columns.

    Raises
    ------
    CostmodelError
        If it is not an expression, or has more than arithmetic, comparisons and known functions.
    UnknownNameError
        If it names an unknown column or function.
    """
    return Condition(*_parsed(text, known, "condition", "seconds < 1e-3 and batch >= 8"))


def formula(text: str, known: Collection[str]) -> Formula:
    """Return a formula, such as ``"cost / batch"``, parsed and checked; see `condition`."""
    found = Formula(*_parsed(text, known, "formula", "cost / batch"))
    if not found.columns:
        raise CostmodelError(f"formula {text!r}: has no column; wanted one, such as 'cost / batch'")
    found(lambda _: np.ones(1))  # raises if it is a comparison
    return found


def _parsed(text: str, known: Collection[str], kind: str, example: str) -> tuple[str, frozenset[str]]:
    """Return the text and the columns of a checked expression."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise CostmodelError(f"{kind} {text!r}: wanted an expression, such as {example!r}") from None
    _check(tree, f"{kind} {shown(text)}", _DEPTH)
    names = frozenset(_names(tree))
    for name in sorted(names):
        if name not in known:
            raise unknown_name("column", name, known)
    return text.strip(), names


def _names(tree: ast.expr) -> set[str]:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}


def _check(node: ast.AST, whole: str, depth: int) -> None:
    """Refuse anything but arithmetic, comparisons and known functions; `whole` begins the message."""
    plain: tuple[type[ast.AST], ...] = (
        ast.Name,
        ast.Load,
        ast.BoolOp,
        ast.And,
        ast.Or,
        ast.Compare,
        ast.BinOp,
        ast.UnaryOp,
    )
    plain += (ast.Tuple, ast.List)
    known = isinstance(node, (*plain, *_BINARY, *_COMPARE, *_UNARY))
    if isinstance(node, ast.Constant):
        known = isinstance(node.value, str | int | float) and (not isinstance(node.value, int) or _fits(node))
    elif isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _FUNCTIONS:
            raise unknown_name("function", name or ast.unparse(node.func), _FUNCTIONS)
        if len(node.args) > 1 and name not in _OF_MANY:
            raise CostmodelError(f"{whole}: {name} takes one value, got {len(node.args)}")
        known = bool(node.args) and not node.keywords
    elif isinstance(node, ast.Compare):
        known = _looks_into_a_list(node)
    if depth == 0:
        raise CostmodelError(f"{whole}: nested more than {_DEPTH} deep")
    if not known:
        what = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
        raise CostmodelError(f"{whole}: {what} is not arithmetic or a comparison of columns")
    for child in ast.iter_child_nodes(node):
        _check(child, whole, depth - 1)


def _looks_into_a_list(node: ast.Compare) -> bool:
    """Return whether a chain of comparisons has `in` only at its end, and a list there."""
    pairs = zip(node.ops, node.comparators, strict=True)
    looked_into = [right for op, right in pairs if isinstance(op, ast.In | ast.NotIn)]
    listed = all(isinstance(right, ast.Tuple | ast.List) for right in looked_into)
    return listed and (not looked_into or looked_into == node.comparators[-1:])


def _fits(node: ast.Constant) -> bool:
    return abs(int(node.value)) < 2**63  # type: ignore[arg-type]


def _value(node: ast.expr, column: Callable[[str], Any]) -> Any:
    if isinstance(node, ast.Name):
        return column(node.id)
    if isinstance(node, ast.Constant):
        # Whole numbers become floats, as all sizes are: 10**30 does not wrap around.
        return float(node.value) if isinstance(node.value, int) else node.value
    return _joined(node, [_value(part, column) for part in _operands(node)])


def _operands(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.Tuple() | ast.List():
            return node.elts
        case ast.UnaryOp():
            return [node.operand]
        case ast.BinOp():
            return [node.left, node.right]
        case ast.BoolOp():
            return node.values
        case ast.Compare():
            return [node.left, *node.comparators]
    assert isinstance(node, ast.Call), "checked when the expression was read"
    return node.args


def _joined(node: ast.expr, values: list[Any]) -> Any:
    """Return the result of an operator or function on its operands' values."""
    match node:
        case ast.UnaryOp() | ast.BinOp():
            operators: dict[Any, Callable[..., Any]] = {**_UNARY, **_BINARY}
            return operators[type(node.op)](*values)
        case ast.BoolOp():
            return functools.reduce(np.logical_and if isinstance(node.op, ast.And) else np.logical_or, values)
        case ast.Compare():
            pairs = zip(node.ops, values, values[1:], strict=False)
            return functools.reduce(np.logical_and, (_COMPARE[type(op)](a, b) for op, a, b in pairs))
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](*values)
    return tuple(values)
