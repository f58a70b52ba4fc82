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
all-reduce         one-shot    see ``costmodel.kernels._peer``     kernels of inference engines
all-reduce         two-shot    see ``costmodel.kernels._peer``     kernels of inference engines
all-reduce         multicast   see ``costmodel.kernels._peer``     kernels of inference engines
all-to-all         pairwise    (p − 1) α + (p − 1)/p N β           Thakur et al. 2005, §4.4
broadcast, reduce  chain       (p − 1) α + N β, pipelined          NCCL's ring
broadcast, reduce  tree        ⌈log₂ p⌉ (α + N β), binomial        Thakur et al. 2005, §4.2
send-receive       —           α + N β                             Hockney 1994
=================  ==========  ==================================  =================================

Where a node's switch can add (NVSwitch from its third generation on), each device is responsible for a p-th
of the sums. The switch adds it from what all devices send (N per device, its own part included), and the
device sends it once to reach all others (N/p).

A ring also reads and writes its own buffer N once, which its messages do not hide: N over a share of the
memory bandwidth, half of it for an all-gather or a reduce-scatter. (All-reduces of 1 GiB on 2, 4 and 8 A100,
2 and 4 H200, and 2 and 4 B200 all come to 0.94 of the links and this pass; ``validation/posted``.)

Unless an algorithm is given, the fastest of NCCL's is taken, as NCCL does. With ``custom`` it is the fastest
of NCCL's and of the kernels in which devices read each other's memory, as in inference engines. Across nodes
of g devices each collective is hierarchical (Thakur et al. 2005, §7; NCCL with a network port for each
device): what can be reduced or gathered over the fast link is, and each device's g-th part crosses the
network. All-to-all uses link and network concurrently; the partners of a send-receive are in different nodes.
A spec may have a link called ``network``: each device's port to other nodes.

Left out: contention between collectives, NCCL's protocols for short messages, network switches that add, and
the arithmetic of reductions (hidden behind the link, which is slower than memory).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from costmodel.errors import UnavailableError, unknown_name
from costmodel.hardware import Device
from costmodel.kernels import _peer
from costmodel.kernels._peer import Times
from costmodel.kernels.base import Array, Constant, Estimate, as_rows, filled

