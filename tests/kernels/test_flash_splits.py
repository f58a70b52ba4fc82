"""How attention libraries split the keys of a prefill, against their sources."""

from __future__ import annotations

import itertools

import numpy as np

from costmodel.kernels import _flash_splits


def prefill(kernel: str, units: int, *, batch: int, jobs: int, blocks: int) -> _flash_splits.Splits:
    sizes = (np.array([float(n)]) for n in (batch, jobs, 128 * blocks, blocks))
    return _flash_splits.prefill_splits(kernel, units, *sizes)


def test_flash_attention_4_splits_what_leaves_units_free() -> None:
    """``num_splits_heuristic`` of ``flash_attn/cute/interface.py``: never four key blocks or fewer."""
    for batch, jobs, blocks in itertools.product((1, 3), (1, 10, 74, 75, 200), (1, 4, 5, 500)):
        expected = 1 if blocks <= 4 else max(1, min(148 // (batch * jobs), blocks))
        found = prefill("fa4", 148, batch=batch, jobs=jobs, blocks=blocks)
        assert (found.parts, found.merged) == (expected, expected > 1)


def test_flash_attention_3_deals_key_blocks_evenly_to_the_units() -> None:
    """``prepare_varlen_num_blocks_kernel`` aims at a tenth more than the mean.

    Two row blocks of four sequences have 64 key blocks each, 512 in all. Each of 132 units gets
    ⌈1.1 · 512 / 132⌉ = 5, so 64 are split into 13 parts.
    """
    assert prefill("fa3", 132, batch=4, jobs=2, blocks=64).parts == 13
    assert not prefill("fa3", 132, batch=4, jobs=1, blocks=4).merged
    assert not prefill("fa3", 132, batch=1, jobs=106, blocks=64).merged  # four fifths of 132 are enough


def test_flash_attention_2_and_trtllm_split_no_prefill() -> None:
    for kernel in ("fa2", "trtllm"):
        found = prefill(kernel, 132, batch=1, jobs=1, blocks=500)
        assert (found.parts, found.merged) == (1, False)
