"""The recurrent chain against hand calculation, torch's choice of kernels, and DeepBench's times."""

import numpy as np
import pandas as pd
import pytest

import costmodel as cm
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


def test_published_times_grow_with_the_steps_as_predicted(shared):
    rows = pd.read_csv(shared / "reference" / "published_runtimes.csv", low_memory=False)
    same = rows[rows["gpu"].str.startswith("V100") & (rows["hidden"] == 2816) & (rows["dtype"] == "fp32")]
    fwd = same[(same["direction"] == "fwd") & same["op"].str.startswith("gru")].set_index("seq")["value"]
    once, twice = seconds(steps=np.array([750.0, 1500.0]), **GRU)
    assert fwd[1500] / fwd[750] == pytest.approx(twice / once, rel=0.02)


@pytest.mark.parametrize("direction", ["fwd", "bwd_data"])
def test_a_chain_of_one_kernel_per_step_reads_the_weights_at_every_step(direction):
    sizes = {"steps": 1000, "direction": direction, **GRU}
    got = recurrence.seconds(V100, {"bandwidth_share": 1.0}, persistent=False, **sizes)
    assert got.terms["hbm"] == pytest.approx(1000 * 3 * 2816**2 * 4 / V100.hbm_bandwidth)
    assert got.seconds > got.terms["hbm"]


def test_a_persistent_chain_costs_one_synchronisation_per_step():
    sizes = {"device": H200, "hidden": 768, "gates": 4, "batch": 16, "dtype": "fp16"}
    slope = (seconds(steps=2000, **sizes) - seconds(steps=1000, **sizes)) / 1000
    assert slope == pytest.approx(recurrence.CONSTANTS["sync_s"].default, rel=0.15)
    assert seconds(steps=1000, **sizes, persistent=False) > 3 * seconds(steps=1000, **sizes)


def test_a_persistent_chain_reads_the_weights_only_once():
    """4 · 768² numbers of 2 bytes come from memory before the first step, however many steps follow."""
    sizes = {"hidden": 768, "gates": 4, "batch": 16, "dtype": "fp16", "persistent": True}
    once = 4 * 768**2 * 2 / H200.hbm_bandwidth
    constants = {"bandwidth_share": 1.0, "call_s": 1e-5}
    one, two = (recurrence.seconds(H200, constants, steps=n, **sizes) for n in (1000, 2000))
    assert one.terms["hbm"] == two.terms["hbm"] == pytest.approx(once)
    assert 2 * one.seconds - two.seconds == pytest.approx(1e-5 + once)


def test_weights_that_do_not_fit_on_chip_are_not_persistent():
    small, large = (
        recurrence.seconds(H200, {}, steps=100, batch=16, hidden=h, gates=4, dtype="fp16").terms["hbm"]
        for h in (768, 8192)
    )
    assert large > 50 * (8192 / 768) ** 2 * small


@pytest.mark.parametrize(
    ("op", "dtype", "hidden", "batch", "kept"),
    [
        ("lstm", "fp16", 512, 16, True),  # the larger persistent kernel
        ("lstm", "bf16", 512, 16, False),  # torch asks for it only in fp16
        ("lstm", "fp16", 512, 12, False),  # the batch must be a multiple of 8
        ("lstm", "fp16", 500, 16, False),  # the state must be a multiple of 128
        ("lstm", "fp16", 2048, 16, False),
        ("gru", "fp16", 512, 16, False),  # torch's comment calls it "flakier"
        ("rnn", "fp16", 896, 96, False),
        ("rnn", "fp16", 768, 96, True),
        ("lstm", "fp32", 192, 1, True),  # the small persistent kernel: any format except fp64
        ("gru", "bf16", 193, 1, False),
        ("rnn", "bf16", 384, 1, True),
    ],
)
def test_torch_uses_persistent_kernels_where_its_source_does(op, dtype, hidden, batch, kept):
    """Expected: ``get_algo`` of RNN.cpp. A persistent step is a synchronisation, others are kernels."""
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[op]
    sizes = {"steps": 1000, "batch": batch, "hidden": hidden, "gates": gates, "dtype": dtype}
    by_torch, as_kept, by_step = (
        recurrence.seconds(H200, {}, **sizes, **how).seconds
        for how in ({"chosen_by": "torch"}, {"persistent": True}, {"persistent": False})
    )
    assert by_torch == (as_kept if kept else by_step)
    assert as_kept < by_step


