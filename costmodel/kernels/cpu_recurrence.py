"""The recurrence of RNN, LSTM and GRU layers on a CPU: a chain of dependent steps.

The input product of all steps is a separate kernel (``cpu_gemm``). A step multiplies the batch with the
recurrent weights, which come from the caches (each core's own while they fit, else the shared one), and does
the gates' arithmetic. The cost of its library calls is independent of the sizes. Several sequences share each
read of the weights, which are then packed for the product.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.errors import unknown_name
from costmodel.hardware import Device
from costmodel.kernels import cpu_gemm
from costmodel.kernels._cpu import MEMORY, seconds_per_byte, sooner
from costmodel.kernels._join import joined
from costmodel.kernels.base import Constant, Estimate, as_rows, filled

CONSTANTS = {
    "peak_share": Constant(0.8, 0.05, 1.0, "1", "share of the peak that a step's product reaches"),
    "edge_rows": Constant(4.0, 0.0, 32.0, "rows", "rows of the batch wasted at the register tile's edges"),
    "pack_cycles": Constant(0.3, 0.0, 20.0, "cycles", "packing, per weight and step with a batch above 1"),
    "gate_cycles": Constant(5.0, 0.1, 200.0, "cycles", "gates' arithmetic, per pre-activation"),
    "step_s": Constant(3e-6, 1e-7, 2e-4, "s", "a step's calls and waits, independent of its size"),
    "sum_cycles": Constant(
        0.0, 0.0, 40.0, "cycles", "backward, per weight and step: its gradient added to the sum"
    ),
    "call_s": Constant(
        2e-5, 1e-7, 1e-3, "s", "harness: dispatch of a call from Python, including allocation of its result"
    ),
    "fork_s": Constant(3e-6, 1e-7, 2e-4, "s", "waking the other threads, per step that uses them"),
    "overlap": Constant(2.0, 1.0, 8.0, "1", "order of the norm that joins arithmetic and bytes"),
    **MEMORY,
}
#: Constants of the harness, not of the device.
HARNESS = ("call_s",)

DIRECTIONS = ("fwd", "bwd_data", "bwd_weights")


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
) -> Estimate:
    """Return the time of a layer's dependent steps, without its input product.

    Parameters
    ----------
    steps, batch, hidden, gates, width, parallel : array_like
        Dependent steps; sequences; units of the state; matrices of the cell; width of the state passed to the
        next step (default `hidden`); independent recurrences, which run one after the other here.
    dtype : str
        Format of weights and activations.
    direction : str
        ``fwd`` or ``bwd_data``: one product and the gates' arithmetic per step. ``bwd_weights`` is one
        product over all steps if ``sum_cycles`` is 0; a framework that records every step computes each
        step's gradient and adds it to the sum.
    persistent : bool, optional
        Whether weights are known to stay in the cores' own caches; by default they stay as far as they fit.

    Returns
    -------
    Estimate
        Terms ``vector:<dtype>`` (products, gates), ``depth`` (cost of a step that does not depend on sizes),
        ``l2`` (caches), ``hbm``, ``launch``. One thread or all are used, whichever is faster.

    Raises
    ------
    UnknownNameError
        If there is no such direction.
    """
    if direction not in DIRECTIONS:
        raise unknown_name("direction of a recurrence", direction, DIRECTIONS)
    c = filled(CONSTANTS, constants)
    sizes = (steps, batch, hidden, gates, hidden if width is None else width, parallel)
    steps, batch, hidden, gates, width, parallel = as_rows(*sizes)
    if direction == "bwd_weights":
        as_gemm = {**c, "start_s": c["call_s"]}
        product = cpu_gemm.seconds(
            device, as_gemm, m=gates * hidden, n=width, k=batch * steps, batch=parallel, dtype=dtype
        )
        sums = steps * gates * hidden * width * parallel * c["sum_cycles"] / (device.units * device.clock_hz)
        vector = f"vector:{dtype}"
        return Estimate(product.seconds + sums, {**product.terms, vector: product.terms[vector] + sums})
    weights = gates * hidden * width * parallel
    loaded = weights * dtypes.dtype(dtype).bytes

    def with_threads(threads: float) -> Estimate:
        cycles = threads * device.clock_hz
        rate = device.peak(dtype) * threads / device.units * c["peak_share"]
        rows = np.where(batch > 1, batch + c["edge_rows"], 1.0)
        products = 2 * weights * rows / rate + np.where(batch > 1, weights * c["pack_cycles"], 0.0) / cycles
        gated = batch * gates * hidden * parallel * c["gate_cycles"] / cycles
        kept = np.zeros_like(loaded) if persistent else loaded
        cached, memory = seconds_per_byte(device, c, kept, np.full(steps.shape, threads))
        waits = np.full(steps.shape, c["step_s"] + (c["fork_s"] if threads > 1 else 0.0)) * parallel
        step = waits + gated + joined(c["overlap"], products, loaded * (cached + memory))
        launch = np.full(steps.shape, c["call_s"])
        return Estimate(
            seconds=launch + steps * step,
            terms={
                f"vector:{dtype}": steps * (products + gated),
                "depth": steps * waits,
                "l2": steps * (loaded * cached),
                "hbm": steps * (loaded * memory),
                "launch": launch,
            },
        )

    return sooner(device, with_threads)
