"""Sums over kernels, operands and footprints, of costs made up for the purpose and worked out by hand."""

from dataclasses import replace

import pytest
import sympy as sp

from costmodel.cost import Phase, Tally, Tensors, add_tallies
from costmodel.layers import get
from costmodel.symbols import symbols

n, d, layers = symbols("seq d_model num_layers")


def phase(**more):
    given = {"name": "a", "kernel": "gemm", "op": "gemm", "sizes": {}, "read": n, "write": 2 * n}
    return Phase(**given | {"flops": {("matrix", "bf16"): 5 * n}} | more)


def test_tally_sums_over_the_rest_of_a_key():
    tally = Tally(
        {("matrix", "bf16"): n, ("matrix", "fp32"): 2 * n, ("vector", "fp32"): d, ("special", "fp32"): 0}
    )
    assert tally["matrix", "bf16"] == n
    assert tally["matrix"] == 3 * n
    assert tally["special"] == tally["nothing"] == 0
    assert tally.total == 3 * n + d
    assert len(tally) == 3
    assert r"\text{matrix bf16} &= n" in tally._repr_latex_()


def test_tallies_add_with_their_repeats():
    total = add_tallies([({"hbm": n}, sp.Integer(2)), ({"hbm": d, "l2": n}, layers)])
    assert total["hbm"] == 2 * n + layers * d
    assert total["l2"] == layers * n


def test_hbm_is_what_is_read_and_written():
    assert phase().hbm == 3 * n


def test_a_kernel_at_other_sizes_has_all_of_them_in_place_at_once():
    given = phase(
        sizes={"m": n, "k": d},
        flops={("matrix", "bf16"): n * d**2},
        spared={("vector", "fp32"): n - d},
        link=3 * d,
        repeats=layers,
    )
    swapped = given.at({n: d, d: n})
    assert swapped.sizes == {"m": d, "k": n}
    assert swapped.flops == {("matrix", "bf16"): d * n**2}
    assert swapped.spared == {("vector", "fp32"): d - n}
    assert (swapped.read, swapped.write, swapped.link) == (d, 2 * d, 3 * n)
    assert swapped.repeats == layers


def made_of(*phases):
    return replace(get("softmax")().cost, phases=phases)


def test_what_a_schedule_can_spare_is_no_part_of_the_least():
    vector = ("vector", "fp32")
    cost = made_of(
        phase(flops={vector: 7 * n}, spared={vector: 2 * n}, repeats=layers), phase(flops={vector: 5 * d})
    )
    assert sp.expand(cost.flops[vector] - (7 * n * layers + 5 * d)) == 0
    assert sp.expand(cost.least_flops[vector] - (5 * n * layers + 5 * d)) == 0
    assert made_of(phase()).least_flops["matrix"] == 5 * n


def test_what_goes_to_other_devices_has_a_row_where_there_is_any():
    alone, sending = made_of(phase()), made_of(phase(link=n, repeats=layers), phase(link=d))
    assert not alone.sends
    assert "link_bytes" not in alone.rows()
    assert sending.sends
    assert sp.expand(sending.rows()["link_bytes"] - (n * layers + d)) == 0


