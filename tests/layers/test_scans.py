"""Scan algorithms compute prefixes, with the combines and the depth that formulas.md §2 states."""

import math

import numpy as np
import pytest
import sympy as sp
from authority.scans import ALGORITHMS, Stretch, Work, blelloch, counts, run

from costmodel import evaluate
from costmodel.layers import get
from costmodel.symbols import symbol

POWERS = [1, 2, 4, 8, 16, 64, 256]


def stretches(t):
    return [Stretch(0.5 + 0.1 * (i % 4), 1.0 + i % 3) for i in range(t)]


def walked(xs):
    """Return h_t by the definition, from h_0 = 0."""
    h, states = 0.0, []
    for x in xs:
        h = x.a * h + x.b
        states.append(h)
    return states


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "blelloch"])
@pytest.mark.parametrize("t", [1, 2, 3, 7, 8, 13, 16])
def test_scan_algorithms_compute_inclusive_prefixes(name, t):
    xs = stretches(t)
    _, states = run(name, xs, 3)
    assert [s.b for s in states[:t]] == pytest.approx(walked(xs))


@pytest.mark.parametrize("t", POWERS)
def test_blellochs_scan_computes_exclusive_prefixes(t):
    xs = stretches(t)
    before = blelloch(Work(), xs)
    assert [x.a * s.b + x.b for s, x in zip(before, xs, strict=True)] == pytest.approx(walked(xs))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("t", POWERS)
def test_work_and_depth_at_powers_of_two_equal_the_formulas(name, t):
    """formulas.md §2, exactly."""
    c = max(1, math.isqrt(t))
    work, states = run(name, stretches(t), c)
    log = t.bit_length() - 1
    combines, depth = {
        "sequential": (t - 1, t - 1),
        "kogge-stone": (t * log - t + 1, log),
        "blelloch": (2 * (t - 1), 2 * log),
        "brent-kung": (2 * t - 2 - log, max(0, 2 * log - 1)),
        "chunked": (2 * t + t // c if t % c == 0 else None, c + -(-t // c)),
    }[name]
    assert combines in (None, work.combines + work.steps)
    assert max(s.depth for s in states) == depth
    answer = counts(name, t, c)
    assert (answer.combines, answer.depth) == (work.combines + work.steps, depth)
    layer = evaluate(get("scan")(algorithm=name), batch=1, seq=t, hidden=1, block=c)
    assert layer["depth"] == depth
    assert layer["vector_flops"] == 3 * work.combines + 2 * work.steps


@pytest.mark.parametrize("name", ["kogge-stone", "brent-kung"])
def test_between_powers_of_two_the_formulas_are_upper_bounds(name):
    for t in range(1, 70):
        work, states = run(name, stretches(t), 1)
        answer = counts(name, t, 1)
        assert work.combines <= answer.combines
        assert max(s.depth for s in states) <= answer.depth


def test_a_chunked_scan_is_least_deep_with_chunks_of_root_t():
    t = 4096
    blocks = np.arange(1, t + 1)
    depth = evaluate(get("scan")(algorithm="chunked"), batch=1, seq=t, hidden=1, block=blocks)["depth"]
    assert blocks[np.argmin(depth)] == 64
    assert depth.min() == 2 * 64
    # The same for the expression: C + T/C has its minimum where T/C² is 1.
    n, c = symbol("seq"), symbol("block")
    assert sp.solve(sp.diff(c + n / c, c), c) == [sp.sqrt(n)]


@pytest.mark.parametrize("name", ["blelloch", "brent-kung", "chunked"])
def test_work_efficient_scans_have_two_to_three_times_the_flops_of_a_loop(name):
    sizes = {"batch": 1, "seq": 2.0 ** np.arange(6, 30), "hidden": 1}
    ratio = (
        evaluate(get("scan")(algorithm=name), **sizes)["vector_flops"]
        / evaluate(get("scan")(), **sizes)["vector_flops"]
    )
    assert (ratio >= 2).all()
    assert (ratio <= 3 * (1 + 1 / 64)).all()


def test_kogge_stone_is_not_work_efficient():
    sizes = {"batch": 1, "seq": 2**20, "hidden": 1}
    ratio = (
        evaluate(get("scan")(algorithm="kogge-stone"), **sizes)["vector_flops"]
        / evaluate(get("scan")(), **sizes)["vector_flops"]
    )
    assert ratio == pytest.approx(1.5 * 19, rel=0.01)
