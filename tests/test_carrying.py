"""How constants change when they are carried to another device or to another framework's kernel."""

import math
from functools import partial

import pandas as pd
import pytest

from costmodel import calibration, kernels
from costmodel.calibration import Provenance, Section, Wanted
from costmodel.carrying import carried, translated
from costmodel.hardware import Device, load
from costmodel.hardware.whatif import clocked
from costmodel.kernels._power import droop
from costmodel.layers.matmul import Matmul
from costmodel.predict import predict

PROVENANCE = Provenance(
    source="", licence="", versions="", table_hash="", rows_fitted=1, rows_held_out=1, mdape=0, mape=0, bias=0
)
FP32 = Wanted("gemm", "gemm", "fp32", framework="pytorch")


def section(kernel="gemm", op="gemm", dtype="bf16", framework="trtllm", **constants):
    return Section(
        kernel=kernel, op=op, dtype=dtype, framework=framework, constants=constants, provenance=PROVENANCE
    )


@pytest.fixture
def fitted(monkeypatch):
    """Pretend that these devices have these sections, and no other has any."""

    def put(devices):
        monkeypatch.setattr(calibration, "load", lambda name: devices.get(name, ()))
        monkeypatch.setattr(calibration, "calibrated_devices", lambda: tuple(devices))

    return put


def test_start_time_of_a_pass_scales_with_the_clock_and_shares_stay(fitted):
    fitted({})
    told = section("stream", "gelu", "fp32", "pytorch", start_s=2e-6, bandwidth_share=0.9)
    a100, h100 = load("nvidia/a100-pcie-40gb"), load("nvidia/h100-sxm")
    wanted = Wanted("stream", "gelu", "fp32", framework="pytorch")
    got = carried(told.constants, told, a100.name, h100, wanted, own=True)
    assert got == pytest.approx({"start_s": 2e-6 * a100.clock_hz / h100.clock_hz, "bandwidth_share": 0.9})


@pytest.mark.parametrize(
    ("kernel", "op", "constant"),
    [
        ("gemm", "gemm", "start_s"),
        ("gemm", "gemm", "split_s"),
        ("conv", "causal_conv1d_decode", "start_cycles"),
    ],
)
def test_three_quarters_of_a_kernels_start_scale_with_the_clock(fitted, kernel, op, constant):
    """A quarter of a start runs at no clock of the units: at 1.27 times the
    clock it takes 1/4 + 3/4 / 1.27 of the time.
    """
    fitted({})
    told = section(kernel, op, **{constant: 3000.0})
    slow, fast = load("nvidia/h200-sxm"), load("nvidia/l40s")
    got = carried(told.constants, told, slow.name, fast, Wanted(kernel, op, "bf16"), own=True)[constant]
    times = fast.clock_hz / slow.clock_hz
    assert times == pytest.approx(2520 / 1980)
    in_seconds = got if constant.endswith("_s") else got / times
    assert in_seconds / 3000.0 == pytest.approx(1 / 4 + 3 / 4 / times)


