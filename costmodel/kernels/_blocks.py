"""Blocks of a matrix product on a device: waves, steps, traffic, and what no choice of tile undercuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from costmodel.hardware import Device
from costmodel.kernels import _operands as operands
from costmodel.kernels import _partitions as partitions
from costmodel.kernels import _strided as strided
from costmodel.kernels import _tiles as tiles
from costmodel.kernels._operands import Problem
from costmodel.kernels.base import Array

#: Blocks that a unit can hold at most.
_MOST_RESIDENT = 8.0
#: K of a step of the tensor-core kernels [B].
STEP_BYTES = 128.0
#: Architectures whose kernels stay on a unit and write one tile while they compute the next.
_PERSISTENT = ("hopper", "blackwell")
#: Bytes that a unit's shared memory serves in a cycle, where not 128 (32 banks of 4 bytes): NVIDIA's
#: whitepaper on Ampere GA102 (2021), on what it doubles.
_SHARED_BYTES = {"turing": 64.0}
#: Architectures that issue one instruction a cycle for as many fp32 lanes: loads and integers take the turns
#: of multiply-adds, which elsewhere have every second cycle. What those reach there of what they do
#: elsewhere, in torch's products posted of A40, RTX 4090 and RTX 5090: 0.74, 0.68, 0.75 (validation/posted).
_ISSUED = dict.fromkeys(("ampere-ga10x", "ada", "blackwell-rtx"), 0.73)
#: A tile whose results are spread too thinly over its threads: at most so many, in K steps at least so deep.
_THIN_AREA, _THIN_STEP = 1024.0, 32.0
#: A part-filled tile delays the whole of sglang's FP8 kernel whose tiles have so many rows.
_RAGGED_TILE = 128.0
#: What limits a kernel, and the parts of its time.
LIMITS = ("arithmetic", "chain", "l2", "hbm", "store")
PARTS = (*LIMITS, "tail", "total")

T = TypeVar("T", Problem, "Tiling")


def single(of: T) -> T:
    """Return a problem or a tiling in single precision: half the bytes, and good enough for a bound."""
    arrays = {name: value for name, value in vars(of).items() if isinstance(value, np.ndarray)}
    halved: dict[str, Any] = {name: value.astype(np.float32, copy=False) for name, value in arrays.items()}
    return replace(of, **halved)


def busy(device: Device, dtype: str) -> float:
    """Return the share of the lanes that the instructions of a product keep at work."""
    return _ISSUED.get(device.family, 1.0) if dtype == "fp32" else 1.0


def _persistent(device: Device, p: Problem) -> bool:
    """Return whether blocks stay on their units: those of tensor cores, where kernels are so written."""
    return device.family in _PERSISTENT and device.engine(p.dtype) == "matrix"


@dataclass(frozen=True)
class Tiling:
    """What a tile makes of each product, however K is split; shape (rows,), or of one tile for all (1,)."""

    rows: Array
    columns: Array
    tiles_m: Array
    tiles_n: Array
    blocks: Array
    resident: Array
    steps: Array
    step: Array
    fed: Array
    hbm: Array
    stored: Array

    def take(self, rows: NDArray[np.intp]) -> Tiling:
        """Return some of the products; what depends on the tile alone stays one number."""
        return Tiling(
            **{name: value[rows] if value.size > 1 else value for name, value in vars(self).items()}
        )

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
    ) -> Tiling:
        """Count blocks and steps, and what they load and store where memory serves nothing twice."""
        depth = np.minimum(depth, p.k)
        tiles_m, tiles_n = np.ceil(p.m / rows), np.ceil(p.n / columns)
        area = rows * columns
        resident = np.clip(np.floor(c["resident_tiles"] * 128 * 128 / area), 1, _MOST_RESIDENT)
        rate = device.product_peak(p.dtype) * busy(device, p.dtype) / device.units * c["peak_share"]
        edges = (rows + columns) * strided.straddled(device, p)
        # Rows and columns beyond the edge are not loaded.
        fed = p.batch * (tiles_n * p.m * p.bytes + tiles_m * p.n * p.weight_bytes) * p.k
        if _persistent(device, p) and not p.quantised:
            # Clusters of two blocks: what they share, the longer edge of their tiles, comes once.
            fed = fed * (1 - np.maximum(rows, columns) / (2 * (rows + columns)))
        if c["l2_once_bytes"] < c["l2_unit_bytes"]:
            # What units share comes out of L2 once, and is sent to all of them; each byte has to come out.
            fed = np.maximum(fed, (p.left + p.right) * (c["l2_unit_bytes"] / c["l2_once_bytes"]))
        if p.quantised:
            along_m, along_n = tiles.fp8_clusters(device.family, p.m, p.n)
            tiles_m, tiles_n = np.ceil(tiles_m / along_m) * along_m, np.ceil(tiles_n / along_n) * along_n
        return cls(
            rows=rows,
            columns=columns,
            tiles_m=tiles_m,
            tiles_n=tiles_n,
            blocks=p.batch * tiles_m * tiles_n,
            resident=resident,
            steps=np.ceil(p.k / depth),
            step=2
            * depth
            / rate
            * np.hypot(area, c["edge_elements"] * _balance(device, p.dtype) * edges)
            * _slower(c, p, area, depth),
            fed=fed,
            hbm=cold / (device.hbm_bandwidth * c["bandwidth_share"]),
            stored=np.minimum(rows, p.m) * np.minimum(columns, p.n),
        )

    def reread(
        self, device: Device, c: Mapping[str, float], p: Problem, cold: Array, split: float | Array = 1.0
    ) -> Tiling:
        """Return the tiling with what memory serves again."""
        sides = self.rows, self.columns, self.tiles_m, self.tiles_n
        if p.strided and c["scatter_share"] > 0:
            moved = strided.served(device, c, p, cold, self.fed, *sides, self.resident, self.steps, split)
        else:
            moved = cold + operands.reread(device, c, p, *sides)
            moved = moved + (strided.walked(c, p, cold) if c["scatter_share"] > 0 else 0.0)
        hbm = moved / (device.hbm_bandwidth * c["bandwidth_share"])
        return replace(self, hbm=hbm)


def split_times(
    device: Device, c: Mapping[str, float], p: Problem, tiling: Tiling, split: float | Array
) -> dict[str, Array]:
    """Return the limits and the tail [s] of products whose K is cut into `split` parts."""
    parallel = tiling.blocks * split / device.units
    steps = np.ceil(tiling.steps / split)
    waves = _waves(parallel, c["tail_waves"])
    deep_waves = _waves(parallel / tiling.resident, c["tail_waves"])
    if _in_sets(device, p):
        waves = np.where(parallel > tiling.resident, tiling.resident * deep_waves, waves)
    waves = partitions.crowded(device, p, tiling.rows, tiling.columns, parallel, waves)
    first = np.minimum(parallel, tiling.resident) * device.units
    # Parts are added up in fp32: written, and read again.
    is_split = np.greater(split, 1)
    reduced = _where(is_split, 8 * split * p.m * p.n * p.batch, 0.0) if is_split.any() else 0.0
    write = tiling.stored * _where(is_split, 4.0, p.out_bytes) / (c["store_bytes"] * device.clock_hz)
    # One tile's results are always written after its last step; those before, meanwhile, where they may.
    after = np.minimum(waves, 1.0) if _persistent(device, p) else waves
    return {
        "arithmetic": waves * steps * tiling.step,
        "chain": deep_waves * (steps * c["step_cycles"] + c["fill_cycles"]) / device.clock_hz,
        "l2": (tiling.fed + reduced) / (c["l2_unit_bytes"] * device.units * device.clock_hz),
        "hbm": _not_yet_stored(device, c, p, tiling.hbm, after * write),
        "store": (waves - after) * write,
        "tail": after * write
        + _where(is_split, c["split_s"], 0.0)
        + first * (c["block_cycles"] / device.clock_hz),
    }


def effort(parts: Mapping[str, Array]) -> Array:
    """Return what a library is taken to go by [s]: the root of the limits' sum of squares, plus the tail."""
    squares = sum(parts[name] * parts[name] for name in LIMITS)
    return np.asarray(np.sqrt(squares) + parts["tail"])


