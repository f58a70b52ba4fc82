"""Objective of a search in a grid: the minimum of a numeric column, or of a formula of such columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodel.errors import CostmodelError
from costmodel.sweep.case import Case
from costmodel.sweep.columns import COST, ENERGY, TEXT
from costmodel.sweep.grid import Grid
from costmodel.sweep.points import Points, absent
from costmodel.sweep.where import Formula, formula

Array = NDArray[np.float64]

#: Short names of columns.
SHORT = {"energy": ENERGY, "time": "seconds"}
#: Columns that are not numbers.
_WORDS = (*TEXT, "bound")


@dataclass(frozen=True)
class Aim:
    """A column, or a formula of columns, to minimise.

    Attributes
    ----------
    formula : Formula
        ``seconds``, ``-batch`` (the maximum), ``cost / batch``, …
    """

    formula: Formula

    @classmethod
    def of(cls, text: str, grid: Grid) -> Aim:
        """Return the aim for a column's name or a formula: ``seconds`` is minimised, ``-batch`` maximised.

        Raises
        ------
        CostmodelError
            If a column is unknown or not numeric, or some layer or device lacks it: its points would be
            left out silently.
        """
        numbers = [column for column in grid.columns if column not in _WORDS]
        found = formula(text, [*numbers, COST, *SHORT, *_WORDS])
        names = {SHORT.get(name, name) for name in found.columns}
        for name in sorted(names & set(_WORDS)):
            raise CostmodelError(f"wanted a numeric column, such as seconds, got {name!r}, which is text")
        for name in sorted(names):
            lacking = [case for case in grid.cases if name in absent(case, grid.sizes)]
            if lacking:
                raise _not_known(name, lacking)
        return cls(found)

    def boxed(self, points: Points) -> Array:
        """Return the values to minimise, in the shape of the box; infinite where there is no value."""
        values = self.formula(lambda name: points.boxed(SHORT.get(name, name)))
        there = ~np.isnan(values) if points.mask is None else ~np.isnan(values) & points.mask
        return np.where(there, values, np.inf)


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
