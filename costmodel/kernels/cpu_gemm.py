"""Matrix products on a CPU, as MKL and OpenBLAS run them (Goto & van de Geijn, doi 10.1145/1356052.1356053).

Blocks of the operands are packed into the caches, and a micro-kernel that keeps a few rows × columns of the
result in registers processes them at close to the peak. The overheads are: packing B (packing A, which is
read along its rows, had no visible cost), more so where each row of B lies on its own page; edges of the
register tile; starting the threads; and, if a side is so short that nothing is reused, reading the operands.
A result whose rows fit into one register is not tiled: each row is a chain of k dependent multiply-adds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.errors import UnavailableError
from costmodel.hardware import Device
from costmodel.kernels._cpu import MEMORY, PAGE, mapping_seconds, seconds_per_byte, sooner
from costmodel.kernels._join import joined
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "peak_share": Constant(0.93, 0.2, 1.0, "1", "share of the peak that the micro-kernel reaches"),
    "pack_cycles": Constant(1.2, 0.0, 20.0, "cycles", "packing, per element of B"),
    "page_cycles": Constant(
        3.0,
        0.0,
        20.0,
        "cycles",
        "extra packing per element where a row of B is at least a page: address translation",
    ),
    "edge_rows": Constant(2.0, 0.0, 24.0, "rows", "rows and columns of the result wasted at its edges"),
    "start_s": Constant(
        3e-6, 1e-7, 1e-4, "s", "harness: dispatch of a call from Python, including allocation of its result"
    ),
    "fork_s": Constant(5e-6, 1e-7, 5e-4, "s", "waking the other threads and waiting for the last"),
    "vector_bytes_cycle": Constant(
        8.0, 1.0, 64.0, "B/cycle", "rate at which a core streams the matrix of a matrix-vector product"
    ),
    "chain_cycles": Constant(
        4.0,
        0.0,
        20.0,
        "cycles",
        "a multiply-add on the last one's result, where a row is one register",
    ),
    "matrix_s": Constant(2e-7, 0.0, 1e-5, "s", "overhead of each further matrix of a batch"),
    "overlap": Constant(1.0, 1.0, 8.0, "1", "order of the norm that joins arithmetic and bytes: 1 adds them"),
    **MEMORY,
}
#: Width of a vector register [B] (AVX2; a wider one has the same chains).
_REGISTER = 32.0
#: Constants of the harness, not of the device.
HARNESS = ("start_s",)


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    batch: ArrayLike = 1.0,
    passing: ArrayLike = 0.0,
    dtype: str = "fp32",
    quantise: bool = False,
) -> Estimate:
    """Return the time of ``batch`` matrix products.

    Parameters
    ----------
    m, n, k, batch : array_like
        Sizes: out[batch, m, n], summed over k.
    passing : array_like
        Bytes that other kernels move through the caches between two uses of B [B].
    dtype : str
        Format of operands and result.
    quantise : bool
        Not modelled on CPUs.

    Returns
    -------
    Estimate
        Terms ``vector:<dtype>`` (arithmetic, packing), ``l2`` (caches), ``hbm``, ``launch`` (including the
        mapping of large results). One thread or all are used, whichever is faster, as in libraries. Not
        counted: bias, epilogue.

    Raises
    ------
    UnavailableError
        If the device does not have the dtype, or if `quantise` is set.
    """
    check(device, quantise=quantise)
    c = filled(CONSTANTS, constants)
    m, n, k, batch, passing = as_rows(m, n, k, batch, passing)
    return sooner(device, lambda threads: _with_threads(device, c, m, n, k, batch, passing, dtype, threads))


def check(_: Device, *, quantise: bool = False, weights: str | None = None, **__: object) -> None:
    """Refuse a product that quantises A or widens B.

    Raises
    ------
    UnavailableError
        If it does.
    """
    if quantise:
        raise UnavailableError(
            "quantise: no model of products that quantise A on a CPU; quantise=false would do"
        )
    if weights:
        raise UnavailableError(
            f"weights in {weights}: no model of products that widen them on a CPU; rung bound would do"
        )


def _with_threads(
    device: Device,
    c: dict[str, float],
    m: Array,
    n: Array,
    k: Array,
    batch: Array,
    passing: Array,
    dtype: str,
    threads: float,
) -> Estimate:
    """Return the time with that many threads."""
    share = threads / device.units
    width = dtypes.dtype(dtype).bytes
    narrow = np.minimum(m, n)
    # A matrix-vector product uses each element once, so it streams the matrix without packing.
    each = c["pack_cycles"] + np.where(n * width >= PAGE, c["page_cycles"], 0.0)
    packed = np.where(narrow > 1, batch * k * n * each, 0.0)
    padded = np.where(narrow > 1, (m + c["edge_rows"]) * (n + c["edge_rows"]), m * n)
    arithmetic = 2 * batch * padded * k / (device.peak(dtype) * share * c["peak_share"])
    # A single product with a vector is a routine of its own (gemv), which keeps several chains.
    chained = np.where((n * width <= _REGISTER) & ((narrow > 1) | (batch > 1)), batch * m * k, 0.0)
    cycles_s = threads * device.clock_hz
    arithmetic = np.maximum(arithmetic + packed / cycles_s, chained * c["chain_cycles"] / cycles_s)
    weights, beside = batch * k * n * width, batch * (m * k + m * n) * width
    streamed = 1 / (c["vector_bytes_cycle"] * device.clock_hz * threads)
    in_caches = in_memory = np.zeros(m.shape)
    for moved, between in ((beside, 0.0), (weights, passing)):
        working_set = np.maximum(weights + beside, between)
        cached, memory = seconds_per_byte(device, c, working_set, np.full(m.shape, threads))
        cached = np.where(narrow > 1, cached, np.maximum(cached, streamed - memory))
        in_caches, in_memory = in_caches + moved * cached, in_memory + moved * memory
    launch = c["start_s"] + (batch - 1) * c["matrix_s"] / threads + (c["fork_s"] if threads > 1 else 0.0)
    launch = launch + mapping_seconds(c, batch * m * n * width, threads)
    body = joined(c["overlap"], arithmetic, in_caches + in_memory)
    return Estimate(
        seconds=launch + body,
        terms={
            f"vector:{dtype}": arithmetic,
            "l2": in_caches,
            "hbm": in_memory,
            "launch": launch,
        },
    )
