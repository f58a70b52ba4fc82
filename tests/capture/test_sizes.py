"""Which sizes stay symbolic, and what is reported where a module's code fixes them."""

import importlib
import re

import pytest
import sympy as sp

import costmodel as cm
from costmodel.capture import from_torch
from costmodel.capture._sizes import Translation
from costmodel.errors import CostmodelError, SizeError, UnknownNameError
from costmodel.symbols import symbol, symbols

torch = pytest.importorskip("torch", reason="from_torch needs torch")

from .zoo import BATCH_FIRST, Attention, Loop, Twice, rows  # noqa: E402

nn = torch.nn
B, N = symbols("batch seq")


def test_named_dimensions_become_symbols_and_others_stay_numbers():
    model = from_torch(nn.Linear(16, 8), rows(3, 6), dims=BATCH_FIRST)
    assert model.required == ("batch", "seq")
    assert model.cost.flops["matrix"] == 2 * B * N * 16 * 8
    fixed = from_torch(nn.Linear(16, 8), rows(3, 6))
    assert fixed.required == ()
    assert fixed.cost.flops["matrix"] == 2 * 3 * 6 * 16 * 8


def test_a_batch_of_one_stays_symbolic():
    model = from_torch(Attention(), rows(1, 6), dims=BATCH_FIRST)
    assert model.required == ("batch", "seq")
    assert model.assumed == ()


def test_sizes_of_equal_example_value_stay_distinct():
    model = from_torch(nn.Linear(16, 8), rows(16, 16), dims=BATCH_FIRST)
    assert model.cost.flops["matrix"] == 2 * B * N * 16 * 8


def test_several_inputs_can_share_a_size():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x, memory, *, scale):
            return self.attention(x, memory, memory, need_weights=False)[0] * scale

    model = from_torch(
        Cross(),
        rows(3, 6),
        memory=rows(3, 9),
        scale=torch.zeros(3, 1, 1),
        dims={"batch": [(0, 0), ("memory", 0), ("scale", 0)], "seq": (0, 1), "seq_kv": ("memory", 1)},
    )
    kv = symbols("seq_kv")[0]
    projections = 2 * B * 16 * 16 * (N + 2 * kv + N)
    assert (model.cost.flops["matrix"] - projections - 4 * B * N * kv * 16).expand() == 0


def test_dynamic_shapes_of_torch_export_are_accepted():
    batch, seq = torch.export.Dim("batch"), torch.export.Dim("seq")
    for shapes in ({0: {0: batch, 1: seq}}, [{0: batch, 1: seq}], [("batch", "seq", None)]):
        model = from_torch(nn.Linear(16, 8), rows(3, 6), dynamic_shapes=shapes)
        assert model.required == ("batch", "seq")


def test_a_loop_over_the_length_fixes_it_and_reports_that():
    model = from_torch(Loop(), rows(3, 6), dims=BATCH_FIRST)
    assert model.required == ("batch",)
    (line,) = model.assumed
    assert re.search(r"zoo\.py:\d+, in forward: seq was taken to be 6, as in the example", line)
    assert "1 assumed" in repr(model)
    with pytest.raises(SizeError, match=r"takes no seq: .*seq was taken to be 6"):
        cm.predict(model, "nvidia/h200-sxm", batch=3, seq=12)


def test_a_comparison_with_a_size_limits_it():
    class Short(nn.Module):
        def forward(self, x):
            return x * 2 if x.shape[1] <= 40 else x * 3

    model = from_torch(Short(), rows(3, 6), dims=BATCH_FIRST)
    ((condition, where),) = model.bounds
    assert condition == (N <= 40)
    assert "test_sizes.py" in where
    assert cm.predict(model, "h200-sxm", rung="bound", batch=1, seq=40).seconds > 0
    with pytest.raises(SizeError, match=r"seq <= 40 .*test_sizes\.py.*capture it again"):
        cm.predict(model, "h200-sxm", rung="bound", batch=1, seq=[8, 41])


class DataDependent(nn.Module):
    """Has four results that depend on its data."""

    def forward(self, x):
        if x.sum() > 0:
            x = torch.exp(x)
        if (x > 0).all():
            x = torch.tanh(x)
        chosen = x[x > 0]
        return x * int(x.max().item()) + chosen.sum()