@pytest.mark.parametrize(
    ("kernel", "op", "dtype", "lender", "device", "times"),
    [
        # The same bytes per second: 1.41 GHz against 1.74, 1.98 against 2.52.
        ("gemm", "gemm", "bf16", "nvidia/a40", "nvidia/a100-sxm-80gb", 1740 / 1410),
        ("attention", "attention_prefill", "bf16", "nvidia/a100-sxm-80gb", "nvidia/l40s", 1410 / 2520),
        ("decode", "attention_decode", "bf16", "nvidia/h200-sxm", "nvidia/h100-sxm", 1.0),
        # Within one architecture the same bytes per cycle: 2.062 GHz against 1.965, 2.04 against 2.52.
        ("gemm", "gemm", "bf16", "nvidia/b200-sxm", "nvidia/gb200", 1.0),
        ("attention", "attention_prefill", "bf16", "nvidia/l40s", "nvidia/l4", 1.0),
        # Threads load the operands of convolutions on Hopper too, and of products without tensor cores.
        ("conv", "causal_conv1d_prefill", "bf16", "nvidia/a100-sxm-80gb", "nvidia/h200-sxm", 1410 / 1980),
        ("gemm", "gemm", "fp32", "nvidia/a100-pcie-40gb", "nvidia/h100-sxm", 1410 / 1980),
        # Where a TMA loads, a unit takes in at least as many bytes per cycle as where threads do.
        ("gemm", "gemm", "bf16", "nvidia/a100-sxm-80gb", "nvidia/h200-sxm", 1.0),
        ("gemm", "gemm", "bf16", "nvidia/l40s", "nvidia/b200-sxm", 2520 / 1965),
        ("gemm", "gemm", "bf16", "nvidia/h200-sxm", "nvidia/a100-sxm-80gb", 1.0),
        ("gemm", "gemm", "bf16", "nvidia/h200-sxm", "nvidia/l40s", 1980 / 2520),
    ],
)
def test_intake_of_a_unit_is_carried_at_the_same_bytes_per_second(
    fitted, kernel, op, dtype, lender, device, times
):
    fitted({})
    names = kernels.group(kernel, "RATES")
    assert names, "bytes in a cycle"
    described = kernels.model(kernel).CONSTANTS
    assert all(described[name].unit == "B/cycle" for name in names)
    told = section(kernel, op, dtype, **dict.fromkeys(names, 1000.0))
    got = carried(told.constants, told, lender, load(device), Wanted(kernel, op, dtype), own=True)
    assert got == pytest.approx(dict.fromkeys(names, 1000.0 * times), rel=1e-3)


def test_carried_bandwidth_share_is_at_most_one(fitted):
    """A fit of kernels that memory does not limit may exceed 1: batched products on A100 have 1.1."""
    fitted({})
    told = section("gemm", "bmm", "fp32", "pytorch", bandwidth_share=1.1)
    got = carried(told.constants, told, "nvidia/a100-pcie-40gb", load("nvidia/h100-sxm"), FP32, own=True)
    assert got == {"bandwidth_share": 1.0}


def test_chain_time_scales_with_the_clock_and_launch_times_stay(fitted):
    fitted({})
    told = section("recurrence", "lstm", "fp32", "cudnn", chain_s=4e-8, step_s=2e-5, call_s=5e-5)
    p100, titan = load("nvidia/p100-pcie-16gb"), load("nvidia/titan-xp")
    wanted = Wanted("recurrence", "lstm", "fp32", framework="cudnn")
    got = carried(told.constants, told, p100.name, titan, wanted, own=True)
    assert got["chain_s"] * titan.clock_hz == pytest.approx(4e-8 * p100.clock_hz)
    assert (got["step_s"], got["call_s"]) == (2e-5, 5e-5)


@pytest.mark.parametrize(
    ("lender", "kernel", "share", "got"),
    [
        ("nvidia/a100-sxm-80gb", "decode", 0.96, 0.87),
        ("nvidia/a100-sxm-80gb", "gemm", 0.8, 0.8),  # limited by something other than memory
        ("nvidia/a100-sxm-80gb", "stream", 0.96, 0.96),  # a pass itself defines what is reached
        ("nvidia/t4", "decode", 0.96, 0.96),  # from the same kind of memory
    ],
)
def test_carried_bandwidth_share_on_gddr_is_at_most_that_of_a_pass(fitted, lender, kernel, share, got):
    passes = [section("stream", "layernorm", "fp16", bandwidth_share=value) for value in (0.74, 0.87)]
    passes.append(section("stream", "gelu", "fp16", start_s=1e-6))  # says nothing of it
    passes.append(section("gemm", "gemm", "fp16", bandwidth_share=0.99))  # what limits it may not be memory
    fitted(
        {
            "nvidia/a40": tuple(passes),
            "nvidia/v100-pcie-32gb": (section("stream", "gelu", "fp32", bandwidth_share=0.95),),
            "nvidia/l40s": (section("stream", "gelu", "fp32", bandwidth_share=0.9),),
        }
    )
    told = section(kernel, kernel, bandwidth_share=share)
    wanted, board = Wanted(kernel, kernel, "bf16"), load("nvidia/l40s")
    assert carried(told.constants, told, lender, board, wanted, own=False) == {"bandwidth_share": got}
    most = 0.9 if got < share else got  # then what was fitted on the board itself counts
    assert carried(told.constants, told, lender, board, wanted, own=True) == {"bandwidth_share": most}


