"""Gated delta net against hand calculation, torch's count of the chunked products, and measured rows."""

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.errors import UnknownNameError
from costmodel.kernels import delta

H200 = hardware.load("nvidia/h200-sxm")
IDLE = {"droop": 0.0, "overlap": 12.0, "token_cycles": 0.0}


def seconds(constants=None, **sizes):
    sizes = {"batch": 1, "heads": 4, "value_heads": 8, **sizes}
    return delta.seconds(H200, {**IDLE, **(constants or {})}, **sizes).seconds


def test_a_fused_chain_costs_one_step_per_chunk():
    one, two = seconds(seq=64 * 100), seconds(seq=64 * 200)
    assert two - one == pytest.approx(100 * delta.CONSTANTS["chunk_cycles"].default / H200.clock_hz, rel=1e-6)


def test_an_incomplete_chunk_costs_a_whole_one():
    assert seconds(seq=6401) == seconds(seq=6464) > seconds(seq=6400)


def test_one_block_more_than_the_units_takes_a_second_wave():
    units = int(H200.units)
    full = seconds(seq=4096, batch=units, heads=1, value_heads=1)
    over = seconds(seq=4096, batch=units + 1, heads=1, value_heads=1)
    assert over / full == pytest.approx(2, rel=0.05)


def test_one_chunk_is_solved_before_the_walk_and_others_beside_it():
    """A triangle has a chunk's tokens, however long the sequence: 64 steps, or as many as there are."""
    tokens = {"token_cycles": 300.0}
    for seq, steps in ((10, 10), (64, 64), (6400, 64)):
        taken = seconds(tokens, seq=seq) - seconds(seq=seq)
        assert taken == pytest.approx(steps * 300 / H200.clock_hz, rel=1e-6)


@pytest.mark.parametrize("heads", [1, 132, 1320])
def test_chunked_heads_walk_at_once_up_to_a_share_of_the_units(heads):
    """Where a head takes half of a unit, twice as many as units are one wave."""
    free = {"extra_passes": 0.0, "part_cycles": 0.0, "stagger_cycles": 0.0, "start_cycles": 0.0}
    free |= {"bandwidth_share": 1e9, "cache_bytes": 1e9, "block_cycles": 0.0, "head_units": 0.5}
    times = [
        seconds({**free, "chunk_cycles": cycles}, seq=6400, heads=1, value_heads=heads, kernel="chunked")
        for cycles in (1e7, 2e7)
    ]
    assert times[1] - times[0] == pytest.approx(max(heads / 2 / 132, 1) * 100 * 1e7 / H200.clock_hz, rel=1e-3)


def test_half_of_the_slowing_has_come_at_its_time():
    """Of work that takes a second, all units busy: a hundredth of a second is 99 % of it, a second half."""
    sizes = {"seq": 64 * 10000, "batch": 132, "heads": 1, "value_heads": 1}
    free = {"chunk_cycles": H200.clock_hz / 10000, "block_cycles": 0.0, "stagger_cycles": 0.0}
    plain = seconds(free, **sizes)
    for droop_s, share in ((1.0, 1 / 2), (3.0, 1 / 4), (1e-4, 1)):
        slowed = seconds({**free, "droop": 0.2, "droop_s": droop_s}, **sizes)
        assert slowed / plain == pytest.approx(1 + 0.2 * share, rel=1e-3)


def test_flops_are_torchs_count_of_the_chunked_products():
    torch = pytest.importorskip("torch")
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    chunk, d = 64, 128
    k, q, v = (torch.empty(chunk, d, device="meta") for _ in range(3))
    state, square = torch.empty(d, d, device="meta"), torch.empty(chunk, chunk, device="meta")
    with flop_counter.FlopCounterMode(display=False) as counter:
        k @ k.T
        square @ k, square @ v  # the inverse of the triangle times keys and values
        k @ state, q @ state, k.T @ v
        square @ v, q @ k.T
    estimate = delta.seconds(
        H200, {}, batch=1, seq=chunk, heads=1, value_heads=1, head_dim=d, kernel="chunked"
    )
    counted = estimate.terms["matrix:bf16"] * H200.peak("bf16", "matrix")
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-12)


def test_measured_chains_of_few_heads_are_linear_in_their_chunks(shared):
    rows = pd.read_parquet(shared / "measurements" / "scan.parquet")
    one = rows[
        (rows["gpu"] == "h200-sxm")
        & (rows["op"] == "gdn_chunk_prefill")
        & (rows["batch"].astype(float) * rows["heads_kv"].astype(float) <= 16)
        & (rows["seq_q"] >= 128)
    ]
    chunks = np.ceil(one["seq_q"].to_numpy(dtype=float) / 64)
    times = {"start_cycles": 2e-6, "block_cycles": 7e-6, "chunk_cycles": 3.05e-6}
    got = seconds({name: time * H200.clock_hz for name, time in times.items()}, seq=64 * chunks)
    error = np.abs(got / one["latency_s"].to_numpy(dtype=float) - 1)
    assert len(one) > 40
    assert error.mean() < 0.05


COLD = {"bandwidth_share": 1.0, "cache_share": 1e-9, "cache_bytes": 1e9}


