"""Matrix products against hand calculation, recorded launch grids, and measured rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel import hardware
from costmodel.errors import UnavailableError, UnknownNameError
from costmodel.kernels import _tiles as tiles
from costmodel.kernels import gemm
from costmodel.validation import cells, fit_gemm, posted

A100 = hardware.load("nvidia/a100-sxm-80gb")
H200 = hardware.load("nvidia/h200-sxm")
#: No overheads: only arithmetic and bytes take time.
IDEAL = {
    "peak_share": 1.0,
    "edge_elements": 0.0,
    "step_cycles": 0.0,
    "fill_cycles": 0.0,
    "l2_unit_bytes": 1e9,
    "store_bytes": 1e9,
    "bandwidth_share": 1.0,
    "band_tiles": 16.0,
    "overlap": 12.0,
    "energy_j": 1e-15,
    "row_cycles": 0.0,
    "small_cycles": 0.0,
    "start_s": 0.0,
}
#: The same, with nothing found in the cache.
COLD = {**IDEAL, "cache_share": 0.0}


def seconds(device=A100, constants=IDEAL, **sizes):
    return gemm.seconds(device, constants, **sizes).seconds


@pytest.fixture(scope="module")
def measured(shared):
    rows = pd.read_parquet(shared / "measurements" / "gemm.parquet")
    return rows.astype({"b": float, "m": float, "n": float, "k": float, "latency_s": float})


def test_a_large_square_product_runs_at_the_peak():
    got = seconds(m=16384, n=16384, k=16384)
    assert got == pytest.approx(2 * 16384.0**3 / A100.peak("bf16"), rel=0.01)


def test_one_row_of_activations_reads_the_weights_at_the_memory_bandwidth():
    got = seconds(constants=COLD, m=1, n=16384, k=16384)
    assert got == pytest.approx(2 * 16384.0**2 / A100.hbm_bandwidth, rel=0.01)


def test_a_product_with_k_of_one_writes_its_result_at_the_memory_bandwidth():
    got = seconds(constants=COLD, m=65536, n=65536, k=1)
    assert got == pytest.approx(2 * 65536.0**2 / A100.hbm_bandwidth, rel=0.02)


def test_weights_that_stay_in_the_cache_cost_no_memory_traffic():
    sizes = {"m": 1.0, "n": 2048.0, "k": 2048.0}
    terms = gemm.seconds(A100, {**IDEAL, "cache_share": 1.0}, **sizes).terms
    assert terms["hbm"] < 1e-3 * 2 * 2048.0**2 / A100.hbm_bandwidth
    # Six copies of 8 MB exceed the L2 of 42 MB, so sglang's collector, which rotates them, measures cold.
    cold = gemm.seconds(A100, {**IDEAL, "cache_share": 1.0}, **sizes, rotation="operands").terms["hbm"]
    assert cold == pytest.approx(2 * 2048.0**2 / A100.hbm_bandwidth, rel=0.1)


def test_one_tile_more_than_the_units_takes_a_second_wave():
    tile = {"tile_m": 128, "tile_n": 128, "tile_k": 64, "layout": "nn", "m": 128, "n": 128, "k": 65536}
    constants = {**IDEAL, "bandwidth_share": 1e6, "tail_waves": 1.0}
    one = seconds(batch=A100.units, constants=constants, **tile)
    assert seconds(batch=A100.units + 1, constants=constants, **tile) / one == pytest.approx(2, rel=0.02)
    soft = {**constants, "tail_waves": 0.5}
    assert seconds(batch=A100.units * 1.5, constants=soft, **tile) / one == pytest.approx(1.75, rel=0.02)


def test_a_product_of_few_outputs_and_long_k_is_split():
    slow = {**IDEAL, "step_cycles": 500.0, "split_s": 2e-6}
    alone = gemm.seconds(A100, slow, m=64, n=64, k=65536, tile_m=64, tile_n=64, tile_k=64, layout="nn")
    split = gemm.seconds(A100, slow, m=64, n=64, k=65536, tile_m=64, tile_n=64, tile_k=64)
    steps = 65536 / 64 * 500 / A100.clock_hz
    assert alone.seconds == pytest.approx(steps, rel=0.05)
    assert split.seconds == pytest.approx(steps / 32 + 2e-6, rel=0.2)


def test_the_harness_sets_a_floor_and_adds_its_dispatch_to_long_kernels():
    harness = {**IDEAL, "dispatch_s": 3e-5, "record_s": 2e-5}
    assert seconds(constants=harness, m=16, n=16, k=16) == pytest.approx(5e-5, rel=0.01)
    long = {"m": 16384, "n": 16384, "k": 16384}
    assert seconds(constants=harness, **long) == pytest.approx(seconds(**long) + 3e-5, rel=1e-6)


@given(
    m=st.integers(1, 70000),
    n=st.integers(1, 70000),
    k=st.integers(1, 70000),
    dtype=st.sampled_from(["fp32", "bf16", "fp8"]),
)
def test_times_are_finite_and_do_not_fall_with_the_batch(m, n, k, dtype):
    """One percent is allowed: tiles are chosen by an estimate of their time, as libraries do."""
    one = gemm.seconds(H200, {}, m=m, n=n, k=k, dtype=dtype, layout="nn").seconds
    two = gemm.seconds(H200, {}, m=m, n=n, k=k, batch=2, dtype=dtype, layout="nn").seconds
    assert 0 < one <= two * 1.01 < 1e5


def test_arrays_give_the_same_times_as_their_elements():
    rng = np.random.default_rng(0)
    m, n, k = (2.0 ** rng.integers(3, 12, size=(3, 4000)) for _ in range(3))
    known = np.where(rng.random((3, 4000)) < 0.5, 128.0, np.nan)
    tile = {"tile_m": known, "tile_n": known, "tile_k": known / 2}
    got = gemm.seconds(A100, {}, m=m, n=n, k=k, **tile)
    assert got.seconds.shape == (3, 4000)
    for i, j in ((0, 0), (1, 77), (2, 3999)):
        alone = gemm.seconds(
            A100, {}, m=m[i, j], n=n[i, j], k=k[i, j], **{name: t[i, j] for name, t in tile.items()}
        )
        assert alone.seconds == pytest.approx(got.seconds[i, j], rel=1e-12)
        assert set(alone.terms) == {"matrix:bf16", "l2", "hbm", "depth", "launch"}


def test_unknown_options_and_unsupported_formats_are_refused():
    with pytest.raises(UnknownNameError, match="layout"):
        seconds(m=1, n=1, k=1, layout="nt")
    with pytest.raises(UnknownNameError, match="rotation"):
        seconds(m=1, n=1, k=1, rotation="weight")
    with pytest.raises(UnavailableError, match="fp8"):
        seconds(m=1, n=1, k=1, dtype="fp8")


def test_kernel_names_give_the_tile():
    rows, columns, depth, _ = tiles.from_names(
        ["ampere_sgemm_128x64_tn", "tensile_MT64x32x16_MI16x16x4x1", "", 7]
    )
    assert columns[:2].tolist() == [128, 64]
    assert rows[:2].tolist() == [64, 32]
    assert depth[:2].tolist() == [8, 16]
    assert np.isnan(rows[2:]).all()


def test_the_tiles_of_kernel_names_give_the_recorded_launch_grids(measured):
    rows = measured[measured["grid"].notna() & (measured["gpu"] != "mi210")]
    tile_m, tile_n, *_ = tiles.from_names(rows["kernel"])
    blocks = rows["b"] * np.ceil(rows["m"] / tile_m) * np.ceil(rows["n"] / tile_n)
    parts = rows["grid"].astype(float) / blocks
    # Blocks per tile are a whole number, the split of K; batched products are not split.
    assert (parts % 1 == 0).mean() > 0.999
    assert (parts[rows["op"] == "bmm"] == 1).mean() > 0.99


def test_the_menus_are_the_tiles_of_measured_kernels(measured):
    rows = measured[measured["grid"].notna()]
    families = rows["gpu"].map({gpu: hardware.load(gpu).family for gpu in rows["gpu"].unique()})
    for (family, op), some in rows.groupby([families, "op"]):
        menu = tiles.menu(family, "nn" if op == "bmm" else "tn", 64.0, matrix=False)
        listed = set(zip(*menu, strict=True))
        run = pd.Series(list(zip(*tiles.from_names(some["kernel"])[:3], strict=True)))
        assert run.isin(listed).mean() > (0.7 if family == "cdna2" else 0.95), (family, op)
        # No product measured on V100 took this one of Ampere's, which T4 has too.
        assert listed - set(run) <= {(64.0, 64.0, 8.0)}, (family, op)


def test_measured_cublas_kernels_for_few_columns_are_unsplit_below_two_million_products(measured):
    rows = measured[(measured["gpu"] == "l40s") & (measured["framework"] == "trtllm 1.3.0rc20")]
    rows = rows[rows["m"].between(2, 16) & (rows["n"] <= 256) & rows["k"].between(2048, 8192)]
    below = rows["m"] * rows["n"] * rows["k"] < 2**21
    cycles = (rows["latency_s"] - 2e-6) / rows["k"] * hardware.load("nvidia/l40s").clock_hz
    assert cycles[below].median() == pytest.approx(10.3, rel=0.1)
    assert cycles[~below].median() < 3


def test_a100_uses_a_slower_kernel_for_many_rows_below_two_million_products(measured):
    rows = measured[(measured["gpu"] == "a100-sxm-80gb") & (measured["framework"].str.startswith("trtllm"))]
    rows = rows[(rows["m"] > 16) & (rows["k"] <= 64)]
    work = rows["m"] * rows["n"] * rows["k"]
    below, above = work < 2**21, work.between(2**21, 2**22, inclusive="left")
    slower = rows[below]["latency_s"].median() - rows[above]["latency_s"].median()
    assert slower == pytest.approx(0.8e-6, abs=0.3e-6)
    device = hardware.load("nvidia/a100-sxm-80gb")
    constants = {"tiny_s": 1.2e-6, "start_s": 2.8e-6}
    few = gemm.seconds(device, constants, m=32, n=1023, k=64).seconds
    assert few == pytest.approx(2.8e-6 + 1.2e-6 + 64 * 5 / device.clock_hz)
    assert gemm.seconds(device, constants, m=32, n=1024, k=64).seconds < few


def test_tensor_cores_throttle_by_the_cube_root_of_power_over_the_limit():
    sizes = {"m": 32768, "n": 32768, "k": 32768}
    peak, limit = A100.peak("bf16"), A100.tdp_w

    def slowing(energy, device=A100):
        constants = {**IDEAL, "droop_s": 1e-9}
        return seconds(device, {**constants, "energy_j": energy}, **sizes) / seconds(
            device, constants, **sizes
        )

    assert slowing(8 * limit / peak) == pytest.approx(2, rel=0.01)
    assert slowing(0.5 * limit / peak) == pytest.approx(1, rel=0.01)
    weaker = A100.replace(power=f"{limit / 8} W")
    assert slowing(limit / peak, weaker) == pytest.approx(2, rel=0.01)


def test_cuda_cores_throttle_in_proportion_to_power_down_to_the_base_clock():
    """T4: 70 W less the 25 W that the board draws at rest; a boost clock of 1,590 MHz and a base of 585."""
    t4 = hardware.load("nvidia/t4")
    sizes = {"m": 32768, "n": 32768, "k": 32768, "dtype": "fp32", "tile_m": 128, "tile_n": 128, "tile_k": 8}

    def slowing(energy):
        constants = {**IDEAL, "droop_s": 1e-9}
        return seconds(t4, {**constants, "energy_j": energy}, **sizes) / seconds(t4, constants, **sizes)

    once = (70 - 25) / t4.peak("fp32")
    assert slowing(2 * once) == pytest.approx(2, rel=0.01)
    assert slowing(20 * once) == pytest.approx(1590 / 585, rel=0.01)


def test_one_energy_per_operation_explains_measured_rates_of_t4_and_v100(measured):
    # Both are made in one process, with limits of 70 and 250 W; power at rest is the same, too.
    found, draws = {}, {}
    for gpu in ("t4", "v100-pcie-32gb"):
        device, rows = hardware.load(gpu), measured[(measured["gpu"] == gpu) & (measured["op"] == "gemm")]
        rows = rows[(rows["latency_s"] > 3e-2) & (rows["kernel"] == "volta_sgemm_128x128_tn")]
        rate = 2 * rows["m"] * rows["n"] * rows["k"] / rows["latency_s"]
        found[gpu] = (rate / device.peak("fp32")).quantile(0.9)
        draws[gpu] = 1.2e-11 * device.peak("fp32") / (device.tdp_w - 25)
    wanted = max(draws["t4"], 1) / max(draws["v100-pcie-32gb"], 1)
    assert found["v100-pcie-32gb"] / found["t4"] == pytest.approx(wanted, rel=0.15)


def test_small_tiles_lose_more_where_shared_memory_has_half_the_bandwidth(measured):
    # For as many lanes Turing's shared memory serves 64 bytes per cycle, Volta's 128. Throttling slows both
    # tiles of T4 alike.
    loss = {}
    for gpu in ("t4", "v100-pcie-32gb"):
        device, rows = hardware.load(gpu), measured[(measured["gpu"] == gpu) & (measured["op"] == "bmm")]
        rate = 2 * rows["b"] * rows["m"] * rows["n"] * rows["k"] / rows["latency_s"]
        long = rate[(rows["latency_s"] > 1e-2) & (rows["k"] > 256)].groupby(rows["kernel"]).quantile(0.9)
        loss[gpu] = long.max() / long["volta_sgemm_64x64_nn"]
        sizes = {"m": 4096, "n": 4096, "k": 4096, "dtype": "fp32", "layout": "nn", "tile_k": 8}
        constants = {**IDEAL, "edge_elements": 15.0}
        of = [seconds(device, constants, **sizes, tile_m=side, tile_n=side) for side in (128, 64)]
        # An edge of 15 elements, twice as many where the bandwidth is half, around each side of a tile.
        edge = 15.0 * {"t4": 2, "v100-pcie-32gb": 1}[gpu]
        slower = [np.hypot(1, edge * (side + side) / side**2) for side in (128, 64)]
        assert of[1] / of[0] == pytest.approx(slower[1] / slower[0], rel=0.01)
    assert loss["t4"] > loss["v100-pcie-32gb"] + 0.1


def test_a_given_split_of_k_is_used_and_a_missing_one_is_chosen():
    sizes = {"m": 64.0, "n": 64.0, "k": 65536.0, "dtype": "fp32"}
    tile = {"tile_m": 64, "tile_n": 64, "tile_k": 8}
    one, five = (seconds(A100, **sizes, **tile, split=split) for split in (1, 5))
    assert five == pytest.approx(one / 5, rel=0.05)
    both = seconds(A100, **{**sizes, "m": np.array([64.0, 64.0])}, **tile, split=np.array([1.0, np.nan]))
    assert both[0] == one
    assert both[1] == seconds(A100, **sizes, **tile) < five
    assert tiles.from_names(["volta_sgemm_128x64_tn_parts5", "volta_sgemm_128x64_tn"])[3][0] == 5


def test_activations_shared_by_all_copies_of_the_weights_stay_in_the_cache():
    sizes = {"m": 4096.0, "n": 32.0, "k": 3072.0}
    constants = {**IDEAL, "cache_share": 0.02}
    warm = gemm.seconds(A100, constants, **sizes, rotation="weights").terms["hbm"]
    cold = gemm.seconds(A100, COLD, **sizes, rotation="weights").terms["hbm"]
    assert warm < 0.4 * cold


def test_six_rotated_layers_reread_their_weights_if_six_do_not_fit_the_cache():
    """vLLM's collector rotates over 6 B with one A.

    A sixth of the cache keeps each B; A has the room beside one B.
    """
    constants = {**IDEAL, "cache_share": 1.0}
    held = A100.llc_distinct
    for share, times in ((0.1, 0.0), (0.3, 1.0)):
        n = share * held / (2 * 4096)
        hbm = gemm.seconds(A100, constants, m=16, n=n, k=4096, rotation="layers").terms["hbm"]
        moved = hbm * A100.hbm_bandwidth / (2 * 4096 * n)
        assert moved == pytest.approx(times, abs=0.02), share


def test_rows_a_power_of_two_apart_collide_on_memory_channels_of_mi210(measured):
    rows = measured[(measured["gpu"] == "mi210") & (measured["op"] == "gemm") & (measured["dtype"] == "fp32")]
    rate = 2 * rows["m"] * rows["n"] * rows["k"] / rows["latency_s"]
    median = rate.groupby(rows["k"]).median() / rate.median()
    assert median[32768.0] < 0.6
    assert median[65536.0] < 0.6
    assert median[16384.0] > 0.85
    assert median[30522.0] > 0.85
    device = hardware.load("amd/mi210")
    constants = {"scatter_share": 0.5, "reach_unit": 1e10, "drift": 1e-5}
    aliased, not_aliased = (
        gemm.seconds(device, constants, m=4096, n=4096, k=k, dtype="fp32").seconds / k for k in (32768, 32800)
    )
    assert aliased > 1.5 * not_aliased


def test_measured_steps_of_thin_tiles_on_mi210_take_as_long_as_of_twice_as_wide(measured):
    rows = measured[(measured["gpu"] == "mi210") & (measured["op"] == "bmm") & (measured["latency_s"] > 1e-3)]
    tile_m, tile_n, tile_k, _ = tiles.from_names(rows["kernel"])
    blocks = rows["b"] * np.ceil(rows["m"] / tile_m) * np.ceil(rows["n"] / tile_n)
    cycles = rows["latency_s"] * hardware.load("amd/mi210").clock_hz / (blocks * np.ceil(rows["k"] / tile_k))
    by_tile = cycles.groupby(rows["kernel"]).median()
    thin, twice = (by_tile[f"tensile_MT{name}x32x32_MI16x16x4x1"] for name in (32, 64))
    assert thin / twice == pytest.approx(0.9, abs=0.15)


def test_a_fit_is_reproducible_and_predicts_held_out_shapes(measured):
    device = hardware.load("nvidia/v100-pcie-32gb")
    rows = measured[(measured["gpu"] == "v100-pcie-32gb") & (measured["op"] == "gemm")]
    rows = rows.sample(800, random_state=1)
    constants = fit_gemm.fit(rows.iloc[:400], device, {})
    assert constants == fit_gemm.fit(rows.iloc[:400], device, {})
    unseen = rows.iloc[400:]
    predicted = gemm.seconds(device, constants, **cells.arguments(unseen, device)).seconds
    error = predicted / unseen["latency_s"] - 1
    assert error.abs().median() < 0.06
    assert error.abs().mean() < 0.09


def test_blocks_that_share_a_unit_run_in_waves_of_full_sets():
    # With two 128 × 128 tiles per unit, 217 blocks on 108 units begin a second wave, which 432 fill.
    tile = {"tile_m": 128, "tile_n": 128, "tile_k": 64, "layout": "nn", "m": 128, "n": 128, "k": 65536}
    constants = {**IDEAL, "bandwidth_share": 1e6, "tail_waves": 1.0}
    few, full = (seconds(batch=blocks, constants=constants, **tile) for blocks in (217, 432))
    assert few == pytest.approx(full, rel=0.01)
    # Persistent kernels take tile after tile.
    few, full = (seconds(H200, constants, batch=blocks, **tile) for blocks in (265, 528))
    assert few / full == pytest.approx(3 / 4, rel=0.02)


def test_measured_times_on_a100_are_equal_for_equal_numbers_of_waves(measured):
    rows = measured[(measured["gpu"] == "a100-sxm-80gb") & measured["framework"].str.startswith("trtllm")]
    rows = rows[(rows["m"] == 512) & (rows["k"] == 5120)].set_index("n")["latency_s"]
    assert rows[8192.0] / rows[10240.0] == pytest.approx(1, abs=0.02)


def test_blocks_of_the_first_wave_start_one_after_another(measured):
    # These products are so small that starting blocks is all they do; with more blocks the last starts later.
    rows = measured[(measured["gpu"] == "h200-sxm") & measured["framework"].str.startswith("trtllm")]
    rows = rows[rows["m"].between(2, 32) & (rows["k"] == 32)]
    few, many = (rows[rows["n"] == n]["latency_s"].median() for n in (64, 8192))
    tile = {"tile_m": 64, "tile_n": 64, "tile_k": 64}
    start = {**IDEAL, "block_cycles": 5.0, "cache_share": 4.0}
    got = [seconds(H200, start, m=16, n=n, k=32, **tile) for n in (64, 8192)]
    assert got[1] - got[0] == pytest.approx(127 * 5 / H200.clock_hz, rel=0.1)
    assert got[1] - got[0] == pytest.approx(many - few, rel=0.35)
    # Those that follow start as others end: of two units' full of blocks as late as of twenty.
    sizes = {**tile, "m": 64, "n": 64, "k": 65536, "split": 1, "layout": "nn", "batch": 8.0 * H200.units}
    late = [
        seconds(H200, {**start, "block_cycles": 1e5}, **{**sizes, "batch": times * sizes["batch"]})
        - seconds(H200, {**start, "block_cycles": 0.0}, **{**sizes, "batch": times * sizes["batch"]})
        for times in (1.0, 10.0)
    ]
    assert late[0] == pytest.approx(late[1], rel=1e-6)


def test_a_single_row_waits_for_its_chain_once_and_then_streams(measured):
    cold = {"m": 1.0, "n": 432.0 * 24, "k": 8192.0}
    chain = 8192 * 0.5 / A100.clock_hz
    streamed = {**COLD, "row_cycles": 0.5, "row_bytes": 100.0}
    assert seconds(constants=streamed, **cold) == pytest.approx(
        seconds(constants=COLD, **cold) + chain, rel=0.01
    )
    # Of 32 bits, and where a device has been seen to have none, a row is a product like any other.
    for width in ("fp32", "tf32"):
        assert seconds(constants=streamed, **cold, dtype=width) == seconds(
            constants=COLD, **cold, dtype=width
        )
    # Where memory does not limit, the bytes per cycle of a unit do.
    fed = 2 * 432 * 8192 / (A100.units * 2.0) / A100.clock_hz
    slow = {**COLD, "row_cycles": 0.5, "row_bytes": 2.0}
    assert seconds(constants=slow, m=1, n=432, k=8192) == pytest.approx(chain + fed)
    # On L40S, five copies of weights of 3 to 17 MB stay in its 96 MB of L2. They are read at a third of the
    # rate at which products feed a unit (25 B per cycle and more).
    rows = measured[(measured["gpu"] == "l40s") & measured["framework"].str.startswith("trtllm")]
    rows = rows[(rows["m"] == 1) & (2 * rows["n"] * rows["k"]).between(3e6, 17e6)]
    l40s, start = hardware.load("nvidia/l40s"), 2.1e-6
    rate = 2 * rows["n"] * rows["k"] / (rows["latency_s"] - start) / l40s.units / l40s.clock_hz
    assert len(rows) >= 10
    assert 3.0 < rate.median() < 8.0


def test_a100_splits_few_long_rows_of_b_for_a_single_row_of_a(measured):
    rows = measured[(measured["gpu"] == "a100-sxm-80gb") & measured["framework"].str.startswith("trtllm")]
    rows = rows[(rows["m"] == 1) & (rows["n"] == 32)].set_index("k")["latency_s"]
    # Sixteen times the depth takes at most a fifth longer: most of the time is the reduction.
    assert rows[8192.0] / rows[512.0] < 1.2
    for k in (512.0, 1536.0, 4096.0):
        got = seconds(constants={"start_s": 2.9e-6, "row_cycles": 0.4, "row_split_s": 1.5e-6}, m=1, n=32, k=k)
        assert got == pytest.approx(rows[k], rel=0.06)


def test_aiters_kernel_for_few_rows_reads_the_weights_once_and_multiplies_them_with_each_row():
    mi300x, n, k = hardware.load("amd/mi300x"), 16384.0, 8192.0
    decoding = {**COLD, "decode_cycles": 0.1}
    for m in (1.0, 4.0):
        read = 2 * (n * k + m * (n + k)) / mi300x.hbm_bandwidth
        got = seconds(mi300x, decoding, m=m, n=n, k=k)
        assert got == pytest.approx(read + m * k * 0.1 / mi300x.clock_hz)
    # More rows, other formats and other architectures have tiles.
    for device, sizes in ((mi300x, {"m": 5}), (mi300x, {"m": 4, "dtype": "fp8"}), (H200, {"m": 4})):
        assert seconds(device, decoding, n=n, k=k, **sizes) == seconds(device, COLD, n=n, k=k, **sizes)


def test_mi300x_decodes_at_nine_tenths_of_the_memory_bandwidth():
    """Of AITER's table, one row: what 12,032 more rows of B take."""
    rows = posted.fitted().query("gpu == 'mi300x' and dtype == 'bf16' and m == 1 and k == 7168")
    times = rows.set_index("n")["latency_s"]
    rate = 2 * (20480 - 8448) * 7168 / (times[20480] - times[8448])
    assert rate / hardware.load("amd/mi300x").hbm_bandwidth == pytest.approx(0.91, abs=0.01)


