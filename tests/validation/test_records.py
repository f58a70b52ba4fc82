"""From visits to a tidy table, to files, and to predictions beside the measurements."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.cli.measuring import _print_errors
from costmodel.errors import OutputError, TableError
from costmodel.score import score
from costmodel.validation import measure, record, report
from costmodel.validation.campaign import run_campaign
from costmodel.validation.case import case
from costmodel.validation.join import with_predictions
from costmodel.validation.journal import Journal

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")

DEVICE = "cpu/epyc-9654"
CASES = [
    case("matmul", {"m": 8, "n": 16, "k": 24}),
    case("bmm", {"batch": 2, "m": 8, "n": 16, "k": 24}),
    case("softmax", {"m": 4, "n": 32}),
    case("softmax", {"m": 4, "n": 32}, state="cold"),
    case("lstm", {"batch": 2, "seq": 5, "hidden": 8}, options={"bidirectional": True}),
    case("gru-loop", {"batch": 2, "seq": 5, "hidden": 8}),
    case("sdpa-math", {"batch": 1, "heads": 2, "seq": 16, "head_dim": 8}, options={"causal": True}),
    case("sdpa-flash", {"batch": 1, "heads": 2, "kv_heads": 1, "seq": 16, "head_dim": 8}),
    case("sdpa-flash", {"batch": 1, "heads": 2, "seq": 1, "seq_kv": 16, "head_dim": 8}),
    case("scaled-mm", {"m": 16, "n": 16, "k": 16}, dtype="fp8"),
]


@pytest.fixture(scope="module")
def table(here, tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "j.jsonl"
    return measure("cpu", journal=path, cases=CASES, budget_s=300.0, passes=2, device_name=DEVICE)


def row(table, bench, **where):
    found = table[table["bench"] == bench]
    for name, value in where.items():
        found = found[found[name] == value]
    assert len(found) == 1
    return found.iloc[0]


def test_each_case_has_one_row_in_the_columns_of_measured_tables(table, here):
    assert len(table) == len(CASES)
    assert (row(table, "bmm")[["b", "m", "n", "k"]] == [2, 8, 16, 24]).all()
    assert pd.isna(row(table, "bmm")["batch"])
    flash = row(table, "sdpa-flash", op="attention_prefill_noncausal")
    assert list(flash[["seq_q", "seq_kv", "heads_q", "heads_kv"]]) == [16, 16, 2, 1]
    assert row(table, "sdpa-flash", op="attention_decode")["seq_kv"] == 16
    assert row(table, "sdpa-math")["causal"]
    walk = row(table, "lstm")
    assert list(walk[["seq", "hidden", "input", "num_layers"]]) == [5, 8, 8, 1]
    assert walk["bidirectional"]
    good = table[table["status"] == "ok"]
    assert set(good["timer"]) == {"perf_counter-median"}
    assert (good["visits"] == 2).all()
    assert (good["q1_s"] <= good["q3_s"]).all()
    assert (table["torch"] == here.torch).all()
    assert (table["framework"] == f"pytorch {torch.__version__.partition('+')[0]}").all()


def test_case_that_could_not_be_measured_stays_in_the_table(table):
    bad = row(table, "scaled-mm")
    assert bad["status"] == "unavailable"
    assert "cuda only" in bad["reason"]
    assert math.isnan(bad["latency_s"])


def test_latency_is_the_median_of_visits_and_spread_their_range(here):
    one = CASES[2]
    common = {
        "key": one.key,
        "case": one.as_dict(),
        "status": "ok",
        "timer": "t",
        "samples": 5,
        "error": None,
    }
    common |= dict.fromkeys(("q1_s", "q3_s", "min_s"), 1.0)
    common |= dict.fromkeys(("clock_hz", "temperature_c", "power_w", "load", "peak_bytes"))
    visits = [{**common, "pass": n, "median_s": t} for n, t in enumerate((2.0, 1.0, 4.0))]
    got = record.table(visits, here, DEVICE).iloc[0]
    assert got["latency_s"] == 2.0
    assert got["spread"] == 1.5
    assert got["samples"] == 15
    assert pd.isna(got["error"])
    # One visit does not show how far reruns differ: the spread is unknown, not 0.
    alone = record.table(visits[:1], here, DEVICE)
    assert alone["spread"].dtype == float
    assert alone["spread"].isna().all()


def test_files_are_read_back_and_never_overwritten_unasked(table, tmp_path):
    parquet, csv = record.save(table, tmp_path / "rows.parquet")
    again = pd.read_parquet(parquet)
    pd.testing.assert_series_equal(again["latency_s"], table["latency_s"])
    assert list(again["case"]) == list(table["case"])
    summary = pd.read_csv(csv)
    assert len(summary) == len(table)
    # The summary also has sizes that only one operation has.
    linear = case("linear-attention", {"batch": 1, "heads": 3, "seq": 8, "head_dim": 8})
    assert list(record.summarise(table.assign(heads=linear["heads"]))["heads"]) == [3] * len(table)
    assert {"latency_s", "spread", "machine", "status"} <= set(summary)
    with pytest.raises(OutputError, match="it exists"):
        record.save(table, tmp_path / "rows.parquet")


def test_predictions_are_joined_to_measurements(table):
    got = with_predictions(table, DEVICE, rung="bound")
    assert list(got["row_id"]) == list(table["row_id"])
    # By hand: 2·8·16·24 FLOP, and (8·24 + 24·16 + 8·16) words.
    device = hardware.load(DEVICE)
    product = row(got, "matmul")
    assert product["matrix_flops"] == 2 * 8 * 16 * 24
    by_hand = max(6144 / device.peak("fp32"), 4 * 704 / device.hbm_bandwidth)
    assert product["seconds"] == pytest.approx(by_hand)
    assert product["ratio"] == pytest.approx(product["seconds"] / product["latency_s"])
    assert not got["under_lower"].any()
    # The math backend is dense attention: unlike flash it writes the scores.
    assert row(got, "sdpa-math")["hbm_bytes"] > 4 * 4 * 2 * 16 * 8
    assert "framework calls" in row(got, "gru-loop")["prediction_reason"]
    assert "fp8" in row(got, "scaled-mm")["prediction_reason"]
    assert row(got, "softmax", state="cold")["rung"] == "bound"


def test_failed_case_does_not_change_how_others_are_timed(table):
    one = table[table["bench"] == "softmax"].iloc[:1]
    both = pd.concat([one, one], ignore_index=True).assign(timer="cudagraph-event-median")
    failed = both.assign(timer=[None, "cudagraph-event-median"], status=["out of memory", "ok"])
    for frame in (both, failed):
        got = with_predictions(frame, "nvidia/t4", rung="kernel")["seconds"]
        alone = with_predictions(frame.iloc[1:], "nvidia/t4", rung="kernel")["seconds"]
        assert got.iloc[1] == alone.iloc[0]
    # The timer matters: a single eager call includes the host's dispatch.
    eager = with_predictions(both.assign(timer="event-best5of25"), "nvidia/t4", rung="kernel")["seconds"]
    assert eager.iloc[0] > 2 * got.iloc[1]


def test_table_of_no_visits_is_refused(here):
    with pytest.raises(TableError, match="budget"):
        record.table([], here, DEVICE)


def test_score_predicts_a_recorded_table_alike(table):
    """A recorded table is a table of measured kernels like any other."""
    ours = with_predictions(table, DEVICE, rung="bound").set_index("row_id")
    theirs = score(table.drop(columns=["case"]), rung="bound").set_index("row_id")
    for bench in ("matmul", "bmm", "softmax", "lstm", "sdpa-flash"):
        rows = ours.index[ours["bench"] == bench]
        np.testing.assert_allclose(theirs.loc[rows, "seconds"], ours.loc[rows, "seconds"])


def test_faster_than_the_bound_is_marked(table):
    fast = table.assign(latency_s=1e-12)
    got = with_predictions(fast, DEVICE, rung="bound")
    predicted = got["lower_s"].notna() & (got["lower_s"] > 0)
    assert got.loc[predicted, "under_lower"].all()
    assert predicted.any()


def test_command_reports_rows_under_the_bound(table, capsys):
    device = hardware.load(DEVICE)
    _print_errors(table, device, "cpu", "bound", False)
    assert "lower bound" not in capsys.readouterr().out
    fast = table["latency_s"].where(table["bench"] != "matmul", 1e-12)
    _print_errors(table.assign(latency_s=fast), device, "cpu", "bound", False)
    said = capsys.readouterr().out
    assert f"{(fast == 1e-12).sum()} rows are faster than their lower bound" in said
    assert "times: matmul fp32" in said
    _print_errors(table.assign(latency_s=fast), device, "cpu", "bound", True)
    assert json.loads(capsys.readouterr().out)["under_lower"] == (fast == 1e-12).sum()


def test_report_has_rungs_and_marks_held_out_rows(table):
    got = report.as_report(table, DEVICE)
    assert {"bound"} <= set(got["rung"])
    assert (got["measured_s"] > 0).all()
    assert got["held_out"].dtype == bool
    assert got.loc[got["state"] == "cold", "held_out"].all()
    assert set(got["layer"]) >= {"matmul", "softmax", "lstm", "dense-attention", "decode-attention"}


def test_journal_of_another_torch_is_refused(here, tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path, here) as book:
        run_campaign(CASES[:1], here, book, budget_s=50.0, passes=1)
    path.write_text(path.read_text().replace(f'"torch": "{here.torch}"', '"torch": "0.0"'))
    with pytest.raises(TableError, match=r"of torch '0\.0'"):
        measure("cpu", journal=path, cases=CASES[:1], device_name=DEVICE)
