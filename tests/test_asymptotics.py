"""Complexity classes and degrees of the expressions, against Table 1 of "Attention Is All You Need"."""

import math
from fractions import Fraction

import pytest
import sympy as sp

from costmodel.asymptotics import complexity, degree, in_width, table1
from costmodel.evaluate import compile_expressions
from costmodel.layers import available, get
from costmodel.symbols import CeilLog, CeilLog2, Largest, ceil_div, symbol, symbols

n, d, k, w, m = symbols("seq d_model k window sram")


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("dense-attention", {}),
        ("dense-attention", {"causal": True}),
        ("tiled-attention", {"schedule": "fa1"}),
        ("tiled-attention", {"schedule": "fa2", "causal": True}),
        ("tiled-attention", {"tile": (128, 64)}),
    ],
)
def test_self_attention_has_the_classes_of_table_1(layer, options):
    """Vaswani et al., Table 1, row 1 (claims.md §2)."""
    (row,) = table1([get(layer)(**options)])
    assert [str(c) for c in (row.complexity, row.sequential, row.path)] == ["O(n²·d)", "O(1)", "O(1)"]


@pytest.mark.parametrize("layer", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_have_the_classes_of_table_1(layer, bidirectional):
    """Vaswani et al., Table 1, row 2."""
    (row,) = table1([get(layer)(bidirectional=bidirectional)])
    assert [str(c) for c in (row.complexity, row.sequential, row.path)] == ["O(n·d²)", "O(n)", "O(n)"]


@pytest.mark.parametrize(
    ("layer", "classes"),
    [("sliding-window", ["O(w·n·d)", "O(1)", "O(n/w)"]), ("conv", ["O(K·n·d²)", "O(1)", "O(n/K)"])],
)
def test_layers_that_see_a_part_have_the_classes_of_table_1(layer, classes):
    """Vaswani et al., Table 1, rows 4 and 3, whose path is n/k if kernels are contiguous (§4)."""
    (row,) = table1([get(layer)()])
    assert [str(c) for c in (row.complexity, row.sequential, row.path)] == classes


def test_a_count_of_nothing_does_not_grow():
    assert complexity(sp.Integer(0)).terms == (1,)
    assert degree(sp.Integer(0), n) == 0


def test_counts_of_table_1_are_those_of_one_sequence_and_one_layer():
    count = (
        symbol("batch") * symbol("num_layers") * n * symbol("hidden") * symbol("heads") * symbol("head_dim")
    )
    assert in_width(get("lstm")(), count) == n * d**2


def test_projections_add_a_term_n_d_squared():
    (row,) = table1([get("dense-attention")(projections=True)])
    assert set(row.complexity.terms) == {n * d**2, n**2 * d}


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (2 * k * n * d**2, "O(k·n·d²)"),  # as rows 3 and 4 of Table 1
        (w * n * d - w * (w - 1) * d / 2, "O(w·n·d)"),
        (sp.ceiling(sp.log(n) / sp.log(k)), "O(log_k n)"),
        (ceil_div(n, w), "O(n/w)"),
        (ceil_div(n - 1, k - 1) + 7, "O(n/k)"),
        (sp.Min(w, n) * n * d, "O(w·n·d)"),
        (sp.Max(0, n**2 - m) + n, "O(n²)"),
        (Largest(0, n**2 - m) + n, "O(n²)"),
        (CeilLog2(n * d) * n + 3 * n, "O(n·log d + n·log n)"),
        (n * sp.sqrt(n) + n, "O(n^(3/2))"),
        (n**2 * d**2 / m + n * d, "O(n²·d²/S_sram + n·d)"),
        (sp.Integer(5), "O(1)"),
        (sp.Integer(0), "O(1)"),
        (k * n * d + n * d**2, "O(k·n·d + n·d²)"),  # separable convolution
        (n + 5, "O(n)"),
        (1 / n + 5, "O(1)"),
        (n + n / w, "O(n)"),
        (n + n / sp.log(n), "O(n)"),
        (1 / (n**2 + n), "O(1/n²)"),
        (1 / ceil_div(n * ceil_div(w, k), d), "O(k·d/(w·n))"),
        (CeilLog2(n / w), "O(log n)"),
        (CeilLog2(n + n / d), "O(log n)"),
        (CeilLog2(n) * CeilLog2(d), "O(log n·log d)"),
        (CeilLog(k, n), "O(log_n k)"),
        (n * CeilLog(n, k), "O(n + n·log_k n)"),
        (CeilLog(n, m / d), "O(log_(S_sram/d) n)"),
        (n / sp.sqrt(d), "O(n/d^(1/2))"),
        (d * sp.sqrt(n), "O(n^(1/2)·d)"),
        (n / (w * d), "O(n/(w·d))"),
        (n * symbol("features"), "O(n·m_φ)"),
        (n * sp.Symbol("zeta", positive=True), "O(n·zeta)"),
    ],
)
def test_complexity_keeps_the_fastest_growing_terms(expression, text):
    """Worked out by hand."""
    assert str(complexity(expression)).replace("K", "k") == text


def test_complexity_has_latex():
    assert complexity(4 * n**2 * d + n).latex == r"O\left(d n^{2}\right)"


