"""Matrix products out[b, m, n] = A[b, m, k] · B[b, k, n], as GEMM libraries run them.

Each block computes one tile of the result, stepping through K. K may be split into parts that different
blocks compute and a reduction adds up (split-K). The units process the blocks in waves. A block's step is
limited by arithmetic or by the latency of its loads; all blocks together are limited by the bandwidths of L2
and memory. Memory traffic is the cold misses, plus what later waves read again because L2 could not keep it
(blocks are rastered in bands). In fp32, where rows lie k elements apart, repeated reads also occur because
blocks get out of step, and loads open DRAM pages (`_strided`). Long arithmetic is slowed down by the power
limit. The library's tile and split are taken to be those of least time over its menu, unless the kernel's
name or a published dispatch table gives them. Few rows and small products have special kernels.

Sources: tiles, waves and split-K: NVIDIA, "Matrix Multiplication Background User's Guide"; raster bands:
CUTLASS's threadblock swizzle; the rest is inferred from residuals on the measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from costmodel import dtypes
from costmodel.errors import unknown_name
from costmodel.hardware import Device
from costmodel.kernels import _blocks as blocks
from costmodel.kernels import _operands as operands
from costmodel.kernels import _replay as replay
from costmodel.kernels import _tiles as tiles
from costmodel.kernels._cache import misses
from costmodel.kernels._choice import times
from costmodel.kernels._join import HOST, OVERLAP, hosted
from costmodel.kernels._operands import Problem
from costmodel.kernels._power import droop, plain_droop
from costmodel.kernels.base import Array, Constant, Estimate, as_arrays, as_rows, filled

CONSTANTS = {
    "peak_share": Constant(0.9, 0.3, 1.1, "1", "share of the stated peak that a large tile's steps reach"),
    "edge_elements": Constant(
        0.0,
        0.0,
        60.0,
        "elements",
        "tile edge whose loads take as long as its arithmetic, at 1 operation per byte of shared memory",
    ),
    "step_cycles": Constant(
        200.0,
        10.0,
        4000.0,
        "cycles",
        "latency of a step of the K loop, with loads overlapped as in the kernel",
    ),
    "fill_cycles": Constant(500.0, 1.0, 20000.0, "cycles", "a block's first loads and last stores"),
    "resident_tiles": Constant(
        2.0, 0.5, 4.0, "1", "resident blocks of 128 × 128 per unit; smaller ones in proportion"
    ),
    "tail_waves": Constant(
        0.5, 0.01, 1.0, "1", "how far a partly filled last wave takes the time of a full one"
    ),
    "l2_unit_bytes": Constant(30.0, 4.0, 200.0, "B/cycle", "bandwidth of L2 per unit"),
    "l2_once_bytes": Constant(
        200.0,
        2.0,
        200.0,
        "B/cycle",
        "the same for data that no two units share; above l2_unit_bytes: not used",
    ),
    "store_bytes": Constant(
        30.0, 2.0, 400.0, "B/cycle", "rate at which a unit stores results after its last step"
    ),
    "bandwidth_share": Constant(0.8, 0.3, 1.1, "1", "share of the memory bandwidth that long streams reach"),
    "cache_share": Constant(
        1.0,
        0.02,
        4.0,
        "1",
        "working set, over the cache's capacity for distinct data, half of which stays between calls",
    ),
    "band_tiles": Constant(
        16.0, 1.0, 512.0, "1", "tiles across the widest band in which blocks are rastered (swizzle)"
    ),
    "drift": Constant(
        2e-3,
        1e-5,
        0.1,
        "1",
        "share of a row by which blocks get out of step per wave and further block of their unit",
    ),
    "lone_share": Constant(
        0.5, 0.05, 1.0, "1", "share of such blocks' loads that no other block shares (all, of 64 × 64 tiles)"
    ),
    "reach_unit": Constant(
        1e10, 1e5, 1e10, "B", "span of a tile's rows beyond which a unit's loads miss in address translation"
    ),
    "page_bytes": Constant(
        3e4, 1e3, 1e7, "B", "distance of rows at which half of the loads open a DRAM page each"
    ),
    "scatter_share": Constant(
        0.0, 0.0, 1.0, "1", "share of the bandwidth if all loads open DRAM pages; 0: not used"
    ),
    "overlap": OVERLAP,
    "split_s": Constant(2.5e-6, 1e-7, 3e-5, "s", "reduction after a split of K, including its start"),
    "energy_j": Constant(
        1.3e-12, 1e-13, 3e-10, "J", "energy of an operation: long arithmetic slows down to the power limit"
    ),
    "droop_s": Constant(5e-3, 1e-5, 1e-1, "s", "kernel time at which half of that slow-down has set in"),
    "thin_cost": Constant(
        1.0, 1.0, 10.0, "1", "time of a step of thin, deep fp32 tiles relative to its arithmetic"
    ),
    "ragged": Constant(
        0.0, 0.0, 1.0, "1", "relative extra time of arithmetic where rows do not fill sglang's FP8 tiles"
    ),
    "small_cycles": Constant(
        10.0, 0.0, 50.0, "cycles", "time per K of cuBLAS's unsplit kernel for small products; 0: not used"
    ),
    "small_column_cycles": Constant(
        0.0, 0.0, 5.0, "cycles", "time per column of its result, whose blocks start one by one; 0: not used"
    ),
    "tiny_s": Constant(
        0.0, 0.0, 1e-5, "s", "start of Ampere's kernel for small products of more than 16 rows; 0: not used"
    ),
    "tiny_cycles": Constant(5.0, 0.0, 50.0, "cycles", "time per K of Ampere's kernel for small products"),
    "row_cycles": Constant(
        0.4, 0.0, 50.0, "cycles", "time per K of a block of the kernel for one row of A (GEMV); 0: not used"
    ),
    "row_bytes": Constant(10.0, 1.0, 100.0, "B/cycle", "rate at which a unit loads B in the GEMV kernel"),
    "row_split_s": Constant(
        1.4e-6, 1e-7, 3e-5, "s", "reduction after Ampere's GEMV kernel, which splits few, long rows of B"
    ),
    "decode_cycles": Constant(
        0.0, 0.0, 10.0, "cycles", "time per row of A and K of AITER's kernel for few rows; 0: not used"
    ),
    "quantise_share": Constant(
        0.7, 0.1, 1.5, "1", "share of the memory bandwidth that dynamic quantisation reaches"
    ),
    "block_cycles": Constant(
        0.0, 0.0, 30.0, "cycles", "time between starts of consecutive blocks in the first wave; 0: not used"
    ),
    "start_s": Constant(2.2e-6, 1e-7, 1e-5, "s", "start and end of an empty kernel"),
    **HOST,
    **replay.CONSTANTS,
}
#: Constants that are shares of the tensor cores' peak, which the rest of a step keeps from being reached.
PEAK_SHARES = ("peak_share",)
#: Constants of the harness, not of the device; they do not carry over to another host.
HARNESS = (*HOST, *replay.CONSTANTS)
#: Constants fitted in seconds that are cycles on any device; a relative's are scaled with the clock.
CLOCKED = ("start_s", "split_s", "tiny_s", "row_split_s")
#: Constants of a kernel's start, and rates between a unit and caches or memory.
STARTS, RATES = CLOCKED, ("l2_unit_bytes", "l2_once_bytes", "store_bytes", "row_bytes")

LAYOUTS = ("tn", "nn")
#: What a harness rotates between two calls, so that the cache does not hold everything: nothing; as many
#: copies of the weights (B) as L2 would hold, at most 5 (TensorRT-LLM's collector); six pairs of A and B
#: (sglang's; Vidur's profile runs the other kernels of a layer in between); six B with a common A (vLLM's);
#: a copy of everything for each call (AITER's).
ROTATIONS = ("none", "weights", "operands", "layers", "copies")
#: Rotation → calls in a replayed graph, one for each of the rotated operands.
REPLAYED = {"weights": 5.0, "operands": 6.0, "layers": 6.0}

#: Where it is not known, the energy of an operation is scaled from that of 16 bits with the cube of the
#: operands' width: the multiplier scales with its square, moving operands with the width. A100: 1.9 pJ bf16,
#: 13 pJ fp32.
_SIXTEEN_BIT, _ENERGY_ORDER = 2.0, 3.0


def _default_energy(dtype: str) -> float:
    """Return the default energy of an operation in a format [J]."""
    return float(CONSTANTS["energy_j"].default * (dtypes.dtype(dtype).bytes / _SIXTEEN_BIT) ** _ENERGY_ORDER)


#: Constants that depend on how a chip is made (process, voltage) → their expected value in a format. A
#: relative's value from another generation is scaled as the same constant changed, in any format, between the
#: two.
MADE = {"energy_j": _default_energy}

#: cuBLAS runs products of fewer than 2^21 multiply-adds by kernels that do not split K (``gemmSN``), which is
#: a step in the measurements, exact to the row. Largest number of rows of A for the first variant. Then, by
#: architecture: the K below which it is used up to that many rows, the same beyond, and the part of K that
#: the start hides.
SMALL_WORK, _SMALL_ROWS = 2.0**21, 16.0
_SMALL_DEPTH = {"ada": (8193.0, 2048.0, 128.0), "ampere": (257.0, 0.0, 64.0)}
#: K below which Ampere uses another kernel for small products of more rows.
_TINY_DEPTH = 1024.0
#: Architectures with a special kernel for a single row of A; Hopper and Blackwell use the general one.
_ROW_FAMILIES = ("ampere", "ampere-ga10x", "ada", "blackwell-rtx")
#: Architecture with AITER's kernel for few rows (FlyDSL's ``gemm_decode``) → the most rows of A it takes. It
#: multiplies each element of B that it loads with all of them. hipBLASLt chooses from its tiles there.
DECODED = {"cdna3": 4.0}
#: Ampere's cuBLAS splits the rows of B for a single row of A (GEMV) where there are fewer than this, and they
#: are longer than this, into this many parts.
_FEW_LONG_ROWS, _LONG_ROW, _ROW_PARTS = 128.0, 256.0, 4.0


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    batch: ArrayLike = 1.0,
    passing: ArrayLike = 0.0,
    dtype: str = "bf16",
    weights: str | None = None,
    group: int | None = None,
    layout: str = "tn",
    quantise: bool = False,
    rotation: str = "none",
    tile_m: ArrayLike = np.nan,
    tile_n: ArrayLike = np.nan,
    tile_k: ArrayLike = np.nan,
    split: ArrayLike = np.nan,
) -> Estimate:
    """Return the time of a matrix product.

    Parameters
    ----------
    m, n, k, batch : array_like
        Sizes: out[batch, m, n], summed over k.
    passing : array_like
        Bytes that other kernels move through the cache between two uses of B [B].
    dtype : str
        Format of the operands. Results have 16 bits where operands have 16 or 8.
    weights, group : str, int, optional
        Format that B is stored in, and numbers per scale (`costmodel.dtypes.group_of`), where the kernel
        widens it to ``dtype``; widening takes no extra time.
    layout : {"tn", "nn"}
        Whether K is contiguous in both operands, as in a linear layer (``tn``), or only in the first.
    quantise : bool
        Whether a preceding kernel quantises the 16-bit A to ``dtype``, row by row, and the product is
        sglang's ``fp8_scaled_mm``.
    rotation : {"none", "weights", "operands", "layers", "copies"}
        What is rotated between two calls (``ROTATIONS``).
    tile_m, tile_n, tile_k, split : array_like
        The tile and the number of parts of K, where they are known (`tiles.from_names`); NaN: the library's
        choice is predicted.

    Returns
    -------
    Estimate
        Terms ``matrix:<dtype>`` or ``vector:<dtype>``, ``l2``, ``hbm``, ``depth`` (latency of the K
        loop, and the reduction of a split), ``launch``. Not counted: bias, activation.

    Raises
    ------
    UnknownNameError
        If there is no such layout, rotation or dtype.
    UnavailableError
        If the device does not have the dtype.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    if rotation not in ROTATIONS:
        raise unknown_name("rotation", rotation, ROTATIONS)
    kind = dtypes.dtype(dtype)
    c = filled(CONSTANTS, {**{name: expected(kind.name) for name, expected in MADE.items()}, **constants})
    sizes = as_rows(batch, m, n, k, passing)
    shape = sizes[0].shape
    batch_, m_, n_, k_, passing_ = (np.ravel(x) for x in sizes)
    p = Problem.of(
        kind.name, batch=batch_, m=m_, n=n_, k=k_, passing=passing_,
        strided=layout == "tn", quantised=quantise, weights=weights, group=group,
    )  # fmt: skip
    tile = [np.ravel(np.broadcast_to(t, shape)) for t in as_arrays(tile_m, tile_n, tile_k, split)]
    if quantise:
        tile[:3] = tiles.fp8_scaled(device.family, p.m, p.n)

    found = times(device, c, p, tile, rotation)
    kernel = found["total"]
    # Power limit: only arithmetic draws enough power, and only if it lasts.
    watts = c["energy_j"] * device.product_peak(kind.name) * blocks.busy(device, kind.name)
    slower = droop(device, watts) if device.engine(kind.name) == "matrix" else plain_droop(device, watts)
    strain = found["arithmetic"] / (kernel + c["droop_s"])
    arithmetic = found["arithmetic"] * (1 + slower * strain)
    kernel = kernel + arithmetic - found["arithmetic"] + c["start_s"]
    limits = {
        f"{device.engine(kind.name)}:{kind.name}": arithmetic,
        "l2": found["l2"],
        "hbm": found["hbm"],
        "depth": found["chain"] + found["store"] + found["tail"],
    }
    if kind.bytes == _SIXTEEN_BIT:
        for rows, time, own in _few_rows(device, c, p, found["hbm"]):
            kernel = np.where(rows, c["start_s"] + time, kernel)
            limits = {name: np.where(rows, own.get(name, 0.0), limit) for name, limit in limits.items()}
    starts = c["start_s"]
    if quantise:
        before = _quantise(device, c, p, rotation)
        kernel = kernel + c["start_s"] + before
        limits["hbm"] = limits["hbm"] + before
        starts *= 2
    total = hosted(c["dispatch_s"], kernel, c["record_s"])
    limits["launch"] = np.full(p.m.shape, starts + c["dispatch_s"] + c["record_s"])
    terms = {name: term.reshape(shape) for name, term in limits.items()}
    return replay.shown(device, c, total.reshape(shape), terms, REPLAYED.get(rotation, 1.0))