def test_the_first_128_steps_of_a_small_product_are_part_of_its_start(measured):
    rows = measured[(measured["gpu"] == "l40s") & measured["framework"].str.startswith("trtllm")]
    rows = rows[rows["m"].between(2, 16) & (rows["n"] <= 256)]
    by_k = rows.groupby("k")["latency_s"].median()
    assert by_k[32.0] == pytest.approx(by_k[128.0], abs=5e-8)
    further = (by_k[512.0] - by_k[128.0]) / 384 * hardware.load("nvidia/l40s").clock_hz
    assert further == pytest.approx(10.5, rel=0.05)
    device = hardware.load("nvidia/l40s")
    constants = {"small_cycles": further, "start_s": by_k[128.0]}
    got = seconds(device, constants, m=8, n=64, k=np.array([32.0, 128.0, 256.0, 512.0]))
    assert got == pytest.approx(by_k[[32.0, 128.0, 256.0, 512.0]].to_numpy(), rel=0.03)


def test_weights_come_from_memory_if_other_data_passes_between_two_uses():
    """4 MB of weights stay in an L2 of two halves of 20 MB unless more than that passes.

    A has just been written and is still there.
    """
    sizes = {"m": 64.0, "n": 2048.0, "k": 1024.0}
    passing = np.array([0.0, 1e6, 1e9])
    warm, little, much = gemm.seconds(A100, IDEAL, **sizes, passing=passing).terms["hbm"]
    assert warm == little < 1e-6 * much
    assert much == pytest.approx(2 * 2048.0 * 1024.0 / A100.hbm_bandwidth, rel=1e-6)


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "l40s"])
def test_kernels_for_few_rows_that_a_device_was_not_seen_to_have_are_not_used(name):
    """Little work is then steps of a tile, each with its latency, as all work is."""
    device = hardware.load(f"nvidia/{name}")
    constants = {**IDEAL, "step_cycles": 1000.0, "small_cycles": 0.0, "tiny_s": 0.0, "row_cycles": 0.0}
    tile = {"tile_m": 64, "tile_n": 64, "tile_k": 64, "split": 1}
    for m in (1, 8, 32):
        got = seconds(device, constants, m=m, n=64, k=128, **tile)
        assert got == pytest.approx(2 * 1000 / device.clock_hz, rel=0.01)


