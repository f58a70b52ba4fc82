"""What memory serves of a matrix product's operands: cold, or read again by a later wave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._cache import misses
from costmodel.kernels.base import Array

#: Sharpness of the cache's step between calls, for operands that all calls share and within a call.
_WARM_ORDER, _SHARED_ORDER, _BAND_ORDER = 32.0, 8.0, 4.0
#: Share of L2 in which an operand that all calls share is found again: seen alike on A100, H200, B200.
_SHARED = 0.7

#: Architecture whose rows show bands of tiles in sglang's FP8 kernel. Elsewhere CUTLASS's swizzle is of one
#: tile, its default: blocks go along the whole shorter side of the result, on Ada down its rows in any case
#: (``DeviceGemmFp8RowwiseSm89`` of sgl-kernel's fp8_gemm_kernel.cu: ``GemmIdentityThreadblockSwizzle<>``).
_FP8_BANDS, _FP8_DOWN = "blackwell", "ada"


@dataclass(frozen=True)
class Problem:
    """Sizes of the products, shape (rows,), what they are made of, and what passes the cache beside [B].

    `weight_bytes` is the size of a number of B as it is stored [B]; A and the result are of `bytes`.
    """

    batch: Array
    m: Array
    n: Array
    k: Array
    dtype: str
    bytes: float
    strided: bool
    quantised: bool
    passing: Array | float
    weight_bytes: Array | float

    @classmethod
    def of(
        cls,
        dtype: str,
        *,
        batch: Array,
        m: Array,
        n: Array,
        k: Array,
        strided: bool,
        quantised: bool = False,
        passing: Array | float = 0.0,
        weights: str | None = None,
        group: int | None = None,
    ) -> Problem:
        """Return products in a format; of `weights`, if any, are the numbers of B, `group` to a scale."""
        width = dtypes.dtype(dtype).bytes
        stored = width if weights is None else stored_bytes(k, weights, group)
        return cls(batch, m, n, k, dtype, width, strided, quantised, passing, stored)

    @property
    def out_bytes(self) -> float:
        """Width of an element of the result [B]."""
        return max(self.bytes, 2.0)

    @property
    def narrow(self) -> bool:
        """Whether it is of a format of tensor cores: no FP32, nor FP64, whatever engine computes those."""
        return self.dtype not in ("fp32", "fp64")

    @property
    def left(self) -> Array:
        """Bytes of A."""
        return self.batch * self.m * self.k * self.bytes

    @property
    def right(self) -> Array:
        """Bytes of B."""
        return np.asarray(self.batch * self.n * self.k * self.weight_bytes)

    @property
    def result(self) -> Array:
        """Bytes of the result."""
        return self.batch * self.m * self.n * self.out_bytes

    @property
    def may_split(self) -> bool:
        """Batched kernels and sglang's FP8 kernel do not split K."""
        return self.strided and not self.quantised

    def take(self, rows: slice | NDArray[np.intp]) -> Problem:
        """Return some of the products."""
        sizes = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        taken: dict[str, Any] = {name: value[rows] for name, value in sizes.items()}
        return replace(self, **taken)


def stored_bytes(k: Array, weights: str, group: int | None) -> Array | float:
    """Return the size of a number of B with its share of a scale [B]: one a group, or a column of k."""
    scales = np.ceil(k / (dtypes.group_of(weights, group) or k))
    return dtypes.dtype(weights).bytes + dtypes.SCALE_BYTES * scales / k


def cold(device: Device, c: Mapping[str, float], p: Problem, rotation: str) -> Array:
    """Return the bytes of operands and result that a call does not find in L2 [B].

    What calls touch goes round: an operand is found again where all that lies between two of its uses
    fits. Copies of the weights lie between two uses of one of them, but not of the shared A; what a layer of
    several kernels reads lies between two uses of its weights, but not before A, which was just made. With
    a ``cache_share`` of 0 nothing is found.
    """
    right, left = p.right, 0.0 * p.left if p.quantised else p.left
    between, held = _between(device, p, rotation), c["cache_share"] * device.llc_distinct
    missed = misses(between, held, _WARM_ORDER)
    missed_left = missed
    if rotation in ("weights", "layers") and held > 0:
        alone = misses(p.right + p.left + p.result, _SHARED * device.l2_capacity, _SHARED_ORDER)
        missed_left = np.minimum(missed, alone)
    found = np.asarray((right + p.result) * missed + left * missed_left)
    if np.any(p.passing):
        found += right * (misses(np.maximum(between, p.passing), held, _WARM_ORDER) - missed)
    return found


def missed_again(device: Device, c: Mapping[str, float], p: Problem, rotation: str) -> Array:
    """Return the share of what a call touches that L2 does not still hold at the next use."""
    held = c["cache_share"] * device.llc_distinct
    return misses(_between(device, p, rotation), held, _WARM_ORDER)


def _between(device: Device, p: Problem, rotation: str) -> Array:
    """Return what calls touch between two uses of an operand, it included [B]."""
    once = p.right + p.left + p.result
    if rotation == "weights":
        copies = np.clip(np.ceil(device.l2_capacity / p.right), 1, 5)
        return np.asarray(once + p.right * (copies - 1))
    if rotation == "layers":
        return once + 5 * p.right
    if rotation == "operands":
        # What is quantised is 16 bit wide before, and 8 bit after.
        return 6 * p.right + 6 * p.left * (3 if p.quantised else 1) + p.result
    return once


def reread(
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
    the operand along the band is read by each wave of it, the other operand by each band. The FP8 kernels
    of most architectures have one band, of the whole side.
    """
    flat = np.full(tiles_m.shape, True) if p.quantised and device.family == _FP8_DOWN else tiles_m <= tiles_n
    short, long = np.where(flat, tiles_m, tiles_n), np.where(flat, tiles_n, tiles_m)
    edge = np.where(flat, rows, columns)
    left, right = p.m * p.bytes, p.n * p.weight_bytes
    short_bytes, long_bytes = np.where(flat, left, right) * p.k, np.where(flat, right, left) * p.k
    width = np.where(flat, p.bytes, p.weight_bytes).astype(p.m.dtype)
    banded = not p.quantised or device.family == _FP8_BANDS
    across = np.minimum(short, c["band_tiles"]) if banded else short
    waves = np.clip(long * across / device.units, 1.0, long)
    bands = short / across
    capacity = device.l2_capacity
    strip = short_bytes * (waves - 1) * misses(across * edge * p.k * width, capacity, _BAND_ORDER)
    other = long_bytes * (bands - 1) * misses(long_bytes, capacity, _BAND_ORDER)
    return np.asarray(p.batch * (strip + other))
