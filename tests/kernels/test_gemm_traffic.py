"""Bytes from L2 and from memory, and the order of blocks, by hand calculation and measured rows."""

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware
from costmodel.kernels import _tiles as tiles
from costmodel.kernels import gemm

A100, H200, L40S = (hardware.load(f"nvidia/{name}") for name in ("a100-sxm-80gb", "h200-sxm", "l40s"))
#: Nothing takes time except what a test sets.
FREE = {
    **dict.fromkeys(("edge_elements", "step_cycles", "fill_cycles", "split_s"), 0.0),
    **dict.fromkeys(("row_cycles", "small_cycles", "start_s"), 0.0),
    **dict.fromkeys(("l2_unit_bytes", "l2_once_bytes", "store_bytes"), 1e9),
    "bandwidth_share": 1.0,
    "energy_j": 1e-15,
    "overlap": 12.0,
}


@pytest.fixture(scope="module")
def measured(shared):
    rows = pd.read_parquet(shared / "measurements" / "gemm.parquet")
    rows["framework"] = rows["framework"].str.split().str[0]
    return (
        rows.astype({"m": float, "n": float, "k": float}).set_index(["gpu", "framework", "op"]).sort_index()
    )


def test_operands_that_units_do_not_share_have_an_l2_rate_of_their_own():
    """With few rows the weights are read by one unit each; in a square product, by every row of tiles."""
    once, unit = 5.0, 20.0
    constants = {**FREE, "l2_unit_bytes": unit, "l2_once_bytes": once}
    per_second = L40S.units * L40S.clock_hz
    few = gemm.seconds(L40S, constants, m=4.0, n=8192.0, k=1024.0).terms["l2"]
    assert few == pytest.approx(2 * (4 + 8192) * 1024 / (once * per_second), rel=1e-6)
    many = {"m": 8192.0, "n": 8192.0, "k": 1024.0}
    shared_only = gemm.seconds(L40S, {**constants, "l2_once_bytes": 200.0}, **many).terms["l2"]
    assert gemm.seconds(L40S, constants, **many).terms["l2"] == shared_only


def test_l40s_l2_gives_out_weights_of_few_rows_at_the_rate_of_its_calibration(measured):
    """Weights of which five copies stay in its 96 MiB: faster than memory, and no faster than that rate."""
    rows = measured.loc["l40s", "trtllm", "gemm"]
    weights = 2 * rows["n"] * rows["k"]
    rows = rows[rows["m"].between(2, 16) & weights.between(12e6, 17e6) & (rows["n"] >= 6144)]
    rate = 2 * rows["n"] * rows["k"] / (rows["latency_s"] - 2.15e-6)
    assert len(rows) >= 6
    (section,) = (
        s for s in calibration.load("nvidia/l40s") if s.cell[:4] == ("gemm", "gemm", "bf16", "trtllm")
    )
    fitted = section.constants["l2_once_bytes"] * L40S.units * L40S.clock_hz
    assert L40S.hbm_bandwidth * 2 < rate.median() < 1.3 * fitted


@pytest.mark.parametrize(("gpu", "most", "cycles"), [("l40s", 8192, 0.2), ("a100-sxm-80gb", 4096, 0.15)])
def test_small_products_take_longer_per_column(measured, gpu, most, cycles):
    rows = measured.loc[gpu, "trtllm", "gemm"]
    rows = rows[rows["m"].between(2, 4) & (rows["k"] == 32) & rows["n"].between(512, most)]
    slope, start = np.polyfit(rows["n"], rows["latency_s"], 1)
    device = hardware.load(f"nvidia/{gpu}")
    assert slope * device.clock_hz == pytest.approx(cycles, rel=0.25)
    constants = {"small_cycles": 10.0, "start_s": start, "small_column_cycles": slope * device.clock_hz}
    got = gemm.seconds(device, constants, m=rows["m"], n=rows["n"], k=32.0).seconds
    assert np.abs(got / rows["latency_s"] - 1).mean() < 0.03


