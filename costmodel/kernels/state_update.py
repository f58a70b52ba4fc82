"""Update of recurrent states by a token, as decoding does it: S ← decayed S + k vᵀ, o = S q, for each head.

A kernel reads all states from memory, keeps them in registers while it steps over the tokens of the call
(usually one), and writes them back: a pass over memory, whatever the rule of the update is. Gated delta
nets, Mamba-2 (``selective_state_update``) and linear attention token by token differ in the operands of a
token and in what comes before its update, so the start belongs to the operation, the rest to all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel.hardware import Device
from costmodel.kernels import _replay as replay
from costmodel.kernels._cache import warm_seconds
from costmodel.kernels._join import norm
from costmodel.kernels.base import Constant, Estimate, as_rows, filled

CONSTANTS = {
    "start_cycles": Constant(
        3700.0, 1000.0, 120000.0, "cycles", "start and end of a call without work; assumed: 2 µs at 1.85 GHz"
    ),
    "bandwidth_share": Constant(0.8, 0.4, 1.0, "1", "share of the memory bandwidth that long passes reach"),
    "cache_share": Constant(
        1.0, 0.4, 2.0, "1", "largest working set that hits, relative to the cache's capacity"
    ),
    "cache_bytes": Constant(20.0, 2.0, 128.0, "B/cycle", "bandwidth of the last-level cache per unit"),
    "token_cycles": Constant(
        450.0, 0.0, 4000.0, "cycles", "a further token of the call, which waits for the one before it"
    ),
    "overlap": Constant(2.0, 1.0, 12.0, "1", "order of the norm that joins memory and the chain of tokens"),
    **replay.CONSTANTS,
}
#: Constants of a kernel's start, and rates from the cache to a unit.
STARTS, RATES = ("start_cycles",), ("cache_bytes",)
#: Constants that belong to one rule's kernel.
OPERATION = ("start_cycles",)
#: Constants of the harness, not of the device.
HARNESS = tuple(replay.CONSTANTS)
#: States are in fp32 whatever the format of a token is.
MEMORY_BOUND = True


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    states: ArrayLike,
    traffic: ArrayLike,
    steps: ArrayLike = 1.0,
    vector_flops: ArrayLike = 0.0,
    dtype: str = "bf16",  # noqa: ARG001 - of the tokens' operands, which `traffic` counts
) -> Estimate:
    """Return the time of one call that updates states.

    Parameters
    ----------
    states : array_like
        Size of all states [B].
    traffic : array_like
        Bytes moved: states read and written, operands of the tokens [B].
    steps : array_like
        Tokens of each sequence. Further tokens are dependent steps, whose latency is not fitted.
    vector_flops : array_like
        Arithmetic of all tokens [FLOP]; that of the first hides behind memory.
    dtype : str
        Format of the tokens' operands; states and arithmetic are in fp32.

    Returns
    -------
    Estimate
        Terms ``hbm``, ``l2``, ``depth`` (further tokens), ``launch``.
    """
    c = filled(CONSTANTS, constants)
    states, traffic, steps, vector_flops = as_rows(states, traffic, steps, vector_flops)
    memory, cache = warm_seconds(
        traffic - states,
        traffic,
        capacity=c["cache_share"] * device.llc_distinct,
        bandwidth=c["bandwidth_share"] * device.hbm_bandwidth,
        cache_bandwidth=device.units * device.clock_hz * c["cache_bytes"],
    )
    token = np.full_like(states, c["token_cycles"] / device.clock_hz)
    if device.has("fp32", "vector"):
        arithmetic = vector_flops / np.maximum(steps, 1.0) / device.peak("fp32", "vector")
        token = np.maximum(token, arithmetic)
    chain = (steps - 1) * token
    launch = np.full_like(states, c["start_cycles"] / device.clock_hz)
    total = launch + norm(c["overlap"], np.maximum(memory, cache), chain)
    terms = {"hbm": memory, "l2": cache, "depth": chain, "launch": launch}
    return replay.shown(device, c, total, terms, replay.SCANS)
