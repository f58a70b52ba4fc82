"""Asymptotic growth: the degree of a count in each size, and its O-class, derived from its expression.

The class is an upper bound on the expression itself: ⌈a/b⌉ grows as a/b + 1,
⌈log₂ x⌉ as log x, Max as a sum; 1/⌈x⌉ is at most 1/x; subtracted terms are
dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy as sp

from costmodel.cost import latex
from costmodel.layers import Layer
from costmodel.symbols import (
    GLOSSARY,
    CausalTiles,
    CeilDiv,
    CeilLog,
    CeilLog2,
    ChunkPairs,
    Distinct,
    Factors,
    Largest,
    as_symbols,
    ceil_div,
    symbol,
)

#: Order of the factors of a product: Table 1 has k·n·d² and r·n·d.
_ORDER = {
    name: i for i, name in enumerate(dict.fromkeys(("k", "window", "batch", "seq", "d_model", *GLOSSARY)))
}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Order:
    """A class O(…): monomials in sizes and their logarithms, none of which dominates another."""

    terms: tuple[sp.Expr, ...]

    def __str__(self) -> str:
        """Return the class as papers write it: ``O(n²·d)``."""
        return f"O({' + '.join(_text(term) for term in self.terms)})"

    @property
    def latex(self) -> str:
        """The class in LaTeX."""
        return rf"O\left({' + '.join(latex(term) for term in self.terms)}\right)"

    def _repr_latex_(self) -> str:
        return f"${self.latex}$"


@dataclass(frozen=True)
class Table1Row:
    """A row of "Attention Is All You Need", Table 1, for one sequence and one layer.

    Attributes
    ----------
    layer : str
        The layer's name.
    complexity, sequential, path : Order
        Complexity per layer, sequential operations, maximum path length.
    """

    layer: str
    complexity: Order
    sequential: Order
    path: Order


def degree(expression: sp.Expr, size: sp.Symbol | str) -> int | Fraction:
    """Return the power with which a count grows in one size, all others fixed; logarithms count as 0.

    Parameters
    ----------
    expression : Expr
        A count.
    size : Symbol or str
        The growing size.
    """
    grown = symbol(size) if isinstance(size, str) else size
    powers = [_powers(term).get(grown, sp.Integer(0)) for term in _monomials(expression)]
    highest = max(powers, default=sp.Integer(0))
    return int(highest) if highest.is_Integer else Fraction(int(highest.p), int(highest.q))


def complexity(expression: sp.Expr) -> Order:
    """Return the O-class of a count: constants and dominated monomials are dropped.

    A monomial is dominated by another that has at least the same power of every
    size (and, where these are equal, of its logarithm); 1 is dominated by any that grows.
    """
    terms = _monomials(expression)
    leading = [a for a in terms if not any(a != b and _dominates(b, a) for b in terms)]
    return Order(tuple(sorted(leading, key=_sort_key)) or (sp.Integer(1),))


def in_width(layer: Layer, expression: sp.Expr) -> sp.Expr:
    """Return a layer's count for one sequence and one layer, in the paper's variables.

    Defaults are filled in; hidden and input width become d, and so does
    heads · head_dim.
    """
    values = {name: as_symbols(text) for name, text in _derived(layer).items()}
    for _ in values:
        expression = expression.subs({symbol(name): value for name, value in values.items()})
    width, head = symbol("d_model"), symbol("head_dim")
    one = {symbol("batch"): 1, symbol("num_layers"): 1, symbol("hidden"): width}
    return sp.expand(expression.subs({**one, symbol("heads"): width / head}))


def table1(layers: Iterable[Layer]) -> list[Table1Row]:
    """Return the rows of Table 1 for these layers, derived from their symbolic costs.

    Source: Vaswani et al., arXiv 1706.03762, Table 1. Complexity counts all
    arithmetic, with constants dropped; if it depends on the tile, it is that for
    the smallest memory in which tiling works, one row (Dao et al. 2022,
    Theorem 2: d ≤ M).
    """
    smallest = {symbol("sram"): symbol("head_dim")}
    return [
        Table1Row(
            layer.name,
            complexity(in_width(layer, layer.cost.flops.total).subs(smallest)),
            complexity(in_width(layer, layer.cost.depth)),
            complexity(in_width(layer, layer.cost.path)),
        )
        for layer in layers
    ]


# -- bounds ------------------------------------------------------------------------------------


def _derived(layer: Layer) -> dict[str, str]:
    """Return the defaults that are expressions of other sizes."""
    return {name: value for name, value in layer.defaults.items() if isinstance(value, str)}


def _monomials(expression: sp.Expr) -> list[sp.Expr]:
    """Return the monomials, without constants, whose sum is an upper bound of a count."""
    bounded = sp.expand(_upper(sp.expand(expression)))
    found = {term.as_independent(*term.free_symbols)[1] for term in sp.Add.make_args(bounded) if term != 0}
    return sorted(found, key=_sort_key)


def _upper(e: sp.Expr) -> sp.Expr:
    """Return a sum of products that grows at least as fast as `e`."""
    if isinstance(e, sp.Add):
        return sp.Add(*(_upper(term) for term in e.args if not term.could_extract_minus_sign()))
    if isinstance(e, sp.Mul):
        return sp.Mul(*(_upper(factor) for factor in e.args))
    if isinstance(e, sp.Pow):
        base, exponent = e.as_base_exp()
        return (_upper(base) if exponent.is_positive else _lower(base)) ** exponent
    if e.func in _BOUNDS:
        return _BOUNDS[e.func](*e.args)
    return abs(e) if e.is_Number else e


def _lower(e: sp.Expr) -> sp.Expr:
    """Return a monomial that grows no faster than `e`, which is positive."""
    if isinstance(e, CeilDiv):
        return _lower(e.args[0]) / _upper(e.args[1])
    if isinstance(e, sp.ceiling):
        return _lower(e.args[0])
    if isinstance(e, sp.Mul):
        return sp.Mul(*(_lower(factor) for factor in e.args))
    if isinstance(e, (sp.Add, sp.Max)):
        # Each term alone is at most the sum: the one that grows fastest is the tightest.
        return min((_lower(part) for part in e.args if not part.is_Number), key=_sort_key)
    return e


def _log(e: sp.Expr) -> sp.Expr:
    """Return Σ log s over the sizes in which `e` grows: log(n·d) = log n + log d."""
    sizes = sorted(e.free_symbols, key=lambda s: s.name)
    return sp.Add(*(sp.log(size) for size in sizes if degree(e, size) > 0))


def _least(*arguments: sp.Expr) -> sp.Expr:
    """Return the tightest argument of a minimum: the one that grows least with the sequence."""
    return min(arguments, key=lambda part: (degree(part, "seq"), str(part)))


_BOUNDS: dict[Any, Callable[..., sp.Expr]] = {
    CeilDiv: lambda a, b: _upper(sp.expand(a / _lower(b))) + 1,
    sp.floor: lambda x: _upper(sp.expand(x)),
    sp.ceiling: lambda x: _upper(sp.expand(x)) + 1,
    CeilLog2: lambda x: _log(x) + 1,
    CeilLog: lambda x, base: _log(x) / sp.log(_lower(base)) + 1,
    ChunkPairs: lambda n, c: _upper(sp.expand(n * (c + 1))),
    CausalTiles: lambda n, n_kv, c: _upper(sp.expand(n * ceil_div(n_kv, c))),
    # A root of a sum is at most the sum of the roots.
    Factors: lambda x, p: sp.Add(*(term ** (1 / p) for term in sp.Add.make_args(_upper(sp.expand(x))))),
    Distinct: lambda n, k, draws: _upper(n),  # noqa: ARG005
    **dict.fromkeys((sp.Max, Largest), lambda *parts: sp.Add(*(_upper(sp.expand(part)) for part in parts))),
    sp.Min: lambda *parts: _upper(_least(*parts)),
}


# -- monomials ---------------------------------------------------------------------------------


def _powers(term: sp.Expr) -> dict[sp.Expr, sp.Rational]:
    """Return the power of each size and of each logarithm."""
    return {base: power for base, power in term.as_powers_dict().items() if not base.is_Number}


def _dominates(a: sp.Expr, b: sp.Expr) -> bool:
    """Return whether a grows at least as fast as b in every size; anything that grows dominates 1."""
    of_a, of_b = _powers(a), _powers(b)
    if not of_b:
        return any(power > 0 for power in of_a.values())

    def growth(powers: dict[sp.Expr, sp.Rational], size: sp.Symbol) -> tuple[sp.Rational, sp.Rational]:
        return powers.get(size, sp.Integer(0)), powers.get(sp.log(size), sp.Integer(0))

    return all(growth(of_a, s) >= growth(of_b, s) for s in a.free_symbols | b.free_symbols)


def _rank(factor: sp.Expr) -> tuple[bool, int]:
    """Return the sort key of a factor in a product: logarithms last."""
    size = next(iter(factor.free_symbols))
    return isinstance(factor, sp.log), _ORDER.get(size.name, len(_ORDER))


def _sort_key(term: sp.Expr) -> tuple[Any, ...]:
    """Return the sort key of a monomial: highest total power first, then more of the first sizes."""
    powers = _powers(term)
    return -sum(powers.values()), *(-powers.get(symbol(name), 0) for name in _ORDER), str(term)


def _text(term: sp.Expr) -> str:
    """Return a monomial as text: n²·d, n·log n, log_k n, n²/M, log_(m/n) n."""
    # A difference of logarithms is the logarithm of a quotient.
    term = sp.Mul(*(_one_log(base) ** power for base, power in _powers(term).items()))
    powers = _powers(term)
    logs = [base for base in powers if isinstance(base, sp.log)]
    if sorted(powers[base] for base in logs) == [-1, 1]:
        over = next(base for base in logs if powers[base] == 1)
        under = next(base for base in logs if powers[base] == -1)
        ratio = f"log_{_inside(under)} {_inside(over)}"
        rest = term / (over / under)
        return ratio if rest == 1 else f"{_text(rest)}·{ratio}"
    ranked = sorted(powers, key=_rank)
    above = "·".join(_factor(base, powers[base]) for base in ranked if powers[base] > 0) or "1"
    below = "·".join(_factor(base, -powers[base]) for base in ranked if powers[base] < 0)
    if not below:
        return above
    return f"{above}/({below})" if "·" in below else f"{above}/{below}"


def _factor(base: sp.Expr, power: sp.Rational) -> str:
    name = f"log {_inside(base)}" if isinstance(base, sp.log) else _letter(base)
    if power == 1:
        return name
    if power.is_Integer:
        return f"{name}{str(power).translate(_SUPERSCRIPTS)}"
    return f"{name}^({power})"


def _one_log(base: sp.Expr) -> sp.Expr:
    return sp.logcombine(base, force=True) if base.is_Add else base


def _inside(logarithm: sp.log) -> str:
    (size,) = logarithm.args
    return _letter(size) if size.is_Symbol else f"({_text(size)})"


def _letter(size: sp.Symbol) -> str:
    """Return the paper's letter for a size, as plain text."""
    name: str = size.name
    if name not in GLOSSARY:
        return name
    return GLOSSARY[name].latex.replace("{", "").replace("}", "").replace(r"\phi", "φ")
