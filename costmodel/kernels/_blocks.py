"""Thread blocks of a matrix product on a device: waves, steps, traffic, and lower bounds over all splits."""

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
from costmodel.kernels._cache import shared_bytes_per_cycle
from costmodel.kernels._operands import Problem
from costmodel.kernels.base import Array

#: Largest number of blocks resident on a unit.
_MOST_RESIDENT = 8.0
#: Extent of a K step of the tensor-core kernels [B].
STEP_BYTES = 128.0
#: Architectures with persistent kernels, which store one tile while they compute the next.
_PERSISTENT = ("hopper", "blackwell")
#: Architectures whose fp32 lanes need every issue slot: loads and integer instructions take slots from
#: multiply-adds, which on other architectures use only every second cycle. The value is the share of the peak
#: that products reach, relative to those other architectures: 0.74, 0.68, 0.75 in torch's published products
#: on A40, RTX 4090 and RTX 5090 (validation/posted).
_ISSUED = dict.fromkeys(("ampere-ga10x", "ada", "blackwell-rtx"), 0.73)
#: A tile counts as thin (too few results per thread) with at most this many results, and K steps of at least
#: this many elements.
_THIN_AREA, _THIN_STEP = 1024.0, 32.0
#: Rows of a tile of sglang's FP8 kernel for which one partly filled tile delays the whole kernel.
_RAGGED_TILE = 128.0
#: Limits of a kernel, and the parts of its time.
LIMITS = ("arithmetic", "chain", "l2", "hbm", "store")
PARTS = (*LIMITS, "tail", "total")

T = TypeVar("T", Problem, "Tiling")


def single(of: T) -> T:
    """Return a problem or a tiling in single precision: half the memory, and accurate enough for a bound."""
    arrays = {name: value for name, value in vars(of).items() if isinstance(value, np.ndarray)}
    halved: dict[str, Any] = {name: value.astype(np.float32, copy=False) for name, value in arrays.items()}
    return replace(of, **halved)


def busy(device: Device, dtype: str) -> float:
    """Return the share of the peak that a product's instruction mix leaves to multiply-adds."""
    return _ISSUED.get(device.family, 1.0) if dtype == "fp32" else 1.0


def _persistent(device: Device, p: Problem) -> bool:
    """Return whether the product runs as a persistent kernel (tensor cores of some architectures)."""
    return device.family in _PERSISTENT and device.engine(p.dtype) == "matrix"


@dataclass(frozen=True)
class Tiling:
    """Quantities of each product for a tile, before K is split; shape (rows,), or (1,) if equal for all."""

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
        """Return a subset of the products; what depends on the tile alone stays one number."""
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
        """Count blocks and steps, their loads and stores, and the memory time without repeated reads."""
        depth = np.minimum(depth, p.k)
        tiles_m, tiles_n = np.ceil(p.m / rows), np.ceil(p.n / columns)
        area = rows * columns
        resident = np.clip(np.floor(c["resident_tiles"] * 128 * 128 / area), 1, _MOST_RESIDENT)
        rate = device.product_peak(p.dtype) * busy(device, p.dtype) / device.units * c["peak_share"]
        edges = (rows + columns) * strided.straddled(device, p)
        # Rows and columns beyond the edge of the result are not loaded.
        fed = p.batch * (tiles_n * p.m * p.bytes + tiles_m * p.n * p.weight_bytes) * p.k
        if _persistent(device, p) and not p.quantised:
            # Clusters of two blocks load the operand they share, the longer edge of their tiles, once.
            fed = fed * (1 - np.maximum(rows, columns) / (2 * (rows + columns)))
        if c["l2_once_bytes"] < c["l2_unit_bytes"]:
            # L2 reads what several units share once and sends it to all, but has to read every byte at least
            # once.
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
        """Return the tiling with the memory time of repeated reads included."""
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
    """Return the limits and the tail [s] of products with K cut into `split` parts."""
    parallel = tiling.blocks * split / device.units
    steps = np.ceil(tiling.steps / split)
    waves = _waves(parallel, c["tail_waves"])
    deep_waves = _waves(parallel / tiling.resident, c["tail_waves"])
    if _in_sets(device, p):
        waves = np.where(parallel > tiling.resident, tiling.resident * deep_waves, waves)
    waves = partitions.crowded(device, p, tiling.rows, tiling.columns, parallel, waves)
    first = np.minimum(parallel, tiling.resident) * device.units
    # Partial sums are fp32, written and read again.
    is_split = np.greater(split, 1)
    reduced = _where(is_split, 8 * split * p.m * p.n * p.batch, 0.0) if is_split.any() else 0.0
    write = tiling.stored * _where(is_split, 4.0, p.out_bytes) / (c["store_bytes"] * device.clock_hz)
    # The last tile's results are stored after its last step. Persistent kernels overlap the stores before it.
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
    """Return the time that libraries are taken to minimise [s]: root sum of squares of limits, plus tail."""
    squares = sum(parts[name] * parts[name] for name in LIMITS)
    return np.asarray(np.sqrt(squares) + parts["tail"])


def least_split_effort(device: Device, c: Mapping[str, float], p: Problem, tiling: Tiling) -> Array:
    """Return a lower bound [s] over all splits of K: waves and steps not rounded up, the least reduction."""
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
    """Return the memory time [s] less what overlaps the stores, whose writes memory takes up meanwhile."""
    if _persistent(device, p) or not p.narrow:
        return hbm
    written = p.result / (device.hbm_bandwidth * c["bandwidth_share"])
    return np.asarray(hbm - np.minimum(np.minimum(written, hbm), stores))


def _in_sets(device: Device, p: Problem) -> bool:
    """Return whether a unit's resident blocks start and end together, so that waves count whole sets of them.

    This holds for cuBLAS's 16-bit and TF32 kernels that are not persistent.
    """
    ours = p.narrow and p.bytes >= 2 and device.engine(p.dtype) == "matrix"
    return ours and device.family not in _PERSISTENT


def _where(which: NDArray[np.bool_], yes: Array | float, no: Array | float) -> Array | float:
    """Do as np.where, but return the value itself, not broadcast, where the condition is the same for all."""
    if which.all():
        return yes
    return np.where(which, yes, no) if which.any() else no


def _balance(device: Device, dtype: str) -> float:
    """Return a unit's operations per byte of shared-memory bandwidth [FLOP/B]."""
    served = shared_bytes_per_cycle(device) * device.units * device.clock_hz
    return device.product_peak(dtype) / served


def _slower(c: Mapping[str, float], p: Problem, area: Array, depth: Array) -> Array | float:
    """Return the factor by which thin, deep tiles or partly filled ones slow a step's arithmetic.

    The smallest tiles, of one instruction per wavefront (16 × 16), do not count as thin.
    """
    if p.quantised and c["ragged"] > 0:
        return np.asarray(1 + c["ragged"] * ((p.m > _RAGGED_TILE) & (p.m % _RAGGED_TILE != 0)))
    if c["thin_cost"] > 1:
        thin = (area <= _THIN_AREA) & (area > _THIN_AREA / 4) & (depth >= _THIN_STEP)
        return np.where(thin, c["thin_cost"], 1.0)
    return 1.0


def _waves(full: Array, tail: float) -> Array:
    """Return the number of waves: a partly filled last one takes its share, plus `tail` of the rest."""
    return np.maximum(full + tail * (np.ceil(full) - full), 1.0)
