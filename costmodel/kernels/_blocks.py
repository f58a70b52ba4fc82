"""Blocks of a matrix product on a device: waves, steps, traffic, and the tile of least time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from costmodel.hardware import Device
from costmodel.kernels import _tiles as tiles
from costmodel.kernels._cache import misses
from costmodel.kernels.base import Array

#: Sharpness of the cache's step between calls and within one, and of the translation's two.
_WARM_ORDER, _BAND_ORDER, _UNIT_ORDER, _DEVICE_ORDER = 20.0, 4.0, 2.5, 0.85
#: Blocks that a unit can hold at most.
_MOST_RESIDENT = 8.0
#: K of a step of the tensor-core kernels [B].
_STEP_BYTES = 128.0
#: Products at a time: few enough for their arrays to stay in a processor's cache.
_CHUNK = 8192
#: What limits a kernel, and the parts of its time that `times` returns.
LIMITS = ("arithmetic", "chain", "l2", "hbm")
PARTS = (*LIMITS, "tail", "total")


@dataclass(frozen=True)
class Problem:
    """Sizes of the products, shape (rows,), and what they are made of."""

    batch: Array
    m: Array
    n: Array
    k: Array
    dtype: str
    bytes: float
    strided: bool
    quantised: bool

    @property
    def out_bytes(self) -> float:
        """Width of an element of the result [B]."""
        return max(self.bytes, 2.0)

    @property
    def left(self) -> Array:
        """Bytes of A."""
        return self.batch * self.m * self.k * self.bytes

    @property
    def right(self) -> Array:
        """Bytes of B."""
        return self.batch * self.n * self.k * self.bytes

    @property
    def result(self) -> Array:
        """Bytes of the result."""
        return self.batch * self.m * self.n * self.out_bytes

    @property
    def may_split(self) -> bool:
        """Batched kernels and sglang's FP8 kernel do not split K."""
        return self.strided and not self.quantised

    def take(self, rows: slice) -> Problem:
        """Return some of the products."""
        return replace(self, batch=self.batch[rows], m=self.m[rows], n=self.n[rows], k=self.k[rows])


