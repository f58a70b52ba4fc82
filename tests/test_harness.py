"""Host times of kernel chains: what a running kernel hides, when
launching limits, which harnesses have none.
"""

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware, harness, predict
from costmodel.harness import NONE, Host
from costmodel.layers.eager_transformer import EagerTransformer
from costmodel.layers.pointwise import Elementwise
from costmodel.plan import make_plan
from costmodel.prediction import LIMITS
from costmodel.score import score
from costmodel.validation import calibrate_harness
from costmodel.validation.heldout import NEVER_FITTED

A100 = "nvidia/a100-pcie-80gb"
BERT = {"batch": 2, "seq": 512, "d_model": 1024, "heads": 16, "num_layers": 24, "vocab": 30522}


@pytest.fixture
def known(monkeypatch):
    """Replace the table of hosts' times."""

    def put(**table):
        named = {name.replace("_", "-"): entry for name, entry in table.items()}
        monkeypatch.setattr(harness, "_table", lambda: named)
        make_plan.cache_clear()

    yield put
    make_plan.cache_clear()


@pytest.mark.parametrize(("kernels", "left"), [(1.0, 1.0), (2.0, 0.75), (10.0, 0.55), (None, 0.5)], ids=str)
def test_dispatch_is_hidden_for_all_but_the_first_kernel(kernels, left):
    constants = {"dispatch_s": 2e-5, "record_s": 1e-5, "row_s": 3e-6}
    found = Host(hidden=0.5).dispatched(constants, kernels)
    assert found == pytest.approx({"dispatch_s": 2e-5 * left, "record_s": 1e-5 * left, "row_s": 3e-6})
    assert NONE.dispatched(constants, kernels) is constants


def test_host_times_apply_only_to_the_harness_that_is_named(known):
    layer = EagerTransformer(dtype="fp32", style="bert")
    before = predict(layer, A100, **BERT)
    known(eager_events={"hidden": 1.0, "launch_s": {A100: {"fwd": 1.0}}})
    assert predict(layer, A100, **BERT).seconds == before.seconds
    assert predict(layer, A100, **BERT, harness="host-wall").seconds == before.seconds
    assert predict(layer, A100, **BERT, rung="bound", harness="eager-events").seconds < before.seconds


def test_single_kernel_hides_no_dispatch():
    layer = Elementwise(dtype="fp32", op="relu")
    alone, timed = (predict(layer, A100, m=512, n=512, harness=h) for h in (None, "eager-events"))
    assert timed.seconds == alone.seconds


@pytest.mark.parametrize("device", ["h200-sxm", "b200-sxm", "a100-sxm-80gb", "h100-sxm", "l4", "mi300x"])
def test_relatives_host_time_is_left_out_if_no_harness_is_named(device):
    """26 µs of a 100 kB copy were Python on an A100's host: half of the time of a Mamba token."""
    wide, narrow = (
        predict(Elementwise(dtype=dtype, op="copy"), device, m=1, n=24576) for dtype in ("fp32", "bf16")
    )
    assert wide.constants_from != "self"
    assert wide.seconds < 2 * narrow.seconds


@pytest.mark.parametrize(
    ("fitted", "asked", "kept"),
    [
        ("eager-events", "graph-replay", False),
        ("graph-replay", "eager-events", False),
        ("graph-replay", "kernel-time", False),
        ("eager-events", "host-wall", True),
        ("eager-events", "eager-events", True),
        ("eager-events", None, True),
        ("", "graph-replay", True),
    ],
)
def test_constants_of_another_harness_are_left_out(fitted, asked, kept):
    constants = {"dispatch_s": 2e-5, "tick_s": 2e-6, "bandwidth_share": 0.8}
    found = harness.as_timed(constants, ("dispatch_s", "record_s", "tick_s"), fitted, asked)
    assert found == (constants if kept else {"bandwidth_share": 0.8})


@pytest.mark.parametrize(("fitted", "kept"), [("eager-events", False), ("graph-replay", True), ("", True)])
def test_carried_host_time_is_left_out_if_no_harness_is_named(fitted, kept):
    constants = {"dispatch_s": 2e-5, "bandwidth_share": 0.8}
    found = harness.as_timed(constants, ("dispatch_s",), fitted, None, elsewhere=True)
    assert found == (constants if kept else {"bandwidth_share": 0.8})


