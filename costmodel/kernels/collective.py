"""Collectives between devices: α–β models of rings, trees, pairwise exchange, inside a node and across nodes.

A step to another device takes a latency α; a byte takes β, the inverse of the bandwidth of a device's links
in one direction. With p devices and a buffer of N bytes per device (after gathering, or before scattering):

=================  ==========  ==================================  =================================
collective         algorithm   time                                source
=================  ==========  ==================================  =================================
all-gather         ring        (p − 1) α + (p − 1)/p N β           Thakur et al. 2005, §4.1
reduce-scatter     ring        (p − 1) α + (p − 1)/p N β           Thakur et al. 2005, §4.3
all-reduce         ring        2 (p − 1) α + 2 (p − 1)/p N β       Patarasuk & Yuan 2009
all-reduce         tree        2 ⌈log₂ p⌉ α + 2 N β                Sanders et al. 2009 (NCCL's trees)
all-reduce         switch      2 α' + (1 + 1/p) N β'               Klenk et al. 2020 (NCCL's NVLS)
all-to-all         pairwise    (p − 1) α + (p − 1)/p N β           Thakur et al. 2005, §4.4
broadcast, reduce  chain       (p − 1) α + N β, pipelined          NCCL's ring
broadcast, reduce  tree        ⌈log₂ p⌉ (α + N β), binomial        Thakur et al. 2005, §4.2
send-receive       —           α + N β                             Hockney 1994
=================  ==========  ==================================  =================================

Where a node's switch can add (NVSwitch from its third generation on), each device is responsible for a p-th
of the sums. The switch adds it from what all devices send (N per device, its own part included), and the
device sends it once to reach all others (N/p).

Unless an algorithm is given, the fastest one is taken, as in NCCL. Across nodes of g devices each collective
is hierarchical (Thakur et al. 2005, §7; NCCL with a network port for each device): what can be reduced or
gathered over the fast link is, and each device's g-th part crosses the network. All-to-all uses link and
network concurrently; the partners of a send-receive are in different nodes. A spec may have a link called
``network``: each device's port to other nodes.

Left out: contention between collectives, protocols for short messages, network switches that add, and the
arithmetic of reductions (hidden behind the link, which is slower than memory).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from costmodel.errors import UnavailableError, unknown_name
from costmodel.hardware import Device
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "bandwidth_share": Constant(
        0.75, 0.3, 1.0, "1", "share of the links' one-way bandwidth that long messages reach"
    ),
    "tree_share": Constant(
        0.37, 0.1, 1.0, "1", "the same for a tree within a node (NCCL's tuning table: 110 GB/s of A100's 300)"
    ),
    "hop_s": Constant(
        3.4e-6, 2e-7, 2e-5, "s", "latency of a step to a device of the same node (NCCL's tuning table)"
    ),
    "network_bandwidth": Constant(
        25e9,
        1e8,
        4e11,
        "B/s",
        "one-way bandwidth of a device's network port, if its spec has none (200 Gbit/s: HDR)",
    ),
    "network_share": Constant(0.9, 0.3, 1.0, "1", "share of the network's bandwidth that is reached"),
    "network_hop_s": Constant(
        1.4e-5, 1e-6, 1e-4, "s", "latency of a step to a device of another node (NCCL's tuning table)"
    ),
    "start_s": Constant(8.4e-6, 1e-6, 5e-5, "s", "start-up time of a collective (NCCL's tuning table)"),
    "switch_share": Constant(
        0.807,
        0.3,
        1.0,
        "1",
        "share of the links that copies through a switch which adds reach: NVIDIA's 480 GB/s of bus "
        "bandwidth on 8 H100 (GTC 2024, S62129), 9/8 of a buffer sent at 0.85 of that (``switch_sums``)",
    ),
    "switch_hop_s": Constant(
        8.3e-6,
        2e-7,
        2e-5,
        "s",
        "latency of a step through a switch that adds (NCCL's tuning table: 25 µs in all)",
    ),
}

#: Algorithms of each collective.
ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "all-reduce": ("ring", "tree", "switch"),
    "all-gather": ("ring",),
    "reduce-scatter": ("ring",),
    "all-to-all": ("pairwise",),
    "broadcast": ("ring", "tree"),
    "reduce": ("ring", "tree"),
    "send-receive": ("direct",),
}


class Steps(NamedTuple):
    """Sequential work of one device: its steps, and the bytes that it sends.

    Attributes
    ----------
    hops : array
        Dependent steps.
    sent : array
        Bytes sent in all steps together.
    """

    hops: Array
    sent: Array


def flat(collective: str, algorithm: str, size: Array, devices: Array) -> Steps:
    """Return the steps of a collective among devices that are all connected alike.

    Parameters
    ----------
    collective, algorithm : str
        A key of ``ALGORITHMS``, and one of its algorithms.
    size : array
        Buffer of one device [bytes]: what is gathered, reduced, exchanged or sent.
    devices : array
        Number of devices; with one, nothing is done.
    """
    others, many = devices - 1, np.where(devices > 1, 1.0, 0.0)
    levels = np.ceil(np.log2(devices))
    if collective == "send-receive":
        return Steps(many, many * size)
    if collective in ("broadcast", "reduce"):
        return Steps(levels, levels * size) if algorithm == "tree" else Steps(others, many * size)
    both = 2.0 if collective == "all-reduce" else 1.0
    if algorithm == "switch":
        return Steps(2 * many, many * (1 + 1 / devices) * size)
    if algorithm == "tree":
        return Steps(both * levels, both * many * size)
    return Steps(both * others, both * others / devices * size)


def layered(
    collective: str, algorithm: str, size: Array, devices: Array, node: Array
) -> tuple[Steps, Steps, Steps]:
    """Return the steps over the link, over the network after them, and over the network concurrently.

    Parameters
    ----------
    collective, algorithm : str
        See `flat`.
    size : array
        Buffer of one device [bytes].
    devices, node : array
        Number of devices, and number of devices per node.

    Returns
    -------
    link, network : Steps
        Steps over each of the two, one after the other.
    direct : Steps
        Steps of an all-to-all over the network, concurrent with those over the link.
    """
    inside = np.minimum(devices, node)
    nodes = np.ceil(devices / inside)
    none = Steps(np.zeros_like(size), np.zeros_like(size))
    if collective == "send-receive":
        across = flat(collective, algorithm, size, nodes)
        within = flat(collective, algorithm, size, inside)
        alone = np.where(nodes > 1, 0.0, 1.0)
        return Steps(within.hops * alone, within.sent * alone), across, none
    if collective == "all-to-all":
        far = devices - inside
        return Steps(inside - 1, (inside - 1) / devices * size), none, Steps(far, far / devices * size)
    # A node's switch does not help between nodes, so a tree is used there.
    across = flat(collective, "tree" if algorithm == "switch" else algorithm, size / inside, nodes)
    if collective in ("all-gather", "reduce-scatter"):
        return flat(collective, "ring", size, inside), across, none
    if algorithm == "switch":
        return flat(collective, algorithm, size, inside), across, none
    # Scatter (or reduce-scatter) within the node, send a g-th part across, gather within the node.
    there_and_back = flat("all-reduce", "ring", size, inside)
    single = flat(collective, algorithm, size, inside)
    alone = nodes == 1
    within = Steps(
        np.where(alone, single.hops, there_and_back.hops), np.where(alone, single.sent, there_and_back.sent)
    )
    return within, across, none


def seconds(
    device: Device,
    constants: Mapping[str, float],
    *,
    size: ArrayLike,
    devices: ArrayLike,
    node: ArrayLike | None = None,
    collective: str = "all-reduce",
    algorithm: str | None = None,
    dtype: str = "bf16",  # noqa: ARG001 - bytes are bytes: every kernel model is told the format
) -> Estimate:
    """Return the time of a collective on each of several devices.

    Parameters
    ----------
    device : Device
        The kind of all devices; its fastest link connects those of a node, ``network`` the nodes.
    constants : mapping of str to float
        Values of ``CONSTANTS``; those not given have their defaults.
    size : array_like
        Buffer of one device [bytes]: the gathered result of an all-gather, the operand of an all-reduce or
        reduce-scatter, everything that a device sends in an all-to-all, its own part included.
    devices : array_like
        Number of devices that take part.
    node : array_like, optional
        Devices of one node; default: all of them.
    collective : str
        One of ``ALGORITHMS``.
    algorithm : str, optional
        ``ring``, ``tree`` or ``switch``; default: the fastest one that the devices support.
    dtype : str
        Format of the numbers; has no effect here.

    Returns
    -------
    Estimate
        Terms ``link`` (bytes), ``depth`` (latencies of dependent steps), ``launch``. 0 for one device.

    Raises
    ------
    UnknownNameError
        If there is no such collective or algorithm.
    UnavailableError
        If the device has no link, or lacks the switch that the algorithm needs.
    """
    if collective not in ALGORITHMS:
        raise unknown_name("collective", collective, ALGORITHMS)
    ways = ALGORITHMS[collective]
    if algorithm is not None and algorithm not in ways:
        raise unknown_name(f"algorithm of {collective}", algorithm, ways)
    runs(device, algorithm=algorithm)
    there = [way for way in ways if way != "switch" or device.switch_sums]
    given = filled(CONSTANTS, constants)
    buffer, many, group = as_rows(size, devices, devices if node is None else node)
    found = [
        _times(device, given, way, layered(collective, way, buffer, many, group))
        for way in ([algorithm] if algorithm else there)
    ]
    hops, link = found[0]
    for other_hops, other_link in found[1:]:
        faster = other_hops + other_link < hops + link
        hops, link = np.where(faster, other_hops, hops), np.where(faster, other_link, link)
    launch = np.where(many > 1, given["start_s"], 0.0)
    return Estimate(hops + link + launch, {"link": link, "depth": hops, "launch": launch})


def runs(device: Device, *, algorithm: str | None = None, **_: object) -> None:
    """Refuse algorithm ``switch`` on a device without a switch that adds.

    Raises
    ------
    UnavailableError
        If it has none.
    """
    if algorithm == "switch" and not device.switch_sums:
        raise UnavailableError(f"{device.name} has no switch that adds; take algorithm ring or tree")


def check(device: Device, **_: object) -> None:
    """Refuse a device without a link.

    Raises
    ------
    UnavailableError
        If its spec has no link other than ``network``.
    """
    _within(device)


def _within(device: Device) -> float:
    """Return the bandwidth of a device's links within a node [B/s]; refuse a device without any."""
    if device.link_bandwidth is None:
        raise UnavailableError(
            f"{device.name} has no link to other devices in its spec; ask for rung bound, or give it one"
        )
    return device.link_bandwidth


def _network(device: Device, given: Mapping[str, float]) -> float:
    """Return the bandwidth reached between nodes [B/s]."""
    port = device.spec.links.get("network")
    network = port.oneway.si if port and port.oneway else given["network_bandwidth"]
    return given["network_share"] * network


def _times(
    device: Device, given: Mapping[str, float], algorithm: str, steps: tuple[Steps, Steps, Steps]
) -> tuple[Array, Array]:
    """Return the time of the steps' latencies and the time of their bytes [s]."""
    within, across, direct = steps
    hop = given["switch_hop_s" if algorithm == "switch" else "hop_s"]
    shares = {"tree": given["tree_share"], "switch": given["switch_share"] * device.switch_sums}
    share = shares.get(algorithm, given["bandwidth_share"])
    network = _network(device, given)
    hops = np.maximum(within.hops * hop, direct.hops * given["network_hop_s"])
    sent = np.maximum(within.sent / (share * _within(device)), direct.sent / network)
    return hops + across.hops * given["network_hop_s"], sent + across.sent / network
