"""A cluster: devices in nodes, with links within a node and a network between nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from costmodel import hardware
from costmodel.arguments import typed
from costmodel.errors import CostmodelError, UnavailableError
from costmodel.evaluate import as_one_size
from costmodel.kernels.base import Array
from costmodel.layers.collective import Collective
from costmodel.plan import Plan, make_plan
from costmodel.predict import as_device, bind_on
from costmodel.prediction import Prediction

#: Devices per node where links join no more.
_NODE = 8


@typed
@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster of identical devices.

    Parameters
    ----------
    device : Device, str or Path
        The device; ``device.replace(network="50 GB/s")`` sets the bandwidth of its port to other nodes,
        which otherwise has the default of ``costmodel.kernels.collective``.
    devices : int
        Number of devices.
    node : int, optional
        Number of devices per node, which are joined by its links. Default: 8; where links join more
        (`hardware.Device.joined`), the largest number of these that divides the devices.
    price : float, optional
        Price of one device per hour, in any currency.

    Raises
    ------
    CostmodelError
        If the devices do not fill whole nodes.
    UnavailableError
        If the device's spec has no link within a node: layouts are timed with one, at any rung.
    """

    device: hardware.Device | str | Path
    devices: int
    node: int | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        """Check the device and the price, and that nodes are full."""
        if self.machine.link_bandwidth is None:
            raise UnavailableError(
                f"cluster: {self.machine.name} has no link to other devices in its spec; give it one, or "
                "predict a training on one device: `costmodel model --use training`"
            )
        # As Python ints: products of NumPy's small integers overflow.
        object.__setattr__(self, "devices", as_one_size("devices", self.devices))
        node = self._default() if self.node is None else as_one_size("node", self.node)
        object.__setattr__(self, "node", node)
        if self.price is not None and not 0 <= self.price < math.inf:
            raise CostmodelError(f"cluster: wanted a price of at least 0 for an hour, got {self.price}")
        if self.price is not None:
            object.__setattr__(self, "price", float(self.price))
        if self.devices > node and self.devices % node:
            full = self.devices // node * node
            raise CostmodelError(
                f"cluster: {self.devices} devices do not fill nodes of {node}; {full} or {full + node} would"
            )

    @property
    def per_node(self) -> int:
        """Number of devices per node: `node`, which a cluster that is made always has."""
        return cast("int", self.node)

    def _default(self) -> int:
        joined = self.machine.joined
        if self.devices <= joined:
            return joined
        return next((n for n in range(joined, _NODE, -1) if self.devices % n == 0), _NODE)

    @cached_property
    def machine(self) -> hardware.Device:
        """The device."""
        return as_device(self.device)

    def collective_s(
        self, name: str, size: ArrayLike, devices: ArrayLike, node: ArrayLike, *, rung: str | None = None
    ) -> Array:
        """Return the time of a collective [s].

        Parameters
        ----------
        name : str
            Option `collective` of the layer of that name.
        size : array_like
            Buffer of one device [bytes].
        devices, node : array_like
            Number of devices that take part, and how many of them fit into one node: below 1 if a device
            here is a group that is wider than a node.
        rung : str, optional
            See `costmodel.predict`.
        """
        if np.all(np.equal(devices, 1)):
            return np.zeros(np.broadcast_shapes(*map(np.shape, (size, devices, node))))
        made = self._collective(name, rung)
        sizes = bind_on(self.machine, made.layer, {"m": 1, "n": 1, "devices": 1})
        # These are not checked as a user's sizes are: shares of a buffer or of a node need not be whole.
        sizes["m"] = np.asarray(size) / float(made.layer.bytes)
        sizes["devices"] = np.asarray(devices, dtype=np.float64)
        sizes["node"] = np.maximum(1.0, node)
        return np.asarray(Prediction(plan=made, shapes=sizes).seconds)

    def grounds(self, name: str, rung: str | None = None) -> tuple[str, str]:
        """Return the rung of a collective's time, and the origins of its constants."""
        made = self._collective(name, rung)
        return made.rung, made.constants_from

    def _collective(self, name: str, rung: str | None) -> Plan:
        """Return the plan of a collective; bytes are bytes, so any format does."""
        return make_plan(Collective(collective=name), self.machine, rung, "warm", (None, None, None))
