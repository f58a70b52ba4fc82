"""What memory serves of operands whose rows lie k elements apart: a linear layer's, and A of a batched one.

Blocks that run at once read the same rows. While they are in step along K, L2 serves all but the first of
them, as it does in the first wave. Later ones start as others end, ever less together: what is touched at a
time grows from some sectors of each row to the whole of it. So it does where a tile's rows are further apart
than a unit's translation reaches. And of a page of DRAM, opened for the sector of one row, the rest is of use
only if other rows' lie in it: the longer rows are, the fewer. Inferred from the measurements of P4, P100 and
T4 (pages: of V100 as well): NVIDIA publishes neither.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.hardware import Device
from costmodel.kernels._cache import misses
from costmodel.kernels._operands import Problem
from costmodel.kernels.base import Array

#: Sharpness of the changes: from in step to out of step, from within translation's reach to beyond, and from
#: pages that rows share to one for each.
_STEP_ORDER, _UNIT_ORDER, _PAGE_ORDER = 0.7, 1.0, 1.0
#: Rows of a pitch that is a multiple of this meet the same channels of memory on AMD's CDNA [B]: in the
#: measurements of MI210, k of 32,768 and 65,536 in fp32, but not 16,384, 30,522 or 50,272.
_ALIASED_PITCH = 131072.0
#: Rows and columns of the tile of two warps, of which no block loads what another one does.
_LONE_TILE = 64.0
#: Architectures whose kernels load operands by the threads: Ampere's copies are asynchronous.
_THREADS_LOAD = ("kepler", "maxwell", "pascal", "pascal-gp10x", "volta", "turing")
#: Elements of a row that a step of K loads, which are a sector of 32 bytes.
_SECTOR = 8


def served(
    device: Device,
    c: Mapping[str, float],
    p: Problem,
    cold: Array,
    fed: Array,
    rows: Array,
    columns: Array,
    tiles_m: Array,
    tiles_n: Array,
    resident: Array,
    steps: Array,
    split: float | Array,
) -> Array:
    """Return the bytes of a stream that take memory as long as what it serves.

    Parameters
    ----------
    device, c, p
        See `operands.cold`.
    cold : array
        Bytes that a call does not find in L2, operands and result.
    fed : array
        Bytes that the blocks load, all of them.
    rows, columns, tiles_m, tiles_n, resident, steps : array
        The tile, how many there are, how many a unit holds at a time, and in how many steps K is walked.
    split : float or array
        Parts that K is cut into, which run at once.
    """
    row_bytes = p.k * p.bytes
    slots, tiles = device.units * resident / split, tiles_m * tiles_n
    wave = np.minimum(slots, tiles)
    across = np.minimum(tiles_n, wave)
    touched = (across * columns + np.ceil(wave / tiles_n) * rows) * row_bytes
    # Blocks that share a unit compete, so that their times differ: a unit's only one keeps step.
    later = np.maximum(p.batch * tiles / slots, 1.0) - 1
    apart = np.minimum(c["drift"] * (resident - 1) * later, 1.0)
    out_of_step = misses(touched * apart, device.l2_capacity, _STEP_ORDER)
    untranslated = misses((rows + columns) * row_bytes, c["reach_unit"], _UNIT_ORDER)
    alone = np.where((rows == _LONE_TILE) & (columns == _LONE_TILE), 1.0, c["lone_share"])
    again = alone * (1 - (1 - out_of_step) * (1 - untranslated))
    if device.family.startswith("cdna"):
        again = np.where(row_bytes % _ALIASED_PITCH == 0, 1.0, again)
    once = cold * (p.left + p.right) / (p.left + p.right + p.result)
    loads = once + again * np.maximum(fed - once, 0.0)
    opened = _opening(c, p)
    if device.family in _THREADS_LOAD:
        # Of blocks whose slices share K a step takes several sectors of a row, which open its page once.
        opened = opened * np.minimum(_SECTOR * steps / p.k, 1.0)
    return np.asarray(cold - once + loads * (1 + opened))


def walked(c: Mapping[str, float], p: Problem, cold: Array) -> Array:
    """Return the bytes of a stream that take as long as opening pages for A, whose rows lie k apart."""
    return np.asarray(cold * p.left / (p.left + p.right + p.result) * _opening(c, p))


def _opening(c: Mapping[str, float], p: Problem) -> Array:
    """Return by how much a load of such rows takes longer than one of a stream, over that."""
    return (1 / c["scatter_share"] - 1) * misses(p.k * p.bytes, c["page_bytes"], _PAGE_ORDER)


def straddled(device: Device, p: Problem) -> Array | float:
    """Return the sectors that loads of a row touch, over those where rows begin anywhere in a sector.

    Where rows are k elements apart, gcd(k, 8) of 8 begin with a sector, which a step of K just fills; of the
    others it straddles two. Asynchronous copies do not care: 1.
    """
    if not (p.strided and p.bytes == 4 and device.family in _THREADS_LOAD):
        return 1.0
    one = np.gcd(p.k.astype(np.int64), _SECTOR) / _SECTOR
    return np.asarray((2 - one) / (2 - 1 / _SECTOR), dtype=p.k.dtype)
