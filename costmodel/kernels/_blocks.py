"""Blocks of a matrix product on a device: waves, steps, traffic, and the tile of least time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodel.hardware import Device
from costmodel.kernels import _operands as operands
from costmodel.kernels import _tiles as tiles
from costmodel.kernels._operands import Problem
from costmodel.kernels.base import Array

#: Blocks that a unit can hold at most.
_MOST_RESIDENT = 8.0
#: K of a step of the tensor-core kernels [B].
_STEP_BYTES = 128.0
#: Architectures whose kernels stay on a unit and write one tile while they compute the next.
_PERSISTENT = ("hopper", "blackwell")
#: Bytes that a unit's shared memory serves in a cycle, where not 128 (32 banks of 4 bytes): NVIDIA's
#: whitepaper on Ampere GA102 (2021), on what it doubles.
_SHARED_BYTES = {"turing": 64.0}
#: A tile whose results are spread too thinly over its threads: at most so many, in K steps at least so deep.
_THIN_AREA, _THIN_STEP = 1024.0, 32.0
#: From this tile on, kernels load their operands in whole vectors.
_VECTOR_AREA = 128.0 * 128.0
#: Rows of A from which on a part-filled tile delays the whole of sglang's FP8 kernel, and that tile.
_RAGGED_ROWS, _RAGGED_TILE = 256.0, 128.0
#: Products at a time: few enough for their arrays to stay in a processor's cache.
_CHUNK = 8192
#: What limits a kernel, and the parts of its time that `times` returns.
LIMITS = ("arithmetic", "chain", "l2", "hbm", "store")
PARTS = (*LIMITS, "tail", "total")


def times(
    device: Device,
    c: Mapping[str, float],
    p: Problem,
    tile: tuple[Array, Array, Array, Array],
    rotation: str,
) -> dict[str, Array]:
    """Return the parts of the kernel's time [s], shape (rows,) each, by the names of ``PARTS``.

    Parameters
    ----------
    device : Device
        Where it runs.
    c : mapping of str to float
        All of ``gemm.CONSTANTS``.
    p : Problem
        The products.
    tile : tuple of four arrays, shape (rows,)
        Rows, columns and K step of the tile, and into how many parts K is split; NaN where the library's
        choice is to be predicted.
    rotation : str
        See ``gemm.ROTATIONS``.

    Notes
    -----
    ``total`` joins the limits by a norm, and adds the tail (stores, reduction) to it.
    """
    found = {name: np.empty(p.m.shape) for name in PARTS}
    for first in range(0, p.m.size, _CHUNK):
        rows = slice(first, first + _CHUNK)
        part = p.take(rows)
        cold = operands.cold(device, c, part, rotation)
        given, split = _choose(device, c, part, cold, [t[rows] for t in tile])
        parts = _split(device, c, part, _Tiling.of(device, c, part, cold, *given), split)
        order = c["overlap"]
        joined = sum(parts[name] ** order for name in LIMITS) ** (1 / order)
        for name in (*LIMITS, "tail"):
            found[name][rows] = parts[name]
        found["total"][rows] = joined + parts["tail"]
    return found


def engine(device: Device, dtype: str) -> str:
    """Return which engine of the device multiplies in that dtype: ``matrix`` or ``vector``."""
    return "matrix" if dtype in device.matrix_dtypes else "vector"


def _persistent(device: Device, p: Problem) -> bool:
    """Return whether blocks stay on their units: those of tensor cores, where kernels are so written."""
    return device.family in _PERSISTENT and engine(device, p.dtype) == "matrix"


def _choose(
    device: Device, c: Mapping[str, float], p: Problem, cold: Array, tile: list[Array]
) -> tuple[list[Array], Array]:
    """Return rows, columns and K step of each product's tile, and into how many parts K is split."""
    *given, split = tile
    told = ~np.isnan(given[0]) & ~np.isnan(split)
    if told.all():
        return given, split
    picked, parts = _least(device, c, p, cold, given)
    return [np.where(told, *pair) for pair in zip(given, picked, strict=True)], np.where(told, split, parts)