def test_degree_sees_through_ceil_max_and_log():
    """Worked out by hand."""
    assert degree(ceil_div(n, d) * n, "seq") == 2
    assert degree(sp.Max(n**3, d) + CeilLog2(n), n) == 3
    assert degree(CeilLog2(n), n) == 0
    assert degree(n * sp.sqrt(n), n) == Fraction(3, 2)
    assert degree(n * (n + 1) / 2 - n**2 / 2, n) == 1, "what cancels does not grow"
    assert degree(d / n, n) == -1
    assert degree(Largest(n, -n), n) == 1


def test_a_whole_degree_is_a_whole_number():
    assert repr(degree(n**2, n)) == "2"


SIZES = ("batch", "heads", "kv_heads", "seq", "head_dim", "value_dim", "sram")


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_causal_tiled_counts_are_linear_in_the_number_of_keys(schedule, direction):
    """At a fixed number of queries each further key adds the same work: degree
    1, and twice the keys are twice the count.
    """
    layer = get("tiled-attention")(causal=True, schedule=schedule, direction=direction)
    for count in (*layer.cost.flops.values(), layer.cost.bytes["hbm"], layer.cost.bytes["l2"]):
        if count != 0:
            assert degree(count, "seq_kv") == 1
            others = {symbol(name): 4 for name in SIZES}
            at = [count.subs(others | {symbol("seq_kv"): keys}) for keys in (2**20, 2**21)]
            assert float(at[1] / at[0]) == pytest.approx(2, rel=1e-3)


def test_tiled_traffic_has_the_degrees_of_theorem_2():
    """Dao et al. 2022, Theorem 2: Θ(N²d²/M), that is degree 2 in N and
    in d at fixed M, and less with a larger M.
    """
    traffic = in_width(*(layer := get("tiled-attention")(schedule="fa1"),), layer.cost.bytes["hbm"])
    assert degree(traffic, "seq") == 2
    head = symbols("head_dim")[0]
    assert n**2 * d * head / m in complexity(traffic).terms


@pytest.mark.parametrize("name", ["tiled-attention", "mla", "ring-attention", "ulysses"])
def test_causal_mask_changes_no_degree_of_the_l2_traffic(name):
    """FlashAttention-2 reads K and V once for each block of Q: n²d²/M
    for all pairs, about half under the mask.
    """
    causal, all_pairs = (get(name)(causal=mask).cost.bytes["l2"] for mask in (True, False))
    assert {s: degree(causal, s) for s in SIZES} == {s: degree(all_pairs, s) for s in SIZES}
    assert degree(causal, "head_dim") == 2
    assert degree(causal, "sram") == 0


def test_depth_is_linear_in_length_for_an_lstm_and_constant_for_attention():
    """claims.md S2: degree 1 against 0; with tree reductions the depth of attention has a term log n."""
    assert degree(get("lstm")().cost.depth, "seq") == 1
    attention = get("dense-attention")()
    assert degree(attention.cost.depth, "seq") == 0
    terms = complexity(in_width(attention, attention.cost.pram_depth)).terms
    assert sp.log(n) in terms


#: Sizes far from those at which tiles, windows or experts run out.
TYPICAL = {
    "batch": 64, "seq": 4096, "seq_kv": 12288, "heads": 8, "kv_heads": 4, "head_dim": 64, "value_dim": 96,
    "d_model": 512, "d_ff": 2048, "hidden": 512, "input": 384, "num_layers": 4, "vocab": 30000, "window": 128,
    "block": 64, "experts": 64, "top_k": 4, "state": 16, "m": 512, "n": 512, "k": 4, "rank": 32,
    "features": 128, "devices": 8, "node": 8, "params": 10**7, "tensors": 16, "stride": 64, "summary": 8,
    "globals": 64, "random": 64, "density": 25, "edges": 200000, "degree": 32, "store": 10**5, "lists": 256,
    "rounds": 4, "probes": 16, "splits": 8, "q_rank": 128, "kv_rank": 64, "rope_dim": 32, "sram": 200000,
    "onchip": 3 * 10**7, "read_bytes": 10**6, "written_bytes": 10**6, "least_bytes": 10**6,
    "least_written_bytes": 10**6, "taps": 4, "streams": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", available())
def test_evaluated_counts_grow_as_their_degree_says(name):
    """From one size to four times it: no count grows faster than its
    degree; in length and batch, exactly as fast.
    """
    cost = get(name)(direction="bwd" if "bwd" in get(name).directions else "fwd").cost
    counts = [count for count in (cost.flops.total, cost.bytes["hbm"], cost.footprint) if count != 0]
    if get(name).defaults.get("seq_kv") == "seq":  # queries may have to be among the keys
        counts = [count.subs(symbol("seq_kv"), symbol("seq")) for count in counts]
    names = sorted({s.name for count in counts for s in count.free_symbols} - {"sram", "onchip", "density"})
    arguments = sorted({*names, "sram", "onchip", "density"})
    compiled = compile_expressions(counts, arguments)
    for size in names:
        large = [
            compiled(*(float(many if a == size else TYPICAL[a]) for a in arguments))
            for many in (2**26, 2**28)
        ]
        for count, before, after in zip(counts, *large, strict=True):
            if not before:  # keys that are farther apart than the sequence is long
                continue
            power = math.log(float(after) / float(before), 4)
            # log₂ of the size grows from 26 to 28, and that of a multiple of it no faster.
            leading = any(term.has(sp.log(symbol(size))) for term in complexity(count).terms)
            logarithm = math.log(28 / 26, 4) if leading else 0.0
            assert power <= degree(count, size) + logarithm + 0.02
            if size in ("seq", "batch"):
                assert power >= degree(count, size) - 0.05
