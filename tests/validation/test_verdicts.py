"""What a campaign reports: held-out shapes, errors against demands,
order of pairs, worst cells; and its plans.
"""

import json

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.validation import cells, heldout, plans, registry, report
from costmodel.validation.case import case
from costmodel.validation.heldout import NEVER_FITTED, SHARE, held_out
from costmodel.validation.record import disturbance, size_columns


def rows(**columns):
    frame = pd.DataFrame({"m": np.arange(1, 4001), **columns})
    frame["n"], frame["k"] = 64, 32
    return frame


def test_only_the_shape_decides_what_is_held_out():
    plain = held_out(rows())
    assert plain.mean() == pytest.approx(SHARE, abs=0.03)
    other = rows(gpu="x", dtype="bf16", framework="y", op="bmm", latency_s=1.0, batch=pd.NA)
    np.testing.assert_array_equal(plain, held_out(other))
    # Nor do order, other rows or the dtype of columns matter.
    shuffled = rows().sample(frac=1.0, random_state=1)
    np.testing.assert_array_equal(held_out(shuffled), plain[shuffled.index])
    np.testing.assert_array_equal(held_out(rows().astype("float64").iloc[:7]), plain[:7])


def test_shapes_that_differ_in_one_size_are_decided_separately():
    assert (held_out(rows(batch=1)) != held_out(rows(batch=2))).any()


def test_devices_kept_aside_are_eight():
    assert len(NEVER_FITTED) == 8
    assert "nvidia/h100-sxm" in NEVER_FITTED


def scored(**columns):
    """Return held-out rows of one kernel, predicted exactly unless columns are given."""
    count = 400
    frame = pd.DataFrame({"m": np.arange(1, count + 1)})
    defaults = {
        "n": 64, "k": 32, "bench": "matmul", "direction": "fwd", "state": "warm", "launch": "eager",
        "dtype": "fp32", "status": "ok", "latency_s": 2e-3, "seconds": 2e-3, "ratio": 1.0,
        "spread": 0.01, "matrix_flops": 1e6,
    }  # fmt: skip
    return frame.assign(**{**defaults, **columns})


def test_demands_are_judged_on_held_out_forward_warm_rows():
    frame = scored(ratio=1.09, spread=0.02)
    fitted = ~held_out(frame)
    frame.loc[fitted, "ratio"] = 50.0
    got = report.verdicts(frame, "cpu").set_index("demand").loc["matmul of 1 ms and more"]
    assert got["rows"] == (~fitted).sum()
    assert got["median"] == pytest.approx(9.0)
    assert got["bias"] == pytest.approx(9.0)
    assert got["met"]
    worse = report.verdicts(frame.assign(ratio=0.85), "cpu").set_index("demand")
    assert not worse.loc["matmul of 1 ms and more", "met"]
    # The limit is at least one and a half times the spread of reruns.
    noisy = report.verdicts(frame.assign(ratio=0.85, spread=0.11), "cpu").set_index("demand")
    assert noisy.loc["matmul of 1 ms and more", "limit"] == pytest.approx(16.5)
    assert noisy.loc["matmul of 1 ms and more", "met"]


def test_eager_calls_limited_by_the_host_are_not_judged_where_graphs_were_measured():
    """An eager call of 2 µs of GPU work takes the host's 6; a graph of the same shape shows the 2."""
    graphs, calls = (scored(launch=launch, latency_s=2e-6, seconds=2e-6) for launch in ("graph", "eager"))
    calls = calls.assign(latency_s=6e-6, ratio=2 / 6)
    frame = pd.concat([graphs, calls], ignore_index=True)
    got = report.verdicts(frame, "cuda").set_index("demand").loc["matmul"]
    assert (got["rows"], got["median"]) == (held_out(graphs).sum(), 0)
    alone = report.verdicts(calls, "cuda").set_index("demand").loc["matmul"]
    assert (alone["rows"], alone["median"]) == (held_out(calls).sum(), pytest.approx(200 / 3))
    # A call that waits for the host does not mean a slower kernel.
    product = graphs[held_out(graphs)].iloc[:1]
    pair = pd.concat([product, product.assign(bench="lstm", latency_s=1e-6, seconds=1e-6)])
    late = product.assign(bench="gru", launch="eager", latency_s=9e-6, seconds=1e-6)
    assert report.order(pd.concat([pair, late], ignore_index=True)) == (1, 1.0)


def test_products_under_1_ms_are_not_judged():
    got = report.verdicts(scored(latency_s=0.5e-3, seconds=0.5e-3), "cpu").set_index("demand")
    assert got.loc["matmul of 1 ms and more", "rows"] == 0
    assert not got.loc["matmul of 1 ms and more", "met"]


def test_order_is_judged_on_pairs_of_kernels_alike_in_work_and_apart_in_time():
    frame = scored()
    two = frame[held_out(frame)].iloc[:2].copy()
    two["bench"] = ["lstm", "sdpa-flash"]
    two["latency_s"], two["seconds"] = [1.0, 2.0], [1.0, 1.1]
    assert report.order(two) == (1, 1.0)
    assert report.order(two.assign(seconds=[1.1, 1.0])) == (1, 0.0)
    assert report.order(two.assign(latency_s=[1.0, 1.1]))[0] == 0
    assert report.order(two.assign(matrix_flops=[1e6, 5e6]))[0] == 0
    assert report.order(two.assign(bench="lstm"))[0] == 0


