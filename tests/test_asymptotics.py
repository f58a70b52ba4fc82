"""Classes and degrees: Table 1 of "Attention Is All You Need", out of the expressions."""

from fractions import Fraction

import pytest
import sympy as sp

from costmodel.asymptotics import complexity, degree, in_width, table1
from costmodel.layers import get
from costmodel.symbols import CeilLog2, Largest, ceil_div, symbol, symbols

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
def test_table_1_self_attention(layer, options):
    """Vaswani et al., Table 1, row 1 (claims.md §2)."""
    (row,) = table1([get(layer)(**options)])
    assert [str(c) for c in (row.complexity, row.sequential, row.path)] == ["O(n²·d)", "O(1)", "O(1)"]


@pytest.mark.parametrize("layer", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_table_1_recurrent(layer, bidirectional):
    """Row 2."""
    (row,) = table1([get(layer)(bidirectional=bidirectional)])
    assert [str(c) for c in (row.complexity, row.sequential, row.path)] == ["O(n·d²)", "O(n)", "O(n)"]


def test_projections_add_their_class():
    (row,) = table1([get("dense-attention")(projections=True)])
    assert set(row.complexity.terms) == {n * d**2, n**2 * d}


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (2 * k * n * d**2, "O(k·n·d²)"),  # rows 3 and 4, as layers to come will write them
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
    ],
)
def test_classes(expression, text):
    assert str(complexity(expression)).replace("K", "k") == text


def test_latex():
    assert complexity(4 * n**2 * d + n).latex == r"O\left(d n^{2}\right)"


def test_degrees_through_integer_functions():
    assert degree(ceil_div(n, d) * n, "seq") == 2
    assert degree(sp.Max(n**3, d) + CeilLog2(n), n) == 3
    assert degree(CeilLog2(n), n) == 0
    assert degree(n * sp.sqrt(n), n) == Fraction(3, 2)
    assert degree(n * (n + 1) / 2 - n**2 / 2, n) == 1, "what cancels does not grow"
    assert degree(d / n, n) == -1


SIZES = ("batch", "heads", "kv_heads", "seq", "head_dim", "value_dim", "sram")


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_degrees_of_causal_tiles(schedule, direction):
    """A query more sees every key, a key more is seen by every query: each to the first power."""
    layer = get("tiled-attention")(causal=True, schedule=schedule, direction=direction)
    for count in (*layer.cost.flops.values(), layer.cost.bytes["hbm"], layer.cost.bytes["l2"]):
        if count != 0:
            assert degree(count, "seq_kv") == 1
            others = {symbol(name): 4 for name in SIZES}
            at = [count.subs(others | {symbol("seq_kv"): keys}) for keys in (2**20, 2**21)]
            assert float(at[1] / at[0]) == pytest.approx(2, rel=1e-3)


def test_degrees_of_tiled_traffic():
    """Dao et al. 2022, Theorem 2: Θ(N²d²/M): degree 2 in N at fixed M, 2 in d, falling with M."""
    traffic = in_width(*(layer := get("tiled-attention")(schedule="fa1"),), layer.cost.bytes["hbm"])
    assert degree(traffic, "seq") == 2
    head = symbols("head_dim")[0]
    assert n**2 * d * head / m in complexity(traffic).terms


@pytest.mark.parametrize("name", ["tiled-attention", "mla", "ring-attention", "ulysses"])
def test_a_causal_mask_halves_what_is_read_again_and_changes_no_class(name):
    """FlashAttention-2 reads K and V for each block of Q: n²d²/M, all pairs or half of them."""
    causal, all_pairs = (get(name)(causal=mask).cost.bytes["l2"] for mask in (True, False))
    assert {s: degree(causal, s) for s in SIZES} == {s: degree(all_pairs, s) for s in SIZES}
    assert degree(causal, "head_dim") == 2
    assert degree(causal, "sram") == 0


def test_depths():
    """claims.md S2: degree 1 against none; with tree reductions log n + log d."""
    assert degree(get("lstm")().cost.depth, "seq") == 1
    attention = get("dense-attention")()
    assert degree(attention.cost.depth, "seq") == 0
    terms = complexity(in_width(attention, attention.cost.pram_depth)).terms
    assert sp.log(n) in terms
