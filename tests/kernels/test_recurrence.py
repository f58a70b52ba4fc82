"""The recurrent chain against arithmetic, and DeepBench's published steps."""

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.errors import UnknownNameError
from costmodel.kernels import recurrence

V100 = hardware.load("nvidia/v100-sxm2-16gb")
H200 = hardware.load("nvidia/h200-sxm")
GRU = {"hidden": 2816, "gates": 3, "batch": 32}


def seconds(device=V100, constants=None, **sizes):
    return recurrence.seconds(device, constants or {}, **sizes).seconds


def test_twice_the_steps_take_twice_the_time():
    once, twice = seconds(steps=np.array([750.0, 1500.0]), **GRU)
    assert twice / once == pytest.approx(2, rel=0.01)


def test_published_steps_do_too(shared):
    rows = pd.read_csv(shared / "reference" / "published_runtimes.csv", low_memory=False)
    same = rows[rows["gpu"].str.startswith("V100") & (rows["hidden"] == 2816) & (rows["dtype"] == "fp32")]
    fwd = same[(same["direction"] == "fwd") & same["op"].str.startswith("gru")].set_index("seq")["value"]
    assert fwd[1500] / fwd[750] == pytest.approx(1.973, abs=1e-3)


@pytest.mark.parametrize("direction", ["fwd", "bwd_data"])
def test_a_step_by_step_chain_reads_the_weights_each_step(direction):
    got = seconds(
        constants={"bandwidth_share": 1.0}, steps=1000, persistent=False, direction=direction, **GRU
    )
    assert got > 1000 * 3 * 2816**2 * 4 / V100.hbm_bandwidth


def test_a_persistent_chain_costs_synchronisations():
    sizes = {"device": H200, "hidden": 768, "gates": 4, "batch": 16, "dtype": "fp16"}
    slope = (seconds(steps=2000, **sizes) - seconds(steps=1000, **sizes)) / 1000
    assert slope == pytest.approx(recurrence.CONSTANTS["sync_s"].default, rel=0.15)
    assert seconds(steps=1000, **sizes, persistent=False) > 3 * seconds(steps=1000, **sizes)


def test_weights_that_do_not_fit_are_not_persistent():
    small, large = (
        recurrence.seconds(H200, {}, steps=100, batch=16, hidden=h, gates=4, dtype="fp16").terms["hbm"]
        for h in (768, 8192)
    )
    assert large > 50 * (8192 / 768) ** 2 * small


def test_the_batch_is_covered_by_tiles():
    assert seconds(steps=10, batch=17, hidden=512, gates=4) == seconds(
        steps=10, batch=32, hidden=512, gates=4
    )


def test_the_weights_gradient_is_one_product():
    got = seconds(
        constants={"batched_share": 1.0, "call_s": 1e-6}, steps=1500, direction="bwd_weights", **GRU
    )
    flops = 2 * 3 * 2816**2 * 32 * 1500
    assert got == pytest.approx(flops / V100.peak("fp32", "vector"), rel=0.05)


def test_chains_side_by_side_share_the_steps():
    one = seconds(steps=500, batch=4, hidden=128, gates=1)
    assert one < seconds(steps=500, batch=4, hidden=128, gates=1, parallel=2) < 1.5 * one


def test_an_unknown_direction_is_named():
    with pytest.raises(UnknownNameError, match="bwd_data"):
        seconds(steps=1, direction="back", **GRU)
