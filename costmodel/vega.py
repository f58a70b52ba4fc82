"""SymPy expressions as Vega expressions, so that a browser computes what Python does.

Vega's expression language is a small subset of JavaScript. Its numbers are float64, as NumPy's are here, and
it runs without `eval`. https://vega.github.io/vega/docs/expressions/
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import sympy as sp
from sympy.printing.codeprinter import CodePrinter
from sympy.printing.precedence import PRECEDENCE

from costmodel.errors import CostmodelError
from costmodel.symbols import CausalTiles, CeilLog, CeilLog2, ChunkPairs, Distinct, Factors


class _Log1m(sp.Function):  # type: ignore[misc]
    """log(1 − y) for 0 ≤ y < 1 at full precision for small y too: Vega has no log1p."""


class _Expm1(sp.Function):  # type: ignore[misc]
    """exp(z) − 1 at full precision for small z too: Vega has no expm1."""


#: Functions whose Vega code repeats an argument: a compound argument is assigned to a name first.
_REPEAT = (CeilLog2, CeilLog, ChunkPairs, CausalTiles, Factors, sp.Mod, _Log1m, _Expm1)
_BINARY = {sp.Eq: "==", sp.Ne: "!=", sp.Lt: "<", sp.Le: "<=", sp.Gt: ">", sp.Ge: ">="}


class _Printer(CodePrinter):  # type: ignore[misc]
    """Printer of an expression as Vega code."""

    printmethod = "_vega"
    language = "Vega"
    known_functions: ClassVar[dict[str, str]] = {
        "Abs": "abs",
        "floor": "floor",
        "ceiling": "ceil",
        "log": "log",
        "exp": "exp",
    }

    def __init__(self, signals: Iterable[str]) -> None:
        super().__init__({"strict": True})
        self._signals = frozenset(signals)

    # -- numbers and names -----------------------------------------------------------------

    def _print_Symbol(self, expr: sp.Symbol) -> str:
        return str(expr.name) if expr.name in self._signals else f"datum.{expr.name}"

    def _print_Integer(self, expr: sp.Integer) -> str:
        number = int(expr)
        return str(number) if abs(number) <= 2**53 else repr(float(number))

    def _print_Rational(self, expr: sp.Rational) -> str:
        return f"({self._print_Integer(expr.p)}/{self._print_Integer(expr.q)})"

    def _print_Float(self, expr: sp.Float) -> str:
        return repr(float(expr))

    def _print_Infinity(self, _: sp.Expr) -> str:
        return "(1/0)"

    def _print_BooleanTrue(self, _: sp.Expr) -> str:
        return "true"

    def _print_BooleanFalse(self, _: sp.Expr) -> str:
        return "false"

    # -- arithmetic ------------------------------------------------------------------------

    def _print_Mul(self, expr: sp.Mul) -> str:
        above, below = sp.fraction(expr, exact=True)
        if below == 1:
            sign, rest = ("-", -expr) if expr.could_extract_minus_sign() else ("", expr)
            factors = rest.args if rest.is_Mul else (rest,)
            return sign + "*".join(self.parenthesize(factor, PRECEDENCE["Mul"]) for factor in factors)
        return f"{self._group(above)}/{self._group(below)}"

    def _group(self, expr: sp.Expr) -> str:
        text: str = self._print(expr)
        return text if expr.is_Symbol or (expr.is_Integer and expr >= 0) else f"({text})"

    def _print_Pow(self, expr: sp.Pow) -> str:
        base, exponent = expr.args
        if exponent == sp.S.Half:
            return f"sqrt({self._print(base)})"
        if exponent.is_Integer and 2 <= int(exponent) <= 4 and base.is_Symbol:
            return "(" + "*".join([self._print(base)] * int(exponent)) + ")"
        if exponent.is_number and exponent.is_negative:
            return f"(1/{self._group(base**-exponent)})"
        return f"pow({self._print(base)}, {self._print(exponent)})"

    def _call(self, name: str, *arguments: sp.Expr) -> str:
        return f"{name}({', '.join(self._print(argument) for argument in arguments)})"

    def _print_Max(self, expr: sp.Max) -> str:
        return self._call("max", *expr.args)

    def _print_Min(self, expr: sp.Min) -> str:
        return self._call("min", *expr.args)

    def _print_Mod(self, expr: sp.Mod) -> str:
        # Vega's remainder has the sign of the dividend, SymPy's has that of the divisor.
        a, b = (self._group(argument) for argument in expr.args)
        if all(argument.is_nonnegative for argument in expr.args):
            return f"({a} % {b})"
        return f"((({a} % {b}) + {b}) % {b})"

    # -- conditions ------------------------------------------------------------------------

    def _print_Relational(self, expr: sp.Rel) -> str:
        return f"{self._group(expr.lhs)} {_BINARY[expr.func]} {self._group(expr.rhs)}"

    def _print_And(self, expr: sp.And) -> str:
        return " && ".join(f"({self._print(part)})" for part in expr.args)

    def _print_Or(self, expr: sp.Or) -> str:
        return " || ".join(f"({self._print(part)})" for part in expr.args)

    def _print_Not(self, expr: sp.Not) -> str:
        return f"!({self._print(expr.args[0])})"

    def _print_Piecewise(self, expr: sp.Piecewise) -> str:
        *cases, (last, certain) = expr.args
        if certain != sp.true:
            raise CostmodelError("a piecewise expression has no value for what its conditions leave out")
        text: str = self._print(last)
        for value, condition in reversed(cases):
            text = f"({self._print(condition)} ? {self._print(value)} : {text})"
        return text

    # -- functions of `costmodel.symbols`: exact for whole numbers up to 2⁵³ -----------------

    def _print_CeilDiv(self, expr: sp.Expr) -> str:
        # For a < 2⁵³ the quotient a/b is never rounded down to a whole number.
        a, b = (self._group(argument) for argument in expr.args)
        return f"ceil({a}/{b})"

    def _print_CeilLog2(self, expr: sp.Expr) -> str:
        return self._levels(self._print(expr.args[0]), "2", "LN2")

    def _print_CeilLog(self, expr: sp.Expr) -> str:
        x, base = (self._group(argument) for argument in expr.args)
        return self._levels(x, base, f"log({base})")

    @staticmethod
    def _levels(x: str, base: str, unit: str) -> str:
        """⌈log x⌉ from a quotient of logarithms, corrected by comparison with the adjacent powers."""
        guess = f"ceil(log({x})/{unit})"
        high, low = f"pow({base}, {guess} - 1) >= {x}", f"pow({base}, {guess}) < {x}"
        return f"({guess} - ({high} ? 1 : 0) + ({low} ? 1 : 0))"

    def _print_ChunkPairs(self, expr: sp.Expr) -> str:
        n, c = (self._group(argument) for argument in expr.args)
        left = f"({n} % {c})"
        return f"((({n} - {left})*({c} + 1) + {left}*({left} + 1))/2)"

    def _print_CausalTiles(self, expr: sp.Expr) -> str:
        n, n_kv, c = (self._group(argument) for argument in expr.args)

        def up_to(last: str) -> str:
            left = f"({last} % {c})"
            return f"(({last} - {left})/{c} + 1)*({last} + {left})/2"

        return f"({up_to(n_kv)} - {up_to(f'({n_kv} - {n})')})"

    def _print_Factors(self, expr: sp.Expr) -> str:
        level, p = self._print(CeilLog2(expr.args[0])), int(expr.args[1])
        return f"({' + '.join(f'pow(2, floor(({level} + {i})/{p}))' for i in range(p))})"

    def _print_Distinct(self, expr: sp.Expr) -> str:
        text: str = self._print(_spelt(expr))
        return text

    def _print__Log1m(self, expr: sp.Expr) -> str:
        y = self._group(expr.args[0])
        return f"({y} < 1e-4 ? -{y}*(1 + {y}*(1/2 + {y}*(1/3 + {y}/4))) : log(1 - {y}))"

    def _print__Expm1(self, expr: sp.Expr) -> str:
        z = self._group(expr.args[0])
        series = f"{z}*(1 + {z}/2*(1 + {z}/3*(1 + {z}/4*(1 + {z}/5))))"
        return f"(abs({z}) < 1e-3 ? {series} : exp({z}) - 1)"

    def _print_not_supported(self, expr: Any) -> str:
        raise CostmodelError(f"no Vega expression for {type(expr).__name__}: {expr}")

    emptyPrinter = _print_not_supported


def _spelt(expression: sp.Expr) -> sp.Expr:
    """Return an expression with `Distinct` replaced by functions that the printer supports."""
    return expression.replace(
        Distinct,
        lambda n, k, draws: sp.Max(
            k, -n * _Expm1(draws * _Log1m(sp.Min(k / n, 1 - sp.Rational(1, 2**53)))), evaluate=False
        ),
    )


def vega(expression: sp.Basic, signals: Iterable[str] = ()) -> str:
    """Return an expression as Vega code.

    Parameters
    ----------
    expression : Expr or Boolean
        An expression in sizes and the functions of `costmodel.symbols`.
    signals : iterable of str
        Names of symbols that are signals of the view; all others are fields of the datum.

    Raises
    ------
    CostmodelError
        If the expression has a function without Vega code.

    Examples
    --------
    >>> from costmodel.symbols import ceil_div, symbols
    >>> n, b = symbols("seq block")
    >>> vega(ceil_div(n, b) * b**2)
    '(datum.block*datum.block)*ceil(datum.seq/datum.block)'
    """
    return str(_Printer(signals)._print(expression))


def assignments(named: Sequence[tuple[str, sp.Expr]]) -> list[tuple[str, sp.Expr]]:
    """Return assignments that compute the named expressions, with common subexpressions computed once.

    Parameters
    ----------
    named : sequence of (str, Expr)
        Names and their expressions. Common subexpressions are called ``x0``, ``x1``, …

    Returns
    -------
    list of (str, Expr)
        In an order in which they can be computed; the named expressions are last.
    """
    fresh = sp.numbered_symbols("x", real=True)
    spelt = [_spelt(expression) for _, expression in named]
    shared, reduced = sp.cse(spelt, symbols=fresh, order="none")
    steps: list[tuple[str, sp.Expr]] = []
    for name, expression in [
        *((symbol.name, expression) for symbol, expression in shared),
        *((name, expression) for (name, _), expression in zip(named, reduced, strict=True)),
    ]:
        plain, before = _with_named_arguments(expression, fresh)
        steps += [*before, (name, plain)]
    return steps


def _with_named_arguments(expression: sp.Expr, fresh: Any) -> tuple[sp.Expr, list[tuple[str, sp.Expr]]]:
    """Assign each argument that would be written more than once to a name."""
    steps: list[tuple[str, sp.Expr]] = []
    while True:
        inner = next((part for part in sp.postorder_traversal(expression) if _unnamed(part)), None)
        if inner is None:
            return expression, steps
        argument = next(a for a in inner.args if a.args)
        symbol = next(fresh)
        steps.append((symbol.name, argument))
        expression = expression.xreplace({argument: symbol})


def _unnamed(part: sp.Basic) -> bool:
    return isinstance(part, _REPEAT) and any(argument.args for argument in part.args)
