"""Hosts that launch chains of kernels: what they hide, what they limit, and where they are not meant."""

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
    """Pretend that this is known of hosts."""

    def put(**table):
        named = {name.replace("_", "-"): entry for name, entry in table.items()}
        monkeypatch.setattr(harness, "_table", lambda: named)
        make_plan.cache_clear()

    yield put
    make_plan.cache_clear()


@pytest.mark.parametrize(("kernels", "left"), [(1.0, 1.0), (2.0, 0.75), (10.0, 0.55), (None, 0.5)], ids=str)
def test_the_first_of_a_chain_hides_behind_nothing(kernels, left):
    constants = {"dispatch_s": 2e-5, "record_s": 1e-5, "row_s": 3e-6}
    found = Host(hidden=0.5).dispatched(constants, kernels)
    assert found == pytest.approx({"dispatch_s": 2e-5 * left, "record_s": 1e-5 * left, "row_s": 3e-6})
    assert NONE.dispatched(constants, kernels) is constants


def test_a_prediction_that_names_no_harness_knows_no_host(known):
    layer = EagerTransformer(dtype="fp32", style="bert")
    before = predict(layer, A100, **BERT)
    known(eager_events={"hidden": 1.0, "launch_s": {A100: {"fwd": 1.0}}})
    assert predict(layer, A100, **BERT).seconds == before.seconds
    assert predict(layer, A100, **BERT, harness="host-wall").seconds == before.seconds
    assert predict(layer, A100, **BERT, rung="bound", harness="eager-events").seconds < before.seconds


def test_a_single_kernel_hides_nothing():
    layer = Elementwise(dtype="fp32", op="relu")
    alone, timed = (predict(layer, A100, m=512, n=512, harness=h) for h in (None, "eager-events"))
    assert timed.seconds == alone.seconds


@pytest.mark.parametrize("device", ["h200-sxm", "b200-sxm", "a100-sxm-80gb", "h100-sxm", "l4", "mi300x"])
def test_a_relatives_host_is_nobodys_where_none_is_asked_for(device):
    """26 µs of a copy of 100 kB were Python on an A100's host: half of what a token of Mamba took."""
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
def test_what_belongs_to_another_harness_is_left_out(fitted, asked, kept):
    constants = {"dispatch_s": 2e-5, "tick_s": 2e-6, "bandwidth_share": 0.8}
    found = harness.as_timed(constants, ("dispatch_s", "record_s", "tick_s"), fitted, asked)
    assert found == (constants if kept else {"bandwidth_share": 0.8})


@pytest.mark.parametrize(("fitted", "kept"), [("eager-events", False), ("graph-replay", True), ("", True)])
def test_of_another_devices_harness_only_the_host_is_left_out_unasked(fitted, kept):
    constants = {"dispatch_s": 2e-5, "bandwidth_share": 0.8}
    found = harness.as_timed(constants, ("dispatch_s",), fitted, None, elsewhere=True)
    assert found == (constants if kept else {"bandwidth_share": 0.8})


def test_of_a_devices_own_the_host_is_left_out_where_others_of_them_knew_none():
    """A100's GELU was timed on the host's wall clock, 48 µs a call, and its additions were by the kernel."""

    def small(**asked):
        layer = Elementwise(dtype="fp16", op="gelu")
        p = predict(layer, "nvidia/a100-sxm-80gb", m=64, n=1024, **asked)
        assert p.constants_from == "self"
        return p.seconds

    assert small() < 6e-6
    assert small(harness="host-wall") == pytest.approx(48e-6, rel=0.02)
    assert small(framework="pytorch") == small(harness="host-wall")


def test_a_replayed_graph_has_no_dispatch_in_it():
    """H200 has no elementwise constants of its own; its relative's are of eager calls, most of them host."""
    layer = Elementwise(dtype="fp32", op="relu")
    unsaid, eager, replayed = (
        predict(layer, "nvidia/h200-sxm", m=64, n=64, harness=h)
        for h in (None, "eager-events", "graph-replay")
    )
    assert eager.seconds > 2e-5
    assert replayed.seconds == unsaid.seconds < 1e-5
    assert replayed.lo80_s <= replayed.seconds <= replayed.hi80_s


def test_where_launching_takes_longer_the_host_limits(known):
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
    # Backward is launched by another program: nothing is known of it.
    back = EagerTransformer(dtype="fp32", style="bert", direction="bwd")
    assert predict(back, A100, **BERT, harness="eager-events").plan.host == NONE


def test_what_ships_is_not_of_devices_kept_aside():
    for table in harness._table().values():
        assert 0 <= table["hidden"] <= 1
        assert not set(table["launch_s"]) & NEVER_FITTED
        assert set(table["launch_s"]) <= set(hardware.available())
        assert table["provenance"]["rows_fitted"] > table["provenance"]["rows_held_out"] > 0


def test_hosts_are_not_fitted_on_held_out_passes(shared, tmp_path):
    """Held-out passes a tenth as long: the same hosts; judged by them, ten times off."""
    rows = pd.read_parquet(shared / "measurements" / "model.parquet")
    # A pass of a host that limits bounds its time: were shorter ones looked at, they would be the bound.
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


def test_whole_models_are_within_what_was_asked_for(shared):
    """≤ 8 % mean, on shapes that the hosts were not fitted on, and on all."""
    rows = pd.read_parquet(shared / "measurements" / "model.parquet")
    rows = rows[rows["op"] == "model_end_to_end"].reset_index(drop=True)
    out = calibrate_harness.held_out(rows)
    scored = score(rows)
    error = 100 * (scored["seconds"] / scored["latency_s"] - 1).abs()
    assert (scored["reason"] == "").all()
    assert error[out].mean() < 8
    assert error.mean() < 8


def test_training_passes_are_scored_as_training(shared):
    """Dropout and the logits of every token are in them: `mode` tells."""
    rows = pd.read_parquet(shared / "measurements" / "model.parquet")
    one = rows[(rows["op"] == "model_end_to_end") & (rows["mode"] == "train")].iloc[:1]
    assert score(one)["seconds"].iloc[0] > 1.05 * score(one.assign(mode="inf"))["seconds"].iloc[0]
