"""The regression gate: no cell of the accuracy table may get worse by more than half a point."""

import pandas as pd
import pytest

from costmodel.validation import accuracy


@pytest.fixture(scope="module")
def today(shared):
    return accuracy.table_of(accuracy.scored_rows(accuracy.held_out_rows(shared / "measurements")))


def test_no_cell_got_worse(today):
    then = pd.read_csv(accuracy.GATE)
    worse = accuracy.compare(today, then)
    assert not worse, "\n".join(worse)


@pytest.fixture
def then():
    cell = {"gpu": "t4", "op": "gemm", "dtype": "fp32", "framework": "pytorch"}
    return pd.DataFrame([{**cell, "mean_ape": 8.0}, {**cell, "op": "bmm", "mean_ape": 9.0}])


def test_held_out_rows_have_no_device_kept_aside(tmp_path, monkeypatch):
    """Intervals of carried constants are made from the same rows, so they do not use such devices either."""
    labels = ["nvidia/l4", "a100-sxm-80gb", "h100-sxm"]
    rows = pd.concat([pd.DataFrame({"gpu": labels, "m": m, "n": 64, "k": 64}) for m in range(1, 40)])
    for name in accuracy.TABLES:
        rows.to_parquet(tmp_path / f"{name}.parquet")
    chains = pd.DataFrame({"device": "nvidia/gb200", "reason": "", "seq": range(1, 40)})
    monkeypatch.setattr(accuracy.published, "chains", lambda _: chains)
    kept = accuracy.held_out_rows(tmp_path)
    assert set(kept["gpu"]) == {"a100-sxm-80gb", "mi300x", "mi350x", "mi355x"}  # AMD's are posted
    assert 4 * 39 > sum(kept["gpu"] == "a100-sxm-80gb") > 0


def test_gate_names_the_cell_that_got_worse(then):
    now = then.assign(mean_ape=[8.4, 9.6])
    assert accuracy.compare(now, then) == ["t4 bmm fp32 pytorch: 9.0 % → 9.6 % mean error"]


def test_gate_names_the_cell_that_is_gone(then):
    assert accuracy.compare(then.iloc[:1], then) == ["t4 bmm fp32 pytorch: no prediction any more"]


def test_targets_that_were_met_are_still_met(today):
    """Target mean errors [%] of cells that meet them; ACCURACY.md has all cells."""
    met = {
        ("a100-pcie-80gb", "gemm"): 5,
        ("a100-pcie-80gb", "bmm"): 5,
        ("a40", "gemm"): 8,
        ("p100-pcie-16gb", "bmm"): 8,
        ("v100-pcie-32gb", "gemm"): 8,
        ("l40s", "attention_decode"): 10.5,
        ("h200-sxm", "gdn_chunk_prefill"): 6,
        ("b200-sxm", "gdn_chunk_prefill"): 6,
        ("h200-sxm", "causal_conv1d_prefill"): 6,
        ("v100-pcie-32gb", "softmax"): 6,
        ("a40", "rmsnorm"): 6,
    }
    for (gpu, op), limit in met.items():
        cells = today[(today["gpu"] == gpu) & (today["op"] == op)]
        assert len(cells)
        assert (cells["predicted"] == cells["rows"]).all()
        assert (cells["mean_ape"] <= limit).all(), cells[["framework", "mean_ape"]]
