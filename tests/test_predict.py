"""Predictions: laws that hold for every layer and device, what limits them, and what an answer says."""

import copy
import dataclasses
import itertools
import json
import math
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import costmodel as cm
from costmodel.calibration import calibrated_devices
from costmodel.errors import CostmodelError, SizeError, UnavailableError, UnknownNameError
from costmodel.hardware import load
from costmodel.layers import classes
from costmodel.predict import RUNGS
from costmodel.prediction import BLOCK

#: A value of each size, valid together: heads · head_dim = d_model, heads a multiple of kv_heads.
SIZES = {
    "batch": 4, "seq": 512, "seq_kv": 1024, "heads": 8, "kv_heads": 2, "head_dim": 64, "value_dim": 64,
    "d_model": 512, "d_ff": 2048, "hidden": 256, "input": 256, "projection": 128, "num_layers": 2,
    "vocab": 32000, "window": 128, "block": 64, "experts": 8, "top_k": 2, "devices": 8,
    "m": 384, "n": 512, "k": 4,
}  # fmt: skip
#: A GPU with every figure, one without matrix engines, and a TPU without shared memory.
DEVICES = ("nvidia/h200-sxm", "nvidia/p100-sxm2-16gb", "google/tpu-v5e")
CASES = [(name, way) for name, kind in classes().items() for way in kind.directions]
#: Times and counts are sums of some hundred floats.
EXACT = 1e-9


def sizes_of(layer):
    return {name: SIZES.get(name, 64) for name in layer.required}


def made(name, way):
    return classes()[name](dtype="fp32", direction=way)


@pytest.mark.parametrize("rung", ["bound", "kernel"])
def test_limits_add_up_to_the_serial_time_and_utilisation_is_a_share_of_the_peak(rung):
    p = cm.predict(cm.FeedForward(), "nvidia/h200-sxm", rung=rung, batch=1, seq=[1, 4096], d_model=4096)
    assert sum(p.limits_s.values()) == pytest.approx(p.serial_s, rel=EXACT)
    assert p.utilisation == pytest.approx(p.matrix_flops / p.seconds / 989.4e12)
    if rung == "bound":
        assert p.limits_s["matrix:bf16"] == pytest.approx(p.matrix_flops / 989.4e12)
        assert p.limits_s["hbm"] == pytest.approx(p.hbm_bytes / 4.8e12)
    norm = cm.predict(cm.Norm(), "nvidia/h200-sxm", rung=rung, m=64, n=64)
    assert norm.utilisation == 0


@pytest.mark.parametrize("rung", ["bound", "kernel"])
def test_kernels_serial_times_add_up_to_the_layers(rung):
    p = cm.predict(cm.LSTM(), "h200-sxm", rung=rung, batch=8, seq=64, hidden=256, num_layers=3)
    assert sum(phase["serial_s"] for phase in p.phases) == pytest.approx(p.serial_s, rel=EXACT)


@pytest.mark.parametrize("rung", ["bound", "kernel"])
def test_a_transfer_and_the_kernel_that_hides_it_take_as_long_as_the_longer(rung):
    ring, longer = cm.layers.get("ring-attention")(), set()
    for batch, seq in ((64, 1024), (1, 262144)):  # the link takes longer; the products do
        sizes = {"batch": batch, "seq": seq, "heads": 64, "head_dim": 64, "devices": 8}
        p = cm.predict(ring, "h200-sxm", rung=rung, **sizes)
        took = [repeats * seconds for repeats, seconds, _ in p.parts]
        pairs = [i for i, part in enumerate(p.plan.phases) if part.phase.overlaps]
        assert pairs
        for i in pairs:
            assert p.phase_seconds[i - 1] + p.phase_seconds[i] == pytest.approx(max(took[i - 1 : i + 1]))
            longer.add(took[i - 1] < took[i])
    assert longer == {True, False}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "way"), CASES)
