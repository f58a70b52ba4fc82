"""Memory-bound kernels against arithmetic, loops over threads, and measured rows."""

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


def test_a_replay_finds_half_as_much_where_l2_is_two_halves_of_copies():
    """A100's whitepaper: each of the two partitions caches what the units connected to it read."""
    constants = {"cache_share": 1.0, "warm_share": 0.0, "start_s": 1e-9, "bandwidth_share": 1.0}
    for name, partitions in (("nvidia/a100-sxm-80gb", 2), ("nvidia/l40s", 1)):
        device = hardware.load(name)
        cols = device.l2_capacity / partitions / 8  # read and written once in fp32: as many bytes as stay
        moved = stream.seconds(device, constants, rows=1, cols=cols).terms["hbm"] * device.hbm_bandwidth
        assert moved == pytest.approx(8 * cols / 2), name


def test_no_share_of_a_cache_is_more_than_all_of_it():
    """With constants of a smaller cache, of which more seemed to stay, a pass took less than its bytes."""
    l4 = hardware.load("nvidia/l4")
    cols = 1.5 * l4.llc_capacity / 4
    sizes = {"rows": 1, "cols": cols, "reads": 1, "writes": 1, "dtype": "bf16"}
    hbm = stream.seconds(l4, {"cache_share": 2.0, "warm_share": 1.0}, **sizes).terms["hbm"]
    assert hbm == pytest.approx(0.5 * l4.llc_capacity / l4.hbm_bandwidth)


@pytest.mark.parametrize(
    "name", [n for n in hardware.available() if hardware.load(n).vendor in ("NVIDIA", "AMD")]
)
def test_plain_passes_keep_memory_busy_and_blocks_of_rows_may_not(name):
    """However little a unit is fed: of B200's memory one takes 28 B a cycle, of A100's 13."""
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


def test_a_tiny_kernel_costs_the_harness():
    """Of the tables measured first, with few rows, another time."""
    constants = {"dispatch_s": 2e-5, "record_s": 1.5e-5, "slow_host": 1.4, "slow_rows": 100.0}
    got = seconds(rows=np.array([1.0, 99.0, 100.0]), cols=2, constants=constants)
    assert got == pytest.approx(3.5e-5 * np.array([1.4, 1.4, 1.0]), rel=0.01)


def test_a_long_norm_reads_its_rows_twice_and_a_long_softmax_three_times():
    constants = {"row_s": 0.0, "iteration_s": 0.0, "element_cycles": 0.0, "warm_share": 0.0, "overlap": 12.0}
    sizes = {"rows": 65536, "cols": 16384, "constants": constants}
    once = seconds(**sizes)
    assert seconds("norm", **sizes) / once == pytest.approx(3 / 2, rel=0.01)
    assert seconds("softmax", **sizes) / once == pytest.approx(4 / 2, rel=0.01)
    # Backward a norm has two tables to read, and reads both again.
    assert seconds("norm", **sizes, reads=2) / once == pytest.approx(5 / 2, rel=0.01)