def _least(
    device: Device, c: Mapping[str, float], p: Problem, cold: Array, tile: list[Array]
) -> tuple[list[Array], Array]:
    """Return tile and split of least time, over the menu or for the tile that is known.

    The library's own estimate is not known: least is the root of the sum of squares of the limits, plus
    the tail.
    """
    known = ~np.isnan(tile[0])
    candidates = [tile] if known.any() else []
    if not known.all():
        matrix = engine(device, p.dtype) == "matrix" and p.bytes < 4
        listed = tiles.menu(device.family, "tn" if p.strided else "nn", _STEP_BYTES / p.bytes, matrix=matrix)
        # A tile of the menu is three numbers: what depends on it alone is worked out once for all products.
        candidates += [
            [np.where(known, of, value) for of, value in zip(tile, values, strict=True)]
            if known.any()
            else [np.asarray(value) for value in values]
            for values in zip(*listed, strict=True)
        ]
    tilings = [_Tiling.of(device, c, p, cold, *candidate) for candidate in candidates]
    least, place = np.full(p.m.shape, np.inf), np.zeros(p.m.shape)
    for index, tiling in enumerate(tilings):
        cost = _cost(device, c, p, tiling, 1.0)
        better = cost < least
        np.copyto(least, cost, where=better)
        np.copyto(place, float(index * len(tiles.SPLITS)), where=better)
    # Most products are not split, and most tiles that split are far from the least: they are left out by
    # a bound. Of equals the first counts, tile by tile and split by split.
    for index, tiling in enumerate(tilings if p.may_split else ()):
        rows = np.flatnonzero(_split_bound(device, c, p, tiling) <= least)
        some, part = p.take(rows), tiling.take(rows)
        for number, split in enumerate(tiles.SPLITS[1:] if rows.size else (), 1):
            cost, here = _cost(device, c, some, part, split), index * len(tiles.SPLITS) + number
            better = (cost < least[rows]) | ((cost == least[rows]) & (here < place[rows]))
            least[rows[better]], place[rows[better]] = cost[better], here
    chosen, parts = np.divmod(place.astype(int), len(tiles.SPLITS))
    picked = [np.choose(chosen, list(values)) for values in zip(*candidates, strict=True)]
    return picked, np.take(tiles.SPLITS, parts)


def _cost(device: Device, c: Mapping[str, float], p: Problem, tiling: _Tiling, split: float) -> Array:
    """Return what the library is taken to go by [s], K cut into `split` parts."""
    part = _split(device, c, p, tiling, np.asarray(split))
    squares = sum((part[name] * part[name] for name in LIMITS), np.zeros(()))
    return np.asarray(np.sqrt(squares) + part["tail"])


def _split_bound(device: Device, c: Mapping[str, float], p: Problem, tiling: _Tiling) -> Array:
    """Return a time [s] that no split of K undercuts: waves and steps not rounded up, the least reduction."""
    parallel = tiling.blocks / device.units
    deep = parallel / tiling.resident
    arithmetic = parallel * tiling.steps * tiling.step
    chain = deep * tiling.steps * c["step_cycles"] + np.maximum(2 * deep, 1.0) * c["fill_cycles"]
    chain = chain / device.clock_hz
    reduced = 8 * 2 * p.m * p.n * p.batch
    l2 = (tiling.fed + reduced) / (c["l2_unit_bytes"] * device.units * device.clock_hz)
    limits = np.sqrt(arithmetic * arithmetic + chain * chain + l2 * l2 + tiling.hbm * tiling.hbm)
    write = tiling.stored * (4.0 / (c["store_bytes"] * device.clock_hz))
    # A hair less, so that rounding does not leave out what is equal.
    return np.asarray((limits + write + c["split_s"]) * (1 - 1e-9))


