"""Crossover: the sizes at which one layer becomes cheaper than another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from costmodel import hardware
from costmodel._version import __version__
from costmodel.answer import SCHEMA
from costmodel.arguments import typed
from costmodel.errors import CostmodelError, SizeError, unknown_name
from costmodel.evaluate import as_size, bind, counts_of
from costmodel.layers import Layer
from costmodel.predict import as_device, bind_on, predict
from costmodel.symbols import DEVICE_SIZES, GLOSSARY, symbol

#: Quantities that can be compared: the time, or a row of the counts.
QUANTITIES = {
    "seconds": "seconds",
    "flops": "matrix_flops",
    "hbm_bytes": "hbm_bytes",
    "link_bytes": "link_bytes",
    "depth": "depth",
}

#: Assumption made for counts if neither a device nor `onchip` is given: re-reads that an on-chip memory may
#: serve are not main-memory traffic until its capacity is known to be too small.
KEPT = "recurrent weights stay on the chip"

#: Attributes of a prediction that say where its times come from.
_BASIS = ("rung", "constants_from")
#: Default end of the search, unless the size has a lower maximum.
MOST = 2.0**24
#: Number of parts that a range is cut into per step of the search.
_CUT = 16
#: Up to this many changes of order are all listed in words; of more, only the first and the last.
_SAID = 3


@dataclass(frozen=True, repr=False)
class Crossover:
    """The sizes at which the order of two layers changes.

    Attributes
    ----------
    first, second : str
        The layers compared.
    over, of : str
        The size that is varied, and the quantity compared.
    size : int or None
        The smallest size at which the order differs from that at size 1; None if it never changes.
    sizes : tuple of int
        Every size at which the order changes.
    cheaper : tuple of str
        Which layer is cheaper (or ``neither``) before the first change, between changes, and after the last.
    limit : int
        The largest size searched.
    rung, constants_from : str or None
        Rung and source of the constants of both layers' times; None where counts are compared.
    apart : float or None
        Largest difference between the first and the last change, relative to the lesser value; None if the
        order changes fewer than two times.
    assumed : str or None
        The assumption behind a count, if no device was given that settles it.
    grounds : tuple of dict
        ``layer``, ``rung`` and ``constants_from`` of each layer's times; empty where counts are compared.
    """

    first: str
    second: str
    over: str
    of: str
    sizes: tuple[int, ...]
    cheaper: tuple[str, ...]
    limit: int
    rung: str | None = None
    constants_from: str | None = None
    apart: float | None = None
    assumed: str | None = None
    grounds: tuple[dict[str, str], ...] = ()

    @property
    def size(self) -> int | None:
        """The first size at which the order changes, or None."""
        return self.sizes[0] if self.sizes else None

    @property
    def answer(self) -> int | str:
        """The size; or ``always`` / ``never`` if the first layer is always / never the cheaper one."""
        if self.sizes:
            return self.sizes[0]
        return "always" if self.cheaper[0] == self.first else "never"

    def __str__(self) -> str:
        """Return the answer in words."""
        return f"{self._words} (taken: {self.assumed})" if self.assumed else self._words

    def __repr__(self) -> str:
        """Return the answer in words, as a notebook shows it."""
        return f"<{self}>"

    @property
    def _words(self) -> str:
        if not self.sizes:
            otherwise = {self.second: f": {self.second} does", "neither": ": both need as much"}
            return (
                f"{self.of}: {self.first} {self.answer} needs less, for every {self.over} up to {self.limit}"
                f"{otherwise.get(self.cheaper[0], '')}"
            )
        begins = f"{self.of}: {_less('neither', self.cheaper[0])} below {self.over} = {self.sizes[0]}"
        if len(self.sizes) > _SAID and self.apart is not None:
            last = _less(self.cheaper[0], self.cheaper[-1])
            return (
                f"{begins}, {last} from {self.sizes[-1]} on; in between the order changes "
                f"{len(self.sizes) - 2} times more, and the two are at most {self.apart:.1%} apart"
            )
        pairs = zip(self.cheaper, self.cheaper[1:], self.sizes, strict=False)  # who before, who from there on
        return ", ".join([begins, *(f"{_less(one, other)} from {size} on" for one, other, size in pairs)])

    def to_dict(self) -> dict[str, Any]:
        """Return the whole answer as plain numbers, lists and text, for JSON."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            **dataclasses.asdict(self),
            "answer": self.answer,
            "size": self.size,
            "text": str(self),
        }


