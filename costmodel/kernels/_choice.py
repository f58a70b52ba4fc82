"""Which tile, and which split of K, a library is taken to choose: those of least time over its menu.

Trying all of them on every product would take most of the time of a prediction. Instead each tile has a
lower bound, of what is cheap to count: in single precision, a hair fewer blocks than there are, nothing
read again. The tile of the lowest bound is tried exactly; after it only those whose bound, with what is
read again, does not exceed the least time found. Splits of K go the same way: first by a bound on all
splits of a tile, then by one for each. No bound is above the time it stands for, so that the choice is that
of a search over everything, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from costmodel.hardware import Device
from costmodel.kernels import _blocks as blocks
from costmodel.kernels import _operands as operands
from costmodel.kernels import _tiles as tiles
from costmodel.kernels._operands import Problem
from costmodel.kernels.base import Array

Places = NDArray[np.intp]

#: Products at a time, and at a time with all tiles of a menu: few enough for their arrays to stay in a
#: processor's caches, and so many that NumPy's own time does not count.
_CHUNK, _ALL_TILES = 16384, 2048
#: Bounds count for a hair less than they come out, so that rounding to single precision leaves nothing out.
_HAIR = 1 - 1e-5
#: Below this, sizes and the bytes of a row are exact in single precision.
_EXACT = 2.0**22
_SPLITS = np.array(tiles.SPLITS)


def times(
    device: Device, c: Mapping[str, float], p: Problem, tile: Sequence[Array], rotation: str
) -> dict[str, Array]:
    """Return the parts of the kernel's time [s], shape (rows,) each, by the names of ``blocks.PARTS``.

    Parameters
    ----------
    device : Device
        Where it runs.
    c : mapping of str to float
        All of ``gemm.CONSTANTS``.
    p : Problem
        The products.
    tile : sequence of four arrays, shape (rows,)
        Rows, columns and K step of the tile, and the parts that K is split into; NaN where the library's
        choice is to be predicted. Parts count only where the tile is known, too.
    rotation : str
        See ``gemm.ROTATIONS``.

    Notes
    -----
    ``total`` joins the limits by a norm, and adds the tail (stores, reduction) to it.
    """
    found = {name: np.empty(p.m.shape) for name in blocks.PARTS}
    for first in range(0, p.m.size, _CHUNK):
        rows = slice(first, first + _CHUNK)
        part = p.take(rows)
        cold = operands.cold(device, c, part, rotation)
        given, split = choose(device, c, part, cold, np.stack([t[rows] for t in tile]))
        tiling = blocks.Tiling.of(device, c, part, cold, *given).reread(device, c, part, cold, split)
        parts = blocks.split_times(device, c, part, tiling, split)
        for name, time in parts.items():
            found[name][rows] = time
        found["total"][rows] = _joined(parts, c["overlap"]) + parts["tail"]
    return found


def _joined(parts: Mapping[str, Array], order: float) -> Array:
    """Return the norm of the limits [s]; powers are dear, and a limit that no product meets has none."""
    met = [parts[name] for name in blocks.LIMITS if parts[name].any()]
    return np.asarray(sum(time**order for time in met) ** (1 / order))


def choose(
    device: Device, c: Mapping[str, float], p: Problem, cold: Array, tile: Array
) -> tuple[Array, Array]:
    """Return each product's tile, shape (3, rows): rows, columns, K step; and the parts K is split into.

    Parameters
    ----------
    device, c, p
        See `times`.
    cold : array, shape (rows,)
        Bytes that a call does not find in L2 [B].
    tile : array, shape (4, rows)
        The tile and the parts K is split into where they are known, else NaN.

    Notes
    -----
    The library's own estimate is not known: least is the root of the sum of squares of the limits, plus
    the tail; what memory serves again is taken there as it is where K is not split. Of equals the first
    counts, tile by tile and split by split.
    """
    known = ~np.isnan(tile[0])
    told = known & ~np.isnan(tile[3])
    chosen, split = np.array(tile[:3]), np.array(tile[3])
    unsplit, free = np.flatnonzero(known & ~told), np.flatnonzero(~known)
    if unsplit.size:
        split[unsplit] = _given(_Part.of(device, c, p.take(unsplit), cold[unsplit]), chosen[:, unsplit])
    if free.size:
        chosen[:, free], split[free] = _searched(_Part.of(device, c, p.take(free), cold[free]))
    return chosen, split


def _given(part: _Part, tile: Array) -> Array:
    """Return the parts K is split into with tiles that are known."""
    best, rows = _Best(tile.shape[1]), np.arange(tile.shape[1])
    if not part.exact.may_split:
        return np.ones(rows.size)
    part.try_exactly(best, rows, tile, 0 * rows)
    part.try_splits(best, rows, tile, 0 * rows)
    return np.asarray(_SPLITS[best.place])


def _searched(part: _Part) -> tuple[Array, Array]:
    """Return the tiles of least effort over the library's menu, and the parts K is split into with each."""
    device, p = part.device, part.exact
    matrix = device.engine(p.dtype) == "matrix" and p.narrow
    layout = "tn" if p.strided else "nn"
    menu = np.stack(tiles.menu(device.family, layout, blocks.STEP_BYTES / p.bytes, matrix=matrix))
    best, rows = _Best(p.m.size), np.arange(p.m.size)
    whole, split = part.bounds(menu)
    lowest_first = _lowest_first(best, rows, whole)
    for attempt, (item, tile) in zip((part.try_exactly, part.try_unsplit), lowest_first, strict=True):
        attempt(best, item, menu[:, tile], tile * _SPLITS.size)
    for item, tile in _lowest_first(best, rows, split) if p.may_split else ():
        part.try_splits(best, item, menu[:, tile], tile * _SPLITS.size)
    tile, number = np.divmod(best.place, _SPLITS.size)
    return menu[:, tile], _SPLITS[number]


