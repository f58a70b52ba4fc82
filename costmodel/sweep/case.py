"""A layer on a device over all combinations of its sizes, cut into boxes that are predicted one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodel import hardware
from costmodel.layers import Layer
from costmodel.plan import Plan, make_plan
from costmodel.predict import predict
from costmodel.prediction import Prediction
from costmodel.sweep.columns import text_of

Array = NDArray[np.float64]

#: Largest number of points in a box, which are predicted together.
BOX = 32768


@dataclass(frozen=True, eq=False)
class Case:
    """A layer on a device over all combinations of its sizes.

    Attributes
    ----------
    layer, device : Layer, Device
        The layer and the device.
    axes : mapping of str to array
        The values of each size that the grid sets for the layer.
    how : mapping
        ``rung``, ``state`` and ``framework`` of `predict`.
    price : float, optional
        Price of the device [currency/h].
    """

    layer: Layer
    device: hardware.Device
    axes: Mapping[str, Array]
    how: Mapping[str, Any]
    price: float | None = None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each size."""
        return tuple(axis.size for axis in self.axes.values())

    @property
    def points(self) -> int:
        """Number of points: all combinations of sizes."""
        return math.prod(self.shape)

    @cached_property
    def _cut(self) -> tuple[int, int]:
        """The axis that is split, and its number of runs; later axes are whole, earlier ones single."""
        inner = 1
        for axis in reversed(range(len(self.shape))):
            if inner * self.shape[axis] > BOX:
                return axis, math.ceil(self.shape[axis] / (BOX // inner))
            inner *= self.shape[axis]
        return 0, 1

    @property
    def boxes(self) -> int:
        """Number of boxes."""
        axis, runs = self._cut
        return math.prod(self.shape[:axis]) * runs

    def box(self, number: int) -> tuple[int, tuple[slice, ...]]:
        """Return a box: the number of its first point within the case, and a slice of each axis."""
        axis, runs = self._cut
        leading, run = divmod(number, runs)
        singles = np.unravel_index(leading, self.shape[:axis]) if axis else ()
        size = self.shape[axis] if self.shape else 1
        first, last = run * size // runs, (run + 1) * size // runs
        slices = (
            *(slice(int(i), int(i) + 1) for i in singles),
            slice(first, last),
            *(slice(0, n) for n in self.shape[axis + 1 :]),
        )[: len(self.shape)]
        start = int(np.ravel_multi_index([s.start for s in slices], self.shape)) if slices else 0
        return start, slices

    def points_of(self, first: int, last: int) -> int:
        """Return the number of points in the boxes from `first` up to, but excluding, `last`."""
        end = self.box(last)[0] if last < self.boxes else self.points
        return end - self.box(first)[0]

    def mesh(self, slices: Sequence[slice]) -> dict[str, Array]:
        """Return slices of the sizes, each along its own axis (an open mesh)."""
        rank = len(self.axes)
        return {
            name: values[run].reshape([-1 if i == j else 1 for j in range(rank)])
            for i, ((name, values), run) in enumerate(zip(self.axes.items(), slices, strict=True))
        }

    def at(self, numbers: NDArray[np.int64]) -> dict[str, Array]:
        """Return the sizes of points by number, as one flat array per size."""
        places = np.unravel_index(numbers, self.shape) if self.shape else ()
        return {name: axis[i] for (name, axis), i in zip(self.axes.items(), places, strict=True)}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields only: another process compiles its own functions."""
        return Case, (self.layer, self.device, self.axes, self.how, self.price)

    @cached_property
    def plan(self) -> Plan:
        """The plan that all predictions of the case share."""
        implementation = (self.how["framework"], None, None)
        return make_plan(self.layer, self.device, self.how["rung"], self.how["state"], implementation)

    @cached_property
    def text(self) -> dict[str, str]:
        """The text columns, one value each."""
        return text_of(Prediction(self.plan, {}))

    def predict(self, sizes: Mapping[str, Any]) -> Prediction:
        """Return the prediction of some points of the case."""
        return predict(self.layer, self.device, sizes, **self.how)
