"""Memory traffic of operands whose rows lie k elements apart: a linear layer's, and A of a batched product.

Blocks that run at the same time read the same rows. While they advance along K in step, as in the first wave,
L2 serves all of them but the first. Blocks of later waves start whenever others end and get out of step, so
the data in use grows from a few sectors of each row to whole rows. The same happens where a tile's rows span
more memory than a unit's address translation covers. Furthermore, a DRAM page that is opened for one row's
sector serves other rows only if they lie in it, and the longer the rows, the fewer do. This is inferred from
measurements of P4, P100 and T4 (for pages also of V100); NVIDIA publishes neither.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.hardware import Device
from costmodel.kernels._cache import misses
from costmodel.kernels._operands import Problem
from costmodel.kernels.base import Array

#: Sharpness of the transitions: from in step to out of step, from within the reach of address translation to
#: beyond it, and from pages that rows share to one page each.
_STEP_ORDER, _UNIT_ORDER, _PAGE_ORDER = 0.7, 1.0, 1.0
#: Rows whose pitch is a multiple of this use the same memory channels on AMD's CDNA [B]: in measurements of
#: MI210, k of 32,768 and 65,536 in fp32, but not 16,384, 30,522 or 50,272.
_ALIASED_PITCH = 131072.0
#: Rows and columns of the tile whose blocks have two warps and share no loads with other blocks.
_LONE_TILE = 64.0
#: Architectures whose threads load operands through registers; from Ampere on, copies are asynchronous.
_THREADS_LOAD = ("kepler", "maxwell", "pascal", "pascal-gp10x", "volta", "turing")
#: Elements of a row that one K step loads: a sector of 32 bytes.
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
    """Return the memory traffic as equivalent streamed bytes, which take as long [B].

    Parameters
    ----------
    device, c, p
        See `operands.cold`.
    cold : array
        Bytes of operands and result that a call misses in L2 [B].
    fed : array
        Bytes that all blocks load [B].
    rows, columns, tiles_m, tiles_n, resident, steps : array
        The tile, the number of tiles, the tiles resident on a unit, and the number of K steps.
    split : float or array
        Number of parts that K is split into, which run concurrently.
    """
    row_bytes = p.k * p.bytes
    slots, tiles = device.units * resident / split, tiles_m * tiles_n
    wave = np.minimum(slots, tiles)
    across = np.minimum(tiles_n, wave)
    touched = (across * columns + np.ceil(wave / tiles_n) * rows) * row_bytes
    # Blocks that share a unit compete, so their times differ; a unit's only block keeps in step.
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
        # Blocks whose slices share K load several sectors of a row per step, which open its page once.
        opened = opened * np.minimum(_SECTOR * steps / p.k, 1.0)
    return np.asarray(cold - once + loads * (1 + opened))


def walked(c: Mapping[str, float], p: Problem, cold: Array) -> Array:
    """Return the streamed bytes that take as long as opening DRAM pages for A, whose rows lie k apart [B]."""
    return np.asarray(cold * p.left / (p.left + p.right + p.result) * _opening(c, p))


def _opening(c: Mapping[str, float], p: Problem) -> Array:
    """Return the extra time of loading such rows, relative to streaming them."""
    return (1 / c["scatter_share"] - 1) * misses(p.k * p.bytes, c["page_bytes"], _PAGE_ORDER)


def straddled(device: Device, p: Problem) -> Array | float:
    """Return the sectors that loads of a row access, relative to rows that begin anywhere in a sector.

    Where rows are k elements apart, gcd(k, 8) rows of 8 begin at a sector boundary, and a K step loads
    exactly one sector; in the other rows it straddles two. Asynchronous copies are not affected: 1.
    """
    if not (p.strided and p.bytes == 4 and device.family in _THREADS_LOAD):
        return 1.0
    one = np.gcd(p.k.astype(np.int64), _SECTOR) / _SECTOR
    return np.asarray((2 - one) / (2 - 1 / _SECTOR), dtype=p.k.dtype)
