"""Recurrent layers against a plain Python loop over steps that counts every operation."""

import pytest
from authority import cells
from authority.counted import LEDGER, Counted, dot

from costmodel import evaluate
from costmodel.layers import get


@pytest.mark.parametrize("cell", cells.GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_forward_flops_of_cells_equal_a_counting_loop(cell, bias):
    """B sequences of T steps: W x, U h and the cell, one multiplication and one addition at a time."""
    b, t, h, i = 2, 3, 4, 5
    g = cells.GATES[cell]
    w, u = [[0.1] * i for _ in range(g * h)], [[0.2] * h for _ in range(g * h)]
    biases = ([0.3] * (g * h), [0.4] * (g * h)) if bias else None
    LEDGER.clear()
    for _ in range(b):
        state = ([Counted(0.0)] * h, [Counted(0.0)] * h)
        for _ in range(t):
            wx = [dot([Counted(1.0)] * i, row) for row in w]
            *state, _ = cells.forward(cell, wx, state, u, biases)
    counts = evaluate(get(cell)(bias=bias), batch=b, seq=t, hidden=h, input=i)
    assert counts["matrix_flops"] == LEDGER["matrix"]
    assert counts["vector_flops"] == LEDGER["vector"]
    assert counts["special_flops"] == LEDGER["special"]


@pytest.mark.parametrize("cell", cells.GATES)
def test_backward_flops_of_cells_equal_a_counting_loop(cell):
    """The dependent pass has T products, one per step; torch omits that of the first step."""
    b, t, h = 2, 3, 4
    u = [[0.2] * h for _ in range(cells.GATES[cell] * h)]
    kept = cells.forward(cell, [Counted(0.5)] * len(u), ([Counted(0.1)] * h, [Counted(0.1)] * h), u, None)[2]
    LEDGER.clear()
    for _ in range(b):
        carried = ([Counted(0.0)] * h, [Counted(0.0)] * h)
        for _ in range(t):
            carried = cells.backward(cell, [Counted(1.0)] * h, carried, kept, u)
    sizes = {"batch": b, "seq": t, "hidden": h}
    data = get(cell)(direction="bwd_data", recurrent_only=True)
    counts = evaluate(data, **sizes)
    assert counts["matrix_flops"] == LEDGER["matrix"]
    assert counts["vector_flops"] == LEDGER["vector"]
    assert counts["special_flops"] == LEDGER["special"]
    torch = get(cell)(direction="bwd_data", recurrent_only=True, convention="torch")
    assert evaluate(torch, **sizes)["matrix_flops"] == LEDGER["matrix"] * (t - 1) / t


@pytest.mark.parametrize(("onchip", "again"), [(0.5, 1 / 2), (1, 0), (2, 0), (0.25, 3 / 4)])
def test_weights_that_do_not_fit_on_chip_are_read_again_at_every_step(onchip, again):
    """formulas.md §1: the weights once, plus (T − 1)·max(0, gH²w − capacity)."""
    sizes = {"batch": 1, "seq": 101, "hidden": 64}
    weights = 4 * 64 * 64 * 2
    resident = evaluate(get("lstm")(persistent=True), **sizes)["hbm_bytes"]
    reading = evaluate(get("lstm")(persistent=False), **sizes)["hbm_bytes"]
    found = evaluate(get("lstm")(), onchip=int(onchip * weights), **sizes)["hbm_bytes"]
    assert reading - resident == 100 * weights
    assert found - resident == 100 * again * weights


def test_layers_of_a_wavefront_share_the_on_chip_memory():
    """They run at the same time, so their weights have to fit together."""
    sizes = {"batch": 1, "seq": 11, "hidden": 64, "num_layers": 3}
    weights = 4 * 64 * 64 * 2
    one_by_one = evaluate(get("lstm")(), onchip=weights, **sizes)["hbm_bytes"]
    together = evaluate(get("lstm")(wavefront=True), onchip=weights, **sizes)["hbm_bytes"]
    assert together - one_by_one == 10 * 2 * weights


@pytest.mark.parametrize("kept", [("rnn", 1), ("lstm", 6), ("gru", 5)])
def test_kept_activations_equal_the_formulas(kept):
    """formulas.md §1: (I + H)BT, (I + 6H)BT, (I + 5H)BT; a second layer's input is the first one's output."""
    name, each = kept
    sizes = {"batch": 3, "seq": 7, "hidden": 11, "input": 5}
    for layers in (1, 2, 4):
        counts = evaluate(get(name)(dtype="fp32"), num_layers=layers, **sizes)
        assert counts["kept_bytes"] == 4 * 3 * 7 * (5 + layers * each * 11)