def test_parts_of_a_split_are_written_and_read_in_fp32():
    sizes = {"m": 256.0, "n": 256.0, "k": 8192.0, "tile_m": 128, "tile_n": 128, "tile_k": 64}
    constants = {**IDEAL, "l2_unit_bytes": 10.0, "l2_once_bytes": 200.0}
    one, four = (gemm.seconds(A100, constants, **sizes, split=split).terms["l2"] for split in (1, 4))
    per_second = 10 * A100.units * A100.clock_hz
    assert one == pytest.approx(2 * 2 * (2 * 256 * 8192) / per_second)
    assert four - one == pytest.approx((4 + 4) * 4 * 256 * 256 / per_second)


def test_what_two_blocks_of_a_cluster_share_comes_once():
    """Hopper's pairs of 128 × 256 tiles: of twice 128 rows and 256 columns the columns are one's."""
    sizes = {"m": 4096.0, "n": 4096.0, "k": 4096.0, "tile_m": 128, "tile_n": 256, "tile_k": 64, "split": 1}
    constants = {**IDEAL, "l2_unit_bytes": 10.0, "l2_once_bytes": 200.0}
    alone = 2 * 4096**3 * (1 / 128 + 1 / 256)
    shared = alone * (2 * 128 + 256) / (2 * 128 + 2 * 256)
    for device, fed in ((A100, alone), (H200, shared)):
        l2 = gemm.seconds(device, constants, **sizes).terms["l2"]
        assert l2 * 10 * device.units * device.clock_hz == pytest.approx(fed)


