"""Backward attention on Hopper and Blackwell: the bytes that its products move through shared memory.

Tensor cores of these generations read operands from shared memory, at 128 bytes per cycle and unit. A step
backward has five products instead of two, hands dS over, and adds its part of dQ in fp32, so that it waits
for shared memory about as long as for the tensor cores (Zadouri et al., 2026, arXiv:2603.05451).

Tiles are those of ``hopper/flash_bwd_launch_template.h`` (flash-attention 3, BSD-3-Clause), and on Blackwell
128 × 128, with P and dS in tensor memory. Counted as in ``flash_attn/cute/sm90_config_search.py``: reads of
the products, stores of P and dS, and dQ, stored and fetched by the copy engine. Not counted: what that engine
loads. Left out: pairs of thread blocks that share operands (flash-attention 4), tiles of other libraries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodel.hardware import Device
from costmodel.kernels import _flash as flash
from costmodel.kernels._cache import shared_bytes_per_cycle
from costmodel.kernels._flash_splits import Splits
from costmodel.kernels.base import Array

#: Backward, thread blocks share out the keys, which need no splits; dQ is their sum, which another kernel
#: converts.
SPLITS = Splits(np.ones(()), np.asarray(True))
#: Rows of an instruction of a warp group.
_ROWS = 64.0


@dataclass(frozen=True)
class Tile:
    """Tile of a backward step, and how often its products read an operand again.

    Attributes
    ----------
    rows, keys : array
        Rows of Q, and rows of K and V.
    copies : array
        How often Sᵀ = K·Qᵀ and dPᵀ = V·dOᵀ read Q and dO: once for each warp group that shares the tile.
    across : array
        How often the products over heads' widths read the operand that is not split.
    registers : array
        Whether P and dS are read from registers (or tensor memory) by dV and dK.
    """

    rows: Array
    keys: Array
    copies: Array
    across: Array
    registers: NDArray[np.bool_]


def tile(device: Device, size: Array, causal: bool) -> Tile:
    """Return the tile for a head size (as compiled), with or without a causal mask."""
    one = np.ones(np.shape(size))
    if device.family == "blackwell":
        return Tile(128 * one, 128 * one, one, one, one > 0)
    rows = np.where(size <= 64, 128.0, np.where((size == 128) & (not causal), 80.0, 64.0))
    keys = np.select([size <= 128, size <= 192], [128.0, 96.0], 80.0)
    copies = np.where(size == 192, 3.0, 2.0)
    return Tile(rows, keys, copies, np.maximum(copies, size / _ROWS), size <= 128)


def shared_bytes(cut: Tile, size: Array, value_size: Array, width: float) -> Array:
    """Return the bytes that a step moves through shared memory.

    Keys are `size` elements wide and values `value_size`, of `width` bytes each.
    """
    m, n, both = cut.rows, cut.keys, size + value_size
    scores = (n + cut.copies * m) * both
    values = np.where(cut.registers, cut.copies * m * both, m * both + 2 * cut.across * m * n)
    queries = np.minimum(n * size + cut.across * m * n, m * n + cut.across * n * size)
    stored = np.where(cut.registers, 1.0, 2.0) * m * n
    return np.asarray(width * (scores + values + queries + stored) + 2 * 4 * m * size)


def shared_cycles(
    device: Device, kernel: str, size: Array, value_size: Array, width: float, causal: bool
) -> Array | float:
    """Return the time that shared memory takes for one score of a backward step [cycles].

    It is 0 for kernels of warp-level instructions, which load operands into registers: their products and
    loads are fitted together.
    """
    if not flash.fed_by_shared_memory(device, kernel):
        return 0.0
    cut = tile(device, size, causal)
    return shared_bytes(cut, size, value_size, width) / (cut.rows * cut.keys) / shared_bytes_per_cycle(device)


def summed_bytes(elements: Array, width: float) -> Array:
    """Return the bytes of dQ outside the main kernel: zeroed in fp32, then read and written as `width` bytes.

    ``flash_bwd_preprocess_kernel.h`` and ``flash_bwd_postprocess_kernel.h`` of flash-attention 3; version 2
    does the same.
    """
    return (4 + 4 + width) * elements


def skips_masked(device: Device, dtype: str) -> bool:
    """Return whether a causal backward kernel skips the tiles that the mask hides.

    On Hopper only cuDNN has a backward kernel in FP8, and its posted times are the same with and without a
    mask (``validation/DIARY.md``, "Backward passes wait for shared memory").
    """
    return not (device.family == "hopper" and dtype.startswith("fp8"))
