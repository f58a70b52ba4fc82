"""Causal depthwise convolution of width k along the sequence, as recurrent and state-space layers use it.

Prefill (``causal_conv1d_fn``) is a pass over tokens × channels: one block processes a few tokens, one after
the other, of many channels. A short sequence is limited by the latency of its tokens; a long one by bytes, at
the memory's bandwidth or at that of the loads that the units keep in flight. Decode
(``causal_conv1d_update``) shifts a state of k − 1 inputs per channel and is a pass over that state. Replays
find in the last-level cache what fits there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels import _replay as replay
from costmodel.kernels._cache import warm_seconds
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "start_cycles": Constant(4000.0, 1000.0, 20000.0, "cycles", "start and end of an empty kernel"),
    "token_cycles": Constant(360.0, 0.0, 4000.0, "cycles", "latency of each consecutive token in a block"),
    "bandwidth_share": Constant(0.75, 0.3, 1.0, "1", "share of the memory bandwidth that long passes reach"),
    "cache_share": Constant(
        0.9, 0.4, 2.0, "1", "largest working set that hits on replay, relative to the cache's capacity"
    ),
    "cache_bytes": Constant(11.0, 2.0, 128.0, "B/cycle", "bandwidth of the last-level cache per unit"),
    "unit_bytes": Constant(
        10.0, 2.0, 128.0, "B/cycle", "memory bandwidth of one unit: its bytes in flight over their latency"
    ),
    **replay.CONSTANTS,
}
#: The kernel is mostly memory-bound: constants of a device with the same kind of memory are preferred.
MEMORY_BOUND = True
#: Constants of a kernel's start, and rates from cache and memory to a unit.
STARTS, RATES = ("start_cycles",), ("cache_bytes", "unit_bytes")
#: Constants of the harness, not of the device.
HARNESS = tuple(replay.CONSTANTS)

#: Tokens that one block processes one after the other (``BLOCK_M`` of the Triton kernel in vLLM and SGLang).
_BLOCK = 8.0


def moved(
    batch: Array, seq: Array, channels: Array, width: Array, dtype: str, decode: bool
) -> tuple[Array, Array]:
    """Return the distinct bytes of a call, with its window in decoding, and the bytes of that window [B]."""
    size = dtypes.dtype(dtype).bytes
    window = size * batch * channels * (width - 1) * (1.0 if decode else 0.0)
    return size * (2 * batch * seq * channels + channels * width) + window, window


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    batch: ArrayLike,
    seq: ArrayLike,
    channels: ArrayLike,
    width: ArrayLike = 4.0,
    dtype: str = "bf16",
    decode: bool = False,
) -> Estimate:
    """Return the time of one causal convolution over (batch, seq, channels).

    Parameters
    ----------
    batch, seq, channels, width : array_like
        Sizes; ``seq`` is 1 in decode.
    dtype : str
        Number format of inputs, state and weights.
    decode : bool
        Whether it is one token per sequence, with a state of ``width`` − 1 inputs read and written.

    Returns
    -------
    Estimate
        Terms ``hbm``, ``l2``, ``depth`` (latency of tokens), ``launch``. Not counted: biases, and the state
        written at the end of a prefill.
    """
    c = filled(CONSTANTS, constants)
    batch, seq, channels, width = as_rows(batch, seq, channels, width)
    distinct, window = moved(batch, seq, channels, width, dtype, decode)
    traffic = distinct + window
    cycle = 1 / device.clock_hz
    bandwidth = min(device.hbm_bandwidth * c["bandwidth_share"], device.units * c["unit_bytes"] / cycle)
    cached = device.units * c["cache_bytes"] / cycle
    memory, cache = warm_seconds(
        distinct,
        traffic,
        capacity=c["cache_share"] * device.llc_distinct,
        bandwidth=bandwidth,
        cache_bandwidth=cached,
    )
    start, depth = c["start_cycles"] * cycle, c["token_cycles"] * cycle * np.minimum(seq, _BLOCK)
    total = start + depth + np.maximum(memory, cache)
    terms = {
        "hbm": memory,
        "l2": cache,
        "depth": depth,
        "launch": np.full_like(distinct, start),
    }
    return replay.shown(device, c, total, terms, replay.SCANS)
