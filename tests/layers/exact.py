"""Exact values of expressions as whole numbers and fractions, without the package's own compiler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import sympy as sp

from costmodel.symbols import CausalTiles, CeilDiv, CeilLog, CeilLog2, ChunkPairs, Distinct, Factors

Number = int | Fraction


def exact(e: sp.Expr, sizes: Mapping[str, int]) -> Number:
    """Return the value of an expression at whole sizes.

    Raises
    ------
    ArithmeticError
        If it has none, such as a division by 0 or a logarithm of 0.
    """
    if e.is_Symbol:
        return sizes[e.name]
    if e.is_Rational:
        return int(e) if e.is_Integer else Fraction(int(e.p), int(e.q))
    if isinstance(e, sp.ceiling) and e.args[0].is_Pow and e.args[0].exp == sp.Rational(1, 2):
        return math.isqrt(int(exact(e.args[0].base, sizes)) - 1) + 1  # ⌈√x⌉, x ≥ 1
    values = [exact(argument, sizes) for argument in e.args]
    if e.is_Pow:
        base, power = values
        if Fraction(power).denominator != 1:
            raise ArithmeticError("a root")
        return Fraction(base) ** int(power)
    return sum(values) if e.is_Add else _function(e, values)


def _function(e: sp.Expr, values: list[Number]) -> Number:
    if e.is_Mul:
        return math.prod(values)
    if isinstance(e, CeilLog2):
        if values[0] <= 0:
            raise ArithmeticError("a logarithm of 0 or less")
        level = 0
        while 2**level < values[0]:
            level += 1
        return level
    if isinstance(e, CeilDiv):
        return math.ceil(Fraction(values[0]) / Fraction(values[1]))
    if e.func in (CeilLog, Distinct):
        return (_levels if e.func is CeilLog else _touched)(*values)
    if e.func in (ChunkPairs, CausalTiles, Factors):
        return {ChunkPairs: _paired, CausalTiles: _tiles_met, Factors: _factored}[e.func](*values)
    return {sp.ceiling: math.ceil, sp.Max: max, sp.Min: min}[e.func](*values)


def _levels(x: Number, base: Number) -> int:
    if x < 1 or base <= 1:
        raise ArithmeticError("a logarithm of less than 1, or to the base 1")
    level = 0
    while base**level < x:
        level += 1
    return level


def _factored(x: Number, p: Number) -> int:
    if x < 1 or p < 1:
        raise ArithmeticError("less than one point, or no factors")
    factors = [1] * int(p)
    while math.prod(factors) < x:
        factors[factors.index(min(factors))] *= 2
    return sum(factors)


def _paired(n: Number, c: Number) -> Number:
    if n < 1 or c < 1:
        raise ArithmeticError("no positions, or chunks of none")
    return sum(position % c + 1 for position in range(int(n)))


def _tiles_met(n: Number, n_kv: Number, c: Number) -> Number:
    if n < 1 or c < 1:
        raise ArithmeticError("no queries, or tiles of no keys")
    return sum(-(-seen // c) for seen in range(int(n_kv - n) + 1, int(n_kv) + 1))


def _touched(n: Number, k: Number, draws: Number) -> Number:
    if n < 1 or Fraction(draws).denominator != 1:
        raise ArithmeticError("of nothing, or a draw that is not whole")
    return n * (1 - (1 - Fraction(k) / n) ** int(draws))