def _few_rows(
    device: Device, c: Mapping[str, float], p: Problem, hbm: Array
) -> Iterator[tuple[NDArray[np.bool_], Array, dict[str, Array]]]:
    """Yield special kernels for few rows and small products: which products, time after the start, limits.

    All times are in seconds; `hbm` is the memory time. If two kernels match a product, the later one counts.
    """
    cycle, work = 1 / device.clock_hz, p.batch * p.m * p.n * p.k
    if c["row_cycles"] > 0 and device.family in _ROW_FAMILIES:
        chain = p.k * c["row_cycles"] * cycle
        fed = p.right / (device.units * c["row_bytes"]) * cycle
        # A block's latency counts once; after that, other blocks' traffic hides it.
        yield p.m == 1, chain + np.maximum(hbm, fed), {"hbm": hbm, "l2": fed, "depth": chain}
        if device.family == "ampere":
            cut = (p.m == 1) & (p.batch * p.n < _FEW_LONG_ROWS) & (p.k > _LONG_ROW)
            chain = chain / _ROW_PARTS + c["row_split_s"]
            yield cut, chain + np.maximum(hbm, fed), {"hbm": hbm, "l2": fed, "depth": chain}
    if c["decode_cycles"] > 0 and device.family in DECODED:
        chain = p.m * p.k * c["decode_cycles"] * cycle
        yield p.m <= DECODED[device.family], chain + hbm, {"hbm": hbm, "depth": chain}
    if c["small_cycles"] > 0 and device.family in _SMALL_DEPTH:
        few, many, free = _SMALL_DEPTH[device.family]
        small = (p.m > 1) & (work < SMALL_WORK) & (p.k < np.where(p.m <= _SMALL_ROWS, few, many))
        columns = np.where(p.m <= _SMALL_ROWS, p.n * c["small_column_cycles"], 0.0)
        chain = (np.maximum(p.k - free, 0.0) * c["small_cycles"] + columns) * cycle
        yield small, chain, {"depth": chain}
    if c["tiny_s"] > 0 and device.family == "ampere":
        tiny = (p.m > _SMALL_ROWS) & (work < SMALL_WORK) & (p.k < _TINY_DEPTH)
        chain = c["tiny_s"] + p.k * c["tiny_cycles"] * cycle
        yield tiny, chain, {"depth": chain}


def _quantise(device: Device, c: Mapping[str, float], p: Problem, rotation: str) -> Array:
    """Return the time to quantise A row by row [s]: a read for the maximum, a second read, a write.

    Memory serves the first read and takes the result where L2 does not hold them from call to call.
    """
    elements = p.batch * p.m * p.k
    first = (2 + p.bytes) * operands.missed_again(device, c, p, rotation)
    moved = elements * (first + 2 * misses(2 * elements, device.l2_capacity))
    return np.asarray(moved / (device.hbm_bandwidth * c["quantise_share"]))