def _less(before: str, who: str) -> str:
    """Return who needs less, in words that continue a sentence about `before`."""
    if who == "neither":
        return "the same"
    return f"less for {who}" if before == "neither" else who


@typed
def crossover(
    first: Layer,
    second: Layer,
    device: hardware.Device | str | Path | None = None,
    *,
    over: str,
    of: str = "seconds",
    rung: str | None = None,
    limit: int | None = None,
    **sizes: ArrayLike,
) -> Crossover:
    """Find where one layer overtakes another as one size grows from 1 to `limit`.

    The order is evaluated at every size up to 64, and beyond that at 64 sizes per octave (times: 16). A
    change between two of these is then pinned down to the exact size.

    Parameters
    ----------
    first, second : Layer
        The layers; each takes those of `sizes` that it has.
    device : Device, str or Path, optional
        Needed for ``of="seconds"``. Counts need none: the weights that a recurrence reads at every step are
        then assumed to stay on the chip, and the answer says so. With a device, or with ``onchip``
        [bytes], weights that do not fit there are read again at every step.
    over : str
        The name of the size that is varied, such as ``"seq"``.
    of : {"seconds", "flops", "hbm_bytes", "link_bytes", "depth"}
        What is compared. ``flops`` counts matrix products only; ``link_bytes`` are sent to other devices.
    rung : str, optional
        See `predict`.
    limit : int, optional
        Largest size searched; default 2²⁴, or the maximum of the size if that is lower.
    **sizes : int
        All other sizes.

    Returns
    -------
    Crossover
        ``answer`` is the size, ``"always"`` or ``"never"``; ``str`` of it gives the answer in words.

    Raises
    ------
    UnknownNameError, SizeError
        If neither layer has a size of that name, or a size is missing.
    CostmodelError
        If times are compared without a device.
    """
    _check(first, second, device, over, of, sizes)
    last = int(as_size(over, min(MOST, GLOSSARY[over].largest) if limit is None else limit))
    asked = _Asked(over, of, None if device is None else as_device(device), rung, sizes)
    points = _points(last, 16 if of == "seconds" else 64)
    one, other = asked.values(first, points), asked.values(second, points)

    def order(inside: NDArray[np.float64]) -> NDArray[np.float64]:
        return _order(asked.values(first, inside), asked.values(second, inside))

    found, signs = _changes(order, points, _order(one, other))
    apart = None
    if len(found) > 1:
        between = (points >= found[0]) & (points <= found[-1])
        apart = _apart(one[between], other[between])
    names = (first.name, second.name) if first.name != second.name else (first.label, second.label)
    who = {-1.0: names[0], 1.0: names[1], 0.0: "neither"}
    return Crossover(
        first=names[0],
        second=names[1],
        over=over,
        of=of,
        sizes=tuple(found),
        cheaper=tuple(who[s] for s in signs),
        limit=last,
        apart=apart,
        assumed=KEPT if asked.keeps(first) or asked.keeps(second) else None,
        **{name: ", ".join(_met(asked.basis.values(), name)) or None for name in _BASIS},
        grounds=tuple(
            {"layer": name, **{what: ", ".join(met[what]) for what in _BASIS}}
            for name, layer in zip(names, (first, second), strict=True)
            if (met := asked.basis.get(layer))
        ),
    )


def _met(bases: Iterable[Mapping[str, Iterable[str]]], name: str) -> list[str]:
    """Return one attribute of all layers' times, each value once."""
    return list(dict.fromkeys(each for basis in bases for each in basis[name]))


def _check(
    first: Layer,
    second: Layer,
    device: object,
    over: str,
    of: str,
    sizes: Mapping[str, ArrayLike],
) -> None:
    """Refuse an unknown size or quantity, several values of one size, and times without a device."""
    symbol(over)
    if over in sizes:
        raise SizeError(f"crossover: {over} is what varies; leave out {over}=…")
    if of not in QUANTITIES:
        raise unknown_name("quantity", of, QUANTITIES)
    if of == "seconds" and device is None:
        raise CostmodelError("comparing seconds needs a device; counts (of='flops', …) need none")
    for name in (over, *sizes):
        if not any(name in layer.sizes() for layer in (first, second)) and name not in DEVICE_SIZES:
            taken = sorted({*first.sizes(), *second.sizes()})
            raise unknown_name(f"size of {first.name} or {second.name}", name, taken)
    for name, value in sizes.items():
        if np.size(value) > 1 or np.ndim(value) > 1:
            many = f"got {np.size(value)} values"
            raise SizeError(f"crossover: wanted one {name}, {many}; {over} is what varies")