def test_the_estimate_is_never_below_the_bound(name, way, device):
    layer = made(name, way)
    sizes = sizes_of(layer)
    bound = cm.predict(layer, device, rung="bound", **sizes)
    estimate = cm.predict(layer, device, rung="kernel", **sizes)
    for p in (bound, estimate):
        assert 0 <= p.lower_s <= p.seconds * (1 + EXACT)
        assert math.isfinite(p.seconds)
        assert p.seconds > 0
    assert bound.lower_s == estimate.lower_s
    assert bound.seconds <= bound.serial_s * (1 + EXACT)
    assert (bound.rung, bound.state, bound.constants_from) == ("bound", "cold", "none")
    assert estimate.rung == "kernel"


@pytest.mark.parametrize("device", ["amd/mi300x", "nvidia/b200-sxm", "nvidia/l40s", "nvidia/t4"])
@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (cm.Matmul(dtype="fp16"), {"m": 16, "n": 2048, "k": 2048}),
        (
            cm.DecodeAttention(dtype="fp16"),
            {"batch": 2, "heads": 32, "kv_heads": 8, "seq_kv": 1024, "head_dim": 128},
        ),
        (
            cm.GatedDeltaNet(dtype="fp16", form="recurrent"),
            {"batch": 8, "seq": 1, "heads": 16, "head_dim": 128},
        ),
        (cm.Softmax(dtype="fp16"), {"m": 1024, "n": 1024}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("framework", [None, "trtllm"])
def test_cold_call_takes_every_byte_from_memory(layer, sizes, framework, device):
    """The operands fit the caches of these devices, except T4's; in a cold call none are cached."""
    warm, cold = (
        cm.predict(layer, device, rung="kernel", state=state, framework=framework, **sizes)
        for state in ("warm", "cold")
    )
    (phase,) = cold.phases
    assert cold.seconds >= warm.seconds
    assert phase["seconds"] >= float(cold.hbm_bytes) / load(device).hbm_bandwidth


@pytest.mark.parametrize(("name", "way"), CASES)
def test_convention_of_counting_changes_no_time(name, way):
    """torch counts the masked half of causal scores and other groups' gradients, which no kernel computes."""
    exact = made(name, way)
    torch = dataclasses.replace(exact, convention="torch")
    done, counted = (
        cm.predict(layer, "h200-sxm", rung="bound", **sizes_of(layer)) for layer in (exact, torch)
    )
    assert (counted.seconds, counted.lower_s, counted.bound) == (done.seconds, done.lower_s, done.bound)
    for count in ("matrix_flops", "hbm_bytes"):
        assert sum(phase[count] for phase in counted.phases) == pytest.approx(getattr(counted, count)), count


def test_a_prediction_can_be_pickled_and_copied():
    p = cm.predict(cm.LSTM(), "h200-sxm", batch=1, seq=2, hidden=3)
    assert p.seconds > 0  # its functions are compiled now
    for again in (pickle.loads(pickle.dumps(p)), copy.deepcopy(p)):
        assert again.seconds == p.seconds
        assert again.hbm_bytes == p.hbm_bytes


#: Sizes at which no launch hides what a kernel model leaves out.
LARGE = {
    "batch": 16, "seq": 4096, "heads": 32, "head_dim": 128, "d_model": 4096, "d_ff": 16384,
    "hidden": 1024, "window": 1024, "m": 8192, "n": 8192, "k": 4096,
}  # fmt: skip
#: Sizes made unlike the others, in case a kernel model confuses two.
UNLIKE = {"seq_kv": 65536, "value_dim": 512}


@pytest.mark.parametrize("device", [*DEVICES, "cpu/epyc-9654"])
@pytest.mark.parametrize(("name", "way"), CASES)
def test_kernel_times_are_not_below_the_bound_by_themselves(name, way, device):
    """`seconds` is never below `lower_s`; the sum of kernel times must not be, before that is enforced."""
    layer = made(name, way)
    sizes = {name: {**SIZES, **LARGE}.get(name, 64) for name in layer.required}
    for unlike in ({}, *({name: size} for name, size in UNLIKE.items() if name in layer.sizes())):
        warm, cold = (
            cm.predict(layer, device, rung="kernel", state=state, **{**sizes, **unlike})
            for state in ("warm", "cold")
        )
        for p in (warm, cold):
            assert sum(p.phase_seconds) >= p.lower_s * (1 - EXACT)
        assert sum(warm.phase_seconds) <= sum(cold.phase_seconds) * (1 + EXACT)


@pytest.mark.parametrize("device", calibrated_devices())
def test_calibrated_times_are_above_the_bound_with_ordered_intervals(device):
    calibrated = 0
    kinds = [*classes().values(), partial(cm.LSTM, recurrent_only=True)]
    for kind, dtype in itertools.product(kinds, ("fp32", "fp16", "bf16")):
        layer = kind(dtype=dtype)
        try:
            p = cm.predict(layer, device, rung="calibrated", **sizes_of(layer))
        except UnavailableError:
            continue  # no constants of its own for one of the kernels, or no such format
        assert 0 <= p.lower_s <= p.seconds * (1 + EXACT)
        assert (p.rung, p.constants_from) == ("calibrated", "self")
        if not math.isnan(p.lo80_s):
            assert p.lo95_s <= p.lo80_s <= p.hi80_s <= p.hi95_s
        calibrated += 1
    assert calibrated


def test_constants_that_are_too_fast_give_the_lower_bound():
    p = cm.predict(cm.Matmul(), "h200-sxm", m=8192, n=8192, k=8192)
    (part,) = p.plan.phases
    fast = {**part.choice.constants, "peak_share": 100.0, "energy_j": 1e-15}
    plan = dataclasses.replace(
        p.plan,
        phases=(dataclasses.replace(part, choice=dataclasses.replace(part.choice, constants=fast)),),
    )
    found = cm.Prediction(plan, p.shapes)
    assert sum(found.phase_seconds) < p.lower_s < p.seconds
    assert found.seconds == found.lower_s == p.lower_s


@given(
    case=st.sampled_from(CASES),
    device=st.sampled_from(cm.hardware.available()),
    batch=st.integers(1, 256),
    seq=st.integers(1, 2**17),
)
def test_bound_is_below_the_roofline_at_any_size(case, device, batch, seq):
    layer = made(*case)
    sizes = sizes_of(layer) | {n: v for n, v in (("batch", batch), ("seq", seq)) if n in layer.required}
    try:
        p = cm.predict(layer, device, rung="bound", **sizes)
    except SizeError:
        assume(False)  # sizes that do not go together, such as a graph of more edges than pairs
    assert p.lower_s <= p.seconds * (1 + EXACT)
    assert p.seconds <= p.serial_s * (1 + EXACT)


@pytest.mark.parametrize("name", [name for name, way in CASES if way == "fwd+bwd"])
def test_training_takes_as_long_as_both_directions(name):
    sizes = sizes_of(classes()[name]())
    forward, backward, both = (made(name, way) for way in ("fwd", "bwd", "fwd+bwd"))
    a, b, c = (cm.predict(layer, "h200-sxm", rung="bound", **sizes) for layer in (forward, backward, both))
    assert c.seconds == pytest.approx(a.seconds + b.seconds, rel=EXACT)
    assert c.serial_s == pytest.approx(a.serial_s + b.serial_s, rel=EXACT)
    for count in ("matrix_flops", "vector_flops", "special_flops", "hbm_bytes", "launches"):
        assert c.counts[count] == pytest.approx(a.counts[count] + b.counts[count], rel=EXACT)


@pytest.mark.parametrize("rung", ["bound", "kernel"])
@pytest.mark.parametrize("name", classes())
def test_arrays_of_sizes_give_the_numbers_of_scalars(name, rung):
    layer = made(name, "fwd")
    first = layer.required[0]
    values = np.array([1, 2, 8, 64]) * SIZES.get(first, 64)
    rest = {n: v for n, v in sizes_of(layer).items() if n != first}
    many = cm.predict(layer, "h200-sxm", rung=rung, **{first: values}, **rest)
    for i, value in enumerate(values):
        one = cm.predict(layer, "h200-sxm", rung=rung, **{first: int(value)}, **rest)
        assert isinstance(one.seconds, float)
        assert many.seconds[i] == pytest.approx(one.seconds, rel=EXACT)
        assert many.lower_s[i] == pytest.approx(one.lower_s, rel=EXACT)
        assert many.bound[i] == one.bound
        for count, number in one.counts.items():
            assert many.counts[count][i] == number


@pytest.mark.parametrize("rung", ["bound", "kernel"])
def test_tables_longer_than_a_block_give_the_numbers_of_their_rows(rung):
    rows = 40_000
    assert 2 * BLOCK < rows < 3 * BLOCK
    batch = np.arange(1.0, rows + 1)
    many = cm.predict(cm.Matmul(), "h200-sxm", rung=rung, m=batch, n=256, k=1024)
    for i in (0, BLOCK - 1, BLOCK, rows - 1):
        one = cm.predict(cm.Matmul(), "h200-sxm", rung=rung, m=batch[i], n=256, k=1024)
        assert many.seconds[i] == pytest.approx(one.seconds, rel=EXACT)
        assert many.lower_s[i] == pytest.approx(one.lower_s, rel=EXACT)
        assert many.serial_s[i] == pytest.approx(one.serial_s, rel=EXACT)
        assert many.bound[i] == one.bound
    assert many.seconds.shape == many.lower_s.shape == many.serial_s.shape == many.bound.shape == (rows,)


def test_sizes_broadcast_against_each_other():
    p = cm.predict(
        cm.LSTM(), "h200-sxm", rung="bound", batch=np.array([[1], [2]]), seq=[8, 16, 32], hidden=64
    )
    assert p.seconds.shape == p.lower_s.shape == p.bound.shape == p.hbm_bytes.shape == (2, 3)
    assert (
        p.seconds[1, 2] == cm.predict(cm.LSTM(), "h200-sxm", rung="bound", batch=2, seq=32, hidden=64).seconds
    )
    with pytest.raises(SizeError, match="broadcast"):
        cm.predict(cm.LSTM(), "h200-sxm", rung="bound", batch=[1, 2], seq=[8, 16, 32], hidden=64)


# -- what limits -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "sizes", "wanted"),
    [
        (cm.Matmul(dtype="bf16"), {"m": 8192, "n": 8192, "k": 8192}, "matrix:bf16"),
        (cm.Matmul(dtype="fp8"), {"m": 8192, "n": 8192, "k": 8192}, "matrix:fp8"),
        (cm.Matmul(dtype="bf16"), {"m": 1, "n": 8192, "k": 8192}, "hbm"),
        (cm.Elementwise(dtype="bf16"), {"m": 8192, "n": 8192}, "hbm"),
    ],
)
def test_roofline_names_what_limits(layer, sizes, wanted):
    assert cm.predict(layer, "h200-sxm", rung="bound", **sizes).bound == wanted


