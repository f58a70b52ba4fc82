"""Causal convolution against hand calculation and measured rows."""

import numpy as np
import pandas as pd
import pytest

import costmodel as cm
from costmodel import hardware
from costmodel.kernels import conv

L40S = hardware.load("nvidia/l40s")


def seconds(constants=None, **sizes):
    return conv.seconds(L40S, constants or {}, **sizes).seconds


def test_prefill_reads_and_writes_each_number_once():
    got = seconds({"bandwidth_share": 1.0}, batch=64, seq=32768, channels=8192)
    assert got == pytest.approx(2 * 2 * 64 * 32768 * 8192 / L40S.hbm_bandwidth, rel=1e-3)


def test_decode_reads_and_writes_a_state_of_three_inputs():
    got = seconds({"bandwidth_share": 1.0}, batch=65536, seq=1, channels=8192, width=4, decode=True)
    assert got == pytest.approx(2 * (2 + 2 * 3) * 65536 * 8192 / L40S.hbm_bandwidth, rel=1e-3)


@pytest.mark.parametrize("decode", [False, True])
def test_a_call_moves_its_inputs_results_weights_and_state(decode):
    """With few tokens the weights are much of the traffic; a state of three inputs is read and written."""
    cold = {"bandwidth_share": 0.5, "cache_share": 1e-9, "unit_bytes": 128.0}
    batch, seq, channels = 3, 1 if decode else 2, 512
    moved = 0
    for _ in range(channels):
        moved += 4 + batch * seq * 2 + (batch * 3 * 2 if decode else 0)
    found = conv.seconds(L40S, cold, batch=batch, seq=seq, channels=channels, width=4, decode=decode)
    assert found.terms["hbm"] == pytest.approx(2 * moved / (0.5 * L40S.hbm_bandwidth))


def test_a_replay_misses_half_of_a_working_set_as_large_as_the_cache_share():
    constants = {"bandwidth_share": 0.5, "cache_share": 0.8, "unit_bytes": 128.0}
    channels, width = 1024, 4
    tokens = (0.8 * L40S.llc_distinct / 2 - channels * width) / (2 * channels)
    found = conv.seconds(L40S, constants, batch=1, seq=tokens, channels=channels, width=width).terms["hbm"]
    assert found == pytest.approx(0.5 * 0.8 * L40S.llc_distinct / (0.5 * L40S.hbm_bandwidth))


def test_a_working_set_that_fits_the_cache_is_read_from_it():
    fits = seconds({"cache_bytes": 10.0}, batch=1, seq=4096, channels=2048)
    spills = seconds({"cache_bytes": 10.0}, batch=16, seq=4096, channels=2048)
    assert spills > 40 * fits * 0.9


def test_measured_rows_that_fit_the_cache_are_faster_than_memory(shared):
    rows = pd.read_parquet(shared / "measurements" / "scan.parquet")
    rows = rows[(rows["gpu"] == "l40s") & (rows["op"] == "causal_conv1d_prefill")]
    size = 4 * rows["m"].astype(float) * rows["n"].astype(float)
    speed = size / rows["latency_s"].astype(float)
    cache = L40S.l2_capacity
    assert speed[(size > cache / 3) & (size < cache / 2)].median() > 2 * L40S.hbm_bandwidth
    assert speed[size > 4 * cache].median() < L40S.hbm_bandwidth


def test_each_token_of_a_short_sequence_adds_its_latency():
    got = seconds(
        {"token_cycles": 1e-7 * L40S.clock_hz}, batch=1, seq=np.array([1.0, 8.0, 16.0]), channels=512
    )
    assert got[1] - got[0] == pytest.approx(7e-7, rel=0.05)
    assert got[2] - got[1] < 1e-8


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (cm.CausalConv1d(), {"seq": 2048, "d_model": 2048}),
        (cm.CausalConv1d(decode=True), {"seq": 1, "d_model": 8192}),
        (cm.GatedDeltaNet(form="recurrent"), {"seq": 1, "heads": 16, "head_dim": 128}),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
@pytest.mark.parametrize("device", ["amd/mi300x", "nvidia/b200-sxm", "nvidia/l40s"])
@pytest.mark.parametrize("batch", [1, 8, 64, 512])
def test_no_term_exceeds_the_time_and_hits_do_not_depend_on_memory(layer, sizes, device, batch):
    """A tenth less memory bandwidth costs no more than a tenth less would on the memory term alone."""
    prediction = cm.predict(layer, device, {**sizes, "batch": batch}, rung="kernel", state="warm")
    ((_, seconds, terms),) = prediction.parts
    assert max(terms.values()) <= seconds
    slower = hardware.load(device).replace(hbm=f"{hardware.load(device).hbm_bandwidth * 0.9} B/s")
    later = cm.predict(layer, slower, {**sizes, "batch": batch}, rung="kernel").seconds
    assert later - seconds <= terms["hbm"] / 0.9 - terms["hbm"] + 1e-9
