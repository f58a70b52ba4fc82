"""The scan's kernel model against hand calculation: which limit applies where, and that terms add up."""

import numpy as np
import pytest

import costmodel as cm
from costmodel import hardware
from costmodel.kernels import scan

A100 = hardware.load("nvidia/a100-sxm-80gb")
SHARES = dict.fromkeys(("bandwidth_share", "vector_share", "special_share", "matrix_share"), 1.0)
EXACT = {**SHARES, "start_s": 0.0, "overlap": 12.0}
NOTHING = {"chains": 1.0, "steps": 0.0, "traffic": 0.0}


def estimate(constants=None, **sizes):
    return scan.seconds(A100, EXACT | (constants or {}), **NOTHING | sizes)


def test_a_long_pass_takes_its_bytes_over_the_bandwidth():
    got = estimate(traffic=1e12).seconds
    assert got == pytest.approx(1e12 / A100.hbm_bandwidth, rel=1e-6)


def test_a_working_set_that_fits_the_cache_is_read_from_it():
    small, large = estimate(traffic=np.array([1e6, 1e12])).seconds
    assert small == pytest.approx(1e6 / (2.5 * A100.hbm_bandwidth), rel=1e-3)
    assert large > 1e6 * small * 2


def test_bytes_that_are_read_again_count_as_traffic():
    assert estimate(traffic=1e12, again=1e12).seconds == pytest.approx(2e12 / A100.hbm_bandwidth, rel=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("engine", ["matrix", "vector", "special"])
def test_arithmetic_takes_its_flops_over_its_engines_rate(engine, share):
    rate = share * (A100.peak("bf16") if engine == "matrix" else A100.peak("fp32", engine))
    got = estimate({f"{engine}_share": share}, **{f"{engine}_flops": 1e12})
    assert got.seconds == pytest.approx(1e12 / rate, rel=1e-6)
    label = f"{engine}:{'bf16' if engine == 'matrix' else 'fp32'}"
    assert got.terms[label] == pytest.approx(got.seconds)
    assert got.terms.keys() == {"hbm", label, "depth", "launch"}, "no engine without work has a term"


def test_exponentials_of_kernels_of_their_own_come_on_top():
    sizes = {"traffic": 1e12, "special_flops": 1e12}
    plain, more = (estimate({"overlap": 2.0}, **sizes, exponentials=number) for number in (0.0, 3e12))
    alone = 3e12 / A100.peak("fp32", "special")
    assert more.seconds == pytest.approx(plain.seconds + alone)
    assert more.terms["special:fp32"] == pytest.approx(plain.terms["special:fp32"] + alone)


def test_dependent_steps_take_time_in_proportion():
    """Time grows with the steps, whatever the bandwidth and the engines do (claims.md S3)."""
    lanes = estimate(steps=np.array([1e3, 1e6]))
    assert lanes.seconds[1] == pytest.approx(1e3 * lanes.seconds[0])
    assert lanes.seconds[0] == pytest.approx(1e3 * 12 / A100.clock_hz)
    blocks = estimate({"block_s": 1e-6}, steps=100.0, blocks=True)
    assert blocks.seconds == pytest.approx(100 * 1e-6)


def test_one_chain_more_than_fits_takes_a_second_wave():
    fit = A100.units * 1024
    one, two = estimate(chains=np.array([fit, fit + 1]), steps=1e4).seconds
    assert two == pytest.approx(2 * one)


def test_every_launch_costs_its_start():
    got = estimate({"start_s": 2e-6}, launches=1000.0)
    assert got.seconds == pytest.approx(2e-3)
    assert got.terms["launch"] == got.seconds


def test_the_time_lies_between_the_longest_term_and_their_sum():
    sizes = {"traffic": 1e12, "vector_flops": 1e13, "special_flops": 1e12, "steps": 1e7}
    for overlap in (1.0, 3.0, 12.0):
        got = estimate({"overlap": overlap}, **sizes)
        terms = [t for name, t in got.terms.items() if name != "launch"]
        assert max(terms) <= got.seconds <= sum(terms) * (1 + 1e-12)
    assert estimate({"overlap": 1.0}, **sizes).seconds == pytest.approx(sum(terms))


def test_an_engine_without_a_known_rate_has_no_term():
    tpu = hardware.load("google/tpu-v4")
    got = scan.seconds(tpu, {}, chains=1.0, steps=0.0, traffic=1e9, special_flops=1e9)
    assert "special_fp32" in tpu.missing
    assert got.terms.keys() == {"hbm", "depth", "launch"}


def test_arrays_and_scalars_agree():
    steps = np.array([10.0, 1e5])
    together = estimate(steps=steps, traffic=1e8).seconds
    assert together == pytest.approx([float(estimate(steps=s, traffic=1e8).seconds) for s in steps])


@pytest.mark.parametrize("engine", ["matrix", "vector", "special"])
def test_sizes_of_one_call_do_not_affect_each_other(engine):
    flops = np.array([0.0, 1e12])
    both = estimate(**{f"{engine}_flops": flops, "traffic": 1e6}).seconds
    alone = [float(estimate(**{f"{engine}_flops": one, "traffic": 1e6}).seconds) for one in flops]
    assert both.tolist() == alone


@pytest.mark.parametrize("device", ["tpu-v7", "xeon-8480plus"])
@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (cm.Mamba, {"batch": 8, "seq": 2048, "d_model": 512}),
        (cm.RWKV, {"batch": 8, "seq": 2048, "d_model": 512}),
        (cm.Scan, {"batch": 8, "seq": 2048, "hidden": 512}),
    ],
)
def test_a_scan_without_products_needs_no_rate_for_its_storage_format(device, layer, sizes):
    """Neither device multiplies in fp16, both do in bf16. The widths are equal, the arithmetic is fp32."""
    for rung in ("bound", "kernel"):
        stored, known = (
            cm.predict(layer(dtype=dtype), device, rung=rung, **sizes) for dtype in ("fp16", "bf16")
        )
        assert stored.seconds == known.seconds > 0