def test_roofline_numbers_are_those_of_the_datasheet():
    # H200 SXM: 989.4 TFLOP/s dense BF16, 4.8 TB/s (NVIDIA). A product at each side of the ridge.
    big = cm.predict(cm.Matmul(), "h200-sxm", rung="bound", m=8192, n=8192, k=8192)
    assert big.seconds == pytest.approx(2 * 8192**3 / 989.4e12, rel=EXACT)
    thin = cm.predict(cm.Matmul(), "h200-sxm", rung="bound", m=1, n=8192, k=8192)
    assert thin.seconds == pytest.approx(2 * (8192**2 + 2 * 8192) / 4.8e12, rel=EXACT)
    # The lower bound: boost (1980 MHz) over the clock of the stated peak (1830 MHz), and no
    # charge for what 50 MiB of L2 can hold.
    assert big.lower_s == pytest.approx(big.seconds * 1830 / 1980, rel=EXACT)
    held = 2 * (8192**2 + 2 * 8192) - 50 * 2**20
    assert thin.lower_s == pytest.approx(held / 4.8e12, rel=EXACT)


def test_depth_limits_a_recurrence_and_not_attention():
    # Same width, one sequence: the LSTM waits 65,536 times, whatever the chip can do.
    lstm = cm.predict(cm.LSTM(), "h200-sxm", rung="kernel", batch=1, seq=65536, hidden=512)
    assert (lstm.depth, lstm.bound) == (65536, "depth")
    attention = cm.predict(cm.TiledAttention(), "h200-sxm", batch=1, seq=65536, heads=8, head_dim=64)
    assert attention.depth == 1
    assert attention.limits_s["depth"] < 0.1 * attention.seconds


