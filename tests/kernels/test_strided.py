"""Loads of rows that are k elements apart, against literal counts and measured rows."""

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware
from costmodel.kernels import _strided as strided
from costmodel.kernels import _tiles, gemm
from costmodel.kernels._operands import Problem

P4, T4 = hardware.load("nvidia/p4"), hardware.load("nvidia/t4")
CONSTANTS = {"drift": 0.002, "lone_share": 0.5, "reach_unit": 1e10, "page_bytes": 1e4, "scatter_share": 0.4}


def problem(m, n, k):
    sizes = [np.array(size, dtype=np.float64, ndmin=1) for size in np.broadcast_arrays(1.0, m, n, k)]
    return Problem.of("fp32", **dict(zip(("batch", "m", "n", "k"), sizes, strict=True)), strided=True)


def served(m, n, k, side=64.0, resident=8.0, split=1.0, deep=8.0):
    """Return the charged bytes over those of both operands, none of which L2 holds."""
    p, of = problem(m, n, k), lambda size: np.array([size])
    tiles_m, tiles_n = np.ceil(p.m / side), np.ceil(p.n / side)
    cold = p.left + p.right + p.result
    fed = (tiles_n * p.m + tiles_m * p.n) * p.k * 4
    tile = (of(side), of(side), tiles_m, tiles_n, of(resident), np.ceil(p.k / deep))
    return (
        (strided.served(P4, CONSTANTS, p, cold, fed, *tile, split) - p.result) / (p.left + p.right)
    ).item()


@pytest.fixture(scope="module")
def rates(shared):
    """Return measured fp32 linear layers of random sizes, with their FLOP/s."""
    rows = pd.read_parquet(shared / "measurements" / "gemm.parquet")
    rows = rows[(rows["op"] == "gemm") & (rows["dtype"] == "fp32")]
    rows = rows[rows["source_path"].str.contains("train")]
    rows = rows.astype({"m": float, "n": float, "k": float, "latency_s": float, "grid": float})
    return rows.assign(rate=2 * rows["m"] * rows["n"] * rows["k"] / rows["latency_s"])


def test_sectors_per_row_equal_a_literal_count():
    # A step loads 8 elements of each row; a sector has 8 elements, and row r begins at element r · k.
    for k in (8, 12, 20, 33, 34, 64):
        parts = [r * k % 8 for r in range(8)]
        counted = np.mean([1 if begin == 0 else 2 for begin in parts])
        assert strided.straddled(P4, problem(8, 8, k)).item() == pytest.approx(counted / 1.875)
    assert strided.straddled(hardware.load("nvidia/a100-pcie-40gb"), problem(8, 8, 33)) == 1.0


@pytest.mark.parametrize("gpu", ["p100-pcie-16gb", "v100-pcie-32gb", "t4", "a100-pcie-40gb"])
def test_measured_rows_aligned_to_sectors_are_faster_where_threads_load_them(rates, gpu):
    kernel = "maxwell_sgemm_32x128_tn" if gpu.startswith("p100") else "sgemm_128x64_tn"
    rows = rates[(rates["gpu"] == gpu) & rates["kernel"].str.endswith(kernel) & (rates["latency_s"] > 3e-3)]
    rows = rows[rows["k"].between(512, 8192)]
    gain = rows["rate"][rows["k"] % 8 == 0].median() / rows["rate"][rows["k"] % 2 == 1].median()
    if gpu.startswith("a100"):
        assert gain == pytest.approx(1, abs=0.02)
    else:
        assert gain > 1.02


