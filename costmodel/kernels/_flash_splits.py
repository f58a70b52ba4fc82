"""Into how many parts attention libraries cut the keys of a row block, so that all units have work.

Read from the sources: the rules of flash-attention 3 and 4 (``flash_prepare_scheduler.cu``,
``flash_attn/cute/interface.py``, BSD-3-Clause) and FlashInfer's (``scheduler.cuh``, Apache-2.0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from costmodel.kernels._tiling import ceil_div, efficient_splits
from costmodel.kernels.base import Array

#: FlashInfer does not split below this many keys, nor flash-attention 3 and 4 up to this many KV blocks.
MIN_SPLIT_KEYS, _UNSPLIT_BLOCKS = 128.0, 4.0
#: Sequences that flash-attention 3's scheduler kernel can prepare: 32 warps of 31 (``flash_api.cpp``).
_PREPARED = 992.0
#: Thread blocks of a unit that FlashInfer plans a prefill for (``PrefillPlan``).
_PLANNED_SLOTS = 2.0


class Splits(NamedTuple):
    """Into how many parts the keys of a row block are split, by row of the table.

    Attributes
    ----------
    parts : array
        1 where they are not split.
    merged : array of bool
        Whether a kernel that merges parts is launched: that may be though a sequence turns out to have one.
    """

    parts: Array
    merged: NDArray[np.bool_]


def prefill_splits(
    kernel: str, units: float, batch: Array, jobs: Array, keys: Array, blocks: Array
) -> Splits:
    """Return the splits of a prefill.

    Parameters
    ----------
    kernel : str
        The library.
    units : float
        Processors.
    batch : array
        Sequences.
    jobs : array
        Thread blocks of one sequence, without a split.
    keys, blocks : array
        Keys, and KV blocks, of the longest row block.
    """
    if kernel.startswith("fa3"):
        return fa3_splits(units, batch, jobs, blocks)
    parts = np.ones_like(batch * jobs)
    if kernel == "flashinfer":
        parts = filling_splits(_PLANNED_SLOTS * units, batch * jobs, ceil_div(keys, MIN_SPLIT_KEYS))
    if kernel == "fa4":
        parts = np.where(blocks <= _UNSPLIT_BLOCKS, 1.0, filling_splits(units, batch * jobs, blocks))
    return Splits(parts, parts > 1)


def filling_splits(slots: Array | float, jobs: Array, most: Array) -> Array:
    """Return how many parts of each job the slots hold at once, of so many at most."""
    return np.clip(np.floor(slots / jobs), 1.0, most)


def fa3_splits(
    units: float, batch: Array, jobs: Array, blocks: Array, allowed: Array | None = None
) -> Splits:
    """Return flash-attention 3's splits: at most what the host allows, of these what all sequences need.

    The host allows, where it is not told how many, what fills the units with one sequence's thread blocks; a
    kernel before the attention then finds what each sequence gets. Where there are more sequences than that
    kernel can take, each gets what fills the units with those of all.
    """
    prepared = batch <= _PREPARED
    filling = efficient_splits(np.where(prepared, jobs, batch * jobs), units, blocks)
    most = np.where(blocks <= _UNSPLIT_BLOCKS, 1.0, filling)
    if allowed is not None:
        most = np.where(allowed > 0, allowed, most)
    share = np.ceil(1.1 * batch * jobs * blocks / units)
    return Splits(np.where(prepared, np.minimum(most, ceil_div(blocks, share)), most), most > 1)
