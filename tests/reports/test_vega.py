"""Vega expressions: exact where Python is exact, and the same numbers for every layer.

They are evaluated by Vega itself, in Chromium, with the interpreter that the explorer uses.
"""

from __future__ import annotations

import html
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sympy as sp

import costmodel as cm
from costmodel.errors import CostmodelError, SizeError
from costmodel.layers import Layer, classes
from costmodel.programs import Program, defaults, program, rules
from costmodel.reports import render
from costmodel.symbols import (
    GLOSSARY,
    CausalTiles,
    CeilDiv,
    CeilLog,
    CeilLog2,
    ChunkPairs,
    Distinct,
    Factors,
    symbols,
)
from costmodel.vega import assignments, vega

Drawn = Callable[..., tuple[str, str]]
Steps = Sequence[tuple[str, str]]

#: One evaluation: rows of numbers, steps of Vega code, signals.
Job = tuple[list[dict[str, float]], Steps, dict[str, float]]

PAGE = """<!doctype html><body><script>%s</script><script>(async () => {
  const found = [];
  for (const { rows, steps, signals } of %s) {
    const spec = {
      signals: Object.entries(signals).map(([name, value]) => ({ name, value })),
      data: [{
        name: "rows", values: rows,
        transform: steps.map(([as, expr]) => ({ type: "formula", as, expr })),
      }],
    };
    const how = { ast: true, mode: "vega", renderer: "none" };
    const { view } = await vegaEmbed(document.createElement("div"), spec, how);
    const said = (row) => Object.fromEntries(steps.map(([as]) => [as, String(row[as])]));
    found.push(view.data("rows").map(said));
  }
  document.documentElement.dataset.found = JSON.stringify(found);
})();</script></body>"""


@pytest.fixture
def run(drawn: Drawn) -> Callable[[list[Job]], list[list[dict[str, float]]]]:
    """Return a function that computes in the browser: for each job a list of rows of numbers."""

    def compute(jobs: list[Job]) -> list[list[dict[str, float]]]:
        said = [{"rows": rows, "steps": list(steps), "signals": signals} for rows, steps, signals in jobs]
        dom, log = drawn(
            PAGE % (render._charts_script(), json.dumps(said).replace("<", r"\u003c")), seconds=120
        )
        found = re.search(r'data-found="([^"]*)"', dom)
        assert found, log
        tables = json.loads(html.unescape(found.group(1)))
        return [[{n: _number(v) for n, v in row.items()} for row in rows] for rows in tables]

    return compute


def _number(text: str) -> float:
    words = {"true": 1.0, "false": 0.0, "Infinity": math.inf}
    return words[text] if text in words else float(text)


# -- the vocabulary's functions: whole numbers to 2⁵³ -----------------------------------------------

N, KV, B, K = symbols("seq seq_kv block top_k")
LARGEST = 2**53


def powers(base: int) -> list[int]:
    """Return the powers of a base up to 2⁵³, and the numbers beside them."""
    exponents = itertools.takewhile(lambda e: base**e <= LARGEST, itertools.count())
    return [n for e in exponents for n in (base**e - 1, base**e, base**e + 1) if 1 <= n <= LARGEST]


def whole_numbers(chance: random.Random, count: int) -> list[int]:
    return [round(2 ** chance.uniform(0, 53)) for _ in range(count)]