def test_twice_the_sequences_and_a_second_chain_fill_a_device_alike():
    """128 sequences are two tiles of 64 each, as 64 sequences in either direction are; so is arithmetic."""
    sizes = {"steps": 100, "hidden": 256, "gates": 4, "dtype": "fp16", "persistent": False}
    wide, both, one = (
        recurrence.seconds(V100, {}, batch=batch, parallel=parallel, **sizes).terms["matrix:fp16"]
        for batch, parallel in ((128, 1), (64, 2), (64, 1))
    )
    assert wide == pytest.approx(both, rel=1e-12)
    # Fourfold tiles would be needed to fill the device: two take hardly longer than one.
    assert one <= wide < 1.2 * one


def test_an_unknown_chooser_of_kernels_is_refused():
    with pytest.raises(UnknownNameError, match=r"'pytorch'.*torch"):
        seconds(steps=1, batch=1, hidden=64, gates=4, chosen_by="pytorch")


def test_framework_pytorch_restricts_the_prediction_to_torchs_choice():
    sizes = {"batch": 16, "seq": 512, "hidden": 512}
    bf16, fp16 = (
        cm.predict(cm.LSTM(dtype=dtype), H200, rung="kernel", framework="pytorch", **sizes).seconds
        for dtype in ("bf16", "fp16")
    )
    assert fp16 < bf16 / 2
    # Without a framework the better algorithm is assumed in either format.
    assert cm.predict(cm.LSTM(dtype="bf16"), H200, rung="kernel", **sizes).seconds < bf16 / 2


def test_formats_without_an_engine_are_computed_in_another_format():
    """fp64 has its own rate; without tensor cores 16 bits are a storage format only (cuDNN's pseudo-half)."""
    sizes = {"steps": 100, "batch": 512, "hidden": 4096, "gates": 4}
    t4, p100 = hardware.load("nvidia/t4"), hardware.load("nvidia/p100-pcie-16gb")
    flops = 2 * 4 * 4096.0**2 * 512 * 100
    wide = recurrence.seconds(t4, {}, dtype="fp64", **sizes)
    assert wide.terms["vector:fp64"] >= flops / t4.peak("fp64", "vector")
    assert "vector:fp32" in recurrence.seconds(p100, {}, dtype="fp16", **sizes).terms


def test_cudnn_is_called_by_deepbench_up_to_volta_and_by_frameworks_since():
    """DeepBench asks for one kernel per step."""

    def recurrence_of(device, name, hidden):
        p = cm.predict(
            cm.LSTM(dtype="fp16"), device, rung="kernel", framework=name, batch=16, seq=512, hidden=hidden
        )
        (chain,) = (phase["seconds"] for phase in p.phases if phase["phase"] == "recurrence")
        return chain

    assert recurrence_of(H200, "cudnn", 512) == recurrence_of(H200, "pytorch", 512)
    # On Volta torch uses the small persistent kernel for narrow states; DeepBench does not ask for it.
    assert recurrence_of(V100, "pytorch", 128) < recurrence_of(V100, "cudnn", 128)


def test_a_batch_of_17_costs_as_much_as_one_of_32():
    assert seconds(steps=10, batch=17, hidden=512, gates=4) == seconds(
        steps=10, batch=32, hidden=512, gates=4
    )


@pytest.mark.parametrize("direction", ["fwd", "bwd_data"])
def test_a_full_device_computes_its_flops_at_the_peak(direction):
    """2 FLOP per step for each of g·H·P weights and B sequences, where no unit is idle."""
    sizes = {"steps": 100, "batch": 256, "hidden": 2048, "width": 1024, "gates": 4, "direction": direction}
    found = recurrence.seconds(V100, {"share_64": 1.0, "split": 1e3}, persistent=False, **sizes)
    flops = 100 * 2 * 4 * 2048 * 1024 * 256
    assert found.terms["vector:fp32"] == pytest.approx(flops / V100.peak("fp32", "vector"), rel=1e-6)


