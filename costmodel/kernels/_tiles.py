"""Output tiles of GEMM libraries: facts about the libraries, not fitted.

A tile is (rows, columns, K step) of the row-major result out[m, n]. The profiler's kernel name gives the tile
where it is known. sglang's FP8 kernel chooses it by a published table. Otherwise the model takes the tile of
least time from a menu.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from costmodel.kernels.base import Array

#: Tensor-core tiles that cuBLAS and CUTLASS ship from Ampere to Blackwell (rows × columns). Tiles with fewer
#: than 64 rows represent the transposed kernels for few tokens.
MATRIX = (
    (16, 64),
    (16, 128),
    (32, 64),
    (32, 128),
    (64, 32),
    (64, 64),
    (64, 128),
    (128, 64),
    (128, 128),
    (64, 256),
    (128, 256),
    (256, 128),
)
#: Matrix-core tiles of CDNA 3 and 4, from the kernel names in AITER's tables of tuned products (asm, FlyDSL,
#: hipBLASLt).
MATRIX_CDNA = (
    *((16, 64), (16, 128), (32, 64), (48, 64), (64, 64), (80, 64), (96, 64), (128, 64), (64, 128)),
    *((128, 128), (256, 128), (128, 256), (256, 256)),
)
#: FP32 tiles of a linear layer ("tn": K contiguous in both operands) and of a batched product ("nn"), from
#: the kernel names in the measurements: cuBLAS by architecture, rocBLAS on AMD. A third number is the K step,
#: where it is not 8.
_AMPERE = ((64, 128), (32, 128), (128, 32), (64, 64), (32, 32, 32), (32, 64, 32), (32, 128, 32))
VECTOR: dict[str, dict[str, tuple[tuple[int, ...], ...]]] = {
    "pascal": {"tn": ((32, 128), (64, 64), (128, 32)), "nn": ((64, 128),)},
    "pascal-gp10x": {"tn": ((32, 128), (64, 64), (128, 32), (128, 128)), "nn": ((64, 128),)},
    "volta": {"tn": (*_AMPERE, (128, 128)), "nn": ((64, 64), (32, 128), (128, 32))},
    "turing": {"tn": (*_AMPERE, (128, 128)), "nn": ((64, 64), (64, 128), (32, 128), (128, 32))},
    "ampere": {"tn": _AMPERE, "nn": ((128, 128),)},
    "cdna2": {
        "tn": ((64, 128, 16), (128, 64, 32), (64, 64, 32), (96, 96, 16), (32, 64, 32), (128, 128, 16)),
        "nn": ((32, 64, 32), (64, 128, 16), (32, 32, 32), (64, 16, 32), (16, 64, 16), (128, 64, 16)),
    },
}
#: Architecture without measurements → architecture whose FP32 tiles are used for it.
_LIKE = {"kepler": "pascal", "maxwell": "pascal-gp10x", "cdna1": "cdna2", "cdna3": "cdna2", "cdna4": "cdna2"}
#: Numbers of parts that the K loop may be split into (split-K): a block computes each, a reduction adds them.
SPLITS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)


def menu(family: str, layout: str, step: float, *, matrix: bool) -> tuple[Array, Array, Array]:
    """Return rows, columns and K step of the tiles that a library chooses from, each of shape (tiles,).

    Parameters
    ----------
    family : str
        Architecture family of the device.
    layout : str
        ``tn`` or ``nn``, see ``gemm.LAYOUTS``.
    step : float
        K step of the tensor-core kernels [elements].
    matrix : bool
        Whether the product runs on tensor cores.
    """
    if matrix:
        listed: tuple[tuple[int, ...], ...] = MATRIX_CDNA if family in ("cdna3", "cdna4") else MATRIX
    else:
        step = _VECTOR_STEP
        listed = VECTOR.get(_LIKE.get(family, family), VECTOR["ampere"])[layout]
    table = np.array(
        [(tile[0], tile[1], tile[2] if len(tile) > 2 else step) for tile in listed], dtype=np.float64
    )
    return table[:, 0], table[:, 1], table[:, 2]


#: Pattern of a tile's side, which has at most three digits in any library.
_COUNT = r"([1-9]\d{0,2})(?!\d)"
_NAME = re.compile(rf"(?:sgemm_|MT|tilesize){_COUNT}x{_COUNT}(?:x{_COUNT})?")
#: Suffix for the number of parts of K, which `costmodel.measured` adds to kernel names.
PARTS = "_parts"
_PARTS = re.compile(rf"{PARTS}([1-9]\d*)")
#: K step where the name does not give it: 8 in cuBLAS's sgemm, 32 in its ``sliced1x4`` kernels, whose four
#: slices of a block share it.
_VECTOR_STEP, _SLICED_STEP = 8.0, 32.0


def says(name: str) -> bool:
    """Return whether a kernel's name gives its tile."""
    return bool(_NAME.search(name))


