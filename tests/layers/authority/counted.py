"""Numbers that count the operations made with them, and programs written with such numbers.

Each program is the definition of a layer, one element at a time. test_counted.py checks against torch that
it computes the layer. Its counts are then the authority for that layer's pointwise arithmetic and for the
depth of its dependent chain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Operations counted so far by engine: vector, special, matrix [FLOP].
LEDGER: Counter[str] = Counter()


@dataclass(frozen=True)
class Counted:
    """A number, and the length of the longest chain of dependent operations that led to it."""

    value: float
    depth: int = 0

    def __add__(self, other: Operand) -> Counted:
        return _vector(lambda a, b: a + b, self, other)

    def __sub__(self, other: Operand) -> Counted:
        return _vector(lambda a, b: a - b, self, other)

    def __rsub__(self, other: float) -> Counted:
        return _vector(lambda a, b: b - a, self, other)

    def __mul__(self, other: Operand) -> Counted:
        return _vector(lambda a, b: a * b, self, other)

    def __truediv__(self, other: Operand) -> Counted:
        return _vector(lambda a, b: a / b, self, other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rtruediv__(self, other: float) -> Counted:
        return _vector(lambda a, b: b / a, self, other)

    def __neg__(self) -> Counted:
        """Return the negative at no cost: every engine negates its operands for free."""
        return Counted(-self.value, self.depth)


Operand = Counted | float


def _vector(function: Callable[[float, float], float], a: Counted, b: Operand) -> Counted:
    LEDGER["vector"] += 1
    value, depth = (b.value, b.depth) if isinstance(b, Counted) else (b, 0)
    return Counted(function(a.value, value), 1 + max(a.depth, depth))


def special(function: Callable[[float], float], x: Counted) -> Counted:
    """Return the result of one special operation (exp, tanh, σ, erf, …)."""
    LEDGER["special"] += 1
    return Counted(function(x.value), x.depth + 1)


def exp(x: Counted) -> Counted:
    return special(math.exp, x)


def tanh(x: Counted) -> Counted:
    return special(math.tanh, x)


def sigma(x: Counted) -> Counted:
    """Return a gate's σ, one special operation (formulas.md §1: an LSTM's 3 σ and 2 tanh are 5)."""
    return special(lambda v: 1 / (1 + math.exp(-v)), x)


def maximum(a: Counted, b: Operand) -> Counted:
    return _vector(max, a, b)


def minimum(a: Counted, b: Operand) -> Counted:
    return _vector(min, a, b)


def above_zero(a: Counted) -> Counted:
    return _vector(lambda x, y: float(x > y), a, 0.0)


def chosen(positive: Counted, a: Counted, b: Counted) -> Counted:
    """Return `a` where a comparison holds, else `b`: one operation."""
    LEDGER["vector"] += 1
    return Counted(a.value if positive.value else b.value, 1 + max(positive.depth, a.depth, b.depth))


def blocks(n: int, side: int) -> list[range]:
    """Return the positions of a sequence block by block; the last block may be shorter."""
    return [range(first, min(first + side, n)) for first in range(0, n, side)]


def log2_ceil(n: int) -> int:
    """Return ⌈log₂ n⌉ by doubling: the levels of a balanced tree over n leaves."""
    levels = 0
    while 2**levels < n:
        levels += 1
    return levels


def total(xs: Sequence[Counted]) -> Counted:
    """Return a sum into an accumulator (n additions), as deep as a balanced tree."""
    LEDGER["vector"] += len(xs)
    return Counted(sum(x.value for x in xs), max(x.depth for x in xs) + log2_ceil(len(xs)))


def highest(xs: Sequence[Counted]) -> Counted:
    """Return the maximum of a row (n comparisons), as deep as a balanced tree."""
    LEDGER["vector"] += len(xs)
    return Counted(max(x.value for x in xs), max(x.depth for x in xs) + log2_ceil(len(xs)))


def dot(xs: Sequence[Counted], weights: Sequence[float]) -> Counted:
    """Return a dot product on the matrix engine: a multiply and an add per term."""
    LEDGER["matrix"] += 2 * len(xs)
    value = sum(x.value * w for x, w in zip(xs, weights, strict=True))
    return Counted(value, max(x.depth for x in xs) + 1 + log2_ceil(len(xs)))


@dataclass(frozen=True)
class Tally:
    """Operations and depth of a program for one element."""

    vector: int
    special: int
    depth: int


def tally(program: Callable[..., Counted | Sequence[Counted]], *values: float) -> Tally:
    """Run a program on numbers of depth 0; return its operations and its depth."""
    LEDGER.clear()
    result = program(*(Counted(v) for v in values))
    results = [result] if isinstance(result, Counted) else result
    return Tally(LEDGER["vector"], LEDGER["special"], max(r.depth for r in results))