@pytest.mark.parametrize("hidden", [128, 256, 1024, 8192])
def test_few_blocks_run_at_the_rate_of_as_many_units_at_most(hidden):
    """⌈4H/128⌉ blocks of one tile each use at most as many units."""
    sizes = {"steps": 1, "batch": 64, "hidden": hidden, "gates": 4, "persistent": False}
    found = recurrence.seconds(V100, {"share_64": 1.0, "split": 1.0}, **sizes).terms["vector:fp32"]
    units = min(1.0, np.ceil(4 * hidden / 128) / V100.units)
    assert found >= 2 * 4 * hidden**2 * 64 / (units * V100.peak("fp32", "vector"))


def test_the_backward_product_has_a_quarter_of_the_blocks():
    """Per sequence Uᵀ gives H numbers where U gives 4·H."""
    sizes = {"steps": 1, "batch": 64, "hidden": 256, "gates": 4, "persistent": False}
    there, back = (
        recurrence.seconds(V100, {"split": 1.0}, direction=direction, **sizes).terms["vector:fp32"]
        for direction in ("fwd", "bwd_data")
    )
    assert back / there == pytest.approx(4, rel=0.01)


def test_tiles_of_more_than_16_sequences_wait_for_their_chain_of_multiply_adds():
    """Forward, P multiply-adds for each of 4 gates; backward, the 4·H that Uᵀ sums over."""
    sizes = {"steps": 1, "hidden": 1024, "width": 256, "gates": 4, "persistent": False}
    for direction, chain in (("fwd", 4 * 256), ("bwd_data", 4 * 1024)):
        narrow, wide = (
            recurrence.seconds(
                V100, {"step_s": 1e-5, "chain_s": 1e-8}, batch=batch, direction=direction, **sizes
            ).terms["depth"]
            for batch in (16, 17)
        )
        assert narrow == pytest.approx(1e-5)
        assert wide == pytest.approx(1e-5 + chain * 1e-8)


def test_the_weights_gradient_reads_every_step_and_accumulates():
    """It reads each step's gate gradients and previous state; the sum is read and written."""
    steps, batch, hidden, width, gates = 50, 8, 512, 256, 4
    found = recurrence.seconds(
        V100, {"bandwidth_share": 1.0}, steps=steps, batch=batch, hidden=hidden, width=width, gates=gates,
        direction="bwd_weights",
    )  # fmt: skip
    numbers = sum(gates * hidden + width for _ in range(steps * batch)) + 2 * gates * hidden * width
    assert found.terms["hbm"] == pytest.approx(4 * numbers / V100.hbm_bandwidth)
    assert found.seconds == pytest.approx(sum(found.terms.values()))


def test_the_weights_gradient_is_one_product_over_all_steps():
    got = seconds(
        constants={"batched_share": 1.0, "call_s": 1e-6}, steps=1500, direction="bwd_weights", **GRU
    )
    flops = 2 * 3 * 2816**2 * 32 * 1500
    assert got == pytest.approx(flops / V100.peak("fp32", "vector"), rel=0.05)


def test_parallel_chains_share_the_latency_of_steps():
    one = seconds(steps=500, batch=4, hidden=128, gates=1)
    assert one < seconds(steps=500, batch=4, hidden=128, gates=1, parallel=2) < 1.5 * one
    # Each has one tile on an otherwise empty device: twice the arithmetic on twice the units.
    sizes = {"steps": 500, "batch": 4, "hidden": 128, "gates": 1}
    alone, beside = (
        recurrence.seconds(V100, {"split": 1.0}, parallel=n, **sizes).terms["vector:fp32"] for n in (1, 2)
    )
    assert beside == pytest.approx(alone, rel=1e-3)


def test_an_unknown_direction_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="bwd_data"):
        seconds(steps=1, direction="back", **GRU)


@pytest.mark.parametrize("device", ["amd/mi300x", "amd/mi100"])
def test_launch_bound_recurrences_on_amd_gain_little_from_fp16(device):
    """MIOpen has no persistent kernel, and a step is mostly launches: half the bytes save less than half."""
    sizes = {"batch": 8, "seq": 1000, "hidden": 1024}
    wide, narrow = (cm.predict(cm.GRU(dtype=dtype), device, **sizes).seconds for dtype in ("fp32", "fp16"))
    assert 0.5 * wide < narrow <= wide