def least_split_effort(device: Device, c: Mapping[str, float], p: Problem, tiling: Tiling) -> Array:
    """Return a time [s] that no split of K undercuts: waves and steps not rounded up, the least reduction."""
    parallel = tiling.blocks / device.units
    deep = parallel / tiling.resident
    waves = np.maximum(2 * parallel, 1.0)
    chain = deep * tiling.steps * c["step_cycles"] + np.maximum(2 * deep, 1.0) * c["fill_cycles"]
    write = tiling.stored * (4.0 / (c["store_bytes"] * device.clock_hz))
    after = 1.0 if _persistent(device, p) else waves
    reduced = 16 * p.m * p.n * p.batch
    return effort(
        {
            "arithmetic": parallel * tiling.steps * tiling.step,
            "chain": chain / device.clock_hz,
            "l2": (tiling.fed + reduced) / (c["l2_unit_bytes"] * device.units * device.clock_hz),
            "hbm": _not_yet_stored(device, c, p, tiling.hbm, after * write),
            "store": (waves - after) * write,
            "tail": after * write + c["split_s"],
        }
    )


def _not_yet_stored(
    device: Device, c: Mapping[str, float], p: Problem, hbm: Array, stores: Array | float
) -> Array:
    """Return the time of memory [s] beside that of the stores: while blocks store, memory takes it up."""
    if _persistent(device, p) or not p.narrow:
        return hbm
    written = p.result / (device.hbm_bandwidth * c["bandwidth_share"])
    return np.asarray(hbm - np.minimum(np.minimum(written, hbm), stores))


