"""The vocabulary of sizes, and the integer functions that counts are written with."""

import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from costmodel.cost import latex
from costmodel.errors import UnknownNameError
from costmodel.evaluate import compile_expressions
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
    ceil_div,
    symbol,
    symbols,
    tree_depth,
)

n, k = symbols("seq seq_kv")


def test_every_size_has_one_positive_integer_symbol():
    assert symbol("seq") is symbol("seq")
    assert symbol("seq") - GLOSSARY["seq"].symbol == 0
    assert all(symbol(name).is_positive and symbol(name).is_integer for name in GLOSSARY)


def test_every_size_has_a_letter_and_a_meaning_of_its_own():
    """contract.md: one LaTeX symbol each, described in one line."""
    letters = [size.latex for size in GLOSSARY.values()]
    assert len(set(letters)) == len(letters)
    assert all(size.meaning and "\n" not in size.meaning for size in GLOSSARY.values())


def test_unknown_size_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'head_dim'"):
        symbol("headdim")


@pytest.mark.parametrize("power", range(53))
def test_ceil_log2_around_powers_of_two(power):
    """Exact where the quotient of two logarithms is not (architecture.md: 2²⁹, 2³¹, 2³⁹, …)."""
    compiled = compile_expressions([CeilLog2(n)], ["seq"])
    for x, wanted in ((2**power - 1, power), (2**power, power), (2**power + 1, power + 1)):
        if 1 <= x < 2**53:
            exponent = wanted if x != 2**power - 1 or power > 1 else power - 1
            assert CeilLog2(x) == exponent
            assert compiled(float(x))[0] == exponent
            assert compiled(np.array([float(x)]))[0].tolist() == [exponent]


@given(st.integers(0, 2**40), st.integers(1, 1000))
def test_ceil_log2_of_a_fraction_is_the_least_power_of_two_above(more, under):
    """Its definition, checked in integers."""
    over = under + more
    level = int(CeilLog2(sp.Rational(over, under)))
    assert under * 2**level >= over
    assert level == 0 or under * 2 ** (level - 1) < over


@given(st.integers(1, 2**52))
def test_ceil_log2_is_the_depth_of_a_balanced_tree(x):
    level = int(CeilLog2(x))
    assert 2 ** (level - 1) < x <= 2**level or x == 1


@given(st.integers(1, 10**6), st.integers(1, 5000))
def test_ceil_div_counts_tiles(tiles, side):
    """NumPy code for ``ceiling(a/b)`` multiplies by 1/b and is off by one: 75 · (1/75) > 1."""
    compiled = compile_expressions([ceil_div(n, k), n / k], ["seq", "seq_kv"])
    assert compiled(float(tiles * side), float(side))[0] == tiles
    assert compiled(float(tiles * side + 1), float(side))[0] == tiles + 1
    assert ceil_div(sp.Integer(tiles * side), sp.Integer(side)) == tiles


def test_ceil_div_by_a_fixed_tile_is_exact():
    sizes = np.arange(1.0, 20001.0)
    for side in (75, 77, 91, 192, 227):
        compiled = compile_expressions([ceil_div(n, sp.Integer(side))], ["seq"])
        assert (compiled(sizes)[0] == -(-sizes // side)).all()


def test_ceil_div_simplifies_only_what_always_holds():
    assert ceil_div(n, sp.Integer(1)) == n
    assert ceil_div(sp.Integer(1), k) == 1
    assert ceil_div(sp.Rational(7, 2), sp.Integer(2)) == 2
    assert sp.Max(1, ceil_div(n - 1, k)) != ceil_div(n - 1, k), "0 at n = 1"
    assert isinstance(ceil_div(n, k), CeilDiv)


def test_largest_compares_only_numbers(monkeypatch):
    """SymPy's comparisons of the footprints of a model's parts took longer than all else."""
    monkeypatch.setattr(sp.Max, "_is_connected", lambda *_: pytest.fail("compared"))
    written = Largest(n * k, n**2 + 1, k)
    assert written.xreplace({k: symbol("batch")}).func is Largest
    compiled = compile_expressions([written, written + n], ["seq", "seq_kv"])  # common parts are taken out
    assert compiled(3.0, 5.0) == (15.0, 18.0)
    monkeypatch.undo()
    assert Largest(n, n + 1).xreplace({n: sp.Integer(3)}) == 4
    assert Largest(n) == n
    assert latex(Largest(n, k)).startswith(r"\max")


def test_tree_depth_of_a_dot_product():
    assert [tree_depth(sp.Integer(i)) for i in (1, 2, 3, 64, 65)] == [1, 2, 3, 7, 8]


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 70))
def test_causal_tiles_are_those_counted_one_by_one(queries, cached, tile):
    """Each query visits the tiles that its keys lie in. SymPy's number and the compiled one."""
    seen = range(cached + 1, cached + queries + 1)
    wanted = sum(len({key // tile for key in range(last)}) for last in seen)
    assert CausalTiles(queries, cached + queries, tile) == wanted
    compiled = compile_expressions([CausalTiles(n, k, symbol("block"))], ["seq", "seq_kv", "block"])
    assert compiled(float(queries), float(cached + queries), float(tile))[0] == wanted


@given(st.integers(1, 2**40), st.integers(1, 5))
def test_factors_are_even_powers_of_two_that_cover_the_points(points, count):
    """Doubling the smallest factor until the product is large enough. SymPy's number and the compiled one."""
    factors = [1] * count
    while math.prod(factors) < points:
        factors[factors.index(min(factors))] *= 2
    assert Factors(points, count) == sum(factors)
    assert compile_expressions([Factors(n, count)], ["seq"])(float(points))[0] == sum(factors)


def test_latex_of_integer_functions():
    assert latex(CeilLog2(n)) == r"\lceil\log_2 n\rceil"
    assert latex(ceil_div(n, k)) == r"\left\lceil\frac{n}{n_{kv}}\right\rceil"
    assert latex(4 * n**2) == "4 n^{2}"


def test_latex_of_functions_to_a_power():
    """A power of a function, or one over it, needs brackets or a fraction of its own."""
    assert latex(ceil_div(n, k) ** 2) == r"\left(\left\lceil\frac{n}{n_{kv}}\right\rceil\right)^{2}"
    tiles = CausalTiles(n, k, symbol("batch"))
    for function in (
        CeilLog2(n),
        CeilLog(n, k),
        ChunkPairs(n, k),
        tiles,
        Distinct(n, k, symbol("batch")),
        Factors(n, 3),
        Factors(n, 1),
    ):
        assert latex(function**3).count("^{3}") == 1
        assert latex(1 / function).startswith(r"\frac{1}")


def test_log_of_one_leaf_is_zero():
    assert CeilLog2(1) == 0
    assert math.isclose(compile_expressions([CeilLog2(n)], ["seq"])(1.0)[0], 0.0)


@pytest.mark.parametrize(("length", "chunk"), [(1, 1), (7, 3), (8, 4), (5, 8), (130, 64)])
def test_pairs_of_chunks_of_known_lengths_are_the_loops(length, chunk):
    pairs = sum(i // chunk == j // chunk for i in range(length) for j in range(i + 1))
    assert ChunkPairs(sp.Integer(length), sp.Integer(chunk)) == pairs