@pytest.mark.parametrize(
    ("bytes_per_cycle", "lender", "device", "ahead"),
    [
        (17.15, "nvidia/a100-sxm-80gb", "nvidia/h200-sxm", 1.28),  # as far ahead of memory as on the lender
        (60.0, "nvidia/a100-sxm-80gb", "nvidia/h200-sxm", 60 / 18.37),  # more than either memory needs
        (13.1, "nvidia/l40s", "nvidia/h200-sxm", 2.0),  # far ahead of GDDR: what keeps HBM busy is enough
        (28.2, "nvidia/h200-sxm", "nvidia/l40s", 28.2 * 1980 / 2520 / 2.414),  # the same bytes per second
    ],
)
def test_carried_intake_keeps_memory_as_busy_as_on_the_lender(bytes_per_cycle, lender, device, ahead):
    """Little's law gives the bytes in flight. Constants: those fitted to vLLM on A100, L40S and H200."""
    told = section("decode", "attention_decode", stream_bytes_per_cycle=bytes_per_cycle)
    wanted, board = Wanted("decode", "attention_decode", "bf16"), load(device)
    got = carried(told.constants, told, lender, board, wanted, own=False)["stream_bytes_per_cycle"]
    # H200's whole bandwidth, 4.8 TB/s, is 18.37 bytes per cycle for each of its 132 units at 1.98 GHz.
    assert got * board.units * board.clock_hz / board.hbm_bandwidth == pytest.approx(ahead, rel=2e-3)


@pytest.mark.parametrize(
    ("lender", "device", "got"),
    [
        ("nvidia/h200-sxm", "nvidia/l40s", 1.0),
        ("nvidia/h200-sxm", "nvidia/h100-sxm", 0.88),
        ("nvidia/l40s", "nvidia/rtx-pro-6000-server", 0.88),
        ("nvidia/l40s", "nvidia/h200-sxm", 0.88),
    ],
)
def test_reduced_cache_share_is_not_carried_from_a_split_l2_to_a_whole_one(lender, device, got):
    """The halves of A100's and H100's L2 keep copies of each other's lines (Ampere's white paper)."""
    told = section("conv", "causal_conv1d_prefill", cache_share=0.88)
    wanted = Wanted("conv", "causal_conv1d_prefill", "bf16")
    assert carried(told.constants, told, lender, load(device), wanted, own=False) == {"cache_share": got}


@pytest.mark.parametrize("rest", [0.0, 0.4, 1.5])
@pytest.mark.parametrize(
    ("lender", "device"),
    [
        ("nvidia/a40", "nvidia/rtx-3090"),
        ("nvidia/l40s", "nvidia/l40"),  # not only GeForce's are cut
        ("nvidia/l40s", "nvidia/rtx-5090"),  # GeForce's are also against another generation's
    ],
)
def test_peak_share_is_higher_on_cut_tensor_cores(fitted, lender, device, rest):
    """Arithmetic of time 1 beside other work `rest` takes √(1 + rest²) in
    all; arithmetic of time t, √(t² + rest²).
    """
    fitted({})
    whole, cut = load(lender), load(device)
    t = whole.peak("bf16") / whole.units / whole.clock_hz * cut.units * cut.clock_hz / cut.peak("bf16")
    assert t == pytest.approx(2, rel=0.05)
    told = section(peak_share=1 / math.hypot(1, rest))
    wanted = Wanted("gemm", "gemm", "bf16")
    got = carried(told.constants, told, whole.name, cut, wanted, own=True)
    assert got == pytest.approx({"peak_share": t / math.hypot(t, rest)})