def _in_sets(device: Device, p: Problem) -> bool:
    """Return whether the blocks that a unit holds come and go as a set, so that waves are of whole sets.

    So it is with cuBLAS's kernels of 16 bits and TF32 where they do not stay on a unit.
    """
    ours = p.narrow and p.bytes >= 2 and device.engine(p.dtype) == "matrix"
    return ours and device.family not in _PERSISTENT


def _where(which: NDArray[np.bool_], yes: Array | float, no: Array | float) -> Array | float:
    """Return one value where that holds, else the other; where it is the same for all, what was given."""
    if which.all():
        return yes
    return np.where(which, yes, no) if which.any() else no


def _balance(device: Device, dtype: str) -> float:
    """Return operations a unit does while its shared memory serves a byte."""
    served = _SHARED_BYTES.get(device.family, 128.0) * device.units * device.clock_hz
    return device.product_peak(dtype) / served


def _slower(c: Mapping[str, float], p: Problem, area: Array, depth: Array) -> Array | float:
    """Return by how much a step takes longer than its arithmetic: of thin, deep tiles, and of ragged rows.

    The smallest tiles, of one instruction a wave (16 × 16), are not among the thin.
    """
    if p.quantised and c["ragged"] > 0:
        return np.asarray(1 + c["ragged"] * ((p.m > _RAGGED_TILE) & (p.m % _RAGGED_TILE != 0)))
    if c["thin_cost"] > 1:
        thin = (area <= _THIN_AREA) & (area > _THIN_AREA / 4) & (depth >= _THIN_STEP)
        return np.where(thin, c["thin_cost"], 1.0)
    return 1.0


def _waves(full: Array, tail: float) -> Array:
    """Return waves of blocks: a last one that is not full takes its share, and `tail` of the rest."""
    return np.maximum(full + tail * (np.ceil(full) - full), 1.0)
