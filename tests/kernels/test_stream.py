"""Memory-bound kernels against hand calculation, loops over threads, and measured rows."""

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.errors import UnknownNameError
from costmodel.kernels import stream
from costmodel.kernels._rows import layout

V100 = hardware.load("nvidia/v100-pcie-32gb")


def seconds(pattern="elementwise", device=V100, constants=None, **sizes):
    return stream.seconds(device, constants or {}, pattern=pattern, **sizes).seconds


def test_a_long_pass_takes_its_bytes_over_the_bandwidth():
    got = seconds(
        rows=1 << 20, cols=4096, reads=2, writes=1, constants={"bandwidth_share": 0.9, "warm_share": 0}
    )
    assert got == pytest.approx(3 * 4 * 2**32 / (0.9 * V100.hbm_bandwidth), rel=1e-3)


def test_a_partitioned_l2_keeps_half_as_much_for_a_replay():
    """A100's whitepaper: each of the two partitions caches what the units connected to it read."""
    constants = {"cache_share": 1.0, "warm_share": 0.0, "start_s": 1e-9, "bandwidth_share": 1.0}
    for name, partitions in (("nvidia/a100-sxm-80gb", 2), ("nvidia/l40s", 1)):
        device = hardware.load(name)
        cols = device.l2_capacity / partitions / 8  # fp32, read and written once: as many bytes as stay
        moved = stream.seconds(device, constants, rows=1, cols=cols).terms["hbm"] * device.hbm_bandwidth
        assert moved == pytest.approx(8 * cols / 2), name


def test_a_cache_share_above_one_counts_as_the_whole_cache():
    """A constant fitted on a smaller cache may exceed 1.

    Carried to a larger cache, it once made a pass take less than its bytes.
    """
    l4 = hardware.load("nvidia/l4")
    cols = 1.5 * l4.llc_capacity / 4
    sizes = {"rows": 1, "cols": cols, "reads": 1, "writes": 1, "dtype": "bf16"}
    hbm = stream.seconds(l4, {"cache_share": 2.0, "warm_share": 1.0}, **sizes).terms["hbm"]
    assert hbm == pytest.approx(0.5 * l4.llc_capacity / l4.hbm_bandwidth)


@pytest.mark.parametrize(
    "name", [n for n in hardware.available() if hardware.load(n).vendor in ("NVIDIA", "AMD")]
)
def test_elementwise_passes_saturate_memory_and_passes_by_rows_may_not(name):
    """This holds however few bytes per cycle a unit takes in.

    A unit's share of the memory bandwidth is 28 B per cycle on B200, 13 on A100.
    """
    device, sizes = hardware.load(name), {"rows": 2**17, "cols": 2**13, "reads": 2, "writes": 1}
    plain, rows = (
        stream.seconds(device, {"cache_bytes": 4.0}, pattern=pattern, **sizes).terms
        for pattern in ("elementwise", "gated")
    )
    assert np.all(plain["l2"] <= plain["hbm"] / (1 - device.llc_capacity / (3 * 2**32)))
    assert rows["l2"] == pytest.approx(3 * 2**32 / (device.units * device.clock_hz * 4.0))


def test_half_the_width_takes_half_the_time_of_a_long_pass():
    sizes = {"rows": 1 << 20, "cols": 8192}
    assert seconds(**sizes, dtype="fp16") == pytest.approx(seconds(**sizes, dtype="fp32") / 2, rel=1e-3)


def test_a_tiny_kernel_costs_dispatch_and_record_of_the_harness():
    """Tables with few rows were measured first, with a slower host."""
    constants = {"dispatch_s": 2e-5, "record_s": 1.5e-5, "slow_host": 1.4, "slow_rows": 100.0}
    got = seconds(rows=np.array([1.0, 99.0, 100.0]), cols=2, constants=constants)
    assert got == pytest.approx(3.5e-5 * np.array([1.4, 1.4, 1.0]), rel=0.01)


def test_long_rows_are_read_twice_by_a_norm_and_three_times_by_a_softmax():
    constants = {"row_s": 0.0, "iteration_s": 0.0, "element_cycles": 0.0, "warm_share": 0.0, "overlap": 12.0}
    sizes = {"rows": 65536, "cols": 16384, "constants": constants}
    once = seconds(**sizes)
    assert seconds("norm", **sizes) / once == pytest.approx(3 / 2, rel=0.01)
    assert seconds("softmax", **sizes) / once == pytest.approx(4 / 2, rel=0.01)
    # Backward, a norm has two tables to read, and reads both of them again.
    assert seconds("norm", **sizes, reads=2) / once == pytest.approx(5 / 2, rel=0.01)


def test_an_instruction_per_element_takes_one_lane_for_one_cycle():
    """5,120 lanes at 1.38 GHz (V100's whitepaper); rows measured before the clock was raised take longer."""
    constants = {"element_cycles": 3.0, "slow_clock": 1.5, "slow_rows": 100.0}
    for rows, slower in ((99, 1.5), (100, 1.0)):
        found = stream.seconds(V100, constants, rows=rows, cols=2**20).terms["vector:fp32"]
        assert found == pytest.approx(rows * 2**20 * 3 * slower / (5120 * 1.38e9), rel=0.01)