@dataclass(frozen=True, eq=False)
class _Asked:
    """The question put to `crossover`, and where the times computed so far come from."""

    over: str
    of: str
    device: hardware.Device | None
    rung: str | None
    sizes: Mapping[str, ArrayLike]
    basis: dict[Layer, dict[str, dict[str, None]]] = field(default_factory=dict, init=False)

    def values(self, layer: Layer, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the compared quantity of a layer at several values of the size that is varied."""
        taken = (*layer.sizes(), *DEVICE_SIZES)
        own = {name: v for name, v in {**self.sizes, self.over: points}.items() if name in taken}
        if self.of == "link_bytes" and not layer.cost.sends:
            return np.zeros(points.shape)
        if self.device is None:
            kept = {"onchip": GLOSSARY["onchip"].largest} if self.keeps(layer) else {}
            found = counts_of(layer, bind(layer, own | kept))[QUANTITIES[self.of]]
        elif self.of == "seconds":
            found = self._times(layer, self.device, own)
        else:
            found = counts_of(layer, bind_on(self.device, layer, own))[QUANTITIES[self.of]]
        return np.broadcast_to(found, points.shape)

    def keeps(self, layer: Layer) -> bool:
        """Return whether the count depends on an on-chip capacity that was not given."""
        if self.device is not None or "onchip" in self.sizes or self.over == "onchip":
            return False
        row = layer.cost.rows().get(QUANTITIES[self.of])
        return row is not None and symbol("onchip") in row.free_symbols

    def _times(self, layer: Layer, device: hardware.Device, sizes: Mapping[str, ArrayLike]) -> Any:
        prediction = predict(layer, device, sizes, rung=self.rung)
        for name, met in self.basis.setdefault(layer, {name: {} for name in _BASIS}).items():
            met.update(dict.fromkeys(getattr(prediction, name).split(", ")))
        return prediction.seconds


def _order(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return −1 where the first is cheaper, 1 where the second is, 0 where they are equal."""
    return np.sign(np.where(np.isclose(one, other, rtol=1e-12, atol=0.0), 0.0, one - other))


def _apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the largest difference relative to the lesser value, where both are positive."""
    less = np.minimum(one, other)
    return float(np.max((np.maximum(one, other) - less)[less > 0] / less[less > 0], initial=0.0))


def _points(limit: int, octave: int) -> NDArray[np.float64]:
    """Return the sizes to evaluate: all up to 64, then `octave` of them per octave."""
    octaves = np.arange(0, np.log2(limit) + 1 / octave, 1 / octave)
    every = np.concatenate([np.arange(1.0, 65.0), np.round(2.0**octaves)])
    return np.unique(np.minimum(every, float(limit)))


def _changes(
    order: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    points: NDArray[np.float64],
    signs: NDArray[np.float64],
) -> tuple[list[int], list[float]]:
    """Return the sizes at which the order changes, and the order before, between and after them.

    `signs` is the order at `points`; between two points of different order the change is searched.
    """
    turns = np.flatnonzero(signs[1:] != signs[:-1])
    changes = _narrowed(order, points[turns], points[turns + 1], signs[turns])
    return _settle([int(change) for change in changes], [float(signs[0]), *map(float, signs[turns + 1])])


def _narrowed(
    order: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    before: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the first size in each range (low, high] at which the order differs from `before`.

    Evaluating many sizes takes as long as one: all ranges are cut at once, each into ``_CUT`` parts.
    """
    low, high = low.copy(), high.copy()
    while (wide := np.flatnonzero(high - low > 1)).size:
        inside = [np.unique(np.round(np.linspace(low[i], high[i], _CUT + 1)))[1:-1] for i in wide]
        found = np.split(order(np.concatenate(inside)), np.cumsum([sizes.size for sizes in inside])[:-1])
        for i, sizes, signs in zip(wide, inside, found, strict=True):
            edges = [low[i], *sizes, high[i]]
            turned = np.flatnonzero(signs != before[i])
            first = turned[0] if turned.size else sizes.size
            low[i], high[i] = edges[first], edges[first + 1]
    return high


def _settle(changes: list[int], sequence: list[float]) -> tuple[list[int], list[float]]:
    """Merge a tie with the order that follows it: the change counts from the tie on."""
    sizes: list[int] = []
    orders = [sequence[0]]
    for size, now in zip(changes, sequence[1:], strict=True):
        if orders[-1] == 0.0 and sizes:
            orders[-1] = now
            if orders[-2] == now:
                orders.pop()
                sizes.pop()
            continue
        sizes.append(size)
        orders.append(now)
    return sizes, orders