@pytest.mark.parametrize("rung", ["bound", "kernel"])
@pytest.mark.parametrize("device", DEVICES)
def test_every_limit_has_a_name_of_the_contract(device, rung):
    for name in classes():
        layer = made(name, "fwd")
        p = cm.predict(layer, device, rung=rung, **sizes_of(layer))
        engine, _, dtype = p.bound.partition(":")
        assert engine in {"matrix", "vector", "special", "hbm", "l2", "depth", "launch", "link"}
        assert bool(dtype) == (engine in {"matrix", "vector", "special"})
        assert sum(phase["seconds"] for phase in p.phases) <= p.seconds * (1 + EXACT)


@pytest.mark.parametrize("rung", ["bound", "kernel"])
@pytest.mark.parametrize(
    ("device", "dtype", "engine"),
    [
        ("k40", "fp32", "vector"),  # no tensor cores
        ("p100-sxm2-16gb", "fp16", "vector"),  # packed on its CUDA cores
        ("h200-sxm", "fp32", "vector"),  # tensor cores do TF32, which is not asked for
        ("mi210", "fp32", "matrix"),  # ROCm's gpu-specs: 45.3 TFLOP/s of matrix cores
        ("h200-sxm", "fp16", "matrix"),
    ],
)
def test_products_are_limited_by_the_engine_that_multiplies(device, dtype, engine, rung):
    sizes = {"batch": 64, "seq": 8192, "heads": 16, "head_dim": 256}
    for layer, own in (
        (cm.Matmul(dtype=dtype), {"m": 8192, "n": 8192, "k": 8192}),
        (cm.MLSTM(dtype=dtype), sizes),
    ):
        p = cm.predict(layer, device, rung=rung, **own)
        limits = {p.bound, *(phase["bound"] for phase in p.phases), *cm.elasticities(p)}
        named = {limit.partition(":")[0] for limit in limits if limit.endswith(f":{dtype}")}
        assert named <= ({engine, "vector"} if dtype == "fp32" else {engine})
        assert engine in named or rung == "kernel" or layer.name != "matmul"


