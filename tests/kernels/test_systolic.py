"""Matrix arrays (TPU, Gaudi): a padded roofline, never below the datasheet's, nor far above it when large."""

from functools import partial

import numpy as np
import pytest

import costmodel as cm
from costmodel import hardware, kernels
from costmodel.score import score
from costmodel.validation import posted

CHIPS = [
    name for name in hardware.available() if hardware.load(name).spec.units.kind in ("TensorCore", "MME")
]
LARGE = (
    (cm.Matmul(), {"m": 8192, "n": 8192, "k": 8192}),
    (cm.TiledAttention(causal=True), {"batch": 4, "heads": 16, "seq": 16384, "head_dim": 256}),
    (cm.Softmax(), {"m": 65536, "n": 8192}),
    (cm.DecodeAttention(), {"batch": 32, "heads": 32, "seq_kv": 8192, "head_dim": 128}),
    (cm.CausalConv1d(), {"batch": 8, "seq": 16384, "d_model": 4096}),
    (cm.CausalConv1d(decode=True), {"batch": 8192, "seq": 1, "d_model": 8192}),
    (cm.GatedDeltaNet(form="recurrent"), {"batch": 256, "seq": 1, "heads": 16, "head_dim": 128}),
    (cm.Mamba(), {"batch": 8, "seq": 4096, "d_model": 2048}),
    (cm.Scan(), {"batch": 8, "seq": 16384, "hidden": 4096}),
    (cm.RetNet(), {"batch": 8, "seq": 16384, "heads": 16, "head_dim": 128}),
)


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize(("layer", "sizes"), LARGE, ids=lambda part: getattr(part, "name", ""))
def test_large_work_comes_near_the_roofline(name, layer, sizes):
    bound = cm.predict(layer, name, rung="bound", **sizes).seconds
    kernels_alone = sum(cm.predict(layer, name, rung="kernel", **sizes).phase_seconds)
    assert bound <= kernels_alone < 1.5 * bound


@pytest.mark.parametrize("name", CHIPS)
def test_chunks_of_64_tokens_fill_part_of_the_array(name):
    """Five of the eight products of a delta net's chunk fill half of a side of 128, and half is masked.

    On the arrays of 256 from TPU v6 on, they fill a quarter, and heads of 128 fill half.
    """
    layer, sizes = cm.GatedDeltaNet(), {"batch": 8, "seq": 16384, "heads": 32, "head_dim": 128}
    bound = cm.predict(layer, name, rung="bound", **sizes).seconds
    kernels_alone = sum(cm.predict(layer, name, rung="kernel", **sizes).phase_seconds)
    assert bound <= kernels_alone < 2.5 * bound * hardware.load(name).array_side / 128


def test_chunks_of_one_head_are_dependent_steps():
    chip = hardware.load("google/tpu-v5p")
    sizes = {"batch": 1, "heads": 1, "head_dim": 128}
    once, twice = (
        cm.predict(cm.GatedDeltaNet(), chip, rung="kernel", seq=seq, **sizes) for seq in (2**19, 2**20)
    )
    assert once.bound == twice.bound == "depth"
    assert twice.seconds - once.seconds == pytest.approx(2**19 / 64 * chip.step_s)


def test_chips_rank_by_bandwidth_when_a_whole_model_decodes():
    llama = cm.models.load("llama-2-7b").decode("bf16")
    times = {
        name: cm.predict(llama, name, rung="kernel", batch=32, seq_kv=8192).seconds
        for name in ("google/tpu-v5e", "google/tpu-v6e", "google/tpu-v5p", "google/tpu-v7")
    }
    by_bandwidth = sorted(times, key=lambda name: -hardware.load(name).hbm_bandwidth)
    assert sorted(times, key=lambda name: times[name]) == by_bandwidth


def test_columns_of_a_product_are_padded_to_the_array():
    chip = hardware.load("google/tpu-v4")
    model = kernels.model(kernels.on("gemm", chip))
    one, full, more = (
        model.seconds(chip, {}, m=1e5, n=n, k=4096.0).terms["matrix:bf16"] for n in (1.0, 128.0, 129.0)
    )
    assert one == full
    assert more == pytest.approx(2 * full)


