"""Predict the tile and the split of K that a library chooses: those of least time over its menu.

Trying all of them on every product would dominate the time of a prediction, so the search is branch and
bound. Each tile has a cheap lower bound: in single precision, with slightly fewer blocks than there are, and
without repeated reads. The tile of the lowest bound is tried exactly; after it only tiles whose bound, now
with repeated reads, does not exceed the least time found. Splits of K are searched in the same way: first by
a bound on all splits of a tile, then by one for each. No bound exceeds the time it stands for, so the result
is exactly that of an exhaustive search.
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

#: Chunk sizes, of products and of products with all tiles of a menu: small enough for arrays to stay in a
#: CPU's caches, and large enough to hide NumPy's overhead.
_CHUNK, _ALL_TILES = 16384, 2048
#: Factor applied to bounds, so that rounding to single precision cannot exclude the best choice.
_HAIR = 1 - 1e-5
#: Sizes and row lengths in bytes below this are exact in single precision.
_EXACT = 2.0**22
_SPLITS = np.array(tiles.SPLITS)


def times(
    device: Device, c: Mapping[str, float], p: Problem, tile: Sequence[Array], rotation: str
) -> dict[str, Array]:
    """Return the parts of the kernel's time [s], shape (rows,) each, by the names of ``blocks.PARTS``.

    Parameters
    ----------
    device : Device
        The device that runs them.
    c : mapping of str to float
        All of ``gemm.CONSTANTS``.
    p : Problem
        The products.
    tile : sequence of four arrays, shape (rows,)
        Rows, columns and K step of the tile, and the parts that K is split into; NaN where the library's
        choice is to be predicted. The number of parts is used only where the tile is known, too.
    rotation : str
        See ``gemm.ROTATIONS``.

    Notes
    -----
    ``total`` is a norm of the limits, plus the tail (stores, reduction).
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
    """Return the norm of the limits [s]; powers are slow, so limits that are 0 everywhere are left out."""
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
        Bytes that a call misses in L2 [B].
    tile : array, shape (4, rows)
        The tile and the number of parts of K where they are known, else NaN.

    Notes
    -----
    The library's own cost estimate is not known. The least root sum of squares of the limits,
    plus the tail, is taken; repeated reads count there as they do without a split of K. Of equal choices the
    first one counts, tile by tile and split by split.
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
    """Return the number of parts of K for products whose tile is known."""
    best, rows = _Best(tile.shape[1]), np.arange(tile.shape[1])
    if not part.exact.may_split:
        return np.ones(rows.size)
    part.try_exactly(best, rows, tile, 0 * rows)
    part.try_splits(best, rows, tile, 0 * rows)
    return np.asarray(_SPLITS[best.place])


def _searched(part: _Part) -> tuple[Array, Array]:
    """Return the tiles of least effort over the library's menu, and the number of parts of K with each."""
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
    """The least effort found for each product [s], and its index in the menu; of equals the first index."""

    def __init__(self, count: int) -> None:
        self.least = np.full(count, np.inf)
        self.place = np.full(count, np.iinfo(np.intp).max)

    def add(self, rows: Places, effort: Array, place: Places) -> None:
        """Update with the efforts of trials; a product may be among the rows several times."""
        before = self.least.copy()
        np.minimum.at(self.least, rows, effort)
        self.place[self.least < before] = np.iinfo(np.intp).max
        equal = np.flatnonzero(effort == self.least[rows])
        np.minimum.at(self.place, rows[equal], place[equal])