def times(
    device: Device, c: Mapping[str, float], p: Problem, tile: tuple[Array, Array, Array], rotation: str
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
    tile : tuple of three arrays, shape (rows,)
        Rows, columns and K step of the tile; NaN where the library's choice is to be predicted.
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
        cold = _cold(device, c, part, rotation)
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


def _choose(
    device: Device, c: Mapping[str, float], p: Problem, cold: Array, tile: list[Array]
) -> tuple[list[Array], Array]:
    """Return rows, columns and K step of each product's tile, and into how many parts K is split.

    The library's own estimate is not known: least is the root of the sum of squares of the limits, plus
    the tail.
    """
    known = ~np.isnan(tile[0])
    candidates = [tile] if known.any() else []
    if not known.all():
        matrix = engine(device, p.dtype) == "matrix" and p.bytes < 4
        listed = tiles.menu(device.family, "tn" if p.strided else "nn", _STEP_BYTES / p.bytes, matrix=matrix)
        candidates += [
            [np.where(known, of, value) for of, value in zip(tile, values, strict=True)]
            for values in zip(*listed, strict=True)
        ]
    least, chosen, parts = np.full(p.m.shape, np.inf), np.zeros(p.m.shape, dtype=int), np.ones(p.m.shape)
    for index, candidate in enumerate(candidates):
        tiling = _Tiling.of(device, c, p, cold, *candidate)
        for split in tiles.SPLITS if p.may_split else (1.0,):
            part = _split(device, c, p, tiling, np.full(p.m.shape, split))
            cost = np.sqrt(sum(part[name] * part[name] for name in LIMITS)) + part["tail"]
            better = cost < least
            least = np.where(better, cost, least)
            chosen, parts = np.where(better, index, chosen), np.where(better, split, parts)
    return [np.choose(chosen, list(values)) for values in zip(*candidates, strict=True)], parts


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
        fed = blocks * (rows + columns) * p.k * p.bytes
        again = _reread(device, c, p, rows, columns, tiles_m, tiles_n)
        hbm = (cold + again) / (device.hbm_bandwidth * c["bandwidth_share"])
        if p.strided and c["scatter_share"] > 0:
            scattered = fed * _scattered(device, c, p, rows, columns, tiles_m, tiles_n, resident)
            hbm = hbm + scattered / (device.hbm_bandwidth * c["scatter_share"])
        return cls(
            area=area,
            blocks=blocks,
            resident=resident,
            steps=np.ceil(p.k / depth),
            step=2 * depth / rate * (area + c["edge_elements"] * (rows + columns)),
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
    return {
        "arithmetic": waves * steps * tiling.step,
        "chain": deep_waves * (steps * c["step_cycles"] + c["fill_cycles"]) / device.clock_hz,
        "l2": (tiling.fed + reduced) / (c["l2_unit_bytes"] * device.units * device.clock_hz),
        "hbm": tiling.hbm,
        "tail": waves * stored / (c["store_bytes"] * device.clock_hz) + np.where(is_split, c["split_s"], 0.0),
    }


def _cold(device: Device, c: Mapping[str, float], p: Problem, rotation: str) -> Array:
    """Return the bytes of operands and result that a call does not find in L2 [B]."""
    right, left = p.right, p.left
    touched = right + p.result + (0.0 if p.quantised else left)
    if rotation == "cold":
        return touched
    if rotation == "weights":
        right = right * np.clip(np.ceil(device.l2_capacity / right), 1, 5)
    elif rotation == "operands":
        # What is quantised is 16 bit wide before, and 8 bit after.
        right, left = 6 * right, 6 * left * (3 if p.quantised else 1)
    return touched * misses(right + left + p.result, c["cache_share"] * device.l2_capacity, _WARM_ORDER)


def _waves(full: Array, tail: float) -> Array:
    """Return waves of blocks: a last one that is not full takes its share, and `tail` of the rest."""
    return np.where(full < 1, 1.0, full + tail * (np.ceil(full) - full))


def _reread(
    device: Device,
    c: Mapping[str, float],
    p: Problem,
    rows: Array,
    columns: Array,
    tiles_m: Array,
    tiles_n: Array,
) -> Array:
    """Return the operand bytes that waves read again from memory [B].

    Blocks run through the result in bands, `band_tiles` wide across its shorter side: the strip of
    the operand along the band is read by each wave of it, the other operand by each band.
    """
    flat = tiles_m <= tiles_n
    short, long = np.where(flat, tiles_m, tiles_n), np.where(flat, tiles_n, tiles_m)
    edge = np.where(flat, rows, columns)
    short_bytes = np.where(flat, p.m, p.n) * p.k * p.bytes
    long_bytes = np.where(flat, p.n, p.m) * p.k * p.bytes
    across = np.minimum(short, c["band_tiles"])
    waves = np.maximum(long * across / device.units, 1.0)
    bands = short / across
    capacity = device.l2_capacity
    strip = short_bytes * (waves - 1) * misses(across * edge * p.k * p.bytes, capacity, _BAND_ORDER)
    other = long_bytes * (bands - 1) * misses(long_bytes, capacity, _BAND_ORDER)
    return np.asarray(p.batch * (strip + other))


def _scattered(
    device: Device,
    c: Mapping[str, float],
    p: Problem,
    rows: Array,
    columns: Array,
    tiles_m: Array,
    tiles_n: Array,
    resident: Array,
) -> Array:
    """Return the share of the loads, rows k elements apart, that scatter over memory pages."""
    row_bytes = p.k * p.bytes
    of_unit = misses((rows + columns) * row_bytes, c["reach_unit"], _UNIT_ORDER)
    wave = np.minimum(device.units * resident, tiles_m * tiles_n)
    across = np.minimum(tiles_n, wave)
    span = (across * columns + np.ceil(wave / tiles_n) * rows) * row_bytes
    of_device = misses(span, c["reach_device"], _DEVICE_ORDER)
    return np.asarray(1 - (1 - of_unit) * (1 - of_device))
