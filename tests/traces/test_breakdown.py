"""Where the time of a trace went, from Python and on the command line."""

import json

import numpy as np
import pandas as pd
import pytest
from recorded import bf16, fp32, kernel, number, op, write

from costmodel._version import __version__
from costmodel.cli import run
from costmodel.errors import TableError
from costmodel.hardware import load
from costmodel.layers.matmul import Matmul
from costmodel.predict import predict
from costmodel.score import score
from costmodel.traces import breakdown, read_trace


@pytest.fixture
def trace(tmp_path):
    """Return a trace: two products as long as predicted, one ten times as long, and a sort."""
    p = predict(Matmul(dtype="bf16"), "h200-sxm", m=4096, n=4096, k=4096)
    usual = p.seconds * 1e6
    events = []
    for call, (took, n) in enumerate(((usual, 4096), (usual, 4096), (10 * usual, 2048)), 1):
        events += [
            op("aten::mm", 100 * call, 9, call, bf16(4096, 4096), bf16(4096, n)),
            kernel("nvjet_tst_128x256", 1e6 * call, took, call),
        ]
    events += [op("aten::sort", 900, 9, 9, bf16(1000, 64)), kernel("sort", 9e6, usual, 9)]
    return write(tmp_path / "trace.json", events, "NVIDIA H200")


def test_all_time_is_in_rows_or_among_others(trace):
    scored = score(read_trace(trace))
    found = breakdown(scored)
    assert found.measured_s == pytest.approx(scored["total_s"].sum())
    assert found.covered_s + sum(found.others.values()) == pytest.approx(found.measured_s)
    assert found.rows["share"].sum() == pytest.approx(found.covered_s / found.measured_s)
    assert list(found.others) == ["aten::sort"]
    assert set(found.rows) == {*scored, "share", "verdict"}
    assert found.lower_s <= found.predicted_s
    assert found.predicted_s == pytest.approx((found.rows["calls"] * found.rows["seconds"]).sum())


def test_the_longest_is_first_and_what_is_unexpectedly_slow_is_marked(trace):
    rows = breakdown(score(read_trace(trace))).rows
    assert list(rows["n"]) == [2048, 4096]
    assert list(rows["verdict"]) == ["slower", ""]
    assert rows["total_s"].is_monotonic_decreasing


def test_without_a_prediction_there_is_no_verdict(trace):
    """At the bound there is no interval that a time could be outside of."""
    rows = breakdown(score(read_trace(trace), rung="bound")).rows
    assert set(rows["verdict"]) == {""}


def test_what_has_no_prediction_is_listed_most_time_first(tmp_path):
    events = [op("aten::relu", 0, 9, 1, bf16(8, 8))]
    events += [
        kernel(name, 10 * i, took, None) for i, (name, took) in enumerate((("b", 3), ("a", 9), ("b", 4)))
    ]
    found = breakdown(score(read_trace(write(tmp_path / "t.json", events, "NVIDIA H200"))))
    assert found.others == pytest.approx({"a": 9e-6, "b": 7e-6})
    assert list(found.others) == ["a", "b"]


def test_another_table_is_refused(trace):
    with pytest.raises(TableError, match="it lacks seconds"):
        breakdown(read_trace(trace))
    with pytest.raises(TableError, match="torch_op, calls"):
        breakdown(pd.DataFrame({"op": ["gemm"], "latency_s": [1.0]}))


# -- the command ---------------------------------------------------------------------------