def test_a_k_shorter_than_a_step_takes_proportionally_less_arithmetic():
    sizes = {"m": 4096.0, "n": 4096.0, "k": np.array([16.0, 32.0, 64.0])}
    arithmetic = gemm.seconds(A100, {**FREE, "bandwidth_share": 1e6}, **sizes).terms["matrix:bf16"]
    assert arithmetic / arithmetic[2] == pytest.approx([0.25, 0.5, 1.0], rel=1e-6)


def test_results_cost_no_memory_time_of_their_own_unless_kernels_are_persistent():
    """Blocks that end with their tile write to memory while they store: the time of the store covers both.

    Persistent kernels store beside the loads of their next tile, so memory time counts both.
    """
    sizes = {"m": 8192.0, "n": 8192.0, "k": 64.0}
    read, written = 2 * 2 * 8192.0 * 64, 2 * 8192.0**2
    slow = {**FREE, "store_bytes": 1.0, "band_tiles": 512.0, "cache_share": 0.0}
    for device, moved in ((A100, read), (H200, read + written)):
        hbm = gemm.seconds(device, slow, **sizes).terms["hbm"]
        assert hbm == pytest.approx(moved / device.hbm_bandwidth, rel=1e-3)


def test_measured_a100_writes_of_short_k_products_have_one_rate(measured):
    """1.0 to 1.4 TB/s for results much smaller and much larger than L2.

    Storing to L2 and writing to memory are therefore not two consecutive phases.
    """
    rows = measured.loc["a100-sxm-80gb", "trtllm", "gemm"]
    rows = rows[
        (rows["k"] == 32) & (rows["m"] >= 384) & (rows["n"] >= 1536) & (rows["m"] * rows["n"] > 2.5e6)
    ]
    rate = 2 * rows["m"] * rows["n"] / (rows["latency_s"] - 3e-6)
    assert len(rows) >= 6
    assert rate.between(1.0e12, 1.4e12).all()


def test_fp8_on_ada_reads_a_again_for_each_column_of_tiles(measured):
    """CUTLASS's identity swizzle: with 256 rows of tiles, each column of tiles reads all of A."""
    m, n, k = 32768.0, 12288.0, 8192.0
    sizes = {"m": m, "n": n, "k": k, "dtype": "fp8", "quantise": True}
    hbm = gemm.seconds(L40S, {**FREE, "cache_share": 0.0, "quantise_share": 1.0}, **sizes).terms["hbm"]
    # Before, quantising reads A in 16 bits twice (the first time for its largest value) and writes 8 bits.
    assert hbm == pytest.approx(m * k * (n / 128 + 5) / L40S.hbm_bandwidth, rel=0.02)
    rows = measured.loc["l40s", "sglang", "gemm_fp8_dynquant"]
    taken = rows[(rows["m"] == m) & (rows["n"] == n) & (rows["k"] == k)]["latency_s"]
    assert float(taken.iloc[0]) == pytest.approx(hbm, rel=0.5)
    assert float(taken.iloc[0]) > 2 * 2 * m * n * k / L40S.peak("fp8")


def test_clusters_of_two_compute_as_much_for_257_rows_as_for_512():
    rows, columns, _ = tiles.fp8_scaled("hopper", np.array([257.0, 512.0]), np.array([4096.0, 4096.0]))
    assert rows.tolist() == columns.tolist() == [128.0, 128.0]
    sizes = {"m": np.array([257.0, 384.0, 512.0, 513.0]), "n": 16896.0, "k": 4096.0}
    constants = {**FREE, "bandwidth_share": 1e6, "ragged": 0.0, "quantise_share": 1e6}
    arithmetic = gemm.seconds(H200, constants, **sizes, dtype="fp8", quantise=True).terms["matrix:fp8"]
    assert arithmetic[0] == arithmetic[1] == arithmetic[2]
    assert arithmetic[3] == pytest.approx(1.5 * arithmetic[2], rel=1e-6)


def test_one_tile_serves_all_fp8_products_of_consumer_blackwell():
    """``sm120_fp8_dispatch_bias`` in sglang's fp8_gemm_kernel.cu."""
    m, n = np.array([1.0, 64, 129, 257, 8192]), np.array([32.0, 4096, 4096, 65536, 128])
    assert all((side == 128).all() for side in tiles.fp8_scaled("blackwell-rtx", m, n))
