"""A chart on a page: drawn for the picked case, with a finding for every case."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Pick:
    """Something the reader chooses for the whole page: a device, a model, a batch.

    Attributes
    ----------
    column : str
        The column whose value is chosen.
    label : str
        Label of the choice.
    values : tuple
        The values to choose from; text or numbers.
    default : int
        Index of the value chosen at first.
    """

    column: str
    label: str
    values: tuple[Any, ...]
    default: int = 0


@dataclass(frozen=True, eq=False)
class Figure:
    """A chart with its rows for every case.

    Attributes
    ----------
    name : str
        Its anchor on the page.
    frame : DataFrame
        Rows of all cases.
    chart : callable
        Rows of one case → Altair chart.
    finding : callable
        Rows of one case → one sentence.
    about : str
        Description of the chart, for the caption and for screen readers.
    """

    name: str
    frame: pd.DataFrame
    chart: Callable[[pd.DataFrame], Any]
    finding: Callable[[pd.DataFrame], str]
    about: str

    @classmethod
    def of(cls, module: ModuleType, frame: pd.DataFrame, **fixed: Any) -> Figure:
        """Return the figure of a chart's module; `fixed` are arguments of its chart that all cases share."""
        chart = partial(module.chart, **fixed)
        return cls(module.NAME, frame, chart, module.finding, module.ABOUT)

    def picks(self, picks: Sequence[Pick]) -> list[Pick]:
        """Return the page's picks that filter this figure."""
        return [pick for pick in picks if pick.column in self.frame]

    def spec(self, picks: Sequence[Pick]) -> dict[str, Any]:
        """Return the Vega-Lite spec for the choices made at first, without rows, title or description.

        The page holds the rows of every case, and has title and description in HTML. If the first case has no
        rows, the spec is that of one that has some (a page that computes its rows has none at all).
        """
        first = choose(self.frame, at_first(picks))
        if first.empty and not self.frame.empty:
            some = self.frame.iloc[0]
            first = choose(self.frame, {pick.column: some[pick.column] for pick in self.picks(picks)})
        spec: dict[str, Any] = self.chart(first).to_dict()
        for part in ("datasets", "title", "description"):
            spec.pop(part, None)
        return spec | {"data": {"name": "rows"}}

    def findings(self, picks: Sequence[Pick]) -> dict[str, str]:
        """Return the finding for every choice, by the indices chosen: ``"0,3" → "…"``."""
        mine = self.picks(picks)
        found = {}
        for indices in itertools.product(*(range(len(pick.values)) for pick in mine)):
            chosen = {pick.column: pick.values[i] for pick, i in zip(mine, indices, strict=True)}
            found[",".join(map(str, indices))] = self.say(chosen)
        return found

    def say(self, chosen: dict[str, Any]) -> str:
        """Return the finding for one choice."""
        rows = choose(self.frame, chosen)
        return self.finding(rows) if len(rows) else "No data for this choice"


def at_first(picks: Sequence[Pick]) -> dict[str, Any]:
    """Return the choices made before the reader picks."""
    return {pick.column: pick.values[pick.default] for pick in picks}


def choose(frame: pd.DataFrame, chosen: dict[str, Any]) -> pd.DataFrame:
    """Return the rows of a case; a size that is missing in a row (its layer has no such size) matches any."""
    mask = np.ones(len(frame), dtype=bool)
    for column, value in chosen.items():
        if column in frame:
            mask &= ((frame[column] == value) | frame[column].isna()).to_numpy(dtype=bool)
    return frame[mask]
