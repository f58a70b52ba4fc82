"""Scans of a first-order recurrence on a CPU: fused in registers, or unfused with one pass per level.

Vector units process lanes in parallel, so the limits are instructions, bytes, or (with few lanes and many
steps) the chain of dependent steps. In a framework, every level of the scan is a call that reads and writes
its operands in whichever cache holds them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels._cpu import GRAIN, MEMORY, seconds_per_byte
from costmodel.kernels._join import joined
from costmodel.kernels.base import Constant, Estimate, as_rows, filled

CONSTANTS = {
    "flop_cycles": Constant(0.25, 0.01, 50.0, "cycles", "instructions per FLOP on one core"),
    "step_cycles": Constant(8.0, 1.0, 200.0, "cycles", "a dependent step of a fused scan"),
    "lanes": Constant(64.0, 1.0, 1024.0, "lanes", "lanes that a core processes concurrently"),
    "start_s": Constant(
        3e-6, 1e-7, 1e-4, "s", "harness: dispatch of a call from Python, including allocation of its result"
    ),
    "fork_s": Constant(3e-6, 1e-7, 2e-4, "s", "waking the other threads and waiting for the last"),
    "overlap": Constant(2.0, 1.0, 8.0, "1", "order of the norm that joins instructions and bytes"),
    **MEMORY,
}
#: Constants of the harness, not of the device.
HARNESS = ("start_s",)


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    chains: ArrayLike,
    steps: ArrayLike,
    traffic: ArrayLike,
    again: ArrayLike = 0.0,
    matrix_flops: ArrayLike = 0.0,
    vector_flops: ArrayLike = 0.0,
    special_flops: ArrayLike = 0.0,
    launches: ArrayLike = 1.0,
    dtype: str = "fp32",
    blocks: bool = False,
) -> Estimate:
    """Return the time of one fused scan kernel, or of all calls of an unfused one.

    Parameters
    ----------
    chains, steps : array_like
        Independent chains; dependent steps of each.
    traffic, again : array_like
        Bytes moved, and bytes read repeatedly [B].
    matrix_flops, vector_flops, special_flops : array_like
        Arithmetic [FLOP]; products run on the vector units too.
    launches : array_like
        Calls, one after the other; each is taken to move the same share of the bytes.
    dtype : str
        Format of the products.
    blocks : bool
        Whether a chain steps over chunks of tokens; its steps are then products, and counted as such.

    Returns
    -------
    Estimate
        Terms ``vector:<dtype>`` (instructions), ``l2`` (caches), ``hbm``, ``depth``, ``launch``.
    """
    c = filled(CONSTANTS, constants)
    chains, steps, traffic, again, matrix, vector, special, launches = as_rows(
        chains, steps, traffic, again, matrix_flops, vector_flops, special_flops, launches
    )
    each = (traffic + again) / launches
    threads = np.where(each >= 4 * GRAIN, device.units, 1.0)
    cached, memory = seconds_per_byte(device, c, each, threads)
    issue = (vector + special) * c["flop_cycles"] / (threads * device.clock_hz)
    if np.any(matrix > 0):
        issue = issue + matrix / (device.peak(dtype) * threads / device.units)
    # An unfused chain makes a call per step, whose wait is in `launch`.
    waits = 0.0 if blocks else c["step_cycles"] / device.clock_hz
    depth = np.where(launches > 1, 0.0, np.ceil(chains / (threads * c["lanes"])) * steps * waits)
    launch = launches * (c["start_s"] + np.where(threads > 1, c["fork_s"], 0.0))
    moved = traffic + again
    body = np.maximum(joined(c["overlap"], issue, moved * (cached + memory)), depth)
    return Estimate(
        seconds=launch + body,
        terms={
            f"vector:{dtype}": issue,
            "l2": moved * cached,
            "hbm": moved * memory,
            "depth": depth,
            "launch": launch,
        },
    )
