"""Weights and caches stored in narrow formats: bytes by hand, kernels as published."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costmodel as cm
from costmodel.dtypes import COLUMN
from costmodel.errors import CostmodelError, UnavailableError
from costmodel.kernels._operands import stored_bytes
from costmodel.layers import get

A10 = "nvidia/a10"
Matmul, SwiGLU, MoE = map(get, ("matmul", "swiglu", "moe"))
WIDTHS = {"int8": 1.0, "fp8": 1.0, "int4": 0.5, "fp4": 0.5}


def test_bytes_and_flops_of_a_product_with_narrow_weights_by_hand():
    m, n, k = 3, 640, 1000
    plain = cm.evaluate(Matmul(), m=m, n=n, k=k)
    stored = cm.evaluate(Matmul(weights="int4"), m=m, n=n, k=k)
    # Half a byte per number, and per column eight scales of two bytes, each for 128 numbers (the last 104).
    assert stored["hbm_bytes"] == 2 * m * k + 0.5 * n * k + 2 * 8 * n + 2 * m * n
    assert stored["compulsory_bytes"] == stored["hbm_bytes"]
    assert stored["matrix_flops"] == plain["matrix_flops"] == 2 * m * n * k
    assert stored["vector_flops"] == n * k
    by_column = cm.evaluate(Matmul(weights="int8"), m=m, n=n, k=k)
    assert by_column["vector_flops"] == m * n
    assert by_column["hbm_bytes"] == 2 * m * k + n * k + 2 * n + 2 * m * n
    in_32 = cm.evaluate(Matmul(weights="int8", group=32), m=m, n=n, k=k)
    assert in_32["hbm_bytes"] - by_column["hbm_bytes"] == 2 * n * 31


def test_a_gated_layer_stores_three_matrices_with_scales_along_their_inputs():
    d, f = 1024, 2816
    plain, stored = (
        cm.evaluate(SwiGLU(weights=weights), batch=2, seq=5, d_model=d, d_ff=f) for weights in (None, "int4")
    )
    scales = 2 * (2 * f * (d // 128) + d * (f // 128))
    assert plain["hbm_bytes"] - stored["hbm_bytes"] == (2 - 0.5) * 3 * d * f - scales
    assert plain["footprint_bytes"] - stored["footprint_bytes"] == (2 - 0.5) * 3 * d * f - scales


def test_experts_are_stored_narrow_but_their_router_is_not():
    sizes = {"batch": 1, "seq": 1, "d_model": 512, "d_ff": 1024, "experts": 8, "top_k": 2}
    plain, stored = (cm.evaluate(MoE(weights=w), **sizes) for w in (None, "int8"))
    # A token uses two experts of three matrices each; memory holds eight.
    columns = 2 * 1024 + 512
    assert plain["compulsory_bytes"] - stored["compulsory_bytes"] == 2 * (3 * 512 * 1024 - 2 * columns)
    assert plain["footprint_bytes"] - stored["footprint_bytes"] == 8 * (3 * 512 * 1024 - 2 * columns)
    phases = {phase.name: phase for phase in MoE(weights="int8").cost.phases}
    assert "weights" not in phases["router"].options
    assert phases["experts: down projection"].options["weights"] == "int8"


@pytest.mark.parametrize("layer", [get("decode-attention"), get("split-kv")])
def test_an_fp8_cache_halves_the_caches_bytes_and_changes_no_flops(layer):
    sizes = {"batch": 4, "heads": 32, "kv_heads": 8, "seq_kv": 4096, "head_dim": 128}
    plain, stored = (cm.evaluate(layer(cache=cache), **sizes) for cache in (None, "fp8"))
    numbers = 2 * 4 * 8 * 4096 * 128
    assert plain["hbm_bytes"] - stored["hbm_bytes"] == numbers
    for engine in ("matrix", "vector", "special"):
        assert plain[f"{engine}_flops"] == stored[f"{engine}_flops"]


@pytest.mark.parametrize("name", ["matmul", "swiglu", "feed-forward", "moe"])
@settings(derandomize=True)
@given(st.data())
def test_narrower_weights_never_take_longer(name, data):
    """Drawn alike in every run: one in some hundreds of draws is a case of the next test."""
    layer = get(name)
    sizes = {size: data.draw(st.integers(7, 13)) for size in layer().sizes()}
    sizes = {size: 2**power for size, power in sizes.items()} | {"batch": 1}
    if name == "moe":
        sizes |= {"experts": 64, "top_k": 8}
    rung = data.draw(st.sampled_from(["bound", "kernel"]))
    device = data.draw(st.sampled_from(["nvidia/h200-sxm", "nvidia/l40s", "google/tpu-v5e", "amd/mi300x"]))
    times = [
        cm.predict(layer(weights=weights), device, rung=rung, **sizes).seconds
        for weights in ("int4", "int8", None)
    ]
    for narrower, wider in itertools.pairwise(times):
        assert narrower <= wider * (1 + 1e-9)


@pytest.mark.parametrize(("seq", "d_model", "d_ff"), [(128, 4096, 128), (256, 128, 4096), (512, 128, 4096)])
def test_another_tile_makes_narrower_weights_take_hardly_longer(seq, d_model, d_ff):
    """Known exceptions to the law above: tile and raster order are chosen by an estimate of the time."""
    sizes = {"batch": 1, "seq": seq, "d_model": d_model, "d_ff": d_ff, "experts": 64, "top_k": 8}
    stored, plain = (
        cm.predict(get("moe")(weights=weights), "amd/mi300x", rung="kernel", **sizes).seconds
        for weights in ("int8", None)
    )
    assert stored < plain * 1.01


def test_speedup_of_int4_weights_is_that_of_marlin():
    """Frantar et al., arXiv 2408.11743, Fig. 1: A10, 72k × 18k.

    Within 5 % of 3.87 times up to batch 16, a little less at 32; no gain where arithmetic limits.
    """
    sizes = {"n": 73728, "k": 18432, "m": np.array([1, 4, 16, 32, 1024])}
    plain, stored = (cm.predict(Matmul(dtype="fp16", weights=w), A10, **sizes) for w in (None, "int4"))
    gain = plain.seconds / stored.seconds
    assert gain[:3] == pytest.approx(3.87, rel=0.05)
    assert gain[3] == pytest.approx(3.87, rel=0.15)
    assert gain[4] == pytest.approx(1.0, abs=0.1)


def test_intervals_are_wider_for_narrow_weights_which_were_not_measured():
    sizes = {"m": 16, "n": 4096, "k": 4096}
    plain, stored = (cm.predict(Matmul(weights=w), "nvidia/h200-sxm", **sizes) for w in (None, "int8"))
    assert plain.rung == stored.rung == "calibrated"
    assert stored.hi80_s / stored.lo80_s > 1.2 * plain.hi80_s / plain.lo80_s


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("matmul", {"weights": "bf16"}, "weights of matmul: wanted a format narrower than bf16, got bf16"),
        ("matmul", {"weights": "int5"}, "unknown dtype 'int5'"),
        ("matmul", {"weights": "bf16", "dtype": "fp32"}, "wanted a format of 8 or 4 bits, got bf16"),
        ("matmul", {"weights": "int4", "direction": "bwd"}, "direction 'bwd' of matmul with weights=int4"),
        ("swiglu", {"weights": "int4", "direction": "fwd+bwd"}, "of swiglu with weights=int4"),
        (
            "matmul",
            {"weights": "int4", "batched": True},
            "wanted with neither batched nor quantise, got batched",
        ),
        ("matmul", {"weights": "int4", "dtype": "fp8", "quantise": True}, "got quantise too"),
        ("matmul", {"group": 64}, "group of matmul: applies to weights that are stored narrow"),
        ("matmul", {"weights": "int4", "group": 0}, "group of matmul: wanted a whole number of at least 1"),
        ("decode-attention", {"cache": "fp32"}, "wanted a format narrower than bf16, got fp32"),
    ],
)
def test_impossible_storage_formats_are_refused(name, options, said):
    with pytest.raises(CostmodelError) as caught:
        get(name)(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (Matmul(dtype="fp32", weights="int8"), {"m": 1, "n": 64, "k": 64}),
        (
            get("decode-attention")(dtype="fp32", cache="int8"),
            {"batch": 1, "heads": 4, "seq_kv": 64, "head_dim": 64},
        ),
    ],
)
def test_narrow_storage_on_a_cpu_is_refused_above_the_bound_rung(layer, sizes):
    with pytest.raises(UnavailableError, match="rung bound would do"):
        cm.predict(layer, "cpu/epyc-9654", **sizes)
    assert cm.predict(layer, "cpu/epyc-9654", rung="bound", **sizes).seconds > 0


@pytest.mark.parametrize("weights", WIDTHS)
def test_stored_bytes_of_every_narrow_format_by_hand(weights):
    found = cm.evaluate(Matmul(weights=weights, group=2**30), m=1, n=256, k=256)["compulsory_bytes"]
    assert found == 2 * 256 + WIDTHS[weights] * 256 * 256 + 2 * 256 + 2 * 256


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_expert_parallel_layers_without_shared_experts_can_be_stored_narrow(weights):
    """The shared experts' matrices then have no rows; before, bytes of scales were divided by that 0."""
    sizes = {"batch": 2, "seq": 5, "d_model": 256, "d_ff": 1000, "experts": 8, "top_k": 2, "devices": 4}
    layer = get("expert-parallel")
    plain, stored = (
        cm.predict(layer(weights=w), "nvidia/a100-sxm-80gb", rung="kernel", **sizes) for w in (None, weights)
    )
    assert 0 < stored.lower_s <= stored.seconds <= plain.seconds
    assert stored.footprint_bytes < plain.footprint_bytes


def test_an_incomplete_group_has_a_scale_in_counts_and_kernels_alike():
    """640 numbers have two scales in groups of 512, and one in a group of 2,048."""
    k = np.array([640.0])
    for group, scales in ((512, 2), (2048, 1), (COLUMN, 1), (128, 5)):
        assert stored_bytes(k, "int4", group) * k == 640 / 2 + 2 * scales
        moved = cm.evaluate(Matmul(weights="int4", group=group), m=1, n=1, k=640)["hbm_bytes"]
        assert moved == 2 * 640 + 640 / 2 + 2 * scales + 2


def test_one_scale_per_column_multiplies_results_instead_of_weights():
    counts = [
        cm.evaluate(Matmul(weights="int4", group=group), m=3, n=5, k=640)["vector_flops"]
        for group in (COLUMN, 128)
    ]
    assert counts == [3 * 5, 640 * 5]