# -- what if, and what is not known ------------------------------------------------------------


def test_twice_the_bandwidth_halves_what_the_bandwidth_limits():
    h200 = load("nvidia/h200-sxm")
    wide = h200.replace(hbm="9.6 TB/s")
    sizes = {"m": 8192, "n": 8192}
    a, b = (cm.predict(cm.Softmax(), d, rung="bound", **sizes) for d in (h200, wide))
    assert b.seconds == pytest.approx(a.seconds / 2, rel=EXACT)
    assert b.lower_s == pytest.approx(a.lower_s / 2, rel=EXACT)
    a, b = (cm.predict(cm.Matmul(), d, rung="bound", k=8192, **sizes) for d in (h200, wide))
    assert b.seconds == a.seconds
    assert b.to_dict()["device"] == "nvidia/h200-sxm*"
    assert b.to_dict()["spec_hash"] != a.to_dict()["spec_hash"]


def test_figure_that_a_spec_lacks_is_left_out_and_named():
    tpu = cm.predict(cm.Softmax(), "google/tpu-v5e", rung="bound", m=64, n=64)
    lacking = [name for name in ("vector", "special") if f"{name}:fp32 rate" in tpu.missing]
    assert lacking
    assert not any(label.startswith(tuple(lacking)) for _, _, terms in tpu.parts for label in terms)
    assert set(tpu.missing) >= set(load("google/tpu-v5e").missing)


def test_dtype_that_a_device_lacks_is_refused_with_those_it_has():
    with pytest.raises(UnavailableError, match=r"v100.* has no bf16 rate; it has .*fp16"):
        cm.predict(cm.Matmul(dtype="bf16"), "v100-sxm2-16gb", rung="bound", m=1, n=1, k=1)


def test_state_is_a_size_where_it_is_a_number():
    """contract.md has it twice: entries of a recurrence's state, and whether caches are warm."""
    sizes = {"batch": 1, "seq": 512, "d_model": 64}
    p = cm.predict(cm.Mamba(), "h200-sxm", rung="kernel", state=32, **sizes)
    assert (p.sizes["state"], p.state) == (32, "warm")
    both = cm.predict(cm.Mamba(), "h200-sxm", {**sizes, "state": 32}, rung="kernel", state="cold")
    assert (both.sizes["state"], both.state) == (32, "cold")
    frame = cm.sweep([cm.Mamba(), cm.LSTM()], "h200-sxm", rung="bound", hidden=64, state=[16, 32], **sizes)
    assert list(frame["state_size"].dropna()) == [16, 32]
    assert set(frame["state"]) == {"cold"}