@dataclass(frozen=True)
class _Tiling:
    """What a tile makes of each product, however K is split; shape (rows,)."""

    area: Array
    blocks: Array
    resident: Array
    steps: Array
    step: Array
    fed: Array
    hbm: Array
    stored: Array

    def take(self, rows: NDArray[np.intp]) -> _Tiling:
        """Return some of the products; what depends on the tile alone stays one number."""
        of = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _Tiling(**{name: value[rows] if value.ndim else value for name, value in of.items()})

    @classmethod
    def of(
        cls,
        device: Device,
        c: Mapping[str, float],
        p: Problem,
        cold: Array,
        rows: Array,
        columns: Array,
        depth: Array,
    ) -> _Tiling:
        """Count blocks and steps, and what they load and store."""
        tiles_m, tiles_n = np.ceil(p.m / rows), np.ceil(p.n / columns)
        area, blocks = rows * columns, p.batch * tiles_m * tiles_n
        resident = np.clip(np.floor(c["resident_tiles"] * 128 * 128 / area), 1, _MOST_RESIDENT)
        rate = device.peak(p.dtype) / device.units * c["peak_share"]
        # Rows and columns beyond the edge are not loaded.
        fed = p.batch * (tiles_n * p.m + tiles_m * p.n) * p.k * p.bytes * _fetch(c, p, rows, columns)
        if _persistent(device, p) and not p.quantised:
            # Clusters of two blocks: what they share, the longer edge of their tiles, comes once.
            fed = fed * (1 - np.maximum(rows, columns) / (2 * (rows + columns)))
        again = operands.reread(device, c, p, rows, columns, tiles_m, tiles_n)
        hbm = (cold + again) / (device.hbm_bandwidth * c["bandwidth_share"])
        if p.strided and c["scatter_share"] > 0:
            scattered = fed * operands.scattered(device, c, p, rows, columns, tiles_m, tiles_n, resident)
            hbm = hbm + scattered / (device.hbm_bandwidth * c["scatter_share"])
        return cls(
            area=area,
            blocks=blocks,
            resident=resident,
            steps=np.ceil(p.k / depth),
            step=2
            * depth
            / rate
            * np.hypot(area, c["edge_elements"] * _balance(device, p.dtype) * (rows + columns))
            * _slower(c, p, area, depth),
            fed=fed,
            hbm=hbm,
            stored=np.minimum(rows, p.m) * np.minimum(columns, p.n),
        )


def _split(
    device: Device, c: Mapping[str, float], p: Problem, tiling: _Tiling, split: Array
) -> dict[str, Array]:
    """Return the limits and the tail [s] of products whose K is cut into `split` parts."""
    parallel = tiling.blocks * split / device.units
    steps = np.ceil(tiling.steps / split)
    waves = _waves(parallel, c["tail_waves"])
    deep_waves = _waves(parallel / tiling.resident, c["tail_waves"])
    # Parts are added up in fp32: written, and read again.
    is_split = split > 1
    reduced = np.where(is_split, 8 * split * p.m * p.n * p.batch, 0.0)
    stored = tiling.stored * np.where(is_split, 4.0, p.out_bytes)
    write = stored / (c["store_bytes"] * device.clock_hz)
    # One tile's results are always written after its last step; those before, meanwhile, where they may.
    after = np.minimum(waves, 1.0) if _persistent(device, p) else waves
    return {
        "arithmetic": waves * steps * tiling.step,
        "chain": deep_waves * (steps * c["step_cycles"] + c["fill_cycles"]) / device.clock_hz,
        "l2": (tiling.fed + reduced) / (c["l2_unit_bytes"] * device.units * device.clock_hz),
        "hbm": tiling.hbm,
        "store": (waves - after) * write,
        "tail": after * write + np.where(is_split, c["split_s"], 0.0),
    }


def _balance(device: Device, dtype: str) -> float:
    """Return operations a unit does while its shared memory serves a byte."""
    served = _SHARED_BYTES.get(device.family, 128.0) * device.units * device.clock_hz
    return device.peak(dtype) / served


def _fetch(c: Mapping[str, float], p: Problem, rows: Array, columns: Array) -> Array | float:
    """Return bytes that a block loads over those it needs: scalar loads of rows take whole sectors."""
    if not (p.strided and p.bytes == 4):
        return 1.0
    scalar = np.where(rows == columns, c["square_fetch"], c["narrow_fetch"])
    return np.where(rows * columns >= _VECTOR_AREA, 1.0, scalar)


def _slower(c: Mapping[str, float], p: Problem, area: Array, depth: Array) -> Array | float:
    """Return by how much a step takes longer than its arithmetic: of thin, deep tiles, and of ragged rows.

    The smallest tiles, of one instruction a wave (16 × 16), are not among the thin.
    """
    if p.quantised and c["ragged"] > 0:
        return np.asarray(1 + c["ragged"] * ((p.m > _RAGGED_ROWS) & (p.m % _RAGGED_TILE != 0)))
    if c["thin_cost"] > 1:
        thin = (area <= _THIN_AREA) & (area > _THIN_AREA / 4) & (depth >= _THIN_STEP)
        return np.where(thin, c["thin_cost"], 1.0)
    return 1.0


def _waves(full: Array, tail: float) -> Array:
    """Return waves of blocks: a last one that is not full takes its share, and `tail` of the rest."""
    return np.where(full < 1, 1.0, full + tail * (np.ceil(full) - full))