@pytest.mark.parametrize(
    ("device", "constants", "sizes", "limit"),
    [
        ("l40s", {"small_cycles": 10.0}, {"m": 2, "n": 490, "k": 1470}, "depth"),
        ("a100-sxm-80gb", {"tiny_s": 1e-6}, {"m": 40, "n": 64, "k": 128}, "depth"),
        (
            "a100-sxm-80gb",
            {"row_cycles": 0.5, "row_bytes": 20.0, "cache_share": 0.0},
            {"m": 1, "n": 8192, "k": 8192},
            "hbm",
        ),
        ("a100-sxm-80gb", {"row_cycles": 0.5}, {"m": 1, "n": 32, "k": 8192}, "depth"),
        ("mi300x", {"decode_cycles": 0.1, "cache_share": 0.0}, {"m": 4, "n": 8192, "k": 8192}, "hbm"),
        ("mi300x", {"decode_cycles": 0.1, "cache_share": 0.0}, {"m": 4, "n": 32, "k": 8192}, "depth"),
    ],
)
def test_terms_of_a_kernel_for_few_rows_are_its_own(device, constants, sizes, limit):
    """They describe the kernel that runs, not the tiles it replaces, and add up to its time."""
    estimate = gemm.seconds(hardware.load(device), {**constants, "start_s": 2e-6}, **sizes)
    terms = {name: float(term) for name, term in estimate.terms.items()}
    assert max(terms, key=lambda name: terms[name] * (name != "launch")) == limit
    parts = terms["launch"] + terms["depth"] + max(terms["hbm"], terms["l2"])
    assert parts == pytest.approx(float(estimate.seconds), rel=1e-9)
    assert terms["matrix:bf16"] == 0