def test_peak_share_is_higher_however_far_tensor_cores_of_an_architecture_are_cut(fitted):
    """H20 has fewer units than H200, with tensor cores at a quarter of the rate."""
    fitted({})
    whole, cut = load("nvidia/h200-sxm"), load("nvidia/h20")
    t = whole.peak("bf16") / whole.units / whole.clock_hz * cut.units * cut.clock_hz / cut.peak("bf16")
    assert t == pytest.approx(4, rel=0.05)
    told = section(peak_share=1 / math.hypot(1, 0.8))
    got = carried(told.constants, told, whole.name, cut, Wanted("gemm", "gemm", "bf16"), own=True)
    assert got == pytest.approx({"peak_share": t / math.hypot(t, 0.8)})


@pytest.mark.parametrize(
    ("lender", "device", "dtype", "share"),
    [
        ("nvidia/a40", "nvidia/rtx-3090", "bf16", 1.02),  # above 1: no other work beside the arithmetic
        ("nvidia/a40", "nvidia/a100-pcie-40gb", "fp32", 0.7),  # 128 lanes a unit and 64: no tensor cores
        ("nvidia/h200-sxm", "nvidia/a100-sxm-80gb", "bf16", 0.7),  # half as fast a unit, but none is cut
        ("nvidia/a100-sxm-80gb", "nvidia/rtx-3090", "bf16", 0.7),  # a quarter: designed so, not only cut
    ],
)
def test_peak_share_is_unchanged_unless_tensor_cores_are_cut(fitted, lender, device, dtype, share):
    fitted({})
    told = section(dtype=dtype, peak_share=share)
    got = carried(told.constants, told, lender, load(device), Wanted("gemm", "gemm", dtype), own=True)
    assert got == {"peak_share": share}


@pytest.mark.parametrize(
    ("device", "own", "energy_j"),
    [
        # The energy of an fp32 operation falls from Ampere to Hopper as that of a bf16 operation does.
        ("nvidia/h100-sxm", True, 6e-12),
        ("nvidia/h200-sxm", True, 6e-12),
        # Rung `kernel` takes nothing fitted on the device itself.
        ("nvidia/h200-sxm", False, 10e-12),
        # Ada and Blackwell are made in the same process as Hopper.
        ("nvidia/l4", True, 6e-12),
        ("nvidia/gb200", True, 6e-12),
        # It stays within a family, and where nothing was fitted in the device's generation.
        ("nvidia/a100-pcie-40gb", True, 10e-12),
        ("nvidia/a40", True, 10e-12),
    ],
)
def test_energy_per_operation_scales_with_the_generation(fitted, device, own, energy_j):
    told = section(dtype="fp32", framework="pytorch", energy_j=10e-12)
    fitted({
        "nvidia/a100-sxm-80gb": (
            section(energy_j=2e-12), section(framework="sglang", energy_j=3e-12), told,
        ),
        # A framework fitted on only one of the two cannot be compared, though nearer to what is wanted.
        "nvidia/h200-sxm": (section(energy_j=1.2e-12), section(framework="pytorch", energy_j=9e-12)),
    })  # fmt: skip
    got = carried(told.constants, told, "nvidia/a100-sxm-80gb", load(device), FP32, own=own)
    assert got["energy_j"] / energy_j == pytest.approx(1)  # approx lets absolute errors of 1e-12 pass


@pytest.mark.parametrize("times", [0.6, 0.8, 1.25])
def test_speed_at_the_power_limit_does_not_depend_on_the_stated_clock(fitted, times):
    """Power grows with the cube of the clock, so the limit alone determines how fast a chip runs."""
    fitted({})
    chip = load("nvidia/l40s")
    board = Device(clocked(chip.spec, times))
    told = section(energy_j=1e-10)  # far beyond the limit at either clock
    got = carried(told.constants, told, chip.name, board, Wanted("gemm", "gemm", "bf16"), own=True)
    took = [
        (1 + droop(of, energy_j * of.peak("bf16"))) / of.peak("bf16")
        for of, energy_j in ((chip, 1e-10), (board, got["energy_j"]))
    ]
    assert took[1] / took[0] == pytest.approx(1, rel=1e-3)