class _Best:
    """The least effort found of each product [s], and the place of what has it; of equals the first place."""

    def __init__(self, count: int) -> None:
        self.least = np.full(count, np.inf)
        self.place = np.full(count, np.iinfo(np.intp).max)

    def add(self, rows: Places, effort: Array, place: Places) -> None:
        """Take in what was tried; a product may be among the rows several times."""
        before = self.least.copy()
        np.minimum.at(self.least, rows, effort)
        self.place[self.least < before] = np.iinfo(np.intp).max
        equal = np.flatnonzero(effort == self.least[rows])
        np.minimum.at(self.place, rows[equal], place[equal])


@dataclass(frozen=True)
class _Part:
    """Some products, exactly and as bounds take them, and what it takes to try tiles on them."""

    device: Device
    c: Mapping[str, float]
    exact: Problem
    exact_cold: Array
    rough: Problem
    rough_cold: Array

    @classmethod
    def of(cls, device: Device, c: Mapping[str, float], p: Problem, cold: Array) -> _Part:
        """Return the products, in single precision too where that holds their sizes."""
        small = max(float(size.max()) for size in (p.batch, p.m, p.n, p.k)) < _EXACT
        rough = (blocks.single(p), cold.astype(np.float32)) if small else (p, cold)
        return cls(device, c, p, cold, *rough)

    def bounds(self, menu: Array) -> tuple[Array, Array]:
        """Return bounds on the effort by each tile [s], K not split, and split, shape (tiles, rows) each."""
        shape, kind = (menu.shape[1], self.rough.m.size), self.rough.m.dtype
        whole, split = np.empty(shape, kind), np.empty(shape, kind)
        for first in range(0, shape[1], _ALL_TILES):
            rows = slice(first, first + _ALL_TILES)
            p, tiling = self._roughly(rows, menu[:, :, None])
            whole[:, rows] = self._bound(p, tiling, 1.0)
            if p.may_split:
                split[:, rows] = self._split_bound(p, tiling)
        return whole, split

    def try_unsplit(self, best: _Best, rows: Places, tile: Array, place: Places) -> None:
        """Try products with a tile each, K not split, where a better bound does not rule them out."""
        p, tiling = self._reread(rows, tile)
        few = np.flatnonzero(self._bound(p, tiling, 1.0) <= best.least[rows])
        self.try_exactly(best, rows[few], tile[:, few], place[few])

    def try_splits(self, best: _Best, rows: Places, tile: Array, place: Places) -> None:
        """Try all splits of products with a tile each, where a better bound does not rule them out."""
        p, tiling = self._reread(rows, tile)
        few = np.flatnonzero(self._split_bound(p, tiling) <= best.least[rows])
        rows, tile, place = rows[few], tile[:, few], place[few]
        bounds = self._bound(p.take(few), tiling.take(few), _SPLITS[1:, None].astype(self.rough.m.dtype))
        for item, option in _lowest_first(best, rows, bounds):
            self.try_exactly(best, rows[item], tile[:, item], place[item] + option + 1, _SPLITS[option + 1])

    def try_exactly(
        self, best: _Best, rows: Places, tile: Array, place: Places, split: float | Array = 1.0
    ) -> None:
        """Try products with a tile and a split each."""
        p, cold = self.exact.take(rows), self.exact_cold[rows]
        tiling = blocks.Tiling.of(self.device, self.c, p, cold, *tile).reread(self.device, self.c, p, cold)
        best.add(rows, blocks.effort(blocks.split_times(self.device, self.c, p, tiling, split)), place)

    def _roughly(self, rows: Places | slice, tile: Array) -> tuple[Problem, blocks.Tiling]:
        """Return products with their tilings, of a hair fewer blocks: rounding starts no further wave."""
        p = self.rough.take(rows)
        tile = tile.astype(p.m.dtype)
        tiling = blocks.Tiling.of(self.device, self.c, p, self.rough_cold[rows], *tile)
        return p, blocks.single(replace(tiling, blocks=tiling.blocks * _HAIR))

    def _reread(self, rows: Places, tile: Array) -> tuple[Problem, blocks.Tiling]:
        """Return the same with what memory serves again."""
        p, tiling = self._roughly(rows, tile)
        return p, tiling.reread(self.device, self.c, p, self.rough_cold[rows])

    def _bound(self, p: Problem, tiling: blocks.Tiling, split: float | Array) -> Array:
        """Return what the effort [s] is at least, by a rough tiling."""
        return blocks.effort(blocks.split_times(self.device, self.c, p, tiling, split)) * _HAIR

    def _split_bound(self, p: Problem, tiling: blocks.Tiling) -> Array:
        """Return what the effort [s] is at least however K is split."""
        return blocks.least_split_effort(self.device, self.c, p, tiling) * _HAIR


def _lowest_first(best: _Best, rows: Places, bounds: Array) -> Iterator[tuple[Places, Places]]:
    """Yield items and an option for each: those of the lowest bounds, then all that may still be less.

    Parameters
    ----------
    best : _Best
        What was found; more is found between the two.
    rows : array of int, shape (items,)
        Which product each item is of.
    bounds : array, shape (options, items)
        On the effort of each option [s].
    """
    first = bounds <= np.minimum(bounds.min(axis=0), best.least[rows].astype(bounds.dtype))
    yield _places(first)
    yield _places((bounds <= best.least[rows].astype(bounds.dtype)) > first)


def _places(table: NDArray[np.bool_]) -> tuple[Places, Places]:
    """Return column and row of what is true."""
    flat = np.flatnonzero(table)
    row = flat // table.shape[1]
    return flat - row * table.shape[1], row