@pytest.mark.parametrize(("name", "side"), [("v5e", 128), ("v5p", 128), ("v6e", 256), ("v7", 256)], ids=str)
def test_heads_narrower_than_the_array_cost_as_much_as_heads_that_fill_it(name, side):
    """JAX's table of chips: ``mxu_column_size`` is 256 from the sixth generation on."""
    chip = hardware.load(f"google/tpu-{name}")
    assert chip.array_side == side
    model = kernels.model(kernels.on("attention", chip))
    sizes = {"batch": 4.0, "heads": 8.0, "kv_heads": 8.0, "seq": 4096.0, "seq_kv": 4096.0}
    narrow, full, wide = (
        model.seconds(chip, {}, head_dim=width, value_dim=width, **sizes).terms["matrix:bf16"]
        for width in (side / 2, side, side + 1.0)
    )
    assert narrow == full
    assert wide == pytest.approx(2 * full)


@pytest.mark.parametrize(("m", "n", "k"), [(3.0, 130.0, 700.0), (4097.0, 1.0, 257.0)])
def test_a_product_is_a_roofline_of_whole_tiles_and_unpadded_bytes(m, n, k):
    """Eight rows pass an array of 128 × 128 together (scaling-book, TPU chapter); padding is not moved.

    Of the shorter time, the part of a block is not hidden: half of VMEM, as another block is on its way.
    """
    chip = hardware.load("google/tpu-v5p")
    constants = {"peak_share": 0.5, "bandwidth_share": 0.25, "start_s": 3e-6}
    found = kernels.model(kernels.on("gemm", chip)).seconds(chip, constants, m=m, n=n, k=k, batch=1000.0)
    tiles = -(-m // 8) * -(-n // 128) * -(-k // 128)
    arithmetic = 1000 * tiles * 2 * 8 * 128 * 128 / (0.5 * chip.peak("bf16"))
    memory = 1000 * 2 * (m * k + k * n + m * n) / (0.25 * chip.hbm_bandwidth)
    assert found.terms["matrix:bf16"] == pytest.approx(arithmetic)
    assert found.terms["hbm"] == pytest.approx(memory)
    moved = 1000 * 2 * (m * k + k * n + m * n)
    alone = min(arithmetic, memory) * min(chip.onchip_capacity / 2 / moved, 1)
    assert found.seconds == pytest.approx(max(arithmetic, memory) + alone + 3e-6)


def test_products_of_all_sizes_are_near_googles_own_table():
    """Google's table of square products on a chiplet of TPU v7, sides of 128 to 32,768, 1.6 µs to 74 ms.

    Only the start is taken from it, from the smallest.
    """
    rows = posted.rows().query("source == 'accelerator-microbenchmarks/ironwood'")
    error = np.abs(score(rows)["seconds"] / rows["latency_s"].to_numpy() - 1)
    assert len(rows) == 8
    assert error.mean() < 0.05
    assert error.max() < 0.10


@pytest.mark.parametrize("causal", [False, True])
def test_attention_multiplies_tiles_with_any_pair_and_moves_operands_once(causal):
    """Tiles are 512 × 512, sides are padded to the array's 128; four query heads share a KV head."""
    chip = hardware.load("google/tpu-v5p")
    batch, heads, kv_heads, seq, seq_kv, d, value = 3, 8, 2, 1100, 1700, 100, 130
    found = kernels.model(kernels.on("attention", chip)).seconds(
        chip, {"peak_share": 1.0, "bandwidth_share": 1.0}, causal=causal, batch=batch, heads=heads,
        kv_heads=kv_heads, seq=seq, seq_kv=seq_kv, head_dim=d, value_dim=value,
    )  # fmt: skip
    tiles = 0
    for row in range(0, seq, 512):
        last = min(row + 512, seq) - 1 + seq_kv - seq  # the last key that the tile's last query sees
        tiles += sum(1 for column in range(0, seq_kv, 512) if not causal or column <= last)
    flops = 2 * batch * heads * tiles * 512 * 512 * (128 + 256)
    assert found.terms["matrix:bf16"] == pytest.approx(flops / chip.peak("bf16"))
    moved = 2 * batch * (d + value) * (heads * seq + kv_heads * seq_kv)
    assert found.terms["hbm"] == pytest.approx(moved / chip.hbm_bandwidth)


SCORES = {"batch": 2.0, "heads": 8.0, "kv_heads": 8.0, "seq": 4096.0, "seq_kv": 4096.0, "causal": False}


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_the_softmax_runs_on_the_vector_unit_beside_the_products(direction):
    """Four operations per score, twice that backward; forward, O is also scaled once per 512 keys."""
    chip = hardware.load("google/tpu-v5p")
    found = kernels.model(kernels.on("attention", chip)).seconds(
        chip, {"peak_share": 0.5}, head_dim=128.0, value_dim=96.0, direction=direction, **SCORES
    )
    scores = 2 * 8 * 4096 * 4096
    operations = 4 * scores + scores / 512 * (96 + 1) if direction == "fwd" else 2 * 4 * scores
    assert found.terms["vector:fp32"] == pytest.approx(operations / (0.5 * chip.peak("fp32", "vector")))
    longest = max(found.terms[name] for name in ("matrix:bf16", "vector:fp32", "hbm"))
    assert found.seconds == pytest.approx(longest + found.terms["launch"])


def test_a_slower_vector_unit_never_helps_and_finally_limits():
    chip = hardware.load("google/tpu-v5e")
    layer, sizes = cm.TiledAttention(), {"batch": 4, "heads": 16, "seq": 8192, "head_dim": 128}
    rates = [6.0, 3.0, 1.5, 0.75, 0.375]
    found = [
        cm.predict(layer, chip.replace(fp32=f"{rate} TFLOP/s"), rung="kernel", **sizes) for rate in rates
    ]
    times = [p.seconds for p in found]
    assert times == sorted(times)
    assert (found[0].bound, found[-1].bound) == ("matrix:bf16", "vector:fp32")
    assert times[-1] == pytest.approx(2 * times[-2], rel=1e-3)


def test_without_a_vector_rate_attention_counts_products_and_reports_it():
    chip = hardware.load("google/tpu-v5e")
    bare = hardware.Device(
        chip.spec.model_copy(update={"compute": chip.spec.compute.model_copy(update={"vector": {}})})
    )
    sizes = {"batch": 4, "heads": 16, "seq": 8192, "head_dim": 128}
    whole, without = (
        cm.predict(cm.TiledAttention(), device, rung="kernel", **sizes) for device in (chip, bare)
    )
    assert without.seconds == whole.seconds
    assert "vector:fp32" not in without.limits_s
    assert "vector:fp32 rate" in without.missing


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("block", [16, 64, 128, 512])
@pytest.mark.parametrize(
    "layer",
    [
        *(
            cm.BlockSparse(schedule=schedule, direction=way)
            for schedule in ("fa1", "fa2")
            for way in ("fwd", "bwd")
        ),
        cm.BigBird(),
        cm.SlidingWindow(causal=False),
    ],
    ids=lambda layer: f"{layer.label}",
)
def test_sparse_attention_is_never_below_its_lower_bound(name, block, layer):
    """Small blocks scale O often: the vector unit has to do all operations that the layer counts."""
    more = {"window": 1024} if "window" in layer.sizes() else {}
    p = cm.predict(layer, name, rung="kernel", batch=4, heads=16, seq=8192, head_dim=128, block=block, **more)
    assert sum(p.phase_seconds) >= p.lower_s


#: (heads of 128, forward [ms], forward and backward [ms]) on a TPU v5p, 2 × 8,192 tokens, a window of 4,096:
#: apple/axlearn, axlearn/common/flash_attention/tpu_attention_benchmark.py (single calls from Python).
APPLE = [(16, 1.4, 5.8), (40, 3.2, 15.2), (56, 4.3, 20.4), (72, 5.5, 26.2), (88, 6.7, 31.3), (110, 7.2, 37.3)]


@pytest.mark.parametrize(("heads", "forward_ms", "both_ms"), APPLE)
def test_windowed_attention_on_v5p_agrees_with_apples_posted_times(heads, forward_ms, both_ms):
    """Nothing is fitted on them. The vector unit is a quarter as busy as the arrays and is hidden."""
    sizes = {"batch": 2, "heads": heads, "seq": 8192, "head_dim": 128, "window": 4097}
    for direction, posted_ms, off in (("fwd", forward_ms, 0.17), ("fwd+bwd", both_ms, 0.12)):
        layer = cm.SlidingWindow(direction=direction)
        p = cm.predict(layer, "google/tpu-v5p", rung="kernel", **sizes)
        assert p.seconds * 1e3 == pytest.approx(posted_ms, rel=off)
        assert p.lower_s * 1e3 < posted_ms
        assert p.bound == "matrix:bf16"


def test_a_pod_of_v3_multiplies_fp32_matrices_in_the_published_time():
    """LEW: matrices of 2^20 in about 2 minutes on 1,024 chips; the vector units alone would take ten."""
    n = 2**20
    p = cm.predict(cm.Matmul(dtype="fp32"), "google/tpu-v3", m=n, n=n, k=n)
    assert p.lower_s / 1024 < p.seconds / 1024 == pytest.approx(120, rel=0.1)
    assert p.bound == "matrix:fp32"


@pytest.mark.parametrize(("name", "timed"), [("google/tpu-v5e", 5.99e12), ("google/tpu-v6e", 6.84e12)])
def test_vector_peaks_are_at_most_a_tenth_above_measured_rates(name, timed):
    """Sources TK and PTS of the hardware specs.

    TK ran chains of additions; PTS multiply, add and maximum, of which its 4.56 TFLOP/s count two.
    """
    assert 0.9 < timed / hardware.load(name).peak("fp32", "vector") <= 1


def test_quantising_reads_the_wide_activations():
    chip = hardware.load("google/tpu-v5e")
    model = kernels.model(kernels.on("gemm", chip))
    sizes = {"m": 4096.0, "n": 128.0, "k": 4096.0, "dtype": "int8"}
    extra = (
        model.seconds(chip, {}, quantise=True, **sizes).terms["hbm"]
        - model.seconds(chip, {}, **sizes).terms["hbm"]
    )
    assert extra * 0.85 * chip.hbm_bandwidth == pytest.approx(2 * 4096 * 4096)


def test_backward_attention_has_seven_products_where_forward_has_two():
    """JAX's splash attention has two kernels by default; both compute QKᵀ and dP, for dK and dV or dQ."""
    chip = hardware.load("google/tpu-v5p")
    model = kernels.model(kernels.on("attention", chip))
    sizes = dict.fromkeys(("head_dim", "value_dim"), 128.0) | dict.fromkeys(
        ("seq", "seq_kv"), np.float64(4096)
    )
    sizes |= {"batch": 2.0, "heads": 8.0, "kv_heads": 8.0}
    there, back = (
        model.seconds(chip, {}, direction=way, **sizes).terms["matrix:bf16"] for way in ("fwd", "bwd")
    )
    assert back == pytest.approx(3.5 * there)


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (cm.Dropout, {"m": 65536, "n": 8192}),
        (partial(cm.DenseAttention, dropout=True), {"heads": 16, "head_dim": 64}),
        (cm.LinearAttention, {"heads": 16, "head_dim": 64}),
        (cm.Performer, {"heads": 16, "head_dim": 64}),
        (cm.CompressiveMemory, {"heads": 16, "head_dim": 64}),
        (cm.Combiner, {"heads": 16, "head_dim": 64}),
    ],
)
def test_every_pass_takes_longer_than_its_bytes_over_the_bandwidth(layer, sizes, direction):
    """One-byte masks, sums and further operands count as well; a TPU has no cache that could hold them."""
    chip = hardware.load("google/tpu-v5p")
    lengths = {} if "m" in sizes else {"batch": 64, "seq": 4096}
    p = cm.predict(layer(direction=direction), chip, rung="kernel", **sizes, **lengths)
    passes = [phase for phase in p.phases if phase["kernel"] == "stream"]
    assert passes
    for phase in passes:
        assert phase["seconds"] > phase["hbm_bytes"] / chip.hbm_bandwidth, phase["phase"]