def test_activations_that_l2_still_holds_are_quantised_without_memory_traffic():
    """Six pairs of A (16 and 8 bit) and B rotate through 96 MB of L2.

    They stay there, or quantising reads and writes A, or it reads A twice.
    """
    l40s = hardware.load("nvidia/l40s")
    m = np.array([512.0, 8192.0, 65536.0])
    sizes = {"m": m, "n": 64.0, "k": 4096.0, "dtype": "fp8", "quantise": True, "rotation": "operands"}

    def quantising(cache_share):
        # Halving its bandwidth doubles the time of quantising and of nothing else.
        half, whole = (
            seconds(l40s, {**IDEAL, "cache_share": cache_share, "quantise_share": share}, **sizes)
            for share in (0.5, 1.0)
        )
        return half - whole

    elements = m * 4096.0
    read_again = np.where(2 * elements > l40s.l2_capacity, 2.0, 0.0)
    moved = (3.0 + read_again) * elements
    assert quantising(0.0) == pytest.approx(moved / l40s.hbm_bandwidth, rel=0.15)
    assert quantising(1.0)[0] < 0.01 * moved[0] / l40s.hbm_bandwidth
    assert quantising(1.0)[1:] == pytest.approx(quantising(0.0)[1:])


@pytest.mark.parametrize("name", ["sgemm_0x0", "sgemm_128x0", "MT0x64x8", "sgemm_128x64000", "sgemm_9999x64"])
def test_impossible_tiles_in_kernel_names_are_ignored(name: str) -> None:
    assert not tiles.says(name)
    assert np.isnan(tiles.from_names([name])).all()
