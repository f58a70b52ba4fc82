"""Blocks of a matrix product on a device: waves, steps, traffic, and the tile of least time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

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
#: Rows at a time: bounds the memory of candidates × rows.
_CHUNK = 8192
#: The parts of a kernel's time that `times` returns.
PARTS = ("arithmetic", "chain", "l2", "hbm", "tail", "total")


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
        return max(self.bytes, 2.0)

    @property
    def left(self) -> Array:
        return self.batch * self.m * self.k * self.bytes

    @property
    def right(self) -> Array:
        return self.batch * self.n * self.k * self.bytes

    @property
    def result(self) -> Array:
        return self.batch * self.m * self.n * self.out_bytes

    @property
    def may_split(self) -> bool:
        """Batched kernels and sglang's FP8 kernel do not split K."""
        return self.strided and not self.quantised

    def take(self, rows: NDArray[np.int64]) -> Problem:
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
    known = ~np.isnan(tile[0])
    for rows in _chunks(known):
        candidates = [t[rows][None, :] for t in tile] if known[rows[0]] else _menu(device, p)
        part = _least(device, c, p.take(rows), candidates, rotation)
        for name in PARTS:
            found[name][rows] = part[name]
    return found


def _chunks(known: Array) -> list[Array]:
    """Return index arrays that hold either only rows of known tile or only others."""
    out = []
    for which in (True, False):
        rows = np.flatnonzero(known == which)
        out += [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    return out


def engine(device: Device, dtype: str) -> str:
    """Return which engine of the device multiplies in that dtype: ``matrix`` or ``vector``."""
    return "matrix" if dtype in device.matrix_dtypes else "vector"


def _menu(device: Device, p: Problem) -> list[Array]:
    matrix = engine(device, p.dtype) == "matrix" and p.bytes < 4
    listed = tiles.menu(device.family, "tn" if p.strided else "nn", _STEP_BYTES / p.bytes, matrix=matrix)
    return [column[:, None] for column in listed]


def _least(
    device: Device, c: Mapping[str, float], p: Problem, tile: list[Array], rotation: str
) -> dict[str, Array]:
    """Return the parts [s] of the candidate of least time, shape (rows,) each."""
    splits = np.array(tiles.SPLITS if p.may_split else (1.0,))
    tile = [np.repeat(t, len(splits), axis=0) for t in tile]
    split = np.tile(splits, len(tile[0]) // len(splits))[:, None]
    parts = _candidates(device, c, p, _cold(device, c, p, rotation), *tile, split)
    order = c["overlap"]
    limits = (parts["arithmetic"], parts["chain"], parts["l2"], parts["hbm"])
    joined = np.zeros_like(parts["arithmetic"])
    for limit in limits:
        joined += limit**order
    total = joined ** (1 / order) + parts["tail"]
    best = total.argmin(axis=0)
    column = np.arange(total.shape[1])
    chosen = {name: np.broadcast_to(part, total.shape)[best, column] for name, part in parts.items()}
    return {**chosen, "total": total[best, column]}


def _candidates(
    device: Device,
    c: Mapping[str, float],
    p: Problem,
    cold: Array,
    rows: Array,
    columns: Array,
    depth: Array,
    split: Array,
) -> dict[str, Array]:
    """Return the parts [s] of every candidate, shape (candidates, rows) each."""
    units, clock = device.units, device.clock_hz
    tiles_m, tiles_n = np.ceil(p.m / rows), np.ceil(p.n / columns)
    blocks = p.batch * tiles_m * tiles_n
    steps = np.ceil(np.ceil(p.k / depth) / split)
    edges = (rows + columns) / (rows * columns)

    rate = device.peak(p.dtype) / units * c["peak_share"]
    step = 2 * rows * columns * depth / rate * (1 + c["edge_elements"] * edges)
    resident = np.clip(np.floor(c["resident_tiles"] * 128 * 128 / (rows * columns)), 1, _MOST_RESIDENT)
    waves = _waves(blocks * split / units, c["tail_waves"])
    deep_waves = _waves(blocks * split / (units * resident), c["tail_waves"])

    latency = steps * c["step_cycles"] + c["fill_cycles"]
    reduced = np.where(split > 1, 2 * split * p.m * p.n * p.batch * 4, 0.0)
    fed = blocks * (rows + columns) * p.k * p.bytes + reduced
    stored = np.minimum(rows, p.m) * np.minimum(columns, p.n) * np.where(split > 1, 4.0, p.out_bytes)

    bandwidth = device.hbm_bandwidth * c["bandwidth_share"]
    again = _reread(device, c, p, rows, columns, tiles_m, tiles_n)
    hbm = (cold + again) / bandwidth
    if p.strided and c["scatter_share"] > 0:
        scattered = fed * _scattered(device, c, p, rows, columns, tiles_m, tiles_n, resident)
        hbm = hbm + scattered / (device.hbm_bandwidth * c["scatter_share"])
    return {
        "arithmetic": waves * steps * step,
        "chain": deep_waves * latency / clock,
        "l2": fed / (c["l2_unit_bytes"] * units * clock),
        "hbm": hbm,
        "tail": waves * stored / (c["store_bytes"] * clock) + np.where(split > 1, c["split_s"], 0.0),
    }


def _cold(device: Device, c: Mapping[str, float], p: Problem, rotation: str) -> Array:
    """Return the bytes of operands and result that a call does not find in L2 [B]."""
    right, left = p.right, p.left
    bytes_ = right + p.result + (0.0 if p.quantised else left)
    if rotation == "cold":
        return bytes_
    if rotation == "weights":
        right = right * np.clip(np.ceil(device.l2_capacity / right), 1, 5)
    elif rotation == "operands":
        # What is quantised is 16 bit wide before, and 8 bit after.
        right, left = 6 * right, 6 * left * (3 if p.quantised else 1)
    return bytes_ * misses(right + left + p.result, c["cache_share"] * device.l2_capacity, _WARM_ORDER)


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
