"""Updates of recurrent states against hand calculation and the measured decoding of gated delta nets."""

import numpy as np
import pandas as pd
import pytest

import costmodel as cm
from costmodel import hardware
from costmodel.kernels import state_update, systolic_state_update

H200 = hardware.load("nvidia/h200-sxm")
PLAIN = {
    "overlap": 12.0,
    "bandwidth_share": 1.0,
    "cache_share": 1e-9,
    "cache_bytes": 1e9,
    "start_cycles": 0.0,
}


def estimate(constants=None, **sizes):
    return state_update.seconds(H200, {**PLAIN, **(constants or {})}, **sizes)


def test_states_go_over_the_memorys_bandwidth_twice():
    states = 1024 * 64 * 128 * 128 * 4
    found = estimate(states=states, traffic=2 * states)
    assert found.seconds == pytest.approx(2 * states / H200.hbm_bandwidth)
    assert set(found.terms) == {"hbm", "l2", "depth", "launch"}


def test_a_replay_misses_half_of_a_working_set_as_large_as_the_cache_share():
    """The working set is all that a call touches: states once, and the tokens' operands."""
    held = 0.5 * H200.llc_distinct
    states, operands = 0.9 * held, 0.1 * held
    found = estimate({"cache_share": 0.5}, states=states, traffic=2 * states + operands).terms["hbm"]
    assert found == pytest.approx(0.5 * (2 * states + operands) / H200.hbm_bandwidth)


def test_states_that_stay_in_the_cache_are_limited_by_its_bandwidth():
    held = 0.1 * H200.llc_distinct
    found = estimate({"cache_share": 1.0, "cache_bytes": 20.0}, states=held, traffic=2 * held)
    assert found.seconds == pytest.approx(2 * held / (20 * H200.units * H200.clock_hz), rel=1e-3)


def test_tokens_are_dependent_steps():
    """Each waits for the state that the one before it leaves: twice the tokens take twice the steps."""
    constants = {"token_cycles": 450.0}
    one, some, twice = (
        estimate(constants, states=1e5, traffic=2e5, steps=tokens).seconds for tokens in (1, 1001, 2001)
    )
    assert twice - some == pytest.approx(some - one, rel=0.01)
    assert some - one >= 1000 * 450 / H200.clock_hz * 0.99
    assert estimate({"token_cycles": 4000.0}, states=1e5, traffic=2e5).seconds == one


def test_a_step_lasts_no_shorter_than_its_arithmetic():
    flops = 3e-3 * H200.peak("fp32", "vector")
    found = estimate({"token_cycles": 1.0}, states=1e5, traffic=2e5, steps=4, vector_flops=4 * flops)
    assert found.terms["depth"] == pytest.approx(3 * 3e-3)


def test_a_matrix_core_chip_updates_states_by_vector_arithmetic_or_as_fast_as_memory():
    tpu, states = hardware.load("google/tpu-v5e"), 1e9
    slow, fast = (
        systolic_state_update.seconds(tpu, {}, states=states, traffic=2 * states, vector_flops=flops).seconds
        for flops in (tpu.peak("fp32", "vector"), 1.0)
    )
    assert slow >= 1.0
    assert fast == pytest.approx(2 * states / tpu.hbm_bandwidth, rel=0.5)
    assert fast >= 2 * states / tpu.hbm_bandwidth


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (cm.GatedDeltaNet(form="recurrent"), {"heads": 16, "kv_heads": 32, "head_dim": 128}),
        (cm.Mamba2(form="recurrent"), {"heads": 128, "head_dim": 64, "state": 128}),
        (cm.Mamba(form="recurrent"), {"d_model": 4096, "hidden": 8192, "state": 16}),
        (cm.RetNet(form="recurrent"), {"heads": 16, "head_dim": 128}),
    ],
)
@pytest.mark.parametrize("device", ["nvidia/h200-sxm", "amd/mi300x", "google/tpu-v5e", "cpu/epyc-9654"])
def test_no_layer_updates_states_sooner_than_memory_moves_them(layer, sizes, device):
    found = cm.predict(layer, device, rung="kernel", seq=1, batch=[64, 512, 4096], **sizes)
    assert (found.seconds >= found.lower_s).all()
    assert (np.diff(found.seconds) > 0).all()
    assert {phase["kernel"] for phase in found.phases} == {"state_update"}


def test_measured_decoding_takes_the_kernels_start_and_the_memorys_time(shared):
    """Calls whose states are four times the cache: no chain, no cache, one share of the bandwidth."""
    rows = pd.read_parquet(shared / "measurements" / "scan.parquet")
    rows = rows[(rows["gpu"] == "h200-sxm") & (rows["op"] == "gdn_recurrent_decode")]
    states = rows["batch"].astype(float) * rows["heads_kv"].astype(float) * 128 * 128 * 4
    large = states > 4 * H200.llc_distinct
    assert large.sum() > 10
    constants = {**PLAIN, "bandwidth_share": 0.87, "start_cycles": 3700.0}
    found = state_update.seconds(H200, constants, states=states[large], traffic=2 * states[large])
    error = np.abs(found.seconds / rows["latency_s"][large].to_numpy(dtype=float) - 1)
    assert error.mean() < 0.08
