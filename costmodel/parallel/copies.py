"""Copies of a model: what they exchange after a step, and what each of them has to hold.

Rajbhandari et al., arXiv 1910.02054: stage 1 shares the optimiser's state, 2 the gradients too, 3 the
weights too. Without it gradients are all-reduced; with it they are scattered, and weights gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from costmodel.kernels.base import Array
from costmodel.parallel.cluster import Cluster


class Group(NamedTuple):
    """Learned numbers of a device that as many devices have copies of.

    Attributes
    ----------
    parameters : array
        How many numbers.
    copies : array
        Devices that have them.
    node : array_like
        Of these, how many one node has room for.
    """

    parameters: Array
    copies: Array
    node: ArrayLike


def held(groups: Sequence[Group], zero: int, stage: int) -> Array:
    """Return the numbers of which a device holds what ZeRO shares from `stage` on, at stage `zero`."""
    shares = (group.parameters / (group.copies if zero >= stage else 1.0) for group in groups)
    return np.asarray(sum(shares))


def exchanges(
    groups: Sequence[Group], cluster: Cluster, zero: int, gradient_bytes: float, weight_bytes: float
) -> tuple[Array, Array]:
    """Return the time of exchanging all gradients, and of gathering all weights [s].

    Parameters
    ----------
    groups : sequence of Group
        The learned numbers of a device.
    cluster : Cluster
        Over whose links and network.
    zero : int
        0: weights are nowhere gathered.
    gradient_bytes, weight_bytes : float
        Of a number.
    """

    def over(collective: str, group: Group, size: float) -> Array:
        seconds = cluster.collective_s(collective, size * group.parameters, group.copies, group.node)
        return np.where(group.copies > 1, seconds, 0.0)

    how = "all-reduce" if zero == 0 else "reduce-scatter"
    exchanged = np.asarray(sum(over(how, group, gradient_bytes) for group in groups))
    if zero == 0:
        return exchanged, np.zeros_like(exchanged)
    return exchanged, np.asarray(sum(over("all-gather", group, weight_bytes) for group in groups))
