"""Closed forms of masks against counting, for all small sizes."""

import math
from fractions import Fraction
from itertools import product

import pytest
import sympy as sp
from authority import masks
from exact import exact

from costmodel.layers import _pairs
from costmodel.layers._attention import causal_pairs
from costmodel.symbols import symbols

N, W, B, G, R, S, C = symbols("seq window block globals random stride summary")
LENGTHS = range(1, 14)


def values(mask, **sizes):
    return [exact(sp.sympify(part), sizes) for part in mask]


@pytest.mark.parametrize("w", range(1, 16))
def test_window_formulas_equal_a_count(w):
    one, both = _pairs.window(N, W, B), _pairs.local(N, W - 1, B)
    for n, b in product(LENGTHS, (1, 2, 3, 5, 20)):
        for mask, sees in ((one, masks.window(w)), (both, masks.local(w - 1))):
            expected = [masks.count(n, sees), *masks.by_tiles(n, b, masks.tiles(n, b, sees))]
            assert values(mask, seq=n, window=w, block=b) == [*expected, *masks.longest(n, sees)]


def test_pair_formulas_equal_the_papers():
    """formulas.md §3.1: w·n − w(w−1)/2 (n ≥ w); n(2r+1) − r(r+1); n(n+1)/2; with a prefix n·c + n(n+1)/2."""
    for n, w in product(range(1, 30), repeat=2):
        sizes = {"seq": n, "window": w}
        if w <= n:
            assert exact(_pairs.window_pairs(N, W - 1), sizes) == w * n - w * (w - 1) // 2
        if w < n:
            assert exact(_pairs.local_pairs(N, W), sizes) == n * (2 * w + 1) - w * (w + 1)
        assert exact(causal_pairs(N, N), sizes) == masks.count(n, lambda i, j: j <= i)
        seen = sum(1 for i in range(n) for j in range(n + w) if j <= w + i)
        assert exact(causal_pairs(N, N + W), sizes) == seen == n * w + n * (n + 1) // 2


@pytest.mark.parametrize("g", [1, 2, 5, 20])
def test_longformer_pairs_equal_a_count_and_its_tiles_are_enough(g):
    """Pairs exactly; every tile with a pair is computed, and at the edges no more than elsewhere."""
    mask = _pairs.longformer(N, _pairs.half_width(W), G, B)
    for n, w, b in product(LENGTHS, (1, 2, 5, 9, 30), (1, 2, 3, 5)):
        sees = masks.around(w, g)
        pairs, tiles, met, *longest = values(mask, seq=n, window=w, globals=g, block=b)
        assert [pairs, *longest] == [masks.count(n, sees), *masks.longest(n, sees)]
        blocks = len(masks.blocks(n, b))
        assert masks.tiles(n, b, sees) <= tiles * blocks <= blocks**2
        assert met == min(n, tiles * b)


@pytest.mark.parametrize("drawn", [1, 2, 5])
def test_bigbird_blocks_equal_those_of_a_drawn_mask(drawn):
    """Block by block: global blocks, a window, and random blocks up to the same number in each row."""
    mask = _pairs.bigbird(N, R, G, sp.Integer(drawn), B)
    for n, near, g, b in product((1, 2, 5, 9, 13, 24), (1, 3, 5), (1, 2, 6, 20), (1, 2, 3)):
        blocks, first = math.ceil(n / b), math.ceil(g / b)
        kept = 0
        for row in range(blocks):
            seen = set(range(blocks if row < first else min(first, blocks)))
            # The nearest blocks form the window; further ones stand for the random ones.
            wanted = len(seen) + near + math.ceil(drawn / b) if row >= first else blocks
            around = sorted(range(blocks), key=lambda column: abs(row - column))
            seen |= set([c for c in around if c not in seen][: max(wanted - len(seen), 0)])
            kept += len(seen)
        found = values(mask, seq=n, random=near, globals=g, block=b)
        tiles, met = masks.by_tiles(n, b, kept)
        # An incomplete last block counts with its average share; a kernel computes it whole.
        assert found == [n * tiles * Fraction(n, blocks), tiles, met, n, n]
        assert found[0] <= n * n
        assert found[0] == kept * b * b or n % b


@pytest.mark.parametrize("stride", range(1, 9))
def test_strided_and_fixed_pairs_equal_a_count(stride):
    far, blocks = _pairs.strided(N, S, B), _pairs.fixed(N, S, C, B)
    for n, b in product(range(1, 25), (2, 5)):
        sizes = {"seq": n, "stride": stride, "block": b}
        sees = masks.strided(stride)
        found = values(far, **sizes)
        assert [found[0], *found[3:]] == [masks.count(n, sees), *masks.longest(n, sees)]
        for c in range(1, stride + 1):
            sees = masks.fixed(stride, c)
            found = values(blocks, summary=c, **sizes)
            assert [found[0], *found[3:]] == [masks.count(n, sees), *masks.longest(n, sees)]


def test_blocks_compute_at_least_all_pairs_of_the_mask():
    """For blocks that divide the length."""
    for n, b in ((12, 3), (16, 4), (24, 2), (30, 30)):
        for w, g, stride in product((1, 3, 8), (1, 4), (2, 4, 12)):
            sizes = {"seq": n, "block": b, "window": w, "globals": g, "stride": stride, "summary": 2}
            for mask in (
                _pairs.window(N, W, B),
                _pairs.local(N, W, B),
                _pairs.longformer(N, W, G, B),
                _pairs.fixed(N, S, C, B),
            ):
                pairs, _, met, *_ = values(mask, **sizes)
                assert n * met >= pairs


def test_block_density_keeps_at_least_one_tile_per_row_of_blocks():
    mask = _pairs.blocks_of_density(N, R / 100, B)
    for n, b, s in product((7, 12, 40), (3, 4, 50), (1, 25, 100)):
        pairs, tiles, met, *_ = values(mask, seq=n, block=b, random=s)
        assert tiles >= 1
        assert met >= min(b, n)
        assert pairs == n * met <= n * n
        if s == 100:
            assert pairs == n * n


def test_logsparse_spans_follow_the_binary_digits_of_the_position():
    """Every position before a query is in exactly one of its spans, which are as many as its digits of 1."""
    for i in range(200):
        end, spans = i, []
        for level in range(i.bit_length()):
            if i >> level & 1:
                spans.append(range(end - 2**level, end))
                end -= 2**level
        assert sorted(j for span in spans for j in span) == list(range(i))
        assert len(spans) == bin(i).count("1")
