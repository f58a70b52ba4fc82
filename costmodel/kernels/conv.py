"""Causal depthwise convolution of width k along the sequence, as recurrent and state-space layers use it.

Prefill (``causal_conv1d_fn``) is a pass over tokens × channels: one block takes a few tokens, one
after the other, of many channels, so that a short sequence costs its tokens in latency and a long
one bytes or instructions. Decode (``causal_conv1d_update``) shifts a state of k − 1 inputs for each
channel and is a pass over that state. Replays find in the last-level cache what fits there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._cache import warm_seconds
from costmodel.kernels.base import Constant, Estimate

CONSTANTS = {
    "start_s": Constant(2e-6, 5e-7, 1e-5, "s", "start and end of a kernel that does nothing"),
    "token_s": Constant(1.5e-7, 0.0, 2e-6, "s", "latency of one token after another in a block"),
    "bandwidth_share": Constant(0.8, 0.3, 1.0, "1", "share of the memory bandwidth that long passes reach"),
    "cache_share": Constant(
        0.7, 0.05, 2.0, "1", "working set, over cache capacity, up to which a replay finds it there"
    ),
    "cache_bytes": Constant(
        20.0, 2.0, 128.0, "B/cycle", "bandwidth of the last-level cache, for each unit and cycle"
    ),
    "element_cycles": Constant(
        20.0, 0.0, 500.0, "cycles", "lane cycles of instructions for each element of the result"
    ),
}

#: Tokens that one block takes in turn (``BLOCK_M`` of the Triton kernel in vLLM and SGLang).
_BLOCK = 8.0
#: Order of the norm that joins bytes and instructions: they overlap, but not wholly.
_ORDER = 4.0


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
    device : Device
        Where it runs.
    constants : mapping of str to float
        Values of ``CONSTANTS``; those not given have their defaults.
    batch, seq, channels, width : array_like
        Sizes; ``seq`` is 1 in decode.
    dtype : str
        Number format of inputs, state and weights.
    decode : bool
        One token a sequence, with a state of ``width`` − 1 inputs read and written.

    Returns
    -------
    Estimate
        Terms ``hbm``, ``l2``, ``vector:fp32`` (instructions), ``depth`` (tokens in turn),
        ``launch``. Not counted: biases, and the state written at the end of a prefill.
    """
    c = {name: float(constants.get(name, constant.default)) for name, constant in CONSTANTS.items()}
    size = dtypes.dtype(dtype).bytes
    batch, seq, channels, width = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (batch, seq, channels, width))
    )
    elements = batch * seq * channels
    state = batch * channels * (width - 1) * (1.0 if decode else 0.0)
    distinct = size * (2 * elements + state + channels * width)
    traffic = distinct + size * state
    bandwidth = device.hbm_bandwidth * c["bandwidth_share"]
    cached = device.units * device.clock_hz * c["cache_bytes"]
    moved = warm_seconds(
        distinct,
        traffic,
        capacity=c["cache_share"] * device.llc_capacity,
        bandwidth=bandwidth,
        cache_bandwidth=cached,
    )
    issue = elements * c["element_cycles"] / (device.peak("fp32", "vector") / 2)
    depth = c["token_s"] * np.minimum(seq, _BLOCK)
    total = c["start_s"] + depth + (moved**_ORDER + issue**_ORDER) ** (1 / _ORDER)
    terms = {
        "hbm": traffic / bandwidth,
        "l2": traffic / cached,
        "vector:fp32": issue,
        "depth": depth,
        "launch": np.full_like(elements, c["start_s"]),
    }
    return Estimate(seconds=total, terms=terms)