class TestTensors:
    tensors = Tensors(
        inputs=sp.Integer(100),
        weights=sp.Integer(10),
        outputs=sp.Integer(1),
        updated=sp.Integer(1000),
        offsets=sp.Integer(10000),
    )

    @pytest.mark.parametrize(
        ("direction", "wanted"),
        [
            ("fwd", 100 + 10 + 10000 + 1 + 2 * 1000),  # in; out; state read and written
            ("bwd", (100 + 10) + 1 + (100 + 10 + 10000)),  # operands and dout in; gradients of both out
            ("bwd_data", 10 + 1 + 100),  # weights, dout in; dx out
            ("bwd_weights", 100 + 1 + 10 + 10000),  # x, dout in; dw out
            ("fwd+bwd", 2 * (100 + 10 + 10000) + 2 * 1),  # operands once in; out; dout in; gradients out
        ],
    )
    def test_compulsory_traffic_of_each_direction(self, direction, wanted):
        assert self.tensors.compulsory(direction) == wanted

    def test_a_linear_gradient_needs_no_operands(self):
        linear = Tensors(inputs=sp.Integer(200), outputs=sp.Integer(100), linear=True)
        assert linear.compulsory("bwd") == 100 + 200

    def test_footprint_of_each_direction(self):
        """Training: operands and gradients, what is kept besides the inputs, and the intermediates."""
        assert self.tensors.footprint("fwd", sp.Integer(150), sp.Integer(7)) == 11111 + 7
        assert self.tensors.footprint("bwd", sp.Integer(150), sp.Integer(7)) == 2 * 11111 + (150 - 100) + 7
        linear = Tensors(inputs=sp.Integer(200), outputs=sp.Integer(100), linear=True)
        assert linear.footprint("fwd+bwd", sp.Integer(0), sp.Integer(0)) == 2 * 300
        # Of the operands only those that are kept are counted already.
        some = replace(self.tensors, kept_inputs=sp.Integer(60), kept_outputs=sp.Integer(1))
        assert some.footprint("bwd", sp.Integer(150), sp.Integer(7)) == 2 * 11111 + (150 - 60 - 1) + 7


@pytest.mark.parametrize(("first", "second"), [(5, 3), (3, 5)])
def test_phases_side_by_side_are_as_deep_as_the_deeper_one(first, second):
    """Depths by hand: a phase of 2, two side by side, and one of 4, three times each."""
    depths = (2, False), (first, False), (second, True), (4, False)
    phases = tuple(
        phase(pram_depth=sp.Integer(depth), beside=beside, repeats=sp.Integer(3)) for depth, beside in depths
    )
    assert replace(get("softmax")().cost, phases=phases).pram_depth == 3 * (2 + 5 + 4)


def test_a_layer_sums_its_kernels():
    """Two layers of an Elman RNN, by hand: 2 input products, 2 recurrences of 3 steps; H = I = 4, B = 5."""
    cost = get("rnn")(dtype="fp32", bias=False, persistent=True).cost
    values = {"batch": 5, "seq": 3, "hidden": 4, "input": 4, "num_layers": 2}

    def at(e):
        return sp.sympify(e).subs({s: values[s.name] for s in sp.sympify(e).free_symbols})

    assert at(cost.flops["matrix", "fp32"]) == 2 * (2 * 5 * 3 * 4 * (4 + 4))
    assert at(cost.flops["vector"]) == 2 * (5 * 3 * 4)
    assert at(cost.flops["special"]) == 2 * (5 * 3 * 4)
    # A layer: x, W in, Wx out; U, Wx and h in, h out: 4 bytes each.
    assert at(cost.bytes["hbm"]) == 2 * 4 * ((60 + 16 + 60) + (16 + 60 + 60 + 60))
    assert at(cost.depth) == 2 * 3
    assert at(cost.pram_depth) == 2 * ((1 + 2) + 3 * ((1 + 2) + 1 + 1))
    assert at(cost.launches) == 2 * 2
    assert at(cost.parameters) == 2 * 2 * 16
    assert at(cost.compulsory) == 4 * (60 + 64 + 60)
    assert at(cost.footprint) == 4 * (60 + 64 + 60) + 4 * (60 + 60)  # and Wx of one layer, h between the two


def test_training_memory_counts_nothing_twice():
    """Softmax: x and y and their gradients; y is what is kept."""
    cost = get("softmax")(dtype="fp32", direction="fwd+bwd").cost
    m, cols = symbols("m n")
    assert sp.expand(cost.footprint - 4 * 4 * m * cols) == 0


def test_rows_have_the_names_of_the_contract():
    rows = get("lstm")().cost.rows()
    assert set(rows) >= {
        "matrix_flops", "vector_flops", "special_flops", "hbm_bytes", "l2_bytes", "depth", "pram_depth",
        "path", "launches", "footprint_bytes",
    }  # fmt: skip


def test_cost_has_latex():
    assert (
        r"\text{matrix flops} &= 2 B h n n_{kv} \left(d_h + d_v\right)"
        in get("dense-attention")().cost._repr_latex_()
    )
