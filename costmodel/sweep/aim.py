"""Objective of a search in a grid: the minimum or maximum of a numeric column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodel.errors import CostmodelError, unknown_name
from costmodel.sweep.case import Case
from costmodel.sweep.columns import COST, ENERGY, TEXT
from costmodel.sweep.grid import Grid
from costmodel.sweep.points import Points, absent

Array = NDArray[np.float64]

#: Short names of columns.
SHORT = {"energy": ENERGY, "time": "seconds"}


@dataclass(frozen=True)
class Aim:
    """A column to minimise or maximise.

    Attributes
    ----------
    column : str
        A numeric column.
    sign : float
        1 to minimise, −1 to maximise.
    """

    column: str
    sign: float = 1.0

    @classmethod
    def of(cls, text: str, grid: Grid) -> Aim:
        """Return the aim for a column's name: ``seconds`` is minimised, ``-batch`` maximised.

        Raises
        ------
        CostmodelError
            If the column is unknown or not numeric, or some layer or device lacks it: its points would be
            left out silently.
        """
        name, sign = (text[1:], -1.0) if text.startswith("-") else (text, 1.0)
        name = SHORT.get(name, name)
        numbers = [column for column in grid.columns if column not in (*TEXT, "bound")]
        if name in (*TEXT, "bound"):
            raise CostmodelError(f"wanted a numeric column, such as seconds, got {name!r}, which is text")
        if name not in (*numbers, COST):
            raise unknown_name("column", name, [*numbers, *SHORT])
        lacking = [case for case in grid.cases if name in absent(case, grid.sizes)]
        if lacking:
            raise _not_known(name, lacking)
        return cls(name, sign)

    def boxed(self, points: Points) -> Array:
        """Return the values to minimise, in the shape of the box; infinite where there is no value."""
        values = points.boxed(self.column)
        values = values if self.sign > 0 else np.where(np.isinf(values), values, -values)
        return np.where(np.isnan(values), np.inf, values)


def _not_known(name: str, cases: Sequence[Case]) -> CostmodelError:
    """Return the error for a column that some layers or devices lack."""
    devices = ", ".join(dict.fromkeys(case.device.name for case in cases))
    if name == COST:
        return CostmodelError(
            f"{name} needs the price per hour of every device; give that of {devices}, or leave it out"
        )
    if name == ENERGY:
        return CostmodelError(
            f"{name} needs the TDP of every device; leave out {devices}, whose spec has none"
        )
    layers = ", ".join(dict.fromkeys(case.layer.name for case in cases))
    return CostmodelError(f"{name} is not a size of every layer; leave out {layers}")
