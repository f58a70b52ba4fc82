"""Data-parallel copies of a model: what they exchange after a step, and what each has to hold.

ZeRO (Rajbhandari et al., arXiv 1910.02054) shards the optimiser's state from stage 1, the gradients from
stage 2 and the weights from stage 3. Without ZeRO gradients are all-reduced; with it they are
reduce-scattered, and weights are all-gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from costmodel.kernels.base import Array
from costmodel.parallel.cluster import Cluster


class Group(NamedTuple):
    """Parameters of a device that have the same number of copies.

    Attributes
    ----------
    parameters : array
        Number of parameters.
    copies : array
        Number of devices that hold a copy.
    node : array_like
        Number of these devices that fit in one node.
    """

    parameters: Array
    copies: Array
    node: ArrayLike


def held(groups: Sequence[Group], zero: int, stage: int) -> Array:
    """Return how many parameters' data a device holds at ZeRO stage `zero`, if `stage` starts sharding it."""
    shares = (group.parameters / (group.copies if zero >= stage else 1.0) for group in groups)
    return np.asarray(sum(shares))


def exchanges(
    groups: Sequence[Group],
    cluster: Cluster,
    zero: int,
    gradient_bytes: float,
    weight_bytes: float,
    rung: str | None,
) -> tuple[Array, Array]:
    """Return the time of exchanging all gradients, and of gathering all weights [s].

    Parameters
    ----------
    groups : sequence of Group
        The parameters of a device.
    cluster : Cluster
        The cluster whose links and network are used.
    zero : int
        Stage of ZeRO; with 0, no weights are gathered.
    gradient_bytes, weight_bytes : float
        Size of one gradient and of one weight [bytes].
    rung : str, optional
        See `costmodel.predict`.
    """

    def over(collective: str, group: Group, size: float) -> Array:
        return cluster.collective_s(collective, size * group.parameters, group.copies, group.node, rung=rung)

    how, *gathers = exchanged_by(zero)
    exchanged = np.asarray(sum(over(how, group, gradient_bytes) for group in groups))
    gathered = (over(gather, group, weight_bytes) for gather in gathers for group in groups)
    return exchanged, np.asarray(sum(gathered, start=np.zeros_like(exchanged)))


def exchanged_by(zero: int) -> tuple[str, ...]:
    """Return the collectives that exchange gradients, and with ZeRO also gather weights."""
    return ("all-reduce",) if zero == 0 else ("reduce-scatter", "all-gather")
