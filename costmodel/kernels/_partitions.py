"""Blocks of two warps on units of four partitions, each with a quarter of the lanes.

cuBLAS's fp32 kernels give a thread 64 results, so that blocks of 64 × 64 have two warps: half of the
partitions idle beside one. The next block takes the same two, inferred from the measurements of V100: two
blocks take twice as long as one, three and four no longer than two.

Source: Jia et al., "Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking" (arXiv 1804.06826),
on the partitions.
"""

from __future__ import annotations

import numpy as np

from costmodel.hardware import Device
from costmodel.kernels._operands import Problem
from costmodel.kernels.base import Array

#: Architectures that were seen to do so, and the side of the tile whose blocks have two warps.
_FAMILIES, _SIDE = ("volta", "turing"), 64.0
#: Time of up to eight blocks on a unit, in blocks that use all of it.
_TAKES = np.array([0, 2, 4, 4, 4, 6, 8, 8, 8], dtype=np.float32)


def crowded(device: Device, p: Problem, rows: Array, columns: Array, parallel: Array, waves: Array) -> Array:
    """Return the waves of blocks, where those of two warps leave partitions idle.

    Parameters
    ----------
    device : Device
        Where they run.
    p : Problem
        Whose operands they multiply: only those of fp32 do so.
    rows, columns : array
        The tile.
    parallel : array
        Blocks for each unit.
    waves : array
        As many as those take if each uses all of its unit.
    """
    if p.bytes != 4 or device.family not in _FAMILIES:
        return waves
    few = (rows == _SIDE) & (columns == _SIDE) & (parallel <= _TAKES.size - 1)
    held = np.minimum(np.ceil(parallel), _TAKES.size - 1).astype(np.intp)
    return np.where(few, _TAKES[held], waves)
