"""One product of a mixture's chosen experts in a single kernel, as vLLM's and SGLang's Triton kernel runs it.

The tokens' choices are first sorted by expert, and each expert's rows padded to whole blocks of rows, whose
size depends on the number of tokens. Each thread block then computes one tile: it gathers its rows of the
activations and steps through K with the weights of its expert. The kernel takes the longest of three times:
its arithmetic (with padded rows, and each block's first loads and last stores), the loads of the weights from
memory, and one block's chain of steps, where blocks are few.

Sources: sorting, padding and gathering: vLLM's ``moe_align_block_size`` and ``fused_moe_kernel``; sizes of
blocks: its ``get_default_config`` where no tuned table is shipped, seen as steps in the posted times
(``validation/posted``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._cache import misses
from costmodel.kernels._join import joined
from costmodel.kernels._loads import working_and_blocks
from costmodel.kernels._operands import stored_bytes
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "peak_share": Constant(0.70, 0.2, 1.0, "1", "share of the peak that a block's steps reach"),
    "bandwidth_share": Constant(0.90, 0.5, 1.0, "1", "share of the memory bandwidth that long streams reach"),
    "fill_cycles": Constant(
        5400.0, 100.0, 2e4, "cycles", "first loads and last stores of a block of 128 × 128; less of others"
    ),
    "step_cycles": Constant(400.0, 50.0, 4000.0, "cycles", "latency of a step of the K loop"),
    "sort_s": Constant(1.7e-5, 1e-6, 1e-4, "s", "sorting the choices by expert, before the first product"),
    "map_s": Constant(8e-6, 0.0, 4e-5, "s", "looking up which choices are of the device's own experts"),
    "start_s": Constant(2.3e-6, 1e-7, 1e-5, "s", "start and end of an empty kernel"),
    "overlap": Constant(3.5, 1.0, 12.0, "1", "order of the norm that joins the limits: 1 adds them"),
}
#: Constants that `costmodel.validation.fit_experts` determines; the others are assumed.
FITTED = ("peak_share", "bandwidth_share", "fill_cycles", "step_cycles", "sort_s")
#: Architecture → constants of its own; the defaults are those of Ampere and Hopper together. Triton's kernel
#: uses Blackwell's tensor cores less well.
OF_FAMILY: Mapping[str, Mapping[str, float]] = {
    "blackwell": {
        "peak_share": 0.45,
        "bandwidth_share": 0.68,
        "fill_cycles": 4700.0,
        "step_cycles": 660.0,
        "sort_s": 6.7e-6,
    }
}
#: Posted rows that nothing was fitted on: their number, and quantiles 2.5, 10, 90 and 97.5 % of measured over
#: predicted time, on these architectures (``validation/POSTED.md``).
RESIDUALS = (130, (0.70, 0.81, 1.11, 1.16))
FITTED_ON = ("ampere", "hopper", "blackwell")
#: Constants that are shares of the tensor cores' peak, which the rest of a step keeps from being reached.
PEAK_SHARES = ("peak_share",)
#: Constants fitted in seconds that are cycles on any device; constants of a kernel's start.
CLOCKED = STARTS = ("sort_s", "map_s", "start_s")

#: Largest number of tokens of a call → rows of a block; ``_MOST_ROWS`` for more tokens.
_BLOCK_ROWS, _MOST_ROWS = {32.0: 16.0, 96.0: 32.0, 512.0: 64.0}, 128.0
#: Tokens up to which blocks have 64 columns, not 128.
_FEW, _FEW_COLUMNS, _COLUMNS = 64.0, 64.0, 128.0
#: Extent of a step of the K loop [B]: with few tokens, and with more.
_FEW_STEP_BYTES, _STEP_BYTES = 256.0, 128.0
#: Size of an element of the result [B]; inputs of narrower products are rounded from as many.
_WIDE = 2.0


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    held: ArrayLike,
    tokens: ArrayLike,
    inputs: ArrayLike,
    results: ArrayLike,
    passing: ArrayLike = 0.0,
    dtype: str = "bf16",
    weights: str | None = None,
    group: int | None = None,
    loads: str = "random",
    first: bool = False,
    mapped: bool = False,
) -> Estimate:
    """Return the time of one product of all chosen experts.

    Parameters
    ----------
    batch, m, n, k : array_like
        Number of working experts, mean number of rows of each; out[batch, m, n], summed over k.
    held : array_like
        Number of experts of the device, working or not.
    tokens : array_like
        Tokens of the call, which the size of the blocks depends on.
    inputs : array_like
        Rows of the activations: the tokens, or a row for each choice.
    results : array_like
        Rows of the result: one for each choice, also of experts on other devices.
    passing : array_like
        Bytes that other kernels move through the cache between two uses of the weights [B].
    dtype : str
        Format of the operands. Results have 16 bits where operands have 16 or 8; in 8 bits, the inputs
        are rounded by a kernel before the product.
    weights, group : str, int, optional
        Format that the weights are stored in, and numbers per scale; widening takes no extra time.
    loads : {"random", "balanced", "power-law"}
        How tokens choose (`costmodel.kernels._loads`).
    first : bool
        Whether the choices are sorted before this product.
    mapped : bool
        Whether the choices are of experts on several devices, and are looked up before they are sorted.

    Returns
    -------
    Estimate
        Terms ``matrix:<dtype>``, ``hbm``, ``depth`` (one block's chain of steps), ``launch`` (with sorting).
    """
    kind = dtypes.dtype(dtype)
    c = filled(CONSTANTS, {**OF_FAMILY.get(device.family, {}), **constants})
    batch, m, n, k, held, tokens, inputs, results, passing = as_rows(
        batch, m, n, k, held, tokens, inputs, results, passing
    )
    rows, columns = block_rows(tokens), np.where(tokens <= _FEW, _FEW_COLUMNS, _COLUMNS)
    working, high = working_and_blocks(
        loads, working=batch, held=held, choices=batch * m, tokens=tokens, rows=rows
    )
    blocks = high * np.ceil(n / columns)
    cycle = 1 / device.clock_hz
    work = 2 * rows * columns * k / (device.product_peak(kind.name) * c["peak_share"])
    fill = c["fill_cycles"] * cycle * (rows + columns) / (_MOST_ROWS + _COLUMNS)
    arithmetic = blocks * (work + fill / device.units)
    steps = np.ceil(k * kind.bytes / np.where(tokens <= _FEW, _FEW_STEP_BYTES, _STEP_BYTES))
    chain = fill + steps * c["step_cycles"] * cycle
    stored = kind.bytes if weights is None else stored_bytes(k, weights, group)
    weighing = working * n * k * stored
    bandwidth = device.hbm_bandwidth * c["bandwidth_share"]
    missed = misses(np.maximum(weighing, passing), device.llc_capacity)
    read, stored_s = inputs * k * kind.bytes, results * n * _WIDE / bandwidth
    hbm = (weighing * missed + read * misses(read, device.llc_capacity)) / bandwidth
    rounded = _rounded(device, kind, inputs * k, bandwidth)
    starts = c["start_s"] * (1 + (kind.bytes < _WIDE)) + (c["sort_s"] + c["map_s"] * mapped) * first
    return Estimate(
        seconds=starts + rounded + stored_s + joined(c["overlap"], arithmetic, hbm, chain),
        terms={
            f"{device.engine(kind.name)}:{kind.name}": arithmetic,
            "hbm": hbm + rounded,
            "depth": chain,
            "launch": np.full(m.shape, starts),
        },
    )


def block_rows(tokens: Array) -> Array:
    """Return the rows of a block, by the tokens of a call."""
    return np.select([tokens <= most for most in _BLOCK_ROWS], list(_BLOCK_ROWS.values()), _MOST_ROWS)


def _rounded(device: Device, kind: dtypes.DType, elements: Array, bandwidth: float) -> Array:
    """Return the time to round 16-bit inputs to the operands' format [s]; 0 in 16 bits and more."""
    if kind.bytes >= _WIDE:
        return np.zeros_like(elements)
    moved = elements * (_WIDE + kind.bytes)
    return np.asarray(moved * misses(moved, device.llc_capacity) / bandwidth)