def test_own_host_time_is_left_out_if_other_sections_have_none():
    """A100's GELU was timed on the host's wall clock (48 µs a call), its additions by kernel time."""

    def small(**asked):
        layer = Elementwise(dtype="fp16", op="gelu")
        p = predict(layer, "nvidia/a100-sxm-80gb", m=64, n=1024, **asked)
        assert p.constants_from == "self"
        return p.seconds

    assert small() < 6e-6
    assert small(harness="host-wall") == pytest.approx(48e-6, rel=0.02)
    assert small(framework="pytorch") == small(harness="host-wall")


def test_replayed_graph_has_no_dispatch():
    """H200 has no elementwise constants of its own; its relative's are of eager calls, mostly dispatch."""
    layer = Elementwise(dtype="fp32", op="relu")
    unsaid, eager, replayed = (
        predict(layer, "nvidia/h200-sxm", m=64, n=64, harness=h)
        for h in (None, "eager-events", "graph-replay")
    )
    assert eager.seconds > 2e-5
    assert replayed.seconds == unsaid.seconds < 1e-5
    assert replayed.lo80_s <= replayed.seconds <= replayed.hi80_s


def test_host_limits_where_launching_takes_longer_than_the_kernels(known):
    layer = EagerTransformer(dtype="fp32", style="bert")
    batch = np.array([1.0, 64.0])
    kernels = predict(layer, A100, **BERT | {"batch": batch}, harness="eager-events")
    launches = float(predict(layer, A100, **BERT).launches)
    between = float(np.sqrt(np.prod(kernels.seconds))) / launches
    known(eager_events={"launch_s": {A100: {"fwd": between}}})
    found = predict(layer, A100, **BERT | {"batch": batch}, harness="eager-events")
    assert found.seconds[0] == pytest.approx((launches - 1) * between)
    assert found.bound[0] == "launch"
    assert found.seconds[1] > launches * between
    assert LIMITS[found.limit[1]] != "launch"
    assert (found.lo80_s <= found.seconds).all()
    assert (found.seconds <= found.hi80_s).all()
    # The table has no launch time of backward.
    back = EagerTransformer(dtype="fp32", style="bert", direction="bwd")
    assert predict(back, A100, **BERT, harness="eager-events").plan.host == NONE


def test_shipped_host_times_are_of_no_device_kept_aside():
    for table in harness._table().values():
        assert 0 <= table["hidden"] <= 1
        assert not set(table["launch_s"]) & NEVER_FITTED
        assert set(table["launch_s"]) <= set(hardware.available())
        assert table["provenance"]["rows_fitted"] > table["provenance"]["rows_held_out"] > 0


def test_hosts_are_not_fitted_on_held_out_passes(shared, tmp_path):
    """With held-out passes a tenth as long the same hosts are fitted, and their stated bias is far larger."""
    rows = pd.read_parquet(shared / "measurements" / "model.parquet")
    # A pass is an upper bound of its host's time: a fit that saw the shortened passes would take them.
    some = rows[(rows["op"] == "model_end_to_end") & rows["gpu"].isin(("a100-pcie-80gb", "t4"))]
    out = calibrate_harness.held_out(some)
    assert out.any()
    found = []
    for name, share in (("as-measured", 1.0), ("spoiled", 0.1)):
        path = tmp_path / f"{name}.parquet"
        some.assign(latency_s=some["latency_s"].where(~out, share * some["latency_s"])).to_parquet(path)
        found.append(calibrate_harness.calibrate(path)["eager-events"])
    kept, spoiled = found
    assert (spoiled["hidden"], spoiled["launch_s"]) == (kept["hidden"], kept["launch_s"])
    assert kept["launch_s"]
    assert spoiled["provenance"]["bias"] > kept["provenance"]["bias"] + 500


def test_whole_models_are_within_8_per_cent_on_average(shared):
    """The target: ≤ 8 % mean error on shapes that the hosts were not fitted on, and on all."""
    rows = pd.read_parquet(shared / "measurements" / "model.parquet")
    rows = rows[rows["op"] == "model_end_to_end"].reset_index(drop=True)
    out = calibrate_harness.held_out(rows)
    scored = score(rows)
    error = 100 * (scored["seconds"] / scored["latency_s"] - 1).abs()
    assert (scored["reason"] == "").all()
    assert error[out].mean() < 8
    assert error.mean() < 8


def test_training_passes_are_scored_as_training(shared):
    """They include dropout and the logits of every token; the column `mode` says so."""
    rows = pd.read_parquet(shared / "measurements" / "model.parquet")
    one = rows[(rows["op"] == "model_end_to_end") & (rows["mode"] == "train")].iloc[:1]
    assert score(one)["seconds"].iloc[0] > 1.05 * score(one.assign(mode="inf"))["seconds"].iloc[0]