def test_an_instruction_of_every_element_takes_a_lane_a_cycle():
    """5,120 lanes at 1.38 GHz (V100's whitepaper); before the clock was raised, longer."""
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
def test_rows_wait_for_a_place_on_a_unit(device, units, threads):
    """A softmax of 4,096 columns has 512 threads a row, each with 2 vectors to load three times.

    Threads of a unit: CUDA programming guide, compute capabilities 7.0, 7.5, 8.6, 8.9 and 12.0.
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
    """PersistentSoftmax.cuh: four warps a block, a row a warp, and two rows of up to 128 columns."""
    places = V100.units * 2048 // 128 * rows
    constants = {"row_s": 1e-5, "iteration_s": 0.0, "occupancy": 1.0}
    found = stream.seconds(V100, constants, rows=np.array([1, 2]) * places, cols=cols, pattern="softmax")
    assert found.terms["depth"] == pytest.approx([1e-5, 2e-5])


@pytest.mark.parametrize(("amd", "lanes"), [(False, 32), (True, 64)])
@pytest.mark.parametrize("cols", [2, 10, 32, 64, 128, 129, 1024])
def test_a_block_of_short_rows_has_as_many_warps_as_fit(cols, amd, lanes):
    """``log2_elements`` of PersistentSoftmax.cuh: a warp no wider than a row padded to a power of two."""
    padded = 1
    while padded < cols:
        padded *= 2
    rows = 128 // min(padded, lanes) * (2 if padded <= 128 else 1)
    assert layout("softmax", np.array([float(cols)]), 4.0, amd=amd).block_rows == rows


@pytest.mark.parametrize(("pattern", "rereads"), [("rmsnorm", 1), ("gated", 0)])
@pytest.mark.parametrize(
    ("cols", "threads", "loads"), [(1, 32, 1), (100, 128, 1), (1024, 1024, 1), (2500, 1024, 3)]
)
def test_a_row_of_vllms_is_a_block_of_whole_warps_up_to_1024_threads(pattern, rereads, cols, threads, loads):
    how = layout(pattern, np.array([float(cols)]), 2.0, amd=False)
    assert (how.threads, how.loads, how.rereads, how.block_rows) == (threads, loads, rereads, 1)


def test_rows_that_fit_the_cache_together_are_read_from_memory_once():
    """Eight rows of 64 KiB, though as many as the units could hold would be twice the cache of V100."""
    constants = {"warm_share": 0.0, "resident_share": 1.0}
    once, thrice = (
        stream.seconds(V100, constants, rows=8, cols=16384, pattern=pattern).terms["hbm"]
        for pattern in ("elementwise", "softmax")
    )
    assert (thrice - once) * V100.hbm_bandwidth < 1e-3 * 8 * 65536


def test_limits_that_do_not_overlap_add_up():
    constants = {"overlap": 1.0, "start_s": 1e-5, "dispatch_s": 2e-5, "record_s": 1e-6}
    found = stream.seconds(V100, constants, rows=4096, cols=4096, pattern="softmax")
    limits = sum(found.terms[name] for name in ("hbm", "vector:fp32", "depth"))
    assert found.seconds == pytest.approx(2e-5 + limits + 1e-5)
    assert found.terms["launch"] == pytest.approx(1e-5 + 2e-5 + 1e-6)


def test_rows_that_begin_inside_a_sector_move_more():
    """Rows of 8 numbers of fp32 are whole sectors of 32 bytes; those of 2,049 begin inside one."""
    constants = {"straddling": 0.25, "warm_share": 0.0}
    for cols, more in ((2048, 1.0), (2049, 1.25)):
        sizes = {"rows": 1 << 18, "cols": cols, "pattern": "softmax"}
        plain, straddled = (
            stream.seconds(V100, c, **sizes).terms["hbm"] for c in ({"warm_share": 0.0}, constants)
        )
        assert straddled == pytest.approx(more * plain)


def test_long_rows_of_a_softmax_take_exponentials_twice_on_amd():
    cols = np.array([1024.0, 1032.0])
    assert layout("softmax", cols, 2.0, amd=True).issued.tolist() == [1, 2]
    assert layout("softmax", cols, 2.0, amd=False).issued.tolist() == [1, 1]


def test_measured_norms_and_softmaxes_show_these_passes(shared):
    rows = pd.read_parquet(shared / "measurements" / "memops.parquet")
    rows = rows[(rows["gpu"] == "v100-pcie-32gb") & (rows["m"] >= 16384)].astype({"m": float, "n": float})
    speed = rows["m"] * rows["n"] / rows["latency_s"].astype(float)
    # 1024 columns keep a softmax in registers; 16384 overflow the cache with all rows in flight.
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
def test_dependent_loads_of_a_softmax_row_are_those_of_its_threads(cols):
    """And one more of a row that begins inside a vector, up to the next."""
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


def test_a_norm_row_of_a_partly_filled_warp_runs_both_its_loops():
    full, part = layout("norm", np.array([2048.0, 2040.0]), 4.0, amd=False).loads
    assert part > full


def test_time_grows_with_rows_and_broadcasts():
    rows = np.array([[1.0], [64.0], [1e4], [1e6]])
    got = seconds("softmax", rows=rows, cols=np.array([64.0, 1000.0, 5000.0]))
    assert got.shape == (4, 3)
    assert (np.diff(got, axis=0) >= 0).all()


def test_terms_name_what_limits():
    estimate = stream.seconds(V100, {}, rows=1 << 18, cols=4096)
    assert max(estimate.terms, key=lambda name: float(estimate.terms[name])) == "hbm"
    few = stream.seconds(V100, {}, rows=4, cols=1500, pattern="softmax")
    assert few.terms["depth"] > few.terms["hbm"]


def test_an_unknown_pattern_is_named():
    with pytest.raises(UnknownNameError, match="softmax"):
        seconds("softmin", rows=1, cols=1)


def test_a_gated_activation_is_limited_by_the_unit_on_a100_and_by_memory_on_a40(shared):
    """A40 has twice A100's lanes for fp32 a unit: what both take for an element says they do not count."""
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
    # One number of cycles for both: a pass at A100's rate a unit and cycle is hidden by A40's memory.
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
