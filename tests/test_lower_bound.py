"""No measurement is below the lower bound, and the bound is as tight as it was.

Checked on every measured row of ../shared whose op a layer describes, without exceptions. `python
tests/test_lower_bound.py` rewrites golden/tightness.csv; the test lets tightness rise, never fall.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import costmodel as cm
from costmodel.errors import CostmodelError
from costmodel.hardware import load
from costmodel.measured import OPERATIONS_MEASURED
from costmodel.score import score
from costmodel.validation import published

FAMILIES = ("gemm", "attention", "scan", "memops", "model")
GOLDEN = Path(__file__).parent / "golden" / "tightness.csv"
#: How far a median may fall by rounding alone.
ROUNDING = 5e-4


def measured(shared: Path, family: str) -> pd.DataFrame:
    """Return the rows of a family that layers describe, each with its bound."""
    table = pd.read_parquet(shared / "measurements" / f"{family}.parquet")
    return score(table[table["op"].isin(OPERATIONS_MEASURED)], rung="bound")


def quoted(shared: Path) -> pd.DataFrame:
    """Return the published rows that can be compared, each with its bound.

    Attention whose source does not say whether it is causal is taken to be: with fewer pairs the bound still
    holds.
    """
    rows = published.read(shared / "reference").query("reason == ''")
    noncausal = (rows["causal"] == False).fillna(False)  # noqa: E712 - three values
    table = rows.assign(
        gpu=rows["device"],
        op=rows["op"].mask(rows["op"] == "attention", "attention_prefill")
        + np.where((rows["op"] == "attention") & noncausal, "_noncausal", ""),
        input=rows["input"].fillna(rows["hidden"]),
        num_layers=rows["num_layers"].fillna(1),
        seq_q=rows["seq"],
        heads_q=rows["heads"],
        heads_kv=rows["kv_heads"].fillna(rows["heads"]),
    )
    return score(table, rung="bound")


def below(rows: pd.DataFrame) -> str:
    """Return the rows that were measured faster than the bound as text; empty if there are none."""
    found = rows[rows["lower_s"] > rows["latency_s"]]
    shown = ["gpu", "op", "dtype", "framework", "latency_s", "lower_s"]
    return found[shown].to_string() if len(found) else ""


@pytest.mark.parametrize("family", FAMILIES)
def test_no_measurement_is_below_the_bound(shared, family):
    rows = measured(shared, family)
    assert below(rows) == ""
    assert list(rows.loc[rows["reason"] != "", "reason"].unique()) == []
    assert (rows["lower_s"] >= 0).all()


def test_no_published_time_is_below_the_bound(shared):
    rows = quoted(shared)
    assert below(rows) == ""
    # DeepBench's INT8 products on the Pascal Titan X: its spec has no figure for them.
    unknown = rows[rows["reason"] != ""]
    assert set(zip(unknown["gpu"], unknown["dtype"], strict=True)) <= {("nvidia/titan-x-pascal", "int8")}
    assert rows["lower_s"].notna().sum() > 2500


def test_fastest_published_products_are_not_below_the_bound(shared):
    # The fastest shape of a search over many, printed as a rate: stas00/ml-engineering.
    table = pd.read_csv(shared / "reference" / "published_runtimes.csv", low_memory=False)
    checked = 0
    for row in table[table["unit"] == "TFLOP/s (max achievable)"].itertuples():
        try:
            device = load(row.gpu)
        except CostmodelError:
            continue  # a part that has no spec, or a name that several have
        layer = cm.Matmul(dtype=row.dtype)
        bound = cm.predict(layer, device, rung="bound", m=row.M, n=row.N, k=row.K)
        assert bound.lower_s <= 2 * row.M * row.N * row.K / (row.value * 1e12), row.gpu
        checked += 1
    assert checked >= 10


# -- tightness ---------------------------------------------------------------------------------


def tightness(shared: Path) -> pd.DataFrame:
    """Return the median of bound over measured by device and op.

    On rows above 10¹¹ FLOP or four times the last-level cache: smaller ones measure launches.
    """
    tables = [measured(shared, family) for family in FAMILIES]
    rows = quoted(shared)
    products = rows[rows["op"] == "gemm"]
    m, n, k = (products[name] for name in "mnk")
    width = products["dtype"].map({"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1})
    tables.append(
        products.assign(flops=2 * m * n * k, min_bytes=width * (m * k + k * n + m * n), op="gemm, published")
    )
    rows = pd.concat(tables, ignore_index=True)
    rows["device"] = rows["gpu"].map({label: load(label).name for label in rows["gpu"].unique()})
    cache = rows["device"].map({name: load(name).llc_capacity for name in rows["device"].unique()})
    large = rows[(rows["flops"] > 1e11) | (rows["min_bytes"] > 4 * cache)]
    ratio = (large["lower_s"] / large["latency_s"]).groupby([large["device"], large["op"]])
    return pd.DataFrame({"rows": ratio.size(), "tightness": ratio.median().round(4)}).reset_index()


def test_tightness_of_the_bound_does_not_fall(shared):
    """golden/tightness.csv holds our own medians: a ratchet, not an authority."""
    found = tightness(shared).set_index(["device", "op"])
    golden = pd.read_csv(GOLDEN).set_index(["device", "op"])
    new_or_gone = found.index.symmetric_difference(golden.index)
    assert list(new_or_gone) == [], "record them: python tests/test_lower_bound.py"
    fallen = golden["tightness"] - found["tightness"]
    assert list(fallen[fallen > ROUNDING].index) == []


def test_bound_is_over_a_fifth_of_the_measured_time_on_every_device():
    golden = pd.read_csv(GOLDEN)
    weights = golden.groupby("device").apply(lambda g: np.average(g["tightness"], weights=g["rows"]))
    assert (weights > 0.2).all()


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2] / "shared"
    tightness(here).assign(source="median lower_s / latency_s, ../shared tables").to_csv(GOLDEN, index=False)
