"""All-reduces of one kernel, in which the devices of a node read each other's memory.

Inference engines run them on short messages, where NCCL's start-up and its steps take most of the time. With
p devices, a buffer of N bytes per device, a latency λ of a load from another device's memory, and a bandwidth
B that such loads reach:

=========  =======================================  ========================================================
algorithm  dependent loads                          bytes
=========  =======================================  ========================================================
one-shot   3 λ                                      (p − 1) N / B: each device reads and adds all buffers
two-shot   4 λ, and gathering p − 1 parts one by    2 (p − 1)/p N / B: each device adds a p-th, all gather it
           one
multicast  7 λ                                      (1 + 1/p) N / B': a switch adds, and sends a sum to all
=========  =======================================  ========================================================

Every kernel waits for all devices before it reads and after it has read. Waiting is a load, because a flag
written to another device's memory is seen about as late as a load from there returns. A one-shot reads in
between, a two-shot waits and reads once more. Loads that fit into the registers of all threads are in flight
together; each further round takes λ, if the link does not take longer. The seven of a multicast are measured,
not counted: its barriers also wait until all devices see earlier stores.

Sources: vLLM's ``custom_all_reduce.cuh`` (one-shot, two-shot) and PyTorch's symmetric memory (multicast);
NVIDIA, "3x Faster AllReduce with NVSwitch and TensorRT-LLM MultiShot", 2024; ``validation/posted`` (seven).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from costmodel.kernels.base import Array, Constant

#: Bytes that a device's threads load from another device at once: 36 blocks of 512 threads with 16 bytes
#: each, as vLLM launches them.
IN_FLIGHT = 36 * 512 * 16

CONSTANTS = {
    "peer_s": Constant(1.4e-6, 3e-7, 1e-5, "s", "latency of a load from another device's memory"),
    "peer_share": Constant(0.6, 0.1, 1.0, "1", "share of the links' one-way bandwidth that such loads reach"),
    "multicast_share": Constant(0.5, 0.1, 1.0, "1", "the same through a switch that adds and copies"),
    "peer_start_s": Constant(1e-6, 0.0, 1e-5, "s", "start of a kernel that is replayed"),
}

#: Units whose threads load from another device's memory: those of GPUs.
UNITS = ("SM", "CU")
#: Waiting for all devices, reading, waiting again; a two-shot waits and reads twice but for the start.
_LOADS = {"one-shot": 3.0, "two-shot": 4.0, "multicast": 7.0}
#: The algorithms, all of them of an all-reduce within a node.
ALGORITHMS = tuple(_LOADS)


class Times(NamedTuple):
    """Times of a collective: dependent latencies, bytes on the links, start [s]."""

    depth: Array
    link: Array
    start: Array


def times(algorithm: str, size: Array, devices: Array, bandwidth: float, given: Mapping[str, float]) -> Times:
    """Return the times of an all-reduce of one kernel.

    Parameters
    ----------
    algorithm : str
        One of ``ALGORITHMS``.
    size : array
        Buffer of one device [bytes].
    devices : array
        Number of devices.
    bandwidth : float
        One-way bandwidth of a device's links [B/s].
    given : mapping of str to float
        Values of ``CONSTANTS``.
    """
    latency, others = given["peer_s"], devices - 1
    reached = given["peer_share"] * bandwidth
    if algorithm == "one-shot":
        moving = np.maximum(others * size / reached, latency * _further(size))
    elif algorithm == "two-shot":
        part = size / devices
        link = others * part / reached
        adding = np.maximum(link, latency * _further(part))
        gathering = np.maximum(link, latency * np.maximum(others, part / IN_FLIGHT))
        moving = adding + gathering
    else:
        moving = (1 + 1 / devices) * size / (given["multicast_share"] * bandwidth)
    depth, start = (np.full_like(moving, s) for s in (_LOADS[algorithm] * latency, given["peer_start_s"]))
    return Times(depth, moving, start)


def _further(size: Array) -> Array:
    """Return the rounds of loads after the first."""
    return np.maximum(0.0, size / IN_FLIGHT - 1.0)