CONSTANTS = {
    "ring_share": Constant(
        0.75, 0.3, 1.0, "1", "share of the links' one-way bandwidth that a ring's long messages reach"
    ),
    "local_share": Constant(
        1.0, 0.03, 1.0, "1", "share of memory bandwidth at which a ring's own buffer is read and written"
    ),
    "bandwidth_share": Constant(
        0.75, 0.3, 1.0, "1", "share of the links' one-way bandwidth that messages between two devices reach"
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
    "ring_start_s": Constant(
        8.4e-6,
        1e-6,
        1e-4,
        "s",
        "start-up time of a ring, whose protocol is that of long messages (NCCL's tuning table)",
    ),
    "switch_share": Constant(
        0.807,
        0.3,
        1.0,
        "1",
        "share of the links that copies through a switch which adds reach: NVIDIA's 480 GB/s of bus "
        "bandwidth on 8 H100 (GTC 2024, S62129), 9/8 of a buffer sent at 0.85 of that (``switch_sums``)",
    ),
    "switch_fill_s": Constant(
        4.8e-5, 1e-7, 3e-4, "s", "time until a long message's parts pass through such a switch side by side"
    ),
    "switch_hop_s": Constant(
        8.3e-6,
        2e-7,
        2e-5,
        "s",
        "latency of a step through a switch that adds (NCCL's tuning table: 25 µs in all)",
    ),
    **_peer.CONSTANTS,
}

#: Bytes are bytes: constants hold in every format.
MEMORY_BOUND = True
#: Another vendor's links and library are others.
OWN_VENDOR = True

#: The fastest of NCCL's algorithms and of the kernels of inference engines.
CUSTOM = "custom"
#: NCCL's algorithms for each collective.
ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "all-reduce": ("ring", "tree", "switch"),
    "all-gather": ("ring",),
    "reduce-scatter": ("ring",),
    "all-to-all": ("pairwise",),
    "broadcast": ("ring", "tree"),
    "reduce": ("ring", "tree"),
    "send-receive": ("direct",),
}
#: Half the passes over the buffer of an all-reduce, which gathers after it has scattered.
_PASSES = {"all-reduce": 1.0, "all-gather": 0.5, "reduce-scatter": 0.5}
#: Messages from this length on take ``switch_fill_s`` until their parts pass side by side; shorter ones take
#: as much less as they are shorter [bytes] (all-reduces of 4 to 64 MiB on H200, ``validation/posted``).
_FILLING = 2.0**25
#: Algorithms in which a switch adds.
_BY_SWITCH = ("switch", "multicast")


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
        Of an all-reduce: ``ring``, ``tree`` or ``switch`` (NCCL's), ``one-shot``, ``two-shot`` or
        ``multicast`` (`costmodel.kernels._peer`), or ``custom``, the fastest of all six. Default: the fastest
        of NCCL's.
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
        If the device has no link, or lacks the switch that the algorithm needs; if devices of several nodes
        are to read each other's memory.
    """
    if collective not in ALGORITHMS:
        raise unknown_name("collective", collective, ALGORITHMS)
    known = named(collective)
    if algorithm is not None and algorithm not in known:
        raise unknown_name(f"algorithm of {collective}", algorithm, known)
    runs(device, algorithm=algorithm)
    given = filled(CONSTANTS, constants)
    buffer, many, group = as_rows(size, devices, devices if node is None else node)
    if algorithm in _peer.ALGORITHMS and np.any(many > group):
        raise UnavailableError(f"{algorithm} is an all-reduce of devices of one node; take auto or custom")
    fastest, *others = (
        _peer_times(device, given, way, buffer, many, group)
        if way in _peer.ALGORITHMS
        else _times(device, given, collective, way, buffer, layered(collective, way, buffer, many, group))
        for way in _tried(device, collective, algorithm)
    )
    for other in others:
        faster = sum(other) < sum(fastest)
        fastest = Times(*(np.where(faster, new, old) for new, old in zip(other, fastest, strict=True)))
    alone = many == 1
    depth, link, launch = (np.where(alone, 0.0, term) for term in fastest)
    return Estimate(depth + link + launch, {"link": link, "depth": depth, "launch": launch})


def named(collective: str) -> tuple[str, ...]:
    """Return the algorithms of a collective that can be asked for."""
    ways = ALGORITHMS[collective]
    return (*ways, *_peer.ALGORITHMS, CUSTOM) if collective == "all-reduce" else ways


def _tried(device: Device, collective: str, algorithm: str | None) -> list[str]:
    """Return the algorithms among which the fastest is taken."""
    if algorithm not in (None, CUSTOM):
        return [algorithm]
    ways = ALGORITHMS[collective] + (_peer.ALGORITHMS if algorithm == CUSTOM else ())
    return [way for way in ways if not _lacking(device, way)]


def runs(device: Device, *, algorithm: str | None = None, **_: object) -> None:
    """Refuse an algorithm on a device that lacks the switch or the loads which it needs.

    Raises
    ------
    UnavailableError
        If it does.
    """
    lacking = _lacking(device, algorithm)
    if lacking:
        raise UnavailableError(f"{device.name} has no {lacking}; take algorithm auto or custom")


def _lacking(device: Device, algorithm: str | None) -> str:
    """Return what a device lacks for an algorithm; empty if nothing."""
    if algorithm in _peer.ALGORITHMS and device.spec.units.kind not in _peer.UNITS:
        return "loads from another device's memory"
    return "switch that adds" if algorithm in _BY_SWITCH and not device.switch_sums else ""


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
    device: Device,
    given: Mapping[str, float],
    collective: str,
    algorithm: str,
    size: Array,
    steps: tuple[Steps, Steps, Steps],
) -> Times:
    """Return the times of one of NCCL's algorithms [s]."""
    within, across, direct = steps
    ring = algorithm == "ring" and collective in _PASSES
    hop = given["switch_hop_s" if algorithm == "switch" else "hop_s"]
    shares = {"tree": given["tree_share"], "switch": given["switch_share"] * device.switch_sums}
    share = given["ring_share"] if ring else shares.get(algorithm, given["bandwidth_share"])
    network = _network(device, given)
    depth = np.maximum(within.hops * hop, direct.hops * given["network_hop_s"])
    depth = depth + across.hops * given["network_hop_s"]
    sent = np.maximum(within.sent / (share * _within(device)), direct.sent / network) + across.sent / network
    if ring:
        own = _PASSES[collective] * size / (given["local_share"] * device.hbm_bandwidth)
        sent = sent + np.where(within.sent > 0, own, 0.0)
    if algorithm == "switch":
        depth = depth + given["switch_fill_s"] * np.minimum(1.0, size / _FILLING)
    start = np.full_like(sent, given["ring_start_s" if ring else "start_s"])
    return Times(depth, sent, start)


def _peer_times(
    device: Device, given: Mapping[str, float], algorithm: str, size: Array, devices: Array, node: Array
) -> Times:
    """Return the times of devices that read each other's memory; infinite across nodes [s]."""
    found = _peer.times(algorithm, size, devices, _within(device), given)
    return Times(*(np.where(devices > node, np.inf, term) for term in found))