def test_data_dependent_results_are_assumed_and_reported():
    model = from_torch(DataDependent(), rows(3, 6), dims=BATCH_FIRST)
    told = [line.partition("in forward: ")[2] for line in model.assumed]
    assert told == [
        "a condition that depends on data was taken to be False",
        "a condition that depends on data was taken to be True",
        "a selection that depends on data was taken to select all of batch × seq × 16",
        "a number that depends on data was taken to be 1.0",
    ]
    assert all(re.match(r".*test_sizes\.py:\d+, in forward", line) for line in model.assumed)
    names = [phase.name.partition(": ")[2] for phase in model.forward()]
    assert "tanh" in names
    assert "exp" not in names


def test_code_that_fails_with_symbols_is_captured_at_the_examples_sizes():
    class Numbers(nn.Module):
        def forward(self, x):
            if not isinstance(x.shape[1], int):
                raise TypeError("a whole number is wanted")
            return x * 2

    model = from_torch(Numbers(), rows(3, 6), dims=BATCH_FIRST)
    assert model.required == ()
    assert model.cost.bytes["hbm"] == 2 * 4 * 3 * 6 * 16
    (line,) = model.assumed
    assert line.startswith(
        "all sizes are fixed to those of the example, because with symbolic sizes Numbers cannot run"
    )
    assert "a whole number is wanted" in line
    with pytest.raises(SizeError, match="takes no seq: all sizes are fixed to those of the example"):
        cm.evaluate(model, seq=12)


def test_packed_sequences_are_refused():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(16, 8, batch_first=True)

        def forward(self, x, lengths):
            return self.lstm(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1]

    with pytest.raises(CostmodelError, match=r"a size depends on data .*test_sizes\.py:\d+.*padded"):
        from_torch(Packed(), rows(3, 6), torch.tensor([6, 4, 2]), dims=BATCH_FIRST)


def test_counts_do_not_depend_on_the_examples_sizes():
    """Only the footprint may: the moment of peak memory is found at the example's sizes."""
    small, large = (from_torch(Twice().eval(), rows(b, n), dims=BATCH_FIRST) for b, n in ((2, 5), (7, 64)))
    for row, expression in small.cost.rows().items():
        if row != "footprint_bytes":
            assert (expression - large.cost.rows()[row]).expand() == 0, row


def test_a_symbolic_capture_equals_captures_at_concrete_sizes():
    """In traffic, arithmetic and launches."""
    module = Twice().eval()
    model = from_torch(module, rows(3, 6), dims=BATCH_FIRST, fusion="compile")
    for batch, seq in ((2, 9), (4, 33)):
        there = cm.evaluate(from_torch(module, rows(batch, seq), fusion="compile"), sram=49152)
        here = cm.evaluate(model, batch=batch, seq=seq, sram=49152)
        for name in ("matrix_flops", "vector_flops", "special_flops", "hbm_bytes", "launches"):
            assert here[name] == there[name], name


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"length": (0, 1)}, "unknown size 'length'"),
        ({"seq": (0, 5)}, r"dims of 'seq': there is no input 0 with an axis 5"),
        ({"seq": ("mask", 1)}, r"there is no input 'mask'"),
        ({"seq": 1}, r"dims of 'seq': wanted \(input, axis\)"),
        ({"seq": [(0, 0), (0, 1)]}, r"the example inputs have 3 and 6; one size has one value"),
    ],
)
def test_dims_that_do_not_fit_the_inputs_are_refused(dims, message):
    with pytest.raises((CostmodelError, UnknownNameError), match=message):
        from_torch(nn.Linear(16, 8), rows(3, 6), dims=dims)


@pytest.mark.parametrize(
    ("name", "divisors"),
    [
        ("FloorDiv", (3,)),
        ("CeilDiv", (3,)),
        ("Mod", (3,)),
        ("PythonMod", (3,)),
        ("ModularIndexing", (3, 2)),
        ("Max", (7,)),
        ("Min", (7,)),
        ("PowByNatural", (2,)),
        *((name, ()) for name in ("FloorToInt", "TruncToInt", "CeilToInt", "RoundToInt")),
    ],
)
def test_functions_of_sizes_are_torchs(name, divisors):
    """Those of one argument on halves: torch rounds 5/2 to 2, and 7/2 to 4."""
    function = getattr(importlib.import_module("torch.utils._sympy.functions"), name)
    torchs, ours = sp.Symbol("s0", positive=True, integer=True), symbol("seq")
    translation = Translation()
    translation.names[torchs] = ours
    found = translation.expression(function(torchs / 2 if not divisors else torchs, *divisors))
    for size in range(1, 25):
        given = sp.Rational(size, 2) if not divisors else sp.Integer(size)
        expected = round(given) if name == "RoundToInt" else function(given, *map(sp.Integer, divisors))
        assert found.xreplace({ours: sp.Integer(size)}) == expected
