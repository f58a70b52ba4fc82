"""Tile counts against loops, makespans against simulated schedules, splits against a ported heuristic."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.kernels import _tiling as tiling


@given(st.integers(0, 400), st.integers(1, 300), st.integers(1, 300))
def test_ceil_sum_equals_a_loop(count: int, p: int, q: int) -> None:
    assert tiling.ceil_sum(count, p, q) == sum(-(-i * p // q) for i in range(1, count + 1))


@given(
    st.integers(1, 3000),
    st.integers(1, 96),
    st.sampled_from([16, 64, 128, 192, 256]),
    st.sampled_from([16, 32, 64, 80, 128, 176, 256]),
)
def test_causal_blocks_equal_a_loop_over_row_blocks(seq: int, group: int, rows: int, cols: int) -> None:
    visited = 0
    for first in range(0, seq * group, rows):
        last_query = (min(first + rows, seq * group) - 1) // group
        visited += -(-(last_query + 1) // cols)
    assert tiling.causal_blocks(seq, group, rows, cols) == visited


@given(
    *(st.integers(1, 300), st.sampled_from((1, 2, 3, 8)), st.sampled_from((1, 3, 64, 128))),
    *(st.sampled_from((1, 5, 80, 144)), st.integers(1, 400), st.sampled_from((0, 7, 150))),
)
def test_a_window_skips_the_tiles_that_a_loop_finds_before_it(
    seq: int, group: int, rows: int, cols: int, window: int, before: int
) -> None:
    """Per row block: tiles whose last key comes before the first key that the block's first query sees."""
    skipped = 0
    for first in range(0, seq * group, rows):
        begins = before + first // group - window + 1
        skipped += sum(start + cols <= begins for start in range(0, seq + before, cols))
    every, left = (tiling.causal_blocks(seq, group, rows, cols, seq + before, w) for w in (None, window))
    assert every - left == skipped


def test_a_prefix_adds_its_key_tiles_to_every_row_block() -> None:
    without, with_prefix = (tiling.causal_blocks(1024, 1, 128, 64, keys) for keys in (1024, 1024 + 640))
    assert with_prefix == without + 8 * 10
    assert tiling.causal_blocks(1, 8, 64, 128, 1000) == 8


def schedule(jobs: list[float], slots: int) -> float:
    free = [0.0] * slots
    for job in jobs:
        heapq.heapreplace(free, free[0] + job)
    return max(free)


@pytest.mark.parametrize(
    ("order", "tolerance"),
    [("ascending", 0.01), ("longest first", 0.015), ("longest of some heads first", 0.015)],
)
def test_the_makespan_agrees_with_a_simulated_list_schedule(order: str, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(150):
        blocks, heads = int(2 ** rng.uniform(0, 6)), int(2 ** rng.uniform(0, 8))
        slots = int(rng.choice([108, 132, 148]))
        one = [0.3 + i for i in range(1, blocks + 1)]
        jobs, last = one * heads, 1
        if order != "ascending":
            together = heads if order == "longest first" else int(2 ** rng.integers(0, 5))
            jobs = sorted(one * together, reverse=True) * -(-heads // together)
            last = together * blocks
        end = tiling.makespan(len(jobs), slots, sum(jobs) / len(jobs), max(jobs), last)
        errors.append(abs(float(end) / schedule(jobs, slots) - 1))
    assert np.mean(errors) < tolerance


def test_the_makespan_knows_that_long_jobs_scheduled_late_end_late() -> None:
    """16 heads have row blocks of length 16 to 1, two waves in all.

    Head by head, the long blocks of the last head begin when most others are done.
    """
    one = [float(i) for i in range(16, 0, -1)]
    by_head, at_once = one * 16, sorted(one * 16, reverse=True)
    for jobs, last in ((by_head, 16), (at_once, 256)):
        assert tiling.makespan(256, 132, 8.5, 16.0, last) == pytest.approx(schedule(jobs, 132), rel=0.04)
    assert schedule(by_head, 132) > 1.4 * schedule(at_once, 132)


@pytest.mark.parametrize("jobs", [1, 7, 132, 1000])
def test_staggered_starts_agree_with_a_simulated_schedule(jobs: int) -> None:
    """Slots become free 0.01 apart: each starts once its first job has been handed out."""
    free = [0.01 * (i + 1) for i in range(min(jobs, 132))]
    for _ in range(jobs):
        heapq.heapreplace(free, free[0] + 3.0)
    end = tiling.makespan(jobs, 132, 3.0, 3.0, jobs, 0.01)
    assert float(end) == pytest.approx(max(free), rel=0.06 if jobs > 132 else 1e-9)
    assert end == tiling.makespan(jobs, 132, 3.0, 3.0, jobs) + 0.01 * min(jobs, 132)


def flash_attention_heuristic(jobs: int, slots: int, blocks: int) -> int:
    """Return the splits by flash-attention's ``num_splits_heuristic``, ported line by line."""
    if jobs >= 0.8 * slots:
        return 1
    most = min(128, slots, blocks)
    fillings = []
    for split in range(1, most + 1):
        waves = jobs * split / slots
        eligible = split == 1 or math.ceil(blocks / split) != math.ceil(blocks / (split - 1))
        fillings.append(waves / math.ceil(waves) if eligible else 0.0)
    return next(i + 1 for i, filling in enumerate(fillings) if filling >= 0.85 * max(fillings))


@given(st.integers(1, 300), st.sampled_from([108, 132, 216, 284]), st.integers(1, 600))
def test_splits_equal_flash_attentions_heuristic(jobs: int, slots: int, blocks: int) -> None:
    assert tiling.efficient_splits(jobs, slots, blocks) == flash_attention_heuristic(jobs, slots, blocks)