@pytest.mark.parametrize(
    ("device", "units", "threads"),
    [
        ("nvidia/v100-pcie-32gb", 80, 2048),
        ("nvidia/t4", 40, 1024),
        ("nvidia/a40", 84, 1536),
        ("nvidia/l40s", 142, 1536),
        ("nvidia/rtx-5090", 170, 1536),
    ],
)
def test_rows_run_in_waves_of_as_many_as_the_units_hold(device, units, threads):
    """A softmax of 4,096 columns has 512 threads per row, each with 2 vectors to load three times.

    Threads per unit: CUDA programming guide, compute capabilities 7.0, 7.5, 8.6, 8.9 and 12.0.
    """
    places = units * threads // 512
    constants = {"row_s": 1e-5, "iteration_s": 1e-6, "occupancy": 1.0}
    rows = np.array([1.0, places, 2.0 * places, 7.5 * places])
    depth = stream.seconds(hardware.load(device), constants, rows=rows, cols=4096, pattern="softmax").terms[
        "depth"
    ]
    assert depth == pytest.approx((1e-5 + 6e-6) * np.array([1, 1, 2, 7.5]))


def test_half_a_block_has_no_place_on_a_unit():
    """A row of vLLM's norm has 1,024 threads, of which a unit of Ada (8.9) holds 1,536."""
    l40s, constants = hardware.load("nvidia/l40s"), {"row_s": 1e-5, "iteration_s": 0.0, "occupancy": 1.0}
    rows = np.array([142.0, 284.0])
    found = stream.seconds(l40s, constants, rows=rows, cols=16384, dtype="bf16", pattern="rmsnorm")
    assert found.terms["depth"] == pytest.approx([1e-5, 2e-5])


@pytest.mark.parametrize(("cols", "rows"), [(64, 8), (128, 8), (512, 4), (1024, 4)])
def test_short_rows_share_a_block(cols, rows):
    """PersistentSoftmax.cuh: four warps per block, one row per warp, or two rows of up to 128 columns."""
    places = V100.units * 2048 // 128 * rows
    constants = {"row_s": 1e-5, "iteration_s": 0.0, "occupancy": 1.0}
    found = stream.seconds(V100, constants, rows=np.array([1, 2]) * places, cols=cols, pattern="softmax")
    assert found.terms["depth"] == pytest.approx([1e-5, 2e-5])


@pytest.mark.parametrize(("amd", "lanes"), [(False, 32), (True, 64)])
@pytest.mark.parametrize("cols", [2, 10, 32, 64, 128, 129, 1024])
def test_a_block_of_short_rows_has_as_many_warps_as_fit(cols, amd, lanes):
    """Expected: ``log2_elements`` of PersistentSoftmax.cuh.

    A warp is no wider than a row padded to a power of two.
    """
    padded = 1
    while padded < cols:
        padded *= 2
    rows = 128 // min(padded, lanes) * (2 if padded <= 128 else 1)
    assert layout("softmax", np.array([float(cols)]), 4.0, amd=amd).block_rows == rows


@pytest.mark.parametrize(("pattern", "rereads"), [("rmsnorm", 1), ("gated", 0)])
@pytest.mark.parametrize(
    ("cols", "threads", "loads"), [(1, 32, 1), (100, 128, 1), (1024, 1024, 1), (2500, 1024, 3)]
)
def test_a_vllm_row_is_one_block_of_whole_warps_up_to_1024_threads(pattern, rereads, cols, threads, loads):
    how = layout(pattern, np.array([float(cols)]), 2.0, amd=False)
    assert (how.threads, how.loads, how.rereads, how.block_rows) == (threads, loads, rereads, 1)


def test_resident_rows_that_fit_the_cache_are_read_from_memory_once():
    """Eight rows of 64 KiB; as many rows as V100's units could hold would be twice its cache."""
    constants = {"warm_share": 0.0, "resident_share": 1.0}
    once, thrice = (
        stream.seconds(V100, constants, rows=8, cols=16384, pattern=pattern).terms["hbm"]
        for pattern in ("elementwise", "softmax")
    )
    assert (thrice - once) * V100.hbm_bandwidth < 1e-3 * 8 * 65536


def test_terms_add_up_without_overlap():
    constants = {"overlap": 1.0, "start_s": 1e-5, "dispatch_s": 2e-5, "record_s": 1e-6}
    found = stream.seconds(V100, constants, rows=4096, cols=4096, pattern="softmax")
    limits = sum(found.terms[name] for name in ("hbm", "vector:fp32", "depth"))
    assert found.seconds == pytest.approx(2e-5 + limits + 1e-5)
    assert found.terms["launch"] == pytest.approx(1e-5 + 2e-5 + 1e-6)