@pytest.mark.parametrize("level", [50, 0.8, "80", None, [80], np.array([80, 95])])
def test_intervals_are_of_80_or_95_per_cent(level):
    p = cm.predict(cm.Matmul(), "nvidia/h200-sxm", m=512, n=512, k=512)
    with pytest.raises(SizeError, match="wanted 80 or 95 % of measurements, got "):
        p.interval(level)


def test_interval_of_one_kernel_has_the_quantiles_of_its_calibration():
    p = cm.predict(cm.Matmul(), "h200-sxm", m=4096, n=4096, k=4096)
    (part,) = p.plan.phases
    regime = next(s for s in reversed(part.choice.spread) if s.above <= p.seconds)
    ends = (p.lo95_s, p.lo80_s, p.hi80_s, p.hi95_s)
    assert ends == pytest.approx([max(q * p.seconds, p.lower_s) for q in regime.q])


def test_equal_layers_take_equal_times_and_have_equal_intervals():
    """Of a stack as wide as its input. Errors are taken to be correlated: intervals add up as times do."""
    layers = np.array([1, 2, 3, 5])
    sizes = {"batch": 32, "seq": 100, "hidden": 512, "input": 512, "num_layers": layers}
    p = cm.predict(cm.LSTM(dtype="fp32"), "p100-pcie-16gb", **sizes)
    for ends in (p.seconds, p.lo80_s, p.hi80_s, p.hi95_s):
        assert ends == pytest.approx(layers * ends[0])


def test_a_footprint_up_to_the_capacity_fits():
    """Three square matrices of 2 bytes a number: with 141 GB, of 153,297 rows at most."""
    n = np.array([153_297, 153_298])
    assert load("nvidia/h200-sxm").hbm_capacity == 141e9
    p = cm.predict(cm.Matmul(), "h200-sxm", rung="bound", m=n, n=n, k=n)
    assert p.fits.tolist() == [True, False]


@pytest.mark.parametrize(
    ("layer", "device", "sizes"),
    [
        (cm.FeedForward(dtype="fp32"), "v100-pcie-32gb", {"seq": 512, "d_model": [64, 1024, 8192]}),
        (cm.SwiGLU(), "mi100", {"seq": 512, "d_model": [64, 1024, 8192]}),
    ],
)
def test_no_interval_begins_below_the_lower_bound(layer, device, sizes):
    p = cm.predict(layer, device, batch=8, **sizes)
    assert (p.lo95_s >= p.lower_s).all()
    assert (p.lo95_s <= p.lo80_s).all()
    assert (p.lo80_s <= p.hi80_s).all()
    assert (p.hi80_s <= p.hi95_s).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rung": "bond"},
        {"state": "tepid"},
        {"framework": "banana"},
        {"harness": "graphreplay"},
        {"kernel": "fa3"},
        {"kernel": "fa3", "rung": "bound"},
    ],
)
def test_unknown_choices_are_refused_with_the_nearest(wrong):
    with pytest.raises(UnknownNameError, match=rf"unknown {next(iter(wrong))}"):
        cm.predict(cm.Matmul(), "h200-sxm", m=1, n=1, k=1, **wrong)


@pytest.mark.parametrize("wrong", ["lstm", cm.LSTM, None, 5])
def test_what_is_no_layer_is_refused(wrong):
    sizes = {"batch": 1, "seq": 8, "hidden": 64}
    asked = (
        lambda: cm.predict(wrong, "h200-sxm", **sizes),
        lambda: cm.evaluate(wrong, **sizes),
        lambda: cm.sweep(wrong, "h200-sxm", **sizes),
        lambda: cm.sweep([cm.GRU(), wrong], "h200-sxm", **sizes),
        lambda: cm.crossover(cm.GRU(), wrong, "h200-sxm", over="seq", batch=1, hidden=64),
    )
    for ask in asked:
        with pytest.raises(
            CostmodelError, match=r"wanted \w+ to be a Layer \(such as costmodel.LSTM\(\)\).*, got"
        ):
            ask()


