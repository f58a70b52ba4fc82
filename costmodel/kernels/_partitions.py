"""Blocks of two warps on units with four partitions, each of which has a quarter of the lanes.

cuBLAS's fp32 kernels give each thread 64 results, so blocks of 64 × 64 have two warps, and a single block
leaves half of the partitions idle. The second block uses the same two partitions. This is inferred from
measurements of V100: two blocks take twice as long as one, three and four no longer than two.

Source: Jia et al., "Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking" (arXiv 1804.06826),
on the partitions.
"""

from __future__ import annotations

import numpy as np

from costmodel.hardware import Device
from costmodel.kernels._operands import Problem
from costmodel.kernels.base import Array

#: Architectures that show this, and the side of the tile whose blocks have two warps.
_FAMILIES, _SIDE = ("volta", "turing"), 64.0
#: Time of up to eight blocks on a unit, in times of a block that uses the whole unit.
_TAKES = np.array([0, 2, 4, 4, 4, 6, 8, 8, 8], dtype=np.float32)


def crowded(device: Device, p: Problem, rows: Array, columns: Array, parallel: Array, waves: Array) -> Array:
    """Return the number of waves, allowing for partitions that blocks of two warps leave idle.

    Parameters
    ----------
    device : Device
        The device that runs them.
    p : Problem
        The products; only fp32 ones are affected.
    rows, columns : array
        The tile.
    parallel : array
        Blocks per unit.
    waves : array
        Number of waves if each block uses its whole unit.
    """
    if p.bytes != 4 or device.family not in _FAMILIES:
        return waves
    few = (rows == _SIDE) & (columns == _SIDE) & (parallel <= _TAKES.size - 1)
    held = np.minimum(np.ceil(parallel), _TAKES.size - 1).astype(np.intp)
    return np.where(few, _TAKES[held], waves)