@pytest.mark.parametrize("passes", [0, 3])
def test_the_chunked_kernels_write_and_read_every_chunks_state(passes):
    """q, k, v, o and the fp32 state move as in any kernel; each chunk's 16-bit state is written and read."""
    batch, seq, heads, value_heads, d = 2, 64 * 9, 4, 8, 128
    sizes = {"batch": batch, "seq": seq, "heads": heads, "value_heads": value_heads, "head_dim": d}
    found = delta.seconds(H200, {**COLD, "extra_passes": passes}, **sizes, kernel="chunked").terms["hbm"]
    values = batch * seq * value_heads * d * 2
    moved = 2 * batch * seq * heads * d * 2 + 2 * values + 2 * batch * value_heads * d * d * 4
    moved += sum(2 * batch * value_heads * d * d * 2 for _ in range(seq // 64))
    assert found == pytest.approx((moved + passes * values) / H200.hbm_bandwidth, rel=1e-6)


def test_a_replay_misses_half_of_a_working_set_as_large_as_the_cache_share():
    """The working set of a call is q, k, v and o of every value head, and the states."""
    constants = {"bandwidth_share": 1.0, "cache_share": 0.5, "cache_bytes": 1e9, "extra_passes": 0.0}
    d, heads = 128, 8
    held = 0.5 * H200.llc_distinct
    sizes = {"heads": heads, "value_heads": heads, "head_dim": d}
    states = heads * d * d * 4
    seq = 64 * np.floor((held - states) / (4 * heads * d * 2) / 64)
    there, far = (
        delta.seconds(
            H200, {**constants, "cache_share": share}, **sizes, batch=1, seq=seq, kernel="chunked"
        ).terms["hbm"]
        for share in (0.5, 1e-9)
    )
    assert there == pytest.approx(0.5 * far, rel=0.01)


@pytest.mark.parametrize("kernel", ["fused", "chunked"])
@pytest.mark.parametrize(("batch", "first"), [(1, 8), (16, 128), (17, 132), (100, 132)])
def test_blocks_of_the_first_wave_start_one_after_another(kernel, batch, first):
    """Eight heads per sequence on 132 units: blocks beyond the first wave only wait for a free unit."""
    plain, later = (
        delta.seconds(
            H200,
            {**IDLE, "stagger_cycles": cycles},
            batch=batch,
            seq=64,
            heads=4,
            value_heads=8,
            kernel=kernel,
        ).terms["depth"]
        for cycles in (0.0, 50.0)
    )
    assert later - plain == pytest.approx(sum(50.0 for _ in range(first)) / H200.clock_hz)


def test_the_parallel_kernels_spread_all_chunks_of_all_heads_over_the_units():
    """4 sequences of 8 heads have 21 chunks each, the last of them incomplete."""
    sizes = {"batch": 4, "seq": 64 * 20 + 1, "heads": 4, "value_heads": 8, "head_dim": 128}
    constants = {**IDLE, "part_cycles": 30000.0}
    found = delta.seconds(H200, constants, **sizes, kernel="chunked").terms["matrix:bf16"]
    assert found == pytest.approx(sum(30000.0 for _ in range(21 * 8 * 4)) / H200.units / H200.clock_hz)
    assert delta.seconds(H200, constants, **sizes, kernel="fused").terms["matrix:bf16"] < found


LONG = {"batch": 4, "seq": 64 * 20, "heads": 4, "value_heads": 8, "kernel": "chunked"}


def test_parts_take_as_long_as_their_products():
    """Per token 6·C·d + 4·C·d_v + 6·d·d_v (arXiv 2412.06464, section 4), at 128 what was fitted."""
    constants = {**IDLE, "part_cycles": 30000.0}

    def parts(**sizes):
        return delta.seconds(H200, constants, **LONG, **sizes).terms["matrix:bf16"]

    wide = 64 * (6 * 256 + 4 * 128) + 6 * 256 * 128
    plain = 64 * (6 * 128 + 4 * 128) + 6 * 128 * 128
    assert parts(head_dim=256, value_dim=128) / parts() == pytest.approx(wide / plain)
    assert parts(work=2.5) / parts() == pytest.approx(2.5)


def test_each_walk_over_the_chunks_waits_for_the_one_before():
    steps = {"part_cycles": 0.0, "block_cycles": 0.0, "stagger_cycles": 0.0, "chunk_cycles": 1e6, **IDLE}
    one, two = (delta.seconds(H200, steps, **LONG, walks=walks).terms["depth"] for walks in (1.0, 2.0))
    assert one == pytest.approx(20 * 1e6 / H200.clock_hz)
    assert two == pytest.approx(2 * one)


def test_counted_bytes_stand_for_those_that_were_fitted():
    """They are all that moves: the states and intermediate results of a forward pass are among them."""
    found = delta.seconds(H200, COLD, **LONG, traffic=1e12).terms["hbm"]
    assert found == pytest.approx(1e12 / H200.hbm_bandwidth, rel=1e-6)


def test_exponentials_of_kernels_of_their_own_come_on_top():
    plain, more = (delta.seconds(H200, IDLE, **LONG, exponentials=number) for number in (0.0, 1e12))
    assert "special:fp32" not in plain.terms
    assert more.seconds - plain.seconds == pytest.approx(1e12 / H200.peak("fp32", "special"))
    assert more.terms["special:fp32"] == pytest.approx(more.seconds - plain.seconds)


@pytest.mark.parametrize("kernel", ["fused", "chunked"])
def test_terms_add_up_without_overlap_and_throttling_slows_all_but_the_launch(kernel):
    sizes = {"batch": H200.units, "seq": 8192, "heads": 8, "value_heads": 8, "kernel": kernel}
    constants = {"overlap": 1.0, "token_cycles": 0.0, "tick_s": 0.0, "droop_s": 1e-12}
    plain, slowed = (delta.seconds(H200, {**constants, "droop": droop}, **sizes) for droop in (0.0, 0.25))
    work = sum(plain.terms[name] for name in ("matrix:bf16", "hbm", "depth"))
    assert plain.seconds == pytest.approx(plain.terms["launch"] + work)
    assert slowed.seconds == pytest.approx(plain.terms["launch"] + 1.25 * work)


def test_an_unknown_kernel_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="chunked"):
        seconds(seq=64, kernel="blocked")
