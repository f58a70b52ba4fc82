"""Fit constants of a kernel that is measured only as part of a chain of kernels.

A framework's call may be a chain of kernels: the math backend is two products, a softmax and passes of its
own; a backward pass of a GRU is a recurrence and products. The layer that describes a row gives its kernels
and their sizes. If the constants of all kernels but one are known, the rows determine those of that one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import choosing, kernels
from costmodel.calibration import Section, Wanted
from costmodel.errors import CostmodelError
from costmodel.hardware import Device
from costmodel.measured import framework, harness
from costmodel.predict import measured_as
from costmodel.validation.record import cases_of
from costmodel.validation.registry import described

Array = NDArray[np.float64]
#: Key of a kernel's constants, for a given framework and format: kernel model, operation, `fwd` or `bwd`.
Kernel = tuple[str, str, str]
#: Prefix of elementwise arithmetic, whose operations cost the same, so that constants of any of them serve.
_ARITHMETIC = "elementwise_"


@dataclass(frozen=True)
class Link:
    """One kernel in some of the rows.

    Attributes
    ----------
    wanted : Wanted
        Key of the constants that time it.
    sizes : mapping of str to array
        Arguments of its kernel model, one value per row.
    options : mapping
        Its static arguments.
    repeats : array
        Number of times it runs.
    rows : array of int
        Rows that contain it.
    """

    wanted: Wanted
    sizes: Mapping[str, Array]
    options: Mapping[str, Any]
    repeats: Array
    rows: NDArray[np.intp]

    @property
    def kernel(self) -> Kernel:
        """Key of its constants; both parts of a backward pass share one set."""
        return self.wanted.kernel, self.wanted.op, self.wanted.direction[:3]

    def seconds(self, device: Device, constants: Mapping[str, float], count: int) -> Array:
        """Return its time in each of `count` rows [s]; 0 in rows without it."""
        estimate = kernels.model(self.wanted.kernel).seconds(device, constants, **self.sizes, **self.options)
        total = np.zeros(count)
        total[self.rows] = self.repeats * estimate.seconds
        return total


@dataclass
class Chain:
    """Rows whose chains have the same single kernel without constants.

    Attributes
    ----------
    open : Wanted
        The kernel without constants.
    rows : DataFrame
        Measured rows.
    links : list of Link
        All kernels of these rows.
    """

    open: Wanted
    rows: pd.DataFrame
    links: list[Link] = field(default_factory=list)

    def __str__(self) -> str:
        """Render for messages."""
        wanted = self.open
        words = (wanted.op, wanted.dtype, wanted.direction, wanted.framework, wanted.harness)
        return " ".join(word for word in words if word)

    @property
    def reduces(self) -> bool:
        """Whether the open kernel reduces rows, so that it has a cost per row."""
        return any(link.options.get("pattern", "elementwise") != "elementwise" for link in self.own)

    @property
    def own(self) -> list[Link]:
        """The links of the open kernel."""
        return [link for link in self.links if _same(link.wanted, self.open)]

    def others_seconds(self, device: Device, sections: Sequence[Section]) -> Array:
        """Return the time of all other kernels in each row [s], by the nearest known constants."""
        total = np.zeros(len(self.rows))
        for link in self.links:
            if not _same(link.wanted, self.open):
                section = choosing.best(sections, link.wanted)
                total += link.seconds(device, section.constants if section else {}, len(total))
        return total

    def own_seconds(self, device: Device, constants: Mapping[str, float]) -> Array:
        """Return the time of the open kernel in each row [s], with given constants."""
        total = np.zeros(len(self.rows))
        for link in self.own:
            total += link.seconds(device, constants, len(total))
        return total

    def sizes_of(self, kept: NDArray[np.bool_]) -> dict[str, Array]:
        """Return the sizes of the open kernel in the kept rows."""
        return {
            name: np.concatenate([link.sizes[name][kept[link.rows]] for link in self.own])
            for name in self.own[0].sizes
        }


def _same(one: Wanted, other: Wanted) -> bool:
    """Return whether two kernels of a chain share constants: the same op of the same model."""
    return (one.kernel, one.op) == (other.kernel, other.op)


def chained(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the warm rows, forward or backward, that a layer describes."""
    if rows.empty or not {"case", "status", "state", "direction"} <= set(rows):
        return rows.iloc[:0]
    good = (rows["status"] == "ok") & (rows["state"] == "warm") & rows["direction"].isin(("fwd", "bwd"))
    known = pd.Series([described([case])[0] is not None for case in cases_of(rows)], index=rows.index)
    return rows[good & known]