@pytest.mark.parametrize("wrong", [None, 5, b"h200-sxm", ["h200-sxm"]])
def test_what_is_no_device_is_refused(wrong):
    with pytest.raises(CostmodelError, match=r"wanted device to be a Device .*, text or a path, got"):
        cm.predict(cm.LSTM(), wrong, batch=1, seq=8, hidden=64)


@pytest.mark.parametrize(
    ("layer", "device", "text"),
    [
        ("ring-attention", "i9-13900k", "cpu/i9-13900k has no link to other devices in its spec; ask for"),
        ("matmul", "epyc-9654", "no model of products that quantise A on a CPU"),
    ],
)
def test_prediction_without_a_kernel_model_is_refused_when_it_is_made(layer, device, text):
    """Every prediction that is returned has a time, and a page in a notebook."""
    kind = cm.layers.get(layer)
    asked = kind(dtype="fp32", quantise=True) if layer == "matmul" else kind(dtype="fp32")
    sizes = dict.fromkeys(asked.required, 8)
    for rung in (None, "kernel"):
        with pytest.raises(UnavailableError, match=text):
            cm.predict(asked, device, sizes, rung=rung)
    assert cm.predict(asked, device, sizes, rung="bound").seconds > 0


@pytest.mark.parametrize("rung", ["kernel", "calibrated"])
@pytest.mark.parametrize("shape", [(), (3,), (40_000,)])
def test_sizes_too_large_together_are_an_error_and_not_infinity(rung, shape):
    """Each size is allowed alone, but the kernel models' single precision ends at 3.4e38."""
    p = cm.predict(cm.Matmul(), "h200-sxm", rung=rung, m=np.full(shape, 2.0**40), n=2**40, k=2**40)
    with pytest.raises(SizeError, match=r"sizes of matmul: too large together.*m=1099511627776"):
        p.to_dict()
    assert np.isfinite(p.lower_s).all()


@pytest.mark.parametrize("rung", [None, "bound", "kernel", "calibrated"])
def test_algorithm_switch_is_refused_on_devices_without_such_a_switch(rung):
    """An algorithm that a device cannot run has no lower bound there either."""
    switch = cm.layers.get("collective")(algorithm="switch")
    with pytest.raises(UnavailableError, match="has no switch that adds; take algorithm auto or custom"):
        cm.predict(switch, "nvidia/a100-sxm-80gb", m=64, n=64, devices=8, rung=rung)
    assert cm.predict(switch, "nvidia/h200-sxm", m=64, n=64, devices=8, rung="bound").seconds > 0


def test_missing_calibration_is_refused_with_the_command_that_makes_one():
    with pytest.raises(UnavailableError, match="validate"):
        cm.predict(cm.LSTM(dtype="fp32"), "nvidia/k40", rung="calibrated", batch=1, seq=1, hidden=1)


def test_default_rung_is_the_best_available_and_is_stated():
    p = cm.predict(cm.LSTM(dtype="fp32"), "nvidia/k40", batch=1, seq=8, hidden=64)
    assert p.rung in RUNGS[1:]
    assert p.constants_from


# -- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rung", ["bound", "kernel"])
def test_an_answer_is_plain_json(rung):
    p = cm.predict(cm.TransformerBlock(), "h200-sxm", rung=rung, **sizes_of(cm.TransformerBlock()))
    answer = p.to_dict()
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert answer["version"] == cm.__version__
    assert answer["schema"] == 1
    assert answer["spec_hash"] == load("h200-sxm").spec_hash
    assert {"latency.launch", "latency.step"} <= set(answer["assumed"])
    total = sum(phase["matrix_flops"] for phase in answer["phases"])
    assert total == pytest.approx(answer["matrix_flops"], rel=EXACT)