@dataclass(frozen=True)
class _Part:
    """Some products, in double precision and as bounds use them, with the methods that try tiles."""

    device: Device
    c: Mapping[str, float]
    exact: Problem
    exact_cold: Array
    rough: Problem
    rough_cold: Array

    @classmethod
    def of(cls, device: Device, c: Mapping[str, float], p: Problem, cold: Array) -> _Part:
        """Return the set, with a copy in single precision where that represents the sizes exactly."""
        small = max(float(size.max()) for size in (p.batch, p.m, p.n, p.k)) < _EXACT
        rough = (blocks.single(p), cold.astype(np.float32)) if small else (p, cold)
        return cls(device, c, p, cold, *rough)

    def bounds(self, menu: Array) -> tuple[Array, Array]:
        """Return lower bounds [s] of each tile without and with a split of K, each of shape (tiles, rows)."""
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
        """Try products with one tile each, K not split, unless a tighter bound rules them out."""
        p, tiling = self._reread(rows, tile)
        few = np.flatnonzero(self._bound(p, tiling, 1.0) <= best.least[rows])
        self.try_exactly(best, rows[few], tile[:, few], place[few])

    def try_splits(self, best: _Best, rows: Places, tile: Array, place: Places) -> None:
        """Try all splits of products with one tile each, unless a tighter bound rules them out."""
        p, tiling = self._reread(rows, tile)
        few = np.flatnonzero(self._split_bound(p, tiling) <= best.least[rows])
        rows, tile, place = rows[few], tile[:, few], place[few]
        bounds = self._bound(p.take(few), tiling.take(few), _SPLITS[1:, None].astype(self.rough.m.dtype))
        for item, option in _lowest_first(best, rows, bounds):
            self.try_exactly(best, rows[item], tile[:, item], place[item] + option + 1, _SPLITS[option + 1])

    def try_exactly(
        self, best: _Best, rows: Places, tile: Array, place: Places, split: float | Array = 1.0
    ) -> None:
        """Compute the exact effort of products with one tile and one split each."""
        p, cold = self.exact.take(rows), self.exact_cold[rows]
        tiling = blocks.Tiling.of(self.device, self.c, p, cold, *tile).reread(self.device, self.c, p, cold)
        best.add(rows, blocks.effort(blocks.split_times(self.device, self.c, p, tiling, split)), place)

    def _roughly(self, rows: Places | slice, tile: Array) -> tuple[Problem, blocks.Tiling]:
        """Return products with their tilings, of slightly fewer blocks so that rounding cannot add a wave."""
        p = self.rough.take(rows)
        tile = tile.astype(p.m.dtype)
        tiling = blocks.Tiling.of(self.device, self.c, p, self.rough_cold[rows], *tile)
        return p, blocks.single(replace(tiling, blocks=tiling.blocks * _HAIR))

    def _reread(self, rows: Places, tile: Array) -> tuple[Problem, blocks.Tiling]:
        """Return the same as `_roughly`, with repeated reads."""
        p, tiling = self._roughly(rows, tile)
        return p, tiling.reread(self.device, self.c, p, self.rough_cold[rows])

    def _bound(self, p: Problem, tiling: blocks.Tiling, split: float | Array) -> Array:
        """Return a lower bound of the effort [s] from a rough tiling."""
        return blocks.effort(blocks.split_times(self.device, self.c, p, tiling, split)) * _HAIR

    def _split_bound(self, p: Problem, tiling: blocks.Tiling) -> Array:
        """Return a lower bound of the effort [s] over all splits of K."""
        return blocks.least_split_effort(self.device, self.c, p, tiling) * _HAIR


def _lowest_first(best: _Best, rows: Places, bounds: Array) -> Iterator[tuple[Places, Places]]:
    """Yield items and an option for each: first the options of lowest bound, then all that may be better.

    Parameters
    ----------
    best : _Best
        The best found so far; the caller updates it between the two yields.
    rows : array of int, shape (items,)
        The product that each item belongs to.
    bounds : array, shape (options, items)
        Lower bounds of the effort of each option [s].
    """
    first = bounds <= np.minimum(bounds.min(axis=0), best.least[rows].astype(bounds.dtype))
    yield _places(first)
    yield _places((bounds <= best.least[rows].astype(bounds.dtype)) > first)


def _places(table: NDArray[np.bool_]) -> tuple[Places, Places]:
    """Return column and row indices of the true entries."""
    flat = np.flatnonzero(table)
    row = flat // table.shape[1]
    return flat - row * table.shape[1], row