def test_energies_of_generations_are_compared_at_one_clock(fitted):
    """H100's energy is that of H200, its nearest relative, times the square of the ratio of their clocks.

    Of its 350 W its units draw a larger part without arithmetic than H200's do of 700.
    """
    told = section(energy_j=2e-12)
    h200, h100 = load("nvidia/h200-sxm"), load("nvidia/h100-pcie")
    fitted({"nvidia/a100-sxm-80gb": (told,), h200.name: (section(energy_j=1.2e-12),)})
    wanted = Wanted("gemm", "gemm", "bf16", framework="trtllm")
    got = carried(told.constants, told, "nvidia/a100-sxm-80gb", h100, wanted, own=True)
    clocks = 1620e6, 1830e6  # of 756.5 and 989.4 TFLOP/s, of 114 and 132 units
    assert (h100.matrix_clock_hz, h200.matrix_clock_hz) == clocks
    left = (700 - 0.8 * 132) / 700 / ((350 - 0.8 * 114) / 350)
    assert got["energy_j"] / 1.2e-12 == pytest.approx((clocks[0] / clocks[1]) ** 2 * left)


def test_what_units_draw_without_arithmetic_comes_off_a_lower_limit_first(fitted):
    """A100 with 400 and with 250 W: the clock goes with the cube root of what is left to arithmetic."""
    fitted({})
    whole, limited = load("nvidia/a100-sxm-80gb"), load("nvidia/a100-pcie-40gb")
    assert (whole.tdp_w, limited.tdp_w, whole.units, limited.units) == (400, 250, 108, 108)
    told = section(energy_j=1e-10)  # far beyond either limit
    got = carried(told.constants, told, whole.name, limited, Wanted("gemm", "gemm", "bf16"), own=True)
    slower = [
        1 + droop(of, energy_j * of.peak("bf16"))
        for of, energy_j in ((whole, 1e-10), (limited, got["energy_j"]))
    ]
    left = [400 - 0.8 * 108, 250 - 0.8 * 108]
    assert slower[1] / slower[0] == pytest.approx((left[0] / left[1]) ** (1 / 3), rel=1e-3)


def test_chips_of_one_process_have_one_energy_per_operation(fitted):
    """TSMC's 4N makes Ada, Hopper and both Blackwells. From Ampere, the
    median of their ratios; among them, unchanged.
    """
    told = section(dtype="fp32", framework="pytorch", energy_j=10e-12)
    fitted({
        "nvidia/a100-sxm-80gb": (section(energy_j=2e-12), told),
        "nvidia/h200-sxm": (section(energy_j=1.2e-12),),
        "nvidia/b200-sxm": (section(energy_j=1e-12),),
        "nvidia/l40s": (section(energy_j=2e-12),),
    })  # fmt: skip
    for lender, times in (("nvidia/a100-sxm-80gb", 0.6), ("nvidia/h200-sxm", 1.0)):
        got = carried(told.constants, told, lender, load("nvidia/l4"), FP32, own=True)
        assert got["energy_j"] / (times * 10e-12) == pytest.approx(1)


def test_families_of_unknown_processes_are_compared_as_of_different_ones(fitted):
    told = section(dtype="fp32", framework="pytorch", energy_j=10e-12)
    volta = section(dtype="fp32", framework="pytorch", energy_j=15e-12)
    fitted({"nvidia/a100-sxm-80gb": (told,), "nvidia/v100-sxm2-16gb": (volta,)})
    got = carried(told.constants, told, "nvidia/a100-sxm-80gb", load("nvidia/v100-pcie-16gb"), FP32, own=True)
    assert got["energy_j"] / 15e-12 == pytest.approx(1)


def test_fp32_rates_of_an_l40s_at_300_w_are_those_posted_of_an_rtx_6000_ada():
    """The same chip with as many units. Rates [TFLOP/s]:
    github.com/chsasank/device-benchmarks, pull request 17.
    """
    posted = {2048: 49.45, 2896: 50.14, 3444: 48.51, 4096: 40.62, 5792: 35.69, 6888: 35.02}
    board = load("nvidia/l40s").replace(power="300 W")
    for size, rate in posted.items():
        p = predict(Matmul(dtype="fp32", batched=True), board, batch=1, m=size, n=size, k=size)
        assert 2 * size**3 / p.seconds == pytest.approx(rate * 1e12, rel=0.25)