def test_integer_functions_are_exact_up_to_2_53(run: Callable[..., Any]) -> None:
    chance = random.Random(7)
    ones = [*powers(2), *whole_numbers(chance, 200)]
    twos = [(n, base) for base in (2, 3, 5, 7, 10, 12, 64, 100, 1000) for n in powers(base)]
    twos += [(n, chance.randint(2, 5000)) for n in whole_numbers(chance, 300)]
    # Neighbours of multiples near 2⁵³, where a rounded quotient would be a whole number.
    for divisor in (3, 7, 64, 1000, 99_991, 2**20 + 1, 2**26 - 1):
        top = LARGEST // divisor
        twos += [(k * divisor + d, divisor) for k in (top - 1, top - 2, top // 2, 1) for d in (-1, 0, 1)]
    pairs = [(n, c) for n, c in twos if n * (c + 1) // 2 <= LARGEST // 2 and n < LARGEST]
    jobs: list[tuple[list[tuple[int, ...]], Any, Any]] = [
        ([(n,) for n in ones], CeilLog2(N), CeilLog2),
        ([(n, b) for n, b in twos if n < LARGEST], CeilDiv(N, B), CeilDiv),
        ([(n, b) for n, b in twos if n < LARGEST], CeilLog(N, B), CeilLog),
        (pairs, ChunkPairs(N, B), ChunkPairs),
        ([(n,) for n in ones], Factors(N, 3), lambda n: Factors(n, 3)),
    ]
    # Few queries after many keys, and all queries; as large as doubles hold whole counts.
    tiles = [(max(1, n >> s), n, c) for n, c in pairs for s in (0, 3, 20) if n * (n // c + 2) <= LARGEST // 4]
    jobs.append((tiles, CausalTiles(N, KV, B), CausalTiles))
    names = {1: ("seq",), 2: ("seq", "block"), 3: ("seq", "seq_kv", "block")}
    said = [
        ([dict(zip(names[len(row)], row, strict=True)) for row in rows], [("value", vega(expression))], {})
        for rows, expression, _ in jobs
    ]
    for (rows, _, function), table in zip(jobs, run(said), strict=True):
        assert len(rows) > 100
        for arguments, found in zip(rows, table, strict=True):
            expected = function(*map(sp.Integer, arguments))
            assert found["value"] == int(expected), (function.__name__, arguments)


def test_distinct_keeps_its_digits_for_many_rows(run: Callable[..., Any]) -> None:
    """Against exact rational arithmetic; subtracting from 1 would lose all digits."""
    chance = random.Random(8)
    cases = [(round(2 ** chance.uniform(0, 40)), round(2 ** chance.uniform(0, 12))) for _ in range(200)]
    cases += [(1, 1), (1, 500), (2**40, 1), (2**40, 4096), (8, 3)]
    rows = [{"seq": n, "block": draws, "top_k": min(n, 1 + i % 3)} for i, (n, draws) in enumerate(cases)]
    steps = [(name, vega(step)) for name, step in assignments([("value", Distinct(N, K, B))])]
    (table,) = run([(rows, steps, {})])
    for row, found in zip(rows, table, strict=True):
        n, k, draws = (sp.Integer(row[name]) for name in ("seq", "top_k", "block"))
        assert found["value"] == pytest.approx(float(n * (1 - (1 - k / n) ** draws)), rel=1e-12), row


def test_arithmetic_and_conditions_agree_with_sympy(run: Callable[..., Any]) -> None:
    expressions = {
        "quotient": (N - 3) / (B * (K + 1)),
        "negative": -N * (B - K),
        "power": N**2 * B**-3 + sp.sqrt(K) + N ** sp.Rational(3, 2) + B**5,
        "rational": sp.Rational(7, 3) * N - sp.Rational(1, 2),
        "largest": sp.Max(N, B * K, 12) - sp.Min(N, B),
        "remainder": sp.Mod(N - 1000, B),
        "rounded": sp.floor(N / B) + sp.ceiling(sp.log(N) + sp.exp(-K)) + sp.Abs(B - N),
        "cases": sp.Piecewise((N, sp.And(N > B, sp.Ne(N, 7))), (B, sp.Or(N <= 3, sp.Eq(B, 5))), (K, True)),
        "huge": 2**70 * N,
    }
    rows = [{"seq": n, "block": b, "top_k": k} for n in (1, 3, 7, 1023) for b in (1, 5, 64) for k in (1, 2)]
    (table,) = run([(rows, [(name, vega(e)) for name, e in expressions.items()], {})])
    for row, found in zip(rows, table, strict=True):
        at = {N: row["seq"], B: row["block"], K: row["top_k"]}
        for name, expression in expressions.items():
            assert found[name] == pytest.approx(float(expression.subs(at)), rel=1e-13), (name, row)


def test_expressions_without_a_vega_form_are_refused() -> None:
    with pytest.raises(CostmodelError, match="no Vega expression for gamma"):
        vega(sp.gamma(N))
    with pytest.raises(CostmodelError, match="leave out"):
        vega(sp.Piecewise((N, N > 3), (B, N < 2)))


def test_repeated_arguments_are_assigned_once() -> None:
    steps = assignments([("value", CeilLog2(N * B + K) + CeilLog2(CeilLog2(N * K) + 1))])
    assert max(len(vega(step)) for _, step in steps) < 300


# -- every layer there is ----------------------------------------------------------------------------


def sizes_of(layer: Layer, chance: random.Random) -> dict[str, int]:
    """Return random sizes that the layer takes, as a user would vary them."""
    while True:
        sizes = {name: round(2 ** chance.uniform(0, 9)) for name in layer.required}
        sizes |= {n: max(1, int(min(v, GLOSSARY[n].largest))) for n, v in sizes.items()}
        sizes |= {
            n: sizes[n] * 4 * sizes["heads"] for n in ("d_model", "hidden") if "heads" in sizes and n in sizes
        }
        try:
            cm.evaluate(layer, **sizes, sram=2**17, onchip=2**24)
        except SizeError:
            continue
        return sizes


def every_layer() -> list[Layer]:
    """Return each layer in the direction that has the most kernels."""
    return [
        kind(direction="fwd+bwd" if "fwd+bwd" in kind.directions else "fwd") for kind in classes().values()
    ]


def signals_of(device: cm.hardware.Device, made: Program) -> dict[str, float]:
    """Return a device's figures by a program's names."""
    found = {
        "bandwidth": device.hbm_bandwidth,
        "cache": device.llc_capacity,
        "link": device.link_bandwidth or 1e300,
        "sums": device.sum_bandwidth or 1e300,
        "step": device.step_s,
        "launch": device.launch_s,
        "sram": device.shared_per_unit,
        "onchip": device.onchip_capacity,
    }
    found |= {f"rate_{e}_{d}": device.peak(d, None if e == "matrix" else e) for e, d in made.rates}
    found |= {f"boost_{dtype}": device.boost_peak(dtype) for dtype in made.boosts}
    assert set(found) == set(made.signals)
    return found


def test_every_layers_program_gives_pythons_predictions(run: Callable[..., Any]) -> None:
    chance = random.Random(9)
    device = cm.hardware.load("nvidia/h200-sxm")
    layers = every_layer()
    rows = [[sizes_of(layer, chance) for _ in range(3)] for layer in layers]
    made = [program(layer) for layer in layers]
    jobs = [
        (sizes, [*defaults(layer).items(), *one.steps], signals_of(device, one))
        for layer, one, sizes in zip(layers, made, rows, strict=True)
    ]
    assert len(layers) > 30
    for layer, one, sizes, table in zip(layers, made, rows, run(jobs), strict=True):
        for given, found in zip(sizes, table, strict=True):
            prediction = cm.predict(layer, device, given, rung="bound")
            expected = {
                n: getattr(prediction, n) for n in ("seconds", "lower_s", "serial_s")
            } | prediction.counts
            for name, value in expected.items():
                assert found[name] == pytest.approx(value, rel=1e-9, abs=0.0), (layer.label, name, given)
            assert one.limits[int(found["bound"])] == prediction.bound, (layer.label, given)


# -- what layers ask of sizes together ----------------------------------------------------------------


def refusal(layer: Layer, sizes: dict[str, int]) -> str:
    """Return the layer's message if it refuses sizes, otherwise an empty string."""
    try:
        layer.check_sizes({name: float(value) for name, value in sizes.items()})
    except SizeError as error:
        return str(error).partition("; got ")[0]  # rules have no values to state
    return ""


def _drawn(layer: Layer, chance: random.Random, count: int) -> list[dict[str, int]]:
    """Return random sizes of a layer; they do not depend on which other layers there are."""
    return [{name: chance.choice((1, 2, 3, 4, 6, 8, 12)) for name in layer.sizes()} for _ in range(count)]


def test_rules_refuse_the_sizes_that_check_sizes_refuses(run: Callable[..., Any]) -> None:
    """Random sizes, of each layer its own: the rules must refuse exactly what the layer refuses."""
    asked = {layer: rules(layer) for layer in every_layer()}
    asking = [layer for layer, found in asked.items() if found]
    assert len(asking) > 5
    rows = [_drawn(layer, random.Random(layer.label), 80) for layer in asking]
    jobs = [
        (sizes, [(f"rule{i}", condition) for i, (condition, _) in enumerate(asked[layer])], {})
        for layer, sizes in zip(asking, rows, strict=True)
    ]
    for layer, sizes, table in zip(asking, rows, run(jobs), strict=True):
        told = []
        for given, found in zip(sizes, table, strict=True):
            broken = [message for i, (_, message) in enumerate(asked[layer]) if found[f"rule{i}"]]
            said = refusal(layer, given)
            assert said in broken if said else broken == [], (layer.label, given)
            told.append(bool(broken))
        assert True in told, layer.label
        assert False in told, layer.label
