"""Matrix cores: a roofline with padding, never below the datasheet's own, never far above it when large."""

import numpy as np
import pytest

import costmodel as cm
from costmodel import hardware, kernels

CHIPS = [
    name for name in hardware.available() if hardware.load(name).spec.units.kind in ("TensorCore", "MME")
]
LARGE = (
    (cm.Matmul(), {"m": 8192, "n": 8192, "k": 8192}),
    (cm.TiledAttention(causal=True), {"batch": 4, "heads": 32, "seq": 16384, "head_dim": 128}),
    (cm.Softmax(), {"m": 65536, "n": 8192}),
)


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize(("layer", "sizes"), LARGE, ids=lambda part: getattr(part, "name", ""))
def test_large_work_comes_near_the_roofline(name, layer, sizes):
    bound = cm.predict(layer, name, rung="bound", **sizes).seconds
    assert bound <= cm.predict(layer, name, rung="kernel", **sizes).seconds < 1.5 * bound


def test_products_are_padded_to_the_array():
    chip = hardware.load("google/tpu-v4")
    model = kernels.model(kernels.on("gemm", chip))
    one, full, more = (
        model.seconds(chip, {}, m=1e5, n=n, k=4096.0).terms["matrix:bf16"] for n in (1.0, 128.0, 129.0)
    )
    assert one == full
    assert more == pytest.approx(2 * full)


def test_narrow_operands_are_made_on_the_way():
    chip = hardware.load("google/tpu-v5e")
    model = kernels.model(kernels.on("gemm", chip))
    sizes = {"m": 4096.0, "n": 128.0, "k": 4096.0, "dtype": "int8"}
    extra = (
        model.seconds(chip, {}, quantise=True, **sizes).terms["hbm"]
        - model.seconds(chip, {}, **sizes).terms["hbm"]
    )
    assert extra * 0.85 * chip.hbm_bandwidth == pytest.approx(2 * 4096 * 4096)


def test_backward_attention_costs_two_and_a_half_times_the_arithmetic():
    chip = hardware.load("google/tpu-v5p")
    model = kernels.model(kernels.on("attention", chip))
    sizes = dict.fromkeys(("head_dim", "value_dim"), 128.0) | dict.fromkeys(
        ("seq", "seq_kv"), np.float64(4096)
    )
    sizes |= {"batch": 2.0, "heads": 8.0, "kv_heads": 8.0}
    there, back = (
        model.seconds(chip, {}, direction=way, **sizes).terms["matrix:bf16"] for way in ("fwd", "bwd")
    )
    assert back == pytest.approx(2.5 * there)