def test_the_command_says_where_the_time_went(trace, capsys):
    assert run(["profile", str(trace)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "m=4096 n=2048 k=4096" in lines[1]
    assert lines[1].endswith("slower")
    assert "with a prediction 92.3 % of it" in out  # 12 of 13 parts
    assert lines[-4] == "not predicted: aten::sort 7.7 %"
    assert lines[-3].endswith("a sort or a selection passes over its input depends on the values")


def test_the_command_names_the_device_the_rung_and_the_origin_of_constants(trace, capsys):
    """The trace names its GPU in its own words: the answer says which device that was taken for."""
    device = load("h200-sxm")
    assert run(["profile", str(trace)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "on nvidia/h200-sxm: rung calibrated, constants from self"
    assert lines[-1] == f"costmodel {__version__}, spec {device.spec_hash}"
    assert run(["profile", str(trace), "--rung", "bound"]) == 0
    assert "on nvidia/h200-sxm: rung bound, constants from none" in capsys.readouterr().out


def test_fewer_rows_are_listed_on_request(trace, capsys):
    assert run(["profile", str(trace), "--top", "1"]) == 0
    assert "and 1 more, 15.4 % of the time; --top 2 lists them all" in capsys.readouterr().out


def test_json_has_every_row_and_no_empty_cells(trace, capsys):
    assert run(["profile", str(trace), "--top", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["measured_s"] == pytest.approx(told["covered_s"] + sum(told["others"].values()))
    assert [row["n"] for row in told["rows"]] == [2048, 4096]
    assert all(value is not None for row in told["rows"] for value in row.values())


def test_the_table_is_what_score_takes(trace, tmp_path, capsys):
    out = tmp_path / "rows.csv"
    assert run(["profile", str(trace), "-m", "b200-sxm", "-o", str(out)]) == 0
    again = tmp_path / "again.csv"
    assert run(["score", str(out), "-o", str(again)]) == 0
    first, second = (pd.read_csv(path).dropna(subset="seconds") for path in (out, again))
    assert set(first["gpu"]) == {"b200-sxm"}
    np.testing.assert_allclose(first["seconds"], second["seconds"])


def test_rows_that_differ_look_different(tmp_path, capsys):
    x, states, flag = bf16(64, 128), ([[2, 8, 64], [2, 8, 64]], "TensorList", ""), number("True")
    gates = [flag, number(1), number("0."), number("False"), flag, number("False")]
    events = [
        op("aten::relu", 0, 5, 1, x),
        op("aten::threshold_backward", 10, 5, 2, x, x, number(0)),
        op("aten::lstm", 20, 5, 3, fp32(50, 8, 32), states, ([[256, 32]], "TensorList", ""), *gates),
        *(kernel("k", 100 * call, 30 - call, call) for call in (1, 2, 3)),
    ]
    assert run(["profile", str(write(tmp_path / "t.json", events, "NVIDIA H200"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "relu bf16  " in lines[1]
    assert "relu bf16 backward" in lines[2]
    assert "num_layers=1 bidirectional" in lines[3]


def test_operations_of_one_layer_and_size_have_torchs_name(tmp_path, capsys):
    x, bias = bf16(64, 128), bf16(64)
    events = [
        op("aten::mm", 0, 5, 1, x, bf16(128, 64)),
        op("aten::addmm", 10, 5, 2, bias, x, bf16(128, 64), number("1"), number("1")),
        op("aten::mm", 20, 5, 3, x, bf16(128, 32)),
        *(kernel("k", 100 * call, 30 - call, call) for call in (1, 2, 3)),
    ]
    assert run(["profile", str(write(tmp_path / "t.json", events, "NVIDIA H200"))]) == 0
    names = [line.split("  ")[2] for line in capsys.readouterr().out.splitlines()[1:4]]
    assert [name.strip() for name in names] == [
        "gemm bf16 (aten::mm)",
        "gemm bf16 (aten::addmm)",
        "gemm bf16",
    ]


def test_kernels_are_named_without_their_types(tmp_path, capsys):
    names = [
        "void at::native::fill<4, at::Functor<float> >(int, char*)",
        "void at::native::fill<2, at::Functor<int> >(int, char*)",
        "void (anonymous namespace)::softmax<float>(int)",
        "Memcpy HtoD (Pinned -> Device)",
    ]
    events = [op("aten::relu", 0, 5, 1, bf16(8, 8))]
    events += [kernel(name, 100 * call, 25, None) for call, name in enumerate(names)]
    assert run(["profile", str(write(tmp_path / "t.json", events, "NVIDIA H200"))]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "not predicted: at::native::fill 50.0 %, softmax 25.0 %, Memcpy HtoD 25.0 %"
    )


def test_why_a_described_operation_has_no_prediction_is_said(tmp_path, capsys):
    events = [op("aten::mm", 0, 5, 1, bf16(64, 64), bf16(64, 64)), kernel("gemm", 100, 30, 1)]
    path = write(tmp_path / "t.json", events, "Tesla P100-PCIE-16GB")
    assert run(["profile", str(path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "100.0 % of the time is not predicted because nvidia/p100-pcie-16gb has no bf16 rate"
    )


def test_what_a_trace_does_not_record_is_said(tmp_path, capsys):
    lists = ([[4, 6], [4, 6]], "TensorList", "")
    events = [op("aten::cat", 0, 5, 1, lists, number("0")), kernel("mystery", 100, 30, 1)]
    assert run(["profile", str(write(tmp_path / "t.json", events, "NVIDIA H200"))]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("100.0 % of the time is not predicted because a trace does not record the formats")


def test_a_pass_says_what_torch_calls_it_and_how_much_it_moves(tmp_path, capsys):
    events = [
        op("aten::copy_", 0, 5, 1, bf16(1000, 512), fp32(1000, 512), number("False")),
        kernel("copy", 100, 30, 1),
        op("aten::fill_", 200, 5, 2, fp32(1000, 512), number("0")),
        kernel("fill", 300, 20, 2),
    ]
    assert run(["profile", str(write(tmp_path / "t.json", events, "NVIDIA H200"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "cast fp32 (aten::copy_)  m=1000 n=512: 2.048 MB in, 1.024 MB out" in lines[1]
    assert "fill fp32 (aten::fill_)  m=1000 n=512: nothing in, 2.048 MB out" in lines[2]


@pytest.mark.parametrize(
    ("call", "moved", "cached"),
    [
        (op("aten::mul", 0, 5, 1, fp32(2**14, 2**14), fp32(2**14, 2**14)), 2, 1),
        (op("aten::mul_", 0, 5, 1, fp32(2**14, 2**14), number("2")), 2, 2),
        (op("aten::add_", 0, 5, 1, fp32(2**14, 2**14), fp32(2**14, 2**14), number("1")), 2, 2),
        (op("aten::relu_", 0, 5, 1, fp32(2**14, 2**14)), 2, 2),
        (op("aten::relu", 0, 5, 1, fp32(2**14, 2**14)), 2, 1),
    ],
)
def test_bounds_hold_for_operands_that_are_one_and_for_results_in_place(tmp_path, call, moved, cached):
    """``x * x`` reads one table; of ``x.mul_(2)`` a cache of 50 MB saves 50 MB of reads and of writes."""
    path = write(tmp_path / "t.json", [call, kernel("k", 100, 30, 1)], "NVIDIA H100 PCIe")
    (row,) = score(read_trace(path)).to_dict("records")
    device = load("h100-pcie")
    bytes_ = moved * 2**28 * 4 - cached * device.llc_capacity
    assert row["lower_s"] == pytest.approx(bytes_ / device.hbm_bandwidth, rel=1e-6)


def test_a_trace_that_took_no_time_has_no_shares(tmp_path, capsys):
    path = write(tmp_path / "t.json", [op("aten::embedding", 0, 0, 1, bf16(8, 8))])
    assert run(["profile", str(path), "-m", "cpu/xeon-8480plus"]) == 0
    assert "not predicted: aten::embedding 0.0 %" in capsys.readouterr().out
    predicted = write(tmp_path / "t.json", [op("aten::relu", 0, 0, 1, bf16(8, 8))])
    (share,) = breakdown(score(read_trace(predicted, gpu="cpu/xeon-8480plus"), rung="bound")).rows["share"]
    assert share == 0


@pytest.mark.parametrize(
    ("end", "times", "verdict"),
    [
        ("hi95_s", 1.0, ""),
        ("hi95_s", 1.0 + 1e-9, "slower"),
        ("lo95_s", 1.0, ""),
        ("lo95_s", 1.0 - 1e-9, "faster"),
    ],
)
def test_a_time_at_an_end_of_the_interval_is_within_it(trace, end, times, verdict):
    scored = score(read_trace(trace))
    scored["latency_s"] = scored[end] * times
    assert set(breakdown(scored).rows["verdict"]) == {verdict}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.json",), "none.json: no such file"),
        (("trace.json", "-m", "h300"), "unknown device 'h300'"),
        (("trace.json", "-o", "rows.txt"), "rows.txt"),
        (("trace.json", "--top", "0"), "--top"),
        (("trace.json", "--rung", "best"), "unknown rung 'best'"),
    ],
)
def test_bad_input_is_one_line(trace, monkeypatch, capsys, words, said):
    monkeypatch.chdir(trace.parent)
    assert run(["profile", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (trace.parent / "rows.txt").exists()
