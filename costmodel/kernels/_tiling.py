"""Count tiles and waves in closed form: causal blocks, makespans, split counts.

All functions take and return float64 arrays that broadcast, and never loop over rows of a table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from costmodel.kernels.base import Array, Constant

#: Ratio of mean to longest job from which jobs count as equal, so that they run in whole waves in any order.
_EVEN = 0.9
#: Largest number of splits that FlashAttention merges.
_MOST_SPLITS = 128

#: Constant of the kernel models of attention, which `makespan` takes.
STAGGER_CYCLES = Constant(
    0.0, 0.0, 60.0, "cycles", "time between starts of consecutive thread blocks in the first wave"
)


def _array(value: ArrayLike) -> Array:
    return np.asarray(value, dtype=np.float64)


def ceil_div(size: ArrayLike, block: ArrayLike) -> Array:
    """Return ⌈size / block⌉ for whole numbers."""
    return np.asarray(np.ceil(_array(size) / _array(block)))


def ceil_sum(
    count: ArrayLike, numerator: ArrayLike, denominator: ArrayLike, offset: ArrayLike = 0.0
) -> Array:
    """Return Σ ⌈(i·p + c)/q⌉ over i = 1 … count, exactly, by the Euclid-like floor-sum recursion.

    Parameters
    ----------
    count, numerator, denominator, offset : array_like
        Whole numbers: the number of terms (≥ 0), p > 0, q > 0 and c ≥ 0.

    Notes
    -----
    ⌈x/q⌉ = ⌊(x + q − 1)/q⌋, and Σ ⌊(a·i + b)/q⌋ swaps a and q at every step (Graham, Knuth and
    Patashnik, *Concrete Mathematics*, §3.5), so the number of iterations grows with the logarithm of the tile
    sizes.
    """
    terms = (_array(count), _array(numerator), _array(denominator), _array(offset))
    n, a, q, c = (term.copy() for term in np.broadcast_arrays(*terms))
    b, total = a + c + q - 1, np.zeros_like(n)
    while n.any():
        whole_a, whole_b = np.floor(a / q), np.floor(b / q)
        total += n * (n - 1) / 2 * whole_a + n * whole_b
        a, b = a - whole_a * q, b - whole_b * q
        reach = a * n + b
        n, b = np.floor(reach / q), np.mod(reach, q)
        a, q = q, np.where(n > 0, a, 1.0)
    return total


def causal_blocks(
    seq: ArrayLike,
    group: ArrayLike,
    rows: ArrayLike,
    cols: ArrayLike,
    seq_kv: ArrayLike | None = None,
    window: ArrayLike | None = None,
) -> Array:
    """Count the tiles that a causal kernel computes for one head: Σ ⌈min(N_kv, P + (i+1)·B_r/g)/B_c⌉.

    Parameters
    ----------
    seq : array_like
        Queries N.
    group : array_like
        Query heads g that share a row block (packed GQA), 1 where each head has its own.
    rows, cols : array_like
        Tile sizes B_r (rows, of g·N) and B_c (keys).
    seq_kv : array_like, optional
        Keys N_kv, of which the queries are the last (P = N_kv − N of them come before); default N.
    window : array_like, optional
        Keys w that a query sees: itself, and those right before it; default all.

    Notes
    -----
    A tile is computed whole if the diagonal cuts it or any query of the row block sees it. It is
    skipped if it lies above the diagonal or before all windows of the row block.
    """
    seq, group, rows, cols = _array(seq), _array(group), _array(rows), _array(cols)
    keys = seq if seq_kv is None else _array(seq_kv)
    full = ceil_div(seq * group, rows) - 1
    before = np.maximum(keys - seq, 0.0) * group
    blocks = ceil_sum(full, rows, group * cols, before) + ceil_div(keys, cols)
    if window is None:
        return blocks
    return blocks - _before_window(seq, group, rows, cols, keys, _array(window))


def _before_window(seq: Array, group: Array, rows: Array, cols: Array, keys: Array, window: Array) -> Array:
    """Return the number of tiles before a window: Σ ⌊max(0, P + ⌊i·B_r/g⌋ − w + 1)/B_c⌋, i from 0."""
    # Start of the first row block's window, times g. Row blocks whose windows begin before all keys skip
    # none.
    begins = (np.maximum(keys - seq, 0.0) - window + 1) * group
    first = ceil_div(np.maximum(-begins, 0.0), rows)
    count = np.maximum(ceil_div(seq * group, rows) - first, 0.0)
    begins, width = begins + first * rows, group * cols
    # ⌊x/q⌋ = ⌈(x + 1)/q⌉ − 1; the first term is separate, as the sum begins at 1.
    later = np.maximum(count - 1, 0.0)
    rest = ceil_sum(later, rows, width, begins + 1) - later
    return np.asarray(np.where(count > 0, np.floor(begins / width), 0.0) + rest)


def makespan(
    jobs: ArrayLike,
    slots: ArrayLike,
    mean: ArrayLike,
    longest: ArrayLike,
    last: ArrayLike,
    stagger: ArrayLike = 0.0,
) -> Array:
    """Return the end of the last of `jobs` under list scheduling: each goes to the first free one of `slots`.

    Parameters
    ----------
    jobs, slots : array_like
        Thread blocks, and how many run concurrently.
    mean, longest : array_like
        Their mean and longest time; the result has the same unit. Times are taken to be uniformly distributed
        around the mean, as those of row blocks under a causal mask are.
    last : array_like
        Number of jobs that start from the last of the longest one on, inclusive: 1 where a head's longest job
        comes last, all of them where all the longest come first.
    stagger : array_like
        Time between the starts of the first jobs in consecutive slots. It delays all later jobs as much.

    Notes
    -----
    Equal jobs waste the whole idle part of the last wave. With the longest jobs first, short ones
    fill it, and the waste shrinks by the ratio of mean to longest. But the longest job may start late: when
    the jobs before it are done except for what each slot has left of its current job, on average E[l²]/2E[l]
    for a job met at random (Feller, *An Introduction to Probability Theory and Its Applications*, vol. 2,
    §VI.7).
    """
    jobs, slots, mean, longest = _array(jobs), _array(slots), _array(mean), _array(longest)
    waves, even = jobs / slots, mean / longest
    end = mean * (waves + even * (np.ceil(waves) - waves))
    before = jobs - _array(last)
    left = (mean + (longest - mean) ** 2 / (3 * mean)) / 2
    late = mean * before / slots - left + longest
    end = np.where((even < _EVEN) & (before >= slots), np.maximum(end, late), end)
    return np.asarray(np.maximum(longest, end) + np.minimum(jobs, slots) * _array(stagger))


def efficient_splits(jobs: ArrayLike, slots: ArrayLike, blocks: ArrayLike) -> Array:
    """Return FlashAttention's number of KV splits: the fewest within 85 % of the best wave filling.

    Parameters
    ----------
    jobs : array_like
        Thread blocks without a split.
    slots : array_like
        Thread blocks that the heuristic assumes to run concurrently.
    blocks : array_like
        KV blocks of one job; every split has at least one.

    Notes
    -----
    ``num_splits_heuristic`` of flash-attention (``flash_api.cpp``, ``heuristics.h``;
    BSD-3-Clause): it returns 1 where jobs fill 80 % of the slots. This is version 2's, which skips a split
    that does not shorten the longest share; version 3 tries those too. Evaluated once for each distinct
    (jobs, slots, blocks).
    """
    jobs, slots, blocks = np.broadcast_arrays(_array(jobs), _array(slots), _array(blocks))
    splits = np.ones_like(jobs)
    free = (jobs < 0.8 * slots) & (blocks > 1)
    # Whole numbers below 2²⁰ pack into one key, which float64 holds exactly if slots are below 2¹².
    packed = (jobs[free] * 4096 + slots[free]) * 2**20 + blocks[free]
    _, first, where = np.unique(packed, return_index=True, return_inverse=True)
    splits[free] = _best_splits(jobs[free][first], slots[free][first], blocks[free][first])[where]
    return splits


def _best_splits(jobs: Array, slots: Array, blocks: Array) -> Array:
    jobs, slots, blocks = jobs[:, None], slots[:, None], blocks[:, None]
    split = np.arange(1.0, _MOST_SPLITS + 1)
    # Skip a split that does not shorten the longest share.
    shorter = (split == 1) | (np.ceil(blocks / split) != np.ceil(blocks / np.maximum(split - 1, 1)))
    waves = jobs * split / slots
    filling = np.where(shorter & (split <= np.minimum(blocks, slots)), waves / np.ceil(waves), 0.0)
    fewest = np.argmax(filling >= 0.85 * filling.max(axis=1, keepdims=True), axis=1)
    return np.asarray(split[fewest])