def test_rows_that_begin_inside_a_sector_move_more_bytes():
    """Rows of 2,048 fp32 numbers are whole sectors of 32 bytes; rows of 2,049 begin inside one."""
    constants = {"straddling": 0.25, "warm_share": 0.0}
    for cols, more in ((2048, 1.0), (2049, 1.25)):
        sizes = {"rows": 1 << 18, "cols": cols, "pattern": "softmax"}
        plain, straddled = (
            stream.seconds(V100, c, **sizes).terms["hbm"] for c in ({"warm_share": 0.0}, constants)
        )
        assert straddled == pytest.approx(more * plain)


def test_a_softmax_of_long_rows_computes_exponentials_twice_on_amd():
    cols = np.array([1024.0, 1032.0])
    assert layout("softmax", cols, 2.0, amd=True).issued.tolist() == [1, 2]
    assert layout("softmax", cols, 2.0, amd=False).issued.tolist() == [1, 1]


def test_measured_norms_and_softmaxes_of_long_rows_show_the_repeated_reads(shared):
    rows = pd.read_parquet(shared / "measurements" / "memops.parquet")
    rows = rows[(rows["gpu"] == "v100-pcie-32gb") & (rows["m"] >= 16384)].astype({"m": float, "n": float})
    speed = rows["m"] * rows["n"] / rows["latency_s"].astype(float)
    # A softmax of 1,024 columns stays in registers; of 16,384, all rows in flight exceed the cache.
    short = speed[(rows["op"] == "softmax") & (rows["n"] == 1024)].max()
    assert short / speed[(rows["op"] == "softmax") & (rows["n"] == 16384)].median() == pytest.approx(
        2.0, rel=0.06
    )
    assert short / speed[(rows["op"] == "layernorm") & (rows["n"] == 16384)].median() == pytest.approx(
        1.5, rel=0.06
    )


@pytest.mark.parametrize(
    "cols", [1028, 1030, 1031, 1280, 1600, 2048, 2050, 2560, 3072, 4096, 4099, 6400, 16384]
)
def test_dependent_loads_of_a_softmax_row_are_counted_by_a_loop_over_threads(cols):
    """A row that begins inside a vector takes one more load, up to the next vector."""
    block = 32
    while block < min(cols / 4, 1024) / 2:
        block *= 2
    longest = 0
    for thread in range(block):
        vectors = len(range(thread, (cols // (4 * block)) * block, block))
        tail = len(range((cols // (4 * block)) * 4 * block + thread, cols, block))
        longest = max(longest, vectors + tail)
    how = layout("softmax", np.array([float(cols)]), 4.0, amd=False)
    assert how.threads[0] == block
    inside = np.mean([(row * cols) % 4 != 0 for row in range(4)])
    assert how.loads[0] == 3 * (longest + inside)


def test_a_norm_row_that_fills_a_warp_partly_takes_more_loads():
    full, part = layout("norm", np.array([2048.0, 2040.0]), 4.0, amd=False).loads
    assert part > full


def test_time_grows_with_the_rows_and_arrays_broadcast():
    rows = np.array([[1.0], [64.0], [1e4], [1e6]])
    got = seconds("softmax", rows=rows, cols=np.array([64.0, 1000.0, 5000.0]))
    assert got.shape == (4, 3)
    assert (np.diff(got, axis=0) >= 0).all()


def test_long_passes_are_limited_by_memory_and_few_rows_by_depth():
    estimate = stream.seconds(V100, {}, rows=1 << 18, cols=4096)
    assert max(estimate.terms, key=lambda name: float(estimate.terms[name])) == "hbm"
    few = stream.seconds(V100, {}, rows=4, cols=1500, pattern="softmax")
    assert few.terms["depth"] > few.terms["hbm"]


def test_an_unknown_pattern_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="softmax"):
        seconds("softmin", rows=1, cols=1)


def test_a_gated_activation_is_limited_by_issue_on_a100_and_by_memory_on_a40(shared):
    """A40's units have twice A100's fp32 lanes; equal cycles per element mean that lanes do not limit."""
    measured = pd.read_parquet(shared / "measurements" / "memops.parquet")
    rows = measured[(measured["op"] == "silu_and_mul") & (measured["m"] * measured["n"] > 2e7)]
    moved = 3 * 2 * rows["m"] * rows["n"]
    share = {
        name: float((moved / rows["latency_s"])[rows["gpu"] == name].median())
        / hardware.load(f"nvidia/{name}").hbm_bandwidth
        for name in ("a100-sxm-80gb", "a40")
    }
    assert share["a100-sxm-80gb"] < 0.55
    assert share["a40"] > 0.75
    # One constant fits both: A100's rate per unit and cycle is hidden behind A40's slower memory.
    constants = {
        "bandwidth_share": 0.82,
        "element_cycles": 55.0,
        "overlap": 3.0,
        "row_s": 0.0,
        "start_s": 1e-6,
    }
    for name, expected in share.items():
        device = hardware.load(f"nvidia/{name}")
        got = stream.seconds(device, constants, rows=16384.0, cols=8192.0, reads=2.0, dtype="fp16").seconds
        bandwidth = 3 * 2 * 16384 * 8192 / float(got) / device.hbm_bandwidth
        assert bandwidth == pytest.approx(expected, rel=0.12)