def chains(
    rows: pd.DataFrame, device: Device, sections: Sequence[Section], tried: Sequence[Kernel]
) -> Iterator[Chain]:
    """Yield a chain for each kernel that is the only one without constants in its rows.

    Parameters
    ----------
    rows : DataFrame
        As `chained` returns them.
    device : Device
        The device they ran on.
    sections : sequence of Section
        Known constants.
    tried : sequence of Kernel
        Kernels whose fit failed before; they are not tried again.
    """
    if rows.empty:
        return
    known = {(s.kernel, s.op, s.direction) for s in sections} | set(tried)
    arithmetic = any(s.op.startswith(_ARITHMETIC) for s in sections)
    found: dict[tuple[str, ...], list[tuple[pd.DataFrame, list[Link]]]] = {}
    for _, part in rows.groupby(_static(rows), sort=True):
        links = _links(part, device)
        missing = {
            (link.wanted.kernel, link.wanted.op): link.wanted
            for link in reversed(links)
            if link.kernel not in known and not (arithmetic and link.wanted.op.startswith(_ARITHMETIC))
        }
        if len(missing) == 1:
            (wanted,) = missing.values()
            of = (wanted.kernel, wanted.op, wanted.direction[:3], wanted.dtype)
            key = (*of, str(wanted.framework), str(wanted.harness))
            found.setdefault(key, []).append((part, links))
    for whose, groups in sorted(found.items(), key=lambda item: item[0]):
        yield _joined(groups, whose)


def _joined(groups: Sequence[tuple[pd.DataFrame, list[Link]]], key: tuple[str, ...]) -> Chain:
    """Join groups of rows with the same open kernel into one chain; links' row numbers are shifted."""
    kernel, op, direction, dtype, name, timed = key
    chain = Chain(Wanted(kernel, op, dtype, direction, name, timed), pd.concat([part for part, _ in groups]))
    before = 0
    for part, links in groups:
        for link in links:
            shifted = Link(link.wanted, link.sizes, link.options, link.repeats, link.rows + before)
            chain.links.append(shifted)
        before += len(part)
    return chain


def _static(rows: pd.DataFrame) -> list[str]:
    """Return for each row its case without the values of sizes, and how it was timed."""

    columns = zip(cases_of(rows), rows["timer"], rows["framework"], strict=True)
    return [f"{case.kind}|{timer}|{whose}" for case, timer, whose in columns]


def _links(rows: pd.DataFrame, device: Device) -> list[Link]:
    """Return the kernels of rows that differ only in the values of sizes."""
    layer, sizes = described(cases_of(rows))
    assert layer is not None, "rows of a chain have a layer"
    row = rows.iloc[0]
    whose, timed = framework(row["framework"])[0], harness(row["timer"])
    try:
        prediction = measured_as((whose, timed, None), layer, device, sizes, rung="kernel")
    except CostmodelError:
        return []
    plan = prediction.plan
    values = iter(plan.kernel_function(*(prediction.shapes[name] for name in plan.arguments)))

    def each(value: Any) -> Array:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (len(rows),))

    links = []
    for part in plan.phases:
        repeats = each(next(values))
        wanted = Wanted(part.kernel, part.phase.op, layer.dtype, part.direction, whose, timed)
        own = {name: each(next(values)) for name in part.phase.sizes}
        links.append(Link(wanted, own, part.options, repeats, np.arange(len(rows), dtype=np.intp)))
    return links
