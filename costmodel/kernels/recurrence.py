"""The recurrence of RNN, LSTM and GRU layers: a chain of dependent steps.

The input product of all steps is a separate kernel (``gemm``). What remains is T dependent steps, each a
product of a narrow matrix (the batch) with the recurrent weights, and some pointwise arithmetic. There are
two algorithms:

* step by step (cuDNN's standard algorithm, MIOpen): each step launches kernels, which read the weights
  again from memory or cache. A step takes the launches, plus the largest of its bytes, its
  arithmetic and its chain of multiply-adds along the inner dimension. Tiles are 16, 32 or 64
  sequences wide for any batch, and libraries differ most in their choice of it;
* persistent (Diamos et al., ICML 2016; cuDNN's persistent algorithm; FlashRNN, arXiv 2412.07752):
  one kernel keeps the weights on the chip, and a step takes a synchronisation of all units,
  its arithmetic, and reading the part of the weights that does not fit.

The caller or torch's rule for cuDNN (``_cudnn``) decides between them; otherwise the persistent one is used
if the weights have 16 bits and fit on the chip.

Backward data is the same chain in reverse; the weights' gradient is one product over all steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.errors import unknown_name
from costmodel.hardware import Device
from costmodel.kernels import _cudnn
from costmodel.kernels._join import joined
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "call_s": Constant(5e-5, 1e-6, 3e-4, "s", "overhead of a library call, independent of its length"),
    "step_s": Constant(1e-5, 1e-6, 2e-4, "s", "kernels of a step without work (step by step)"),
    "chain_s": Constant(
        1e-8,
        1e-11,
        1e-7,
        "s",
        "one multiply-add of the chain along the product's inner dimension (tiles over 16 wide)",
    ),
    "bandwidth_share": Constant(
        0.8, 0.1, 1.0, "1", "share of the memory bandwidth at which weights are read"
    ),
    "share_4": Constant(0.08, 0.005, 1.0, "1", "share of the peak of products up to 4 sequences wide"),
    "share_16": Constant(0.2, 0.005, 1.0, "1", "the same, 16 wide"),
    "share_32": Constant(0.5, 0.01, 1.0, "1", "the same, 32 wide"),
    "share_64": Constant(0.6, 0.02, 1.0, "1", "the same, 64 wide and more"),
    "split": Constant(
        2.5, 0.5, 16.0, "1", "blocks per 128 × 64 tile of a product (split along its inner dimension)"
    ),
    "sync_s": Constant(
        2e-6, 1e-6, 1e-5, "s", "synchronisation of all units, which passes the state on (persistent)"
    ),
    "onchip_share": Constant(
        0.5, 0.1, 0.9, "1", "share of registers and shared memory that can hold weights"
    ),
    "batched_share": Constant(0.7, 0.05, 1.0, "1", "share of the peak that the weights' gradient reaches"),
}

#: Constants fitted in seconds that are cycles on any device; a relative's are scaled with the clock.
CLOCKED = ("chain_s",)
#: Constants of launches, which do not depend on the format: fp32's serve where no others were measured.
EVERY_FORMAT = ("call_s", "step_s")

DIRECTIONS = ("fwd", "bwd_data", "bwd_weights")
#: Ways to choose the algorithm: by the weights' size and format (""), or by torch's rule.
CHOOSERS = ("", "torch")

#: Widths of the product's tiles; a batch is padded to the smallest that holds it, or a multiple of the last.
_WIDTHS = (4.0, 16.0, 32.0, 64.0)
#: Order of the norm that combines overlapping times: √(a² + b² + …).
_ORDER = 2.0
#: Largest size of an element that cuDNN's persistent algorithm and FlashRNN support [B]; size of fp32 [B].
_PERSISTENT_BYTES = 2.0
_FP32_BYTES = 4.0


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    steps: ArrayLike,
    batch: ArrayLike,
    hidden: ArrayLike,
    gates: ArrayLike,
    width: ArrayLike | None = None,
    parallel: ArrayLike = 1.0,
    dtype: str = "fp32",
    direction: str = "fwd",
    persistent: bool | None = None,
    chosen_by: str = "",
) -> Estimate:
    """Return the time of one layer's recurrence, without its input product.

    Parameters
    ----------
    steps, batch, hidden, gates : array_like
        Sizes: T, B, H, and the number of gates (1, 3, 4 for RNN, GRU, LSTM).
    width : array_like, optional
        Width of the state that is multiplied; default ``hidden`` (less where it is projected).
    parallel : array_like
        Concurrent chains: directions, and layers of a wavefront.
    dtype : str
        Number format of weights and states.
    direction : str
        ``fwd``, ``bwd_data`` (the chain in reverse) or ``bwd_weights`` (no chain).
    persistent : bool, optional
        Which algorithm is used; default: the persistent one where the weights have 16 bits and fit on the
        chip.
    chosen_by : str
        ``torch``: if `persistent` is not given, the algorithm that torch asks cuDNN for, see ``_cudnn``.

    Returns
    -------
    Estimate
        Terms ``depth`` (steps' launches, chains or synchronisations), ``hbm``, ``matrix:<dtype>`` (or
        ``vector:fp32``), ``launch``. Not counted: the pointwise arithmetic, which these hide.

    Raises
    ------
    UnknownNameError
        If there is no such direction, chooser or dtype.
    """
    if direction not in DIRECTIONS:
        raise unknown_name("direction of a recurrence", direction, DIRECTIONS)
    if chosen_by not in CHOOSERS:
        raise unknown_name("chooser of a recurrence's algorithm", chosen_by, CHOOSERS[1:])
    c = filled(CONSTANTS, constants)
    sizes = (steps, batch, hidden, gates, hidden if width is None else width, parallel)
    steps, batch, hidden, gates, width, parallel = as_rows(*sizes)
    size = dtypes.dtype(dtype).bytes
    weights = gates * hidden * width * size * parallel
    engine, peak = _engine(device, dtype)
    bandwidth = c["bandwidth_share"] * device.hbm_bandwidth
    if direction == "bwd_weights":
        # Gradients are accumulated in memory before and after the product, so nothing hides the traffic.
        matrix = 2 * weights / size * batch * steps / (c["batched_share"] * peak)
        hbm = (2 * weights + steps * batch * (gates * hidden + width) * size * parallel) / bandwidth
        launch = np.full_like(matrix, c["call_s"])
        return Estimate(seconds=launch + matrix + hbm, terms={engine: matrix, "hbm": hbm, "launch": launch})

    chip = c["onchip_share"] * device.onchip_capacity
    if persistent is not None:
        resident = np.full(weights.shape, persistent)
    elif chosen_by == "torch":
        resident = _cudnn.persistent(
            device, gates, hidden, batch, parallel, dtype, forward=direction == "fwd"
        )
    else:
        resident = (weights <= chip) & (size <= _PERSISTENT_BYTES)
    flops = 2 * weights / size * _padded(batch)

    inner, outer = (gates * hidden, width) if direction == "bwd_data" else (width, gates * hidden)
    tiles = np.ceil(outer / 128) * np.ceil(batch / 64) * parallel * c["split"]
    busy = (1 + (device.units / tiles) ** 4) ** -0.25
    # The gates' products run one after the other where a single gate does not fill the device.
    chain = c["chain_s"] * (inner if direction == "bwd_data" else gates * inner) * (batch > 16)
    arithmetic = flops / (np.where(resident, c["share_64"], _share(c, batch) * busy) * peak)
    loaded = np.where(resident, np.maximum(0.0, weights - chip), weights) / bandwidth
    chain = np.where(resident, 0.0, chain)
    wait = np.where(resident, c["sync_s"], c["step_s"])
    step = wait + joined(_ORDER, arithmetic, loaded, chain)
    launch = np.full_like(step, c["call_s"])
    first = np.where(resident, np.minimum(weights, chip), 0.0) / bandwidth
    return Estimate(
        seconds=launch + first + steps * step,
        terms={
            "depth": steps * (wait + chain),
            "hbm": first + steps * loaded,
            engine: steps * arithmetic,
            "launch": launch,
        },
    )


def _engine(device: Device, dtype: str) -> tuple[str, float]:
    """Return the term's label and the rate [FLOP/s] of products in a format.

    Without tensor cores, narrow formats are for storage only, and arithmetic is fp32 (cuDNN's pseudo-half).
    """
    if dtype in device.matrix_dtypes:
        return f"matrix:{dtype}", device.peak(dtype, "matrix")
    used = dtype if dtypes.dtype(dtype).bytes > _FP32_BYTES else "fp32"
    return f"vector:{used}", device.peak(used, "vector")


def _padded(batch: Array) -> Array:
    """Return the batch padded to the tile widths."""
    fit = np.ceil(batch / _WIDTHS[-1]) * _WIDTHS[-1]
    for tile in reversed(_WIDTHS[:-1]):
        fit = np.where(batch <= tile, tile, fit)
    return fit


def _share(c: Mapping[str, float], batch: Array) -> Array:
    """Return the share of the peak that products of that batch reach."""
    shares = [c["share_4"], c["share_16"], c["share_32"]]
    return np.select([batch <= tile for tile in _WIDTHS[:-1]], shares, c["share_64"])
