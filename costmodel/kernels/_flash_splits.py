"""How many parts attention libraries split the keys of a row block into, so that all units have work.

Read from the sources: the rules of flash-attention 3 and 4 (``flash_prepare_scheduler.cu``,
``flash_attn/cute/interface.py``, BSD-3-Clause) and FlashInfer's (``scheduler.cuh``, Apache-2.0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from costmodel.kernels._tiling import ceil_div, efficient_splits
from costmodel.kernels.base import Array

#: Fewest keys of a part in FlashInfer; KV blocks up to which flash-attention 3 and 4 do not split.
MIN_SPLIT_KEYS, _UNSPLIT_BLOCKS = 128.0, 4.0
#: Most sequences that flash-attention 3's scheduler kernel can prepare: 32 warps of 31 (``flash_api.cpp``).
_PREPARED = 992.0
#: Thread blocks per unit that FlashInfer plans a prefill for (``PrefillPlan``).
_PLANNED_SLOTS = 2.0


class Splits(NamedTuple):
    """How many parts the keys of a row block are split into; one entry per row of the table.

    Attributes
    ----------
    parts : array
        1 where they are not split.
    merged : array of bool
        Whether a kernel that merges parts is launched, which may happen although a sequence has only one
        part.
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
        Thread blocks of one sequence without a split.
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
    """Return the number of parts per job that fills the slots, at least 1 and at most `most`."""
    return np.clip(np.floor(slots / jobs), 1.0, most)


def fa3_splits(
    units: float, batch: Array, jobs: Array, blocks: Array, allowed: Array | None = None
) -> Splits:
    """Return flash-attention 3's splits: what fills the units, at most what the host allows.

    Unless `allowed` says otherwise, the host allows the number of parts that fills the units with one
    sequence's thread blocks; a scheduler kernel then finds the number for each sequence. With more sequences
    than that kernel can handle, each gets the number that fills the units with the thread blocks of all.
    """
    prepared = batch <= _PREPARED
    filling = efficient_splits(np.where(prepared, jobs, batch * jobs), units, blocks)
    most = np.where(blocks <= _UNSPLIT_BLOCKS, 1.0, filling)
    if allowed is not None:
        most = np.where(allowed > 0, allowed, most)
    share = np.ceil(1.1 * batch * jobs * blocks / units)
    return Splits(np.where(prepared, np.minimum(most, ceil_div(blocks, share)), most), most > 1)
