"""Memory traffic of a matrix product's operands: cold misses, and repeated reads by later waves."""

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

#: Sharpness of the cache's transition between calls, for operands that all calls share, and within a call.
_WARM_ORDER, _SHARED_ORDER, _BAND_ORDER = 32.0, 8.0, 4.0
#: Share of L2 in which an operand that all calls share stays resident; A100, H200 and B200 agree.
_SHARED = 0.7

#: Factors by which the bands of blocks may be narrower than `band_tiles`.
_NARROWER = (1.0, 2.0, 4.0)
#: Architecture whose measurements show bands of tiles in sglang's FP8 kernel. On the others CUTLASS's swizzle
#: has its default of one tile: blocks run along the whole shorter side of the result, on Ada always down its
#: rows (``DeviceGemmFp8RowwiseSm89`` of sgl-kernel's fp8_gemm_kernel.cu:
#: ``GemmIdentityThreadblockSwizzle<>``).
_FP8_BANDS, _FP8_DOWN = "blackwell", "ada"


@dataclass(frozen=True)
class Problem:
    """Sizes of the products, shape (rows,), their formats, and other traffic that passes the cache [B].

    `weight_bytes` is the size of an element of B as stored [B]; `bytes` is that of an element of A.
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
        """Return products in a format; B may be stored as `weights`, with `group` numbers per scale."""
        width = dtypes.dtype(dtype).bytes
        stored = width if weights is None else stored_bytes(k, weights, group)
        return cls(batch, m, n, k, dtype, width, strided, quantised, passing, stored)

    @property
    def out_bytes(self) -> float:
        """Size of an element of the result [B]."""
        return max(self.bytes, 2.0)

    @property
    def narrow(self) -> bool:
        """Whether the format is one of tensor cores: any but FP32 and FP64, whatever engine computes it."""
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
        """Return a subset of the products."""
        sizes = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        taken: dict[str, Any] = {name: value[rows] for name, value in sizes.items()}
        return replace(self, **taken)


def stored_bytes(k: Array, weights: str, group: int | None) -> Array | float:
    """Return the size of an element of B, scale included [B]: one scale per group, or per column of k."""
    scales = np.ceil(k / (dtypes.group_of(weights, group) or k))
    return dtypes.dtype(weights).bytes + dtypes.SCALE_BYTES * scales / k


#: Copies of the operands that AITER's tuner rotates: one for each of its calls (``aiter/test_common.py``).
_COPIES = 101.0


def cold(device: Device, c: Mapping[str, float], p: Problem, rotation: str) -> Array:
    """Return the bytes of operands and result that a call misses in L2 [B].

    An operand hits where all that is accessed between two of its uses fits into the cache. Rotated copies of
    the weights lie between two uses of one copy, but not of the shared A. What the other kernels of a layer
    read lies between two uses of its weights, but not before A, which was just written. With a
    ``cache_share`` of 0 everything misses.
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
    """Return the share of a call's data that L2 no longer holds at its next use."""
    held = c["cache_share"] * device.llc_distinct
    return misses(_between(device, p, rotation), held, _WARM_ORDER)


def _between(device: Device, p: Problem, rotation: str) -> Array:
    """Return the bytes accessed between two uses of an operand, itself included [B]."""
    once = p.right + p.left + p.result
    if rotation == "weights":
        copies = np.minimum(np.ceil(device.l2_capacity / p.right), 5)
        return np.asarray(once + p.right * (copies - 1))
    if rotation == "layers":
        return once + 5 * p.right
    if rotation == "operands":
        # A is 16 bits wide before quantisation, and 8 bits after it.
        return 6 * p.right + 6 * p.left * (3 if p.quantised else 1) + p.result
    if rotation == "copies":
        return _COPIES * once
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
    """Return the operand bytes that later waves read from memory again [B].

    Blocks traverse the result in bands across its shorter side. Each wave of a band reads the band's strip of
    one operand; each band reads the whole other operand. Bands are `band_tiles` wide, or a half or a quarter
    of that if less is read again then: libraries choose the width for each product (cuBLASLt's swizzle). The
    FP8 kernels have one width, most of them the whole side.
    """
    flat = np.full(tiles_m.shape, True) if p.quantised and device.family == _FP8_DOWN else tiles_m <= tiles_n
    short, long = np.where(flat, tiles_m, tiles_n), np.where(flat, tiles_n, tiles_m)
    edge = np.where(flat, rows, columns)
    left, right = p.m * p.bytes, p.n * p.weight_bytes
    short_bytes, long_bytes = np.where(flat, left, right) * p.k, np.where(flat, right, left) * p.k
    width = np.where(flat, p.bytes, p.weight_bytes).astype(p.m.dtype)
    other_missed = long_bytes * misses(long_bytes, device.l2_capacity, _BAND_ORDER)

    def within(across: Array) -> Array:
        waves = np.clip(long * across / device.units, 1.0, long)
        held = misses(across * edge * p.k * width, device.l2_capacity, _BAND_ORDER)
        return np.asarray(p.batch * (short_bytes * (waves - 1) * held + other_missed * (short / across - 1)))

    if p.quantised and device.family != _FP8_BANDS:
        return within(short)
    narrower = (1.0,) if p.quantised else _NARROWER
    return np.asarray(
        np.minimum.reduce([within(np.minimum(short, max(c["band_tiles"] / n, 1.0))) for n in narrower])
    )
