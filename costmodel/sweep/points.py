"""Points of a sweep with their predictions; columns are computed on demand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodel.prediction import Prediction
from costmodel.sweep.case import Array, Case
from costmodel.sweep.columns import COST, ENERGY, TENSOR, TEXT, number_of, sharing, size_column
from costmodel.sweep.where import Condition


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one case.

    Attributes
    ----------
    case : Case
        The layer and the device.
    start : int or array of int
        The number of the first point, if the others follow in order; or the number of each point.
    prediction : Prediction
        The prediction of the box; or a flat one, of only those of its points that were not excluded early.
    mesh : mapping of str to array
        The box, each size along its own axis; empty for points that are no box.
    mask : array of bool, optional
        Which points of the box are wanted, in its shape; default: all.
    picked : array of bool, optional
        Which rows of a flat prediction are wanted; default: all.
    """

    case: Case
    start: int | NDArray[np.int64]
    prediction: Prediction
    mesh: Mapping[str, Array] = field(default_factory=dict)
    mask: NDArray[np.bool_] | None = None
    picked: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls, case: Case, start: int, mesh: Mapping[str, Array], where: Sequence[Condition]
    ) -> Points | None:
        """Return the points of a box that meet the conditions, or None if none does.

        Conditions on sizes alone are evaluated first, and points that fail them are not predicted: their
        sizes may be inconsistent.
        """
        shape = np.broadcast_shapes(*(axis.shape for axis in mesh.values()))
        known = _early(case, mesh)
        early = [part for part in where if part.columns <= known.keys()]
        mask: NDArray[np.bool_] | None = _all(early, known, shape)
        if not np.any(mask):
            return None
        if np.all(mask):
            mask, sizes = None, dict(mesh)
        else:
            sizes = {name: np.broadcast_to(axis, shape)[mask] for name, axis in mesh.items()}
        points = cls(case, start, case.predict(sizes), mesh, mask)
        late = [part for part in where if part not in early]
        if not late:
            return points
        looked_at = {name: points.column(name) for name in frozenset().union(*(p.columns for p in late))}
        holds = _all(late, looked_at, points.prediction.shape)
        if not holds.any():
            return None
        if mask is None:
            return cls(case, start, points.prediction, mesh, holds)
        wanted = mask.copy()
        wanted[mask] = holds
        return cls(case, start, points.prediction, mesh, wanted, holds)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the box."""
        return np.broadcast_shapes(*(axis.shape for axis in self.mesh.values()))

    @property
    def _flat(self) -> bool:
        """Whether the prediction is flat: of those points only that conditions on sizes leave."""
        return self.prediction.shape != self.shape

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the wanted points."""
        if not isinstance(self.start, int):
            return self.start
        if self.mask is None:
            return np.arange(self.start, self.start + int(np.prod(self.shape)))
        return self.start + np.flatnonzero(self.mask)

    @property
    def count(self) -> int:
        """The number of wanted points."""
        return self.numbers.size

    @property
    def begin(self) -> int:
        """The number of the box's first point."""
        return int(np.min(self.start))

    def keys(self, names: Sequence[str], positions: NDArray[np.int64]) -> list[tuple[Any, ...]]:
        """Return text and sizes at positions in the box; None for a size that the case does not have."""
        places = np.unravel_index(positions, self.shape)
        columns: list[Any] = [[None] * positions.size for _ in names]
        axes = {size_column(axis): i for i, axis in enumerate(self.mesh)}
        for i, name in enumerate(names):
            if name in TEXT:
                columns[i] = [self.case.text[name]] * positions.size
            elif name == TENSOR:
                columns[i] = [sharing(self.case.layer)] * positions.size
            elif name in axes:
                values = list(self.mesh.values())[axes[name]].reshape(-1)
                columns[i] = values[places[axes[name]]].tolist()
        return list(zip(*columns, strict=True)) if names else [()] * positions.size

    def column(self, name: str) -> Any:
        """Return a column in a broadcastable shape: text, a number, or an array."""
        if name in TEXT:
            return self.case.text[name]
        if name == "bound":
            return self.prediction.bound
        return number_of(self.prediction, name, self.case.price)

    def values(self, name: str) -> NDArray[Any]:
        """Return a numeric column of the wanted points as a flat array; ``bound`` as codes."""
        found = self.prediction.limit if name == "bound" else self.column(name)
        whole = np.broadcast_to(np.asarray(found), self.prediction.shape)
        if self.picked is not None:
            return whole[self.picked]
        return whole[self.mask] if self.mask is not None and not self._flat else whole.reshape(-1)

    def boxed(self, name: str) -> Array:
        """Return a numeric column in the shape of the box, infinite at points that are not wanted."""
        if self.mask is None:
            return np.broadcast_to(np.asarray(self.column(name), dtype=np.float64), self.shape)
        box = np.full(self.shape, np.inf)
        box[self.mask] = self.values(name)
        return box


def gather(found: Iterable[Points], names: Collection[str], most: int) -> dict[str, NDArray[Any]]:
    """Return numeric columns of many points, concatenated.

    Parameters
    ----------
    found : iterable of Points
        The points, box by box.
    names : collection of str
        Columns other than text; ``bound`` as codes.
    most : int
        Upper limit of the number of points.
    """
    columns = {name: np.empty(most, np.int8 if name == "bound" else np.float64) for name in names}
    filled = 0
    for points in found:
        rows = slice(filled, filled + points.count)
        for name, column in columns.items():
            column[rows] = points.values(name)
        filled = rows.stop
    return {name: column[:filled] for name, column in columns.items()}


def absent(case: Case, sizes: Iterable[str]) -> set[str]:
    """Return the columns that a case has no values for: sizes of other layers, figures its device lacks."""
    found = {size_column(name) for name in sizes if name not in case.layer.sizes()}
    if case.device.tdp_w is None:
        found.add(ENERGY)
    return found if case.price is not None else found | {COST}


def _all(
    conditions: Iterable[Condition], columns: Mapping[str, Any], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return which points meet all conditions, in the given shape."""
    mask = np.broadcast_to(np.True_, shape)
    for part in conditions:
        mask = mask & part(columns.__getitem__)
    return mask


def _early(case: Case, mesh: Mapping[str, Array]) -> dict[str, Any]:
    """Return the columns known before a prediction: the sizes, and the text of layer and device."""
    layer = case.layer
    known: dict[str, Any] = {"layer": layer.name, "options": layer.label, "dtype": layer.dtype}
    known["device"] = case.device.name
    for name, default in layer.defaults.items():
        if isinstance(default, int):
            known[size_column(name)] = float(default)
        elif default in mesh:
            known[size_column(name)] = mesh[default]
    return known | {size_column(name): axis for name, axis in mesh.items()}