def test_worst_cells_come_first():
    frame = scored(bench=["matmul"] * 200 + ["softmax"] * 100 + ["gru"] * 100)
    frame["ratio"] = [1.05] * 200 + [1.5] * 100 + [0.2] * 100
    got = report.mispredicted(frame)
    assert list(got["bench"]) == ["gru", "softmax"]
    assert list(got["bias"].round()) == [-80.0, 50.0]


def test_disturbance_is_seen_in_the_spread_of_visits():
    frame = pd.DataFrame({"status": "ok", "visits": 3, "spread": [0.01, 0.02, 0.3]})
    assert "another load" not in disturbance(frame)
    assert "by over 10% in 1 of 3" in disturbance(frame)
    assert "another load is on this machine" in disturbance(frame.assign(spread=0.2))
    assert "not known" in disturbance(frame.assign(visits=1))


def test_disturbance_is_seen_in_the_load_before_a_second_visit():
    """The system's count of runnable processes: two threads of ours, and another most of the time."""
    frame = pd.DataFrame({"status": "ok", "visits": 1, "spread": np.nan, "units": 2, "load": [2.9, 3.1, 3.2]})
    cpu = frame.assign(timer="perf_counter-median")
    assert "not known; 1.1 other processes ran meanwhile: repeat" in disturbance(cpu)
    assert "other processes" not in disturbance(cpu.assign(load=1.9))  # as recorded on a quiet machine
    assert "other processes" not in disturbance(cpu.assign(load=None))
    # The load of a GPU's host does not matter.
    assert "other processes" not in disturbance(frame.assign(timer="cudagraph-event-median"))


def test_disturbance_is_seen_in_the_clock():
    """A neighbour's thread on the same core shows neither as load nor as a process."""
    frame = pd.DataFrame({"status": ["ok"] * 4, "visits": 2, "spread": 0.2, "timer": "perf_counter-median"})
    shared = frame.assign(clock_hz=[3.7e9, 1.9e9, 2.0e9, None])
    assert "a core ran at 2.00 GHz (median; at most 3.70)" in disturbance(shared)
    for steady in (frame.assign(clock_hz=[3.7e9, 3.6e9, 3.5e9, 3.6e9]), frame.assign(clock_hz=None), frame):
        assert "a core ran" not in disturbance(steady)
        assert "another load is on this machine" in disturbance(steady)


@pytest.mark.parametrize(("kind", "full"), plans.SCALES)
def test_plans_name_cases_that_exist(kind, full):
    cases = plans.plan(kind, full=full)
    assert len(cases) == len(set(cases)) > 100
    assert cases == plans.plan(kind, full=full)
    for one in cases:
        bench = registry.find(one.bench)
        assert kind in bench.devices
        assert one.dtype in bench.dtypes
        assert one.direction in bench.directions
        assert json.loads(json.dumps(one.as_dict())) == one.as_dict()
        assert not (kind == "cpu" and one.launch == "graph")


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_default_plan_has_enough_shapes_to_fit_and_to_judge(kind):
    chosen = [c for c in plans.plan(kind) if c.direction == "fwd" and c.state == "warm"]
    for name in ("matmul", "bmm", "lstm", "gru", "rnn", "softmax", "layernorm", "copy", "sdpa-flash"):
        op = registry.find(name).op
        shapes = pd.DataFrame([size_columns(c, op(c)) for c in chosen if c.bench == name]).drop_duplicates()
        out = held_out(shapes)
        assert (~out).sum() >= 8, name
        assert out.sum() >= 3, name


def test_every_cell_of_a_gpus_default_plan_can_be_fitted():
    """In each format: rows too few for a fit would be wasted time."""
    rows = []
    for one in plans.plan("cuda"):
        bench = registry.find(one.bench)
        op = bench.op(one)
        row = {"op": op, "kernel": bench.kernel, "framework": "pytorch 2", "timer": "cudagraph-event-median"}
        how = {name: getattr(one, name) for name in ("bench", "dtype", "direction", "launch", "state")}
        rows.append({**row, **how, **size_columns(one, op), "status": "ok", "latency_s": 1.0})
    found = list(cells.cells(cells.usable(pd.DataFrame(rows)), hardware.load("nvidia/h200-sxm")))
    assert {cell.dtype for cell, _ in found} >= {"bf16", "fp16", "fp32", "fp8"}
    for cell, part in found:
        if (cell.op, cell.label) == ("attention_decode", "sdpa efficient"):
            continue  # torch has it only without grouped heads
        out = held_out(part)
        assert (~out).sum() >= heldout.FEWEST, str(cell)
        assert out.sum() >= 3, str(cell)


def test_recurrent_plan_covers_the_range_it_is_judged_on():
    shapes = pd.DataFrame([dict(c.sizes) for c in plans.plan("cpu", full=True) if c.bench == "lstm"])
    assert {64, 128, 256, 512, 1024} <= set(shapes["hidden"])
    assert {1, 4, 16, 64} <= set(shapes["batch"])
    assert {32, 128, 512, 1024} <= set(shapes["seq"])


def test_cases_drawn_do_not_depend_on_the_order_of_a_grid():
    grid = {"m": (1, 2, 3), "n": (4, 5)}
    turned = {"n": (5, 4), "m": (3, 2, 1)}
    assert [sorted(s.items()) for s in plans.draw(grid, lambda _: True, 4)] == [
        sorted(s.items()) for s in plans.draw(turned, lambda _: True, 4)
    ]
    assert case("shape", {"m": 1, "n": 4}).key == case("shape", {"n": 4, "m": 1}).key
