"""Where the time of a trace went, from Python and on the command line."""

import json

import numpy as np
import pandas as pd
import pytest
from recorded import bf16, kernel, op, write

from costmodel.cli import run
from costmodel.errors import TableError
from costmodel.layers.matmul import Matmul
from costmodel.predict import predict
from costmodel.score import score
from costmodel.traces import breakdown, read_trace


@pytest.fixture
def trace(tmp_path):
    """Return a trace: two products as long as predicted, one ten times as long, and a lookup."""
    p = predict(Matmul(dtype="bf16"), "h200-sxm", m=4096, n=4096, k=4096)
    usual = p.seconds * 1e6
    events = []
    for call, (took, n) in enumerate(((usual, 4096), (usual, 4096), (10 * usual, 2048)), 1):
        events += [
            op("aten::mm", 100 * call, 9, call, bf16(4096, 4096), bf16(4096, n)),
            kernel("nvjet_tst_128x256", 1e6 * call, took, call),
        ]
    events += [op("aten::embedding", 900, 9, 9, bf16(1000, 64)), kernel("gather", 9e6, usual, 9)]
    return write(tmp_path / "trace.json", events, "NVIDIA H200")


def test_all_time_is_in_rows_or_among_others(trace):
    scored = score(read_trace(trace))
    found = breakdown(scored)
    assert found.measured_s == pytest.approx(scored["total_s"].sum())
    assert found.covered_s + sum(found.others.values()) == pytest.approx(found.measured_s)
    assert found.rows["share"].sum() == pytest.approx(found.covered_s / found.measured_s)
    assert list(found.others) == ["aten::embedding"]
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
    assert lines[-1] == "not predicted: aten::embedding 7.7 %"


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
