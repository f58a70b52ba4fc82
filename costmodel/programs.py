"""Layers as programs for a browser: every step of rung ``bound``, as Vega code.

A program computes what `predict(…, rung="bound")` does from sizes (fields of a datum) and the figures of a
device (signals of the view).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp
from sympy.logic.boolalg import Boolean

from costmodel.cost import ZERO, Cost
from costmodel.errors import SizeError
from costmodel.layers import Layer, get
from costmodel.symbols import DEVICE_SIZES, as_symbols, symbol
from costmodel.vega import assignments, vega

#: Names of the signals that hold a device's single figures, in SI units.
FIGURES = ("bandwidth", "cache", "link", "sums", "step", "launch", *DEVICE_SIZES)


@dataclass(frozen=True)
class Program:
    """The steps that compute a layer's counts and times.

    Attributes
    ----------
    steps : tuple of (str, str)
        Field and its Vega code, in order. They include the counts of `Cost.rows`, ``seconds``, ``lower_s``,
        ``serial_s``, ``waiting_s`` (dependent steps and launches times the device's latencies), and
        ``bound``, an index into `limits`.
    limits : tuple of str
        What can limit the layer: ``matrix:bf16``, ``hbm``, …
    rates : tuple of (str, str)
        Engine and dtype of the rates used [FLOP/s]: signals ``rate_matrix_bf16``, …
    boosts : tuple of str
        Dtypes whose highest rate the lower bound uses [FLOP/s]: signals ``boost_bf16``, …
    """

    steps: tuple[tuple[str, str], ...]
    limits: tuple[str, ...]
    rates: tuple[tuple[str, str], ...]
    boosts: tuple[str, ...]

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of all device figures that the program needs."""
        return _signals(self.rates, self.boosts)


def _signals(rates: tuple[tuple[str, str], ...], boosts: tuple[str, ...]) -> tuple[str, ...]:
    return (*FIGURES, *(f"rate_{e}_{d}" for e, d in rates), *(f"boost_{d}" for d in boosts))


def program(layer: Layer) -> Program:
    """Return the program of a layer with its options fixed."""
    cost = layer.exact.cost
    rates = tuple(dict.fromkeys(key for phase in cost.phases for key in phase.flops))
    boosts = tuple(dict.fromkeys(dtype for _, dtype in cost.flops))
    times, limits = _times(cost)
    steps = [*assignments([*_counts(cost), *layer.cost.rows().items()]), *times, *_lower(cost)]
    waiting = _name("steps") * _name("step") + _name("launches") * _name("launch")
    steps.append(("waiting_s", waiting))
    signals = _signals(rates, boosts)
    return Program(tuple((name, vega(step, signals)) for name, step in steps), limits, rates, boosts)


def _name(name: str) -> sp.Symbol:
    """Return the symbol that stands for a step or a figure in later steps."""
    return sp.Symbol(name, real=True)


def _max(*terms: sp.Expr) -> sp.Expr:
    """Return the maximum without SymPy's search for redundant terms, which takes half the time."""
    return sp.Max(*terms, evaluate=False)


def _counts(cost: Cost) -> list[tuple[str, sp.Expr]]:
    """Return every count that the times need, kernel by kernel, and the sums."""
    named: list[tuple[str, sp.Expr]] = []
    for i, phase in enumerate(cost.phases):
        named.append((f"repeats{i}", phase.repeats))
        named += [(f"flops{i}_{engine}_{dtype}", n) for (engine, dtype), n in phase.flops.items()]
        named.append((f"hbm{i}", phase.hbm))
        if phase.link != 0:
            named.append((f"link{i}", phase.link))
    named += [(f"least_{engine}_{dtype}", count) for (engine, dtype), count in cost.least_flops.items()]
    named.append(("updated_bytes", cost.updated))
    named.append(("steps", sp.Add(*(phase.steps * phase.repeats for phase in cost.phases))))
    return named


def _times(cost: Cost) -> tuple[list[tuple[str, sp.Expr]], tuple[str, ...]]:
    """Return the steps of the roofline (each kernel takes its largest term), and the possible limits."""
    steps: list[tuple[str, sp.Expr]] = []
    serial: list[sp.Expr] = []
    totals: dict[str, list[sp.Expr]] = {}
    for i, phase in enumerate(cost.phases):
        terms = {f"{e}:{d}": _name(f"flops{i}_{e}_{d}") / _name(f"rate_{e}_{d}") for e, d in phase.flops}
        terms["hbm"] = _name(f"hbm{i}") / _name("bandwidth")
        if phase.link != 0:
            terms["link"] = _name(f"link{i}") / _name(phase.sent_by)
        names = {label: _name(f"term{i}_{j}") for j, label in enumerate(terms)}
        steps += [(names[label].name, term) for label, term in terms.items()]
        run, whole = _name(f"run{i}"), _name(f"whole{i}")
        steps += [(run.name, _max(*names.values())), (whole.name, _name(f"repeats{i}") * run)]
        # A kernel that overlaps the one before it adds only the time by which it is longer.
        takes = _max(ZERO, whole - _name(f"whole{i - 1}")) if phase.overlaps and i else whole
        steps.append((f"time{i}", takes))
        serial.append(_name(f"repeats{i}") * sp.Add(*names.values()))
        for label, name in names.items():
            share = sp.Piecewise((_name(f"time{i}"), name >= run), (ZERO, True))
            totals.setdefault(label, []).append(share)
    steps.append(("seconds", sp.Add(*(_name(f"time{i}") for i in range(len(cost.phases))))))
    steps.append(("serial_s", sp.Add(*serial)))
    shares = [_name(f"share{j}") for j in range(len(totals))]
    steps += [(share.name, sp.Add(*parts)) for share, parts in zip(shares, totals.values(), strict=True)]
    steps.append(("bound", _first_largest(shares)))
    return steps, tuple(totals)


def _first_largest(names: list[sp.Symbol]) -> sp.Expr:
    """Return the index of the largest value; among equals the first."""
    largest = _max(*names)
    *others, _ = enumerate(names)
    return sp.Piecewise(*((sp.Integer(j), name >= largest) for j, name in others), (len(names) - 1, True))


def _lower(cost: Cost) -> list[tuple[str, sp.Expr]]:
    """Return the steps of the lower bound; see `Prediction.lower_s`."""
    cache, compulsory, updated = _name("cache"), _name("compulsory_bytes"), _name("updated_bytes")
    traffic = _max(ZERO, compulsory - cache - sp.Min(cache, updated))
    flops = (_name(f"least_{engine}_{dtype}") / _name(f"boost_{dtype}") for engine, dtype in cost.flops)
    return [("uncached", traffic), ("lower_s", _max(_name("uncached") / _name("bandwidth"), *flops))]


# -- sizes -------------------------------------------------------------------------------------


def defaults(layer: Layer) -> dict[str, str]:
    """Return the Vega code of each size with a default, in an order in which they can be computed."""
    return {name: vega(as_symbols(default)) for name, default in layer.defaults.items()}


def rules(layer: Layer) -> list[tuple[str, str]]:
    """Return the conditions under which a layer refuses its sizes (Vega code), with the messages.

    `check_sizes` is run on symbolic sizes that record each condition instead of deciding it.
    """
    noted: list[sp.Basic] = []
    layer.check_sizes(_traced(layer, noted, refused=None))
    found = []
    for condition in dict.fromkeys(noted):
        try:
            layer.check_sizes(_traced(layer, [], refused=condition))
        except SizeError as error:
            found.append((vega(condition), str(error)))
    return found


def _traced(layer: Layer, noted: list[sp.Basic], refused: sp.Basic | None) -> Mapping[str, Any]:
    return {name: _Traced(symbol(name), noted, refused) for name in layer.sizes()}


class _Traced:
    """A symbolic size that records its conditions; each is false, except the condition `refused`."""

    def __init__(self, expression: Any, noted: list[sp.Basic], refused: sp.Basic | None) -> None:
        self._expression, self._noted, self._refused = expression, noted, refused

    def _new(self, expression: Any) -> _Traced:
        return _Traced(expression, self._noted, self._refused)

    @staticmethod
    def _plain(other: Any) -> Any:
        return other._expression if isinstance(other, _Traced) else sp.sympify(other)

    def any(self, **_: Any) -> _Traced:
        """Return itself: NumPy calls this on objects that are not its arrays."""
        return self

    def __mod__(self, other: Any) -> _Traced:
        """Return the remainder."""
        return self._new(sp.Mod(self._expression, self._plain(other)))

    def __mul__(self, other: Any) -> _Traced:
        """Return the product."""
        return self._new(self._expression * self._plain(other))

    __rmul__ = __mul__

    def __lt__(self, other: Any) -> _Traced:
        """Return the condition."""
        return self._new(sp.Lt(self._expression, self._plain(other)))

    def __gt__(self, other: Any) -> _Traced:
        """Return the condition."""
        return self._new(sp.Gt(self._expression, self._plain(other)))

    def __ne__(self, other: object) -> _Traced:  # type: ignore[override]
        """Return the condition."""
        return self._new(sp.Ne(self._expression, self._plain(other)))

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        """Record the condition and decide it; a number is true if it is not 0."""
        expression = self._expression
        condition = expression if isinstance(expression, Boolean) else sp.Ne(expression, 0)
        if condition != sp.false:
            self._noted.append(condition)
        return bool(condition == self._refused)


# -- a free tile -------------------------------------------------------------------------------


def free_tile(layer: Layer) -> Layer:
    """Return tiled attention with its tile as two more sizes: fields ``tile_rows``, ``tile_cols``."""
    kind = type("FreeTile", (get("tiled-attention"),), {"tile_rows": _ROWS, "tile_cols": _COLS})
    return kind(**layer.options)  # type: ignore[no-any-return]


_ROWS, _COLS = (sp.Symbol(name, positive=True, integer=True) for name in ("tile_rows", "tile_cols"))