def from_names(names: Iterable[object]) -> tuple[Array, Array, Array, Array]:
    """Return rows, columns, K step and parts of K that kernel names give; NaN where they give none.

    Parameters
    ----------
    names : iterable of str
        Such as ``ampere_sgemm_128x64_tn`` (cuBLAS counts columns first, being column-major) or
        ``tensile_MT64x32x32_MI16x16x4x1`` (rocBLAS, column-major too); ``…_parts5``: K in five parts.
    """
    known: dict[object, tuple[float, float, float, float]] = {}
    out = []
    for name in names:
        if name not in known:
            known[name] = _parse(str(name))
        out.append(known[name])
    table = np.array(out, dtype=np.float64).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def _parse(name: str) -> tuple[float, float, float, float]:
    found, parts = _NAME.search(name), _PARTS.search(name)
    if not found:
        return (np.nan, np.nan, np.nan, np.nan)
    columns, rows, depth = found.groups()
    step = float(depth) if depth else (_SLICED_STEP if "sliced" in name else _VECTOR_STEP)
    return (float(rows), float(columns), step, float(parts.group(1)) if parts else np.nan)


def fp8_scaled(family: str, m: Array, n: Array) -> tuple[Array, Array, Array]:
    """Return rows, columns and K step of the tile that sglang's ``fp8_scaled_mm`` uses.

    Source: sgl-kernel/csrc/gemm/fp8_gemm_kernel.cu of sgl-project/sglang, which dispatches on m and, on Ada,
    n; for Hopper fp8_gemm_sm90_dispatch.cuh beside it, where up to 64 rows of A are the columns of a tile. K
    steps of 256 count as two, because measured times show a step's latency for each half.

    Parameters
    ----------
    family : str
        Architecture family of the device.
    m, n : array
        Rows and columns of the result.
    """
    if family == "hopper":
        few = (m <= 16) | ((m <= 64) & (n <= 1280))
        rows = np.where(few, 16.0, np.where(m <= 128, 64.0, 128.0))
        return rows, np.where(m <= 64, 64.0, 128.0), np.full_like(m, 128.0)
    if family == "blackwell":  # above m = 64 two units share a tile of twice the rows
        return (
            np.where(m <= 256, 64.0, 128.0),
            np.where(m <= 64, 64.0, 128.0),
            np.where(m <= 256, 128.0, 64.0),
        )
    if family == "blackwell-rtx":  # one tile for all, ``sm120_fp8_dispatch_bias``
        return np.full_like(m, 128.0), np.full_like(m, 128.0), np.full_like(m, 128.0)
    low, mid = n <= 8192, n <= 16384
    few = np.where(low, 16.0, np.where(mid | (m <= 1), 32.0, 16.0))
    rows = np.select(
        [m <= 16, m <= 64, m <= 128, m <= 256],
        [few, np.where(mid, 32.0, 16.0), np.where(mid, 64.0, 32.0), np.where(mid & ~low, 64.0, 128.0)],
        128.0,
    )
    columns = np.select([m <= 128, m <= 256], [64.0, np.where(mid & ~low, 128.0, 64.0)], 128.0)
    return rows, columns, np.where((m > 256) | ((m > 128) & mid), 64.0, 128.0)


def fp8_clusters(family: str, m: Array, n: Array) -> tuple[Array, Array]:
    """Return the cluster size [blocks] of that kernel, down the rows and along the columns.

    Where tiles of the result do not fill a cluster, its other blocks idle. Source: see `fp8_scaled`.

    Parameters
    ----------
    family : str
        Architecture family of the device.
    m, n : array
        Rows and columns of the result.
    """
    alone = np.ones_like(m)
    if family == "hopper":
        return np.where(m > 64, 2.0, np.where(n > 1280, 1.0, np.where(m > 16, 4.0, 2.0))), alone
    if family == "blackwell":
        return np.where(m > 64, 2.0, 1.0), np.select([m <= 16, m <= 256], [4.0, 1.0], 2.0)
    return alone, alone