def test_blocks_of_the_first_wave_stay_in_step_and_later_ones_drift(rates):
    # P4, 20 units of 8 blocks of 64 × 64: rows of one length, one wave at most against more than ten.
    rows = rates[(rates["gpu"] == "p4") & (rates["kernel"] == "maxwell_sgemm_64x64_tn")]
    rows = rows[rows["k"].between(4000, 9000) & (rows["latency_s"] > 5e-4)]
    full = np.ceil(rows["m"] / 64) * np.ceil(rows["n"] / 64) / (20 * 8)
    first, later = (rows["rate"][which].median() for which in (full <= 1, full > 10))
    assert first > 2 * later
    assert served(640, 1024, 8192) < 0.5 * served(6400, 1024, 8192)
    # A split of K adds blocks: four times as many waves.
    assert served(640, 1024, 8192, split=4.0) > 1.5 * served(640, 1024, 8192)
    # Blocks with a unit to themselves stay in step, too, and lose far less.
    assert served(6400, 1024, 8192, side=128.0, resident=1.0) < 0.5 * served(6400, 1024, 8192)


def test_short_rows_cost_as_a_stream_and_long_ones_the_opening_of_pages():
    short, long = served(64, 64, 16), served(64, 64, 2.0**22)
    assert short == pytest.approx(1, abs=0.02)
    assert long == pytest.approx(1 / CONSTANTS["scatter_share"], rel=0.01)
    # Four slices of a block load 32 elements of a row together, and open its page once.
    sliced = served(64, 64, 2.0**22, deep=32.0)
    assert sliced - 1 == pytest.approx((long - 1) / 4, rel=0.02)


def test_sliced_blocks_on_t4_open_a_page_once_for_all_slices(rates):
    """Up to 32 rows and at least 20 MB of weights: 130 GB/s at any length, as if no page were opened."""
    rows = rates[(rates["gpu"] == "t4") & (rates["m"] <= 32) & (rates["n"] * rates["k"] > 5e6)]
    rows = rows[rows["kernel"].str.contains("sliced")]
    long = rows["k"] > rows["k"].median()
    rate = 4 * rows["n"] * rows["k"] / rows["latency_s"]
    assert rate[long].median() == pytest.approx(rate[~long].median(), rel=0.1)
    given = {name: rows[name].to_numpy(dtype=np.float64) for name in ("m", "n", "k")}
    constants = next(s for s in calibration.load("nvidia/t4") if s.cell[:3] == ("gemm", "gemm", "fp32"))
    sides = _tiles.from_names(rows["kernel"])
    tile = dict(zip(("tile_m", "tile_n", "tile_k", "split"), sides, strict=True))
    predicted = gemm.seconds(T4, constants.constants, **given, dtype="fp32", **tile).seconds
    assert np.median(np.abs(predicted / rows["latency_s"].to_numpy() - 1)) < 0.1


def test_charged_bytes_are_never_less_than_the_operands():
    rng = np.random.default_rng(0)
    for m, n, k in rng.integers(1, 20000, (50, 3)):
        assert served(float(m), float(n), float(k)) >= 1 - 1e-12


def test_a_batched_product_is_charged_for_its_first_operand_only():
    p = problem(64, 8, 2.0**22)
    further = strided.walked(CONSTANTS, p, p.left + p.right + p.result)
    assert further.item() == pytest.approx(p.left.item() * (1 / CONSTANTS["scatter_share"] - 1), rel=0.01)


def test_measured_long_rows_with_few_columns_reach_under_half_of_the_bandwidth(shared):
    # Nearly all bytes are those of A, which no cache holds.
    rows = pd.read_parquet(shared / "measurements" / "gemm.parquet")
    rows = rows[(rows["op"] == "bmm") & (rows["n"] < 40) & (rows["m"] > 200) & (rows["k"] > 400)]
    bytes_of_a = 4.0 * rows["b"] * rows["m"] * rows["k"]
    reached = (bytes_of_a / rows["latency_s"])[bytes_of_a > 1e8].groupby(rows["gpu"]).median()
    for gpu in ("p4", "v100-pcie-32gb"):
        assert reached[gpu] < 0.45 * hardware.load(f"nvidia/{gpu}").hbm_bandwidth