def test_repr_is_one_line_of_layer_device_rung_and_sizes():
    p = cm.predict(cm.LSTM(), "h200-sxm", rung="kernel", batch=1, seq=[8, 16], hidden=2**40)
    said = "batch=1 seq[2] hidden=1099511627776 input=1099511627776 num_layers=1"
    assert repr(p) == f"Prediction(lstm[bf16] on nvidia/h200-sxm, kernel: {said})"


def test_unknown_count_is_refused_with_the_nearest_name():
    p = cm.predict(cm.Matmul(), "h200-sxm", rung="bound", m=1, n=1, k=1)
    with pytest.raises(AttributeError, match="matrix_flops"):
        p.matrix_flop  # noqa: B018 - asked for


@pytest.mark.parametrize("first", ["sweep", "crossover"])
def test_functions_stay_functions_after_their_modules_are_imported(first):
    """Importing a submodule binds its name in the package: the facade keeps the function."""
    code = f"import costmodel as cm; cm.{first}; import costmodel.sweep, costmodel.crossing; " + "; ".join(
        f"assert callable(cm.{name}), {name!r}" for name in ("predict", "sweep", "evaluate", "crossover")
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_constants_of_a_causal_kernel_come_with_its_tiles():
    """A100 has constants of causal attention alone; unmasked, the same kernel is no slower per FLOP."""
    sizes = {"batch": 4, "seq": 4096, "heads": 32, "head_dim": 128}
    causal, full = (
        cm.predict(cm.TiledAttention(causal=c), "nvidia/a100-sxm-80gb", **sizes) for c in (True, False)
    )
    assert full.phases[0]["framework"] == causal.phases[0]["framework"]
    assert full.plan.phases[0].options["kernel"] == causal.plan.phases[0].options["kernel"]
    assert full.matrix_flops / full.seconds > causal.matrix_flops / causal.seconds


def test_in_range_includes_the_ends_of_the_fitted_sizes():
    """The smallest and largest sizes were fitted on; one less and one more were not."""
    layer = cm.Matmul(dtype="bf16")
    (choice,) = (
        part.choice for part in cm.predict(layer, "nvidia/h200-sxm", m=64, n=2048, k=2048).plan.phases
    )
    ends = {name: choice.section.sizes[name] for name in ("m", "n", "k")}
    assert choice.origin == "self"
    for end, outward in ((0, -1), (1, 1)):
        sizes = {name: ends[name][end] for name in ends}
        assert cm.predict(layer, "nvidia/h200-sxm", **sizes).in_range
        beyond = {name: max(1.0, sizes[name] + outward) for name in ends}
        assert not cm.predict(layer, "nvidia/h200-sxm", **beyond).in_range


@pytest.mark.parametrize(("num_layers", "inside"), [(1, True), (2, False)])
def test_in_range_leaves_out_kernels_that_do_not_run(num_layers, inside):
    """A single layer has no input product of layers 2…L, whatever sizes that was fitted on."""
    sizes = {"batch": 16, "seq": 150, "hidden": 1024, "num_layers": num_layers}
    p = cm.predict(cm.LSTM(dtype="fp32"), "titan-x-pascal", **sizes)
    first, later, recurrence = p.plan.phases
    assert later.phase.name == "input product, layers 2…L"
    replace = dataclasses.replace
    never = replace(
        later.choice, section=later.choice.section.model_copy(update={"sizes": {"k": (1e9, 2e9)}})
    )
    elsewhere = replace(p.plan, phases=(first, replace(later, choice=never), recurrence))
    assert cm.Prediction(elsewhere, p.shapes).in_range is inside


@pytest.mark.parametrize("framework", ["sglang", "vllm"])
def test_cache_is_written_only_forward_and_for_a_named_serving_framework(framework):
    """A layer alone writes no cache, whoever's constants it has; neither does a backward pass."""
    sizes = {"batch": 8, "heads": 16, "seq": 512, "head_dim": 128}
    plans = {
        (direction, named): cm.predict(
            cm.TiledAttention(causal=True, direction=direction), "nvidia/h200-sxm", framework=named, **sizes
        ).plan
        for direction in ("fwd", "bwd")
        for named in (None, framework)
    }
    written = {key: plan.phases[-1].options.get("cache_write") for key, plan in plans.items()}
    assert written.pop(("fwd", framework)) in ("token", "bytes")
    assert set(written.values()) == {None}
