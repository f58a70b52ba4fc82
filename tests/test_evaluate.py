"""Evaluation of counts: exact at any size, the same for scalars and arrays, and invalid sizes refused."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel import evaluate
from costmodel.errors import CostmodelError, SizeError, UnknownNameError
from costmodel.evaluate import as_one_size, bind, compile_expressions
from costmodel.layers import get
from costmodel.layers.recurrent import LSTM
from costmodel.symbols import symbols

sys.path.insert(0, str(Path(__file__).parent / "layers"))
from exact import exact

ATTENTION = {"batch": 2, "heads": 4, "seq": 100, "head_dim": 64}


def test_overflow_does_not_wrap():
    """4·B·H·N²·D at B = 1024, H = 128, N = 2²⁰, D = 128 wraps to 0 in int64 (architecture.md)."""
    sizes = {"batch": 1024, "heads": 128, "seq": 2**20, "head_dim": 128}
    assert evaluate(get("dense-attention")(), **sizes)["matrix_flops"] == 4.0 * 1024 * 128 * 2.0**40 * 128
    arrays = {name: np.array([value], dtype=np.int32) for name, value in sizes.items()}
    assert evaluate(get("dense-attention")(), **arrays)["matrix_flops"] == pytest.approx(7.378697629483821e19)


@settings(max_examples=40, deadline=None)
@given(
    seq=st.integers(1, 5000), more=st.integers(0, 5000), d=st.integers(1, 300), sram=st.integers(64, 2**18),
    schedule=st.sampled_from(["fa1", "fa2"]), causal=st.booleans(), direction=st.sampled_from(["fwd", "bwd"]),
)  # fmt: skip
def test_compiled_numbers_are_exact(seq, more, d, sram, schedule, causal, direction):
    """Against the same expressions evaluated in fractions, with tiles of any size."""
    layer = get("tiled-attention")(schedule=schedule, causal=causal, direction=direction)
    sizes = {
        "batch": 3,
        "heads": 4,
        "kv_heads": 2,
        "seq": seq,
        "seq_kv": seq + more,
        "head_dim": d,
        "value_dim": 7,
    }
    sizes |= {"d_model": 4 * d, "sram": sram}
    got = evaluate(layer, **sizes)
    for name, row in layer.cost.rows().items():
        assert got[name] == pytest.approx(float(exact(row, sizes)), rel=1e-12)


def test_scalars_and_arrays_agree():
    layer = get("lstm")(bidirectional=True, direction="fwd+bwd")
    grid = {"seq": np.array([[1], [7], [512]]), "hidden": np.array([3, 64, 768, 1000])}
    table = evaluate(layer, batch=5, onchip=10**6, **grid)
    for name, values in table.items():
        assert values.shape == (3, 4)
        assert values.dtype == np.float64
        for i, seq in enumerate(grid["seq"][:, 0]):
            for j, hidden in enumerate(grid["hidden"]):
                one = evaluate(layer, batch=5, onchip=10**6, seq=int(seq), hidden=float(hidden))[name]
                assert isinstance(one, float)
                assert one == values[i, j]


def test_constant_counts_have_the_common_shape():
    table = evaluate(get("feed-forward")(), batch=1, seq=np.arange(1, 6), d_model=8)
    assert table["path"].shape == table["depth"].shape == (5,)


@pytest.mark.parametrize(
    "bad",
    [0, -1, 2.5, math.nan, math.inf, -math.inf, 1e400, 1e300, 2**41, 10**400, True, None, "128", "x", [], {},
     1j, [1, 0], [1, 2.5], [1, math.nan], [[1], [2, 3]], np.array([]), np.array([True]), np.float32(0.5),
     np.ma.array([8, 16], mask=[False, True])],
    ids=str,
)  # fmt: skip
def test_invalid_size_is_refused_by_name(bad):
    with pytest.raises(SizeError, match=r"^size seq: wanted") as error:
        evaluate(get("dense-attention")(), **{**ATTENTION, "seq": bad})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "good", [128, 128.0, np.int8(64), np.float32(64), np.array(7), [1, 2], (3,), range(1, 4)]
)
def test_whole_number_of_any_type_is_a_size(good):
    assert np.all(
        np.asarray(evaluate(get("dense-attention")(), **{**ATTENTION, "seq": good})["matrix_flops"]) > 0
    )


def test_a_size_of_which_there_is_one_is_a_whole_number():
    for good in (7, 7.0, np.int8(7), np.array(7)):
        assert isinstance(as_one_size("seq", good), int)
        assert as_one_size("seq", good) == 7
    for several, count in ([7, 8], 2), (np.array([7]), 1):
        with pytest.raises(SizeError, match=f"^size seq: wanted one whole number, got {count} of them$"):
            as_one_size("seq", several)
    with pytest.raises(SizeError, match=r"got 2\.5"):
        as_one_size("seq", 2.5)


def test_a_missing_size_is_named():
    with pytest.raises(SizeError, match=r"dense-attention needs heads \(query heads\), seq \(length"):
        evaluate(get("dense-attention")(), batch=1, head_dim=64)


def test_an_unknown_size_gets_the_nearest_name():
    with pytest.raises(
        UnknownNameError, match=r"unknown size 'head_dims' of dense-attention; did you mean 'head_dim'"
    ):
        evaluate(get("dense-attention")(), **ATTENTION, head_dims=3)
    with pytest.raises(UnknownNameError, match="size 'heads' of lstm"):
        evaluate(get("lstm")(), batch=1, seq=1, hidden=1, heads=1)


def test_shapes_that_do_not_broadcast_are_named():
    with pytest.raises(SizeError, match=r"do not broadcast.*seq \(2,\).*head_dim \(3,\)"):
        evaluate(get("dense-attention")(), batch=1, heads=1, seq=[1, 2], head_dim=[1, 2, 3])


class TestDefaults:
    def test_follow_other_sizes(self):
        bound = bind(get("dense-attention")(), ATTENTION)
        assert bound["seq_kv"] == 100
        assert bound["kv_heads"] == 4
        assert bound["value_dim"] == 64
        assert bound["d_model"] == 256
        assert bind(get("feed-forward")(), {"batch": 1, "seq": 1, "d_model": [3, 5]})["d_ff"].tolist() == [
            12,
            20,
        ]

    def test_that_are_not_whole_are_refused(self):
        with pytest.raises(SizeError, match="head_dim defaults to d_model/heads, which is not whole here"):
            evaluate(get("transformer-block")(), batch=1, seq=1, d_model=10, heads=3)


class TestTogether:
    """Sizes that are valid one by one."""

    @pytest.mark.parametrize("layer", ["dense-attention", "tiled-attention"])
    def test_heads_share_keys_evenly(self, layer):
        with pytest.raises(SizeError, match="heads must be a multiple of kv_heads"):
            evaluate(get(layer)(), **ATTENTION, kv_heads=3)

    @pytest.mark.parametrize("options", [{"causal": True}, {"projections": True}])
    def test_self_attention_needs_as_many_keys_as_queries(self, options):
        """A self-attention whose keys are fewer than its queries would have a cache of negative size."""
        with pytest.raises(SizeError, match="needs seq_kv of at least seq"):
            evaluate(get("dense-attention")(**options), **ATTENTION, seq_kv=99)

    def test_cross_attention_may_have_fewer_keys_than_queries(self):
        layer = get("dense-attention")(projections=True, cross=True)
        assert evaluate(layer, **ATTENTION, seq_kv=3)["hbm_bytes"] > 0


class TestCounts:
    def test_that_need_the_device_say_so(self):
        counts = evaluate(get("tiled-attention")(schedule="fa1"), **ATTENTION)
        assert "matrix_flops" in counts
        with pytest.raises(SizeError, match=r"hbm_bytes of tiled-attention .* give sram=… \[bytes\]"):
            counts["hbm_bytes"]

    def test_that_do_not_exist_are_refused(self):
        with pytest.raises(UnknownNameError, match="did you mean 'hbm_bytes'"):
            evaluate(get("softmax")(), m=1, n=1)["hbm_byte"]


class TestOptionsAsText:
    def test_every_kind_of_option_is_parsed(self):
        layer = get("tiled-attention").from_text({"causal": "yes", "tile": "64x256", "schedule": "fa1"})
        assert layer == get("tiled-attention")(causal=True, tile=(64, 256), schedule="fa1")
        assert get("tiled-attention").from_text({"tile": "none"}).tile is None
        assert get("lstm").from_text({"persistent": "auto"}).persistent is None
        assert get("lstm").from_text({"persistent": "off"}).persistent is False
        assert get("lstm").from_text({"dtype": "bfloat16"}).dtype == "bf16"

    @pytest.mark.parametrize(
        ("layer", "option", "text", "message"),
        [
            ("lstm", "bidirectional", "maybe", "option bidirectional: wanted true or false, got 'maybe'"),
            ("lstm", "bidirection", "true", "did you mean 'bidirectional' or 'direction'"),
            ("tiled-attention", "tile", "64", "option tile: wanted something like 128x128, got '64'"),
            ("tiled-attention", "tile", "0x64", "wanted something like 128x128"),
            (
                "tiled-attention",
                "schedule",
                "fa3",
                "schedule 'fa3' of tiled-attention; did you mean 'fa",
            ),
            (
                "dense-attention",
                "direction",
                "bwd_data",
                "direction 'bwd_data' of dense-attention; did you mean 'bwd'",
            ),
            ("dense-attention", "convention", "tf", "unknown convention 'tf' of dense-attention"),
            ("dense-attention", "dtype", "bf61", "unknown dtype 'bf61'; did you mean 'bf16'"),
            ("feed-forward", "activation", "rleu", "activation 'rleu' of feed-forward; did you mean 'relu'"),
            ("elementwise", "op", "ad", "did you mean 'add'"),
            ("norm", "kind", "batch", "unknown kind 'batch' of norm; known: layer, rms"),
            ("transformer-block", "attention", "tield", "did you mean 'tiled'"),
            ("transformer-block", "norm", "rsm", "did you mean 'rms'"),
        ],
    )
    def test_invalid_options_are_refused_with_what_would_do(self, layer, option, text, message):
        with pytest.raises(CostmodelError, match=message.replace("(", r"\(")):
            get(layer).from_text({option: text})

    def test_options_that_exclude_each_other_are_refused(self):
        with pytest.raises(CostmodelError, match="causal and cross exclude each other"):
            get("dense-attention")(causal=True, cross=True)
        with pytest.raises(CostmodelError, match="wavefront needs bidirectional=false"):
            get("lstm")(wavefront=True, bidirectional=True)

    def test_unknown_layer_is_refused_with_the_nearest_name(self):
        with pytest.raises(
            UnknownNameError, match="unknown layer 'tiled-attn'; did you mean 'tiled-attention'"
        ):
            get("tiled-attn")


def test_the_printer_broadcasts_every_function():
    n, m = symbols("seq m")
    cases = sp.Piecewise((n, n > 2), (m, True))
    compiled = compile_expressions([sp.Max(n, m, 2), sp.Min(n, m), cases, n**3, m**-2], ["seq", "m"])
    grown, column = np.array([1.0, 2.0, 3.0]), np.array([[2.0], [4.0]])
    top, low, chosen, cube, inverse = compiled(grown, column)
    assert top.tolist() == [[2, 2, 3], [4, 4, 4]]
    assert low.tolist() == [[1, 2, 2], [1, 2, 3]]
    assert chosen.tolist() == [[2, 2, 3], [4, 4, 3]]
    assert cube.tolist() == [1, 8, 27]
    assert inverse.tolist() == [[1 / 4], [1 / 16]]


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (2**41, "at most 1099511627776, got 2199023255552"),
        (np.array([1, 2**41]), "at most 1099511627776, got 2199023255552"),
        (10**20, "at most 1099511627776, got a number of 67 bits"),
        (2**64 - 1, "at most 1099511627776, got 18446744073709551615"),
        (-3, "a whole number of at least 1, got -3"),
        (np.array([3.0, 2.25]), "a whole number of at least 1, got 2.25"),
    ],
)
def test_invalid_size_is_refused_with_what_was_wanted_and_what_came(size, said):
    with pytest.raises(SizeError, match=re.escape(f"size seq: wanted {said}") + "$"):
        evaluate(LSTM(), batch=1, hidden=8, seq=size)


def test_largest_size_allowed_is_accepted():
    assert evaluate(LSTM(), batch=1, hidden=8, seq=np.array([2**40]))["depth"] == [2**40]
    assert evaluate(LSTM(), batch=1, hidden=8, seq=2**40)["depth"] == 2**40


@pytest.mark.parametrize("d_model", [65, np.array([64, 65])])
def test_default_that_is_not_whole_everywhere_is_refused(d_model):
    layer = get("transformer-block")()
    with pytest.raises(SizeError, match=r"head_dim defaults to d_model/heads, which is not whole here"):
        evaluate(layer, batch=1, seq=8, d_model=d_model, heads=8)