def test_an_operation_draws_a_third_less_on_hopper_than_on_ampere():
    """bf16 constants fitted on rows of both. Hopper has no open fp32 row: fp32 goes by this ratio."""
    a100, h200 = (
        {
            s.framework: s.constants.get("energy_j")
            for s in calibration.load(name)
            if (s.op, s.dtype) == ("gemm", "bf16")
        }
        for name in ("nvidia/a100-sxm-80gb", "nvidia/h200-sxm")
    )
    assert all(0.5 * a100[name] < h200[name] < 0.75 * a100[name] for name in ("trtllm", "sglang"))


def test_constants_are_translated_by_the_ratio_of_frameworks_on_other_devices(fitted):
    name = ("conv", "causal_conv1d_decode", "bf16")
    vllm, sglang = (partial(section, *name, framework) for framework in ("vllm", "sglang"))
    fitted({
        "nvidia/b200-sxm": (
            vllm(start_cycles=4000.0, cache_bytes=10.0, bandwidth_share=0.6, unit_bytes=9.0, tick_s=2e-6),
            sglang(start_cycles=4800.0, cache_bytes=7.0, bandwidth_share=0.72, tick_s=1e-6),
        ),
        "nvidia/l40s": (
            vllm(start_cycles=4000.0, cache_bytes=20.0),
            sglang(start_cycles=5600.0, cache_bytes=14.0),
            # Another operation's ratio, which must not be used.
            section("conv", "causal_conv1d_prefill", "bf16", "vllm", start_cycles=1000.0),
            section("conv", "causal_conv1d_prefill", "bf16", "sglang", start_cycles=9000.0),
        ),
    })  # fmt: skip
    told = vllm(start_cycles=3000.0, cache_bytes=15.0, bandwidth_share=0.7, unit_bytes=8.0, tick_s=3e-6)
    wanted = Wanted(*name, framework="sglang")
    # The start has two ratios, 1.2 and 1.4. What is not fitted for both, and the harness's constant, stays.
    expected = {"start_cycles": 3900.0, "cache_bytes": 10.5, "bandwidth_share": 0.84}
    kept = {"unit_bytes": 8.0, "tick_s": 3e-6}
    assert translated(told.constants, told, wanted) == pytest.approx(expected | kept)
    # A share of the bandwidth is at most 1.
    assert translated({"bandwidth_share": 0.9}, told, wanted) == {"bandwidth_share": 1.0}
    without = translated(told.constants, told, wanted, ("nvidia/l40s",))
    assert without["start_cycles"] == pytest.approx(3600.0)
    assert translated(told.constants, told, Wanted(*name, framework="vllm")) == told.constants
    assert translated(told.constants, told, Wanted(*name)) == told.constants


def test_kernels_that_frameworks_share_are_not_translated(fitted):
    fitted({"nvidia/b200-sxm": (section(start_s=1e-6), section(framework="sglang", start_s=2e-6))})
    told = section(start_s=3e-6)
    assert translated(told.constants, told, Wanted("gemm", "gemm", "bf16", framework="sglang")) == {
        "start_s": 3e-6
    }


def test_sglangs_decode_convolution_is_slower_than_vllms_on_both_devices(shared):
    """The measured rows that the translation is based on."""
    rows = pd.read_parquet(shared / "measurements" / "scan.parquet")
    rows = rows[(rows["op"] == "causal_conv1d_decode") & rows["gpu"].isin(["b200-sxm", "l40s"])]
    rows = rows.assign(framework=rows["framework"].str.split().str[0])
    both = rows.pivot_table(
        index=["gpu", "batch", "m", "n", "k"], columns="framework", values="latency_s"
    ).dropna()
    times = (both["sglang"] / both["vllm"]).groupby("gpu").median()
    assert len(both) > 100
    assert times.between(1.05, 1.2).all()
