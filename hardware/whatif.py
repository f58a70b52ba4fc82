"""What if a device had other figures: a changed copy of its spec, each change marked as assumed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from costmodel.arguments import typed
from costmodel.dtypes import DTYPES
from costmodel.errors import CostmodelError, SpecError, shown, unknown_name
from costmodel.hardware import plausible
from costmodel.hardware.schema import Rates, Spec, quantities
from costmodel.hardware.yamlfile import Keys
from costmodel.units import parse

#: Name of a change → the figure it changes, and its dimension.
_FIGURES: dict[str, tuple[Keys, str]] = {
    "hbm": (("memory", "hbm", "bandwidth"), "bytes/s"),
    "hbm_capacity": (("memory", "hbm", "capacity"), "bytes"),
    "l2": (("memory", "l2", "capacity"), "bytes"),
    "l2_bandwidth": (("memory", "l2", "bandwidth"), "bytes/s"),
    "l3": (("memory", "l3", "capacity"), "bytes"),
    "shared": (("memory", "shared", "capacity"), "bytes"),
    "registers": (("memory", "registers", "capacity"), "bytes"),
    "network": (("links", "network", "oneway"), "bytes/s"),
    "launch": (("latency", "launch"), "s"),
    "step": (("latency", "step"), "s"),
    "power": (("power", "tdp"), "W"),
}

#: The fastest kind of link within a node, whichever that is.
_LINK = "link"
#: What a device is joined to, and no figure of its own: constants that were fitted on it hold all the same.
_AROUND = frozenset({"network"})

#: Every name that `changed` knows.
NAMES = (*_FIGURES, _LINK, "units", "clock", *DTYPES)
#: A figure as a multiple of what it is: ``2x``; whether that is possible is told by what it comes to.
_TIMES = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*[x×]\s*\Z")
_UNITS = {"bytes/s": "B/s", "bytes": "B"}


@typed
def parse_device_set(settings: Iterable[str]) -> dict[str, str]:
    """Return the changes in ``["hbm=6 TB/s", "power=500 W"]``, as `Device.replace` takes them.

    Parameters
    ----------
    settings : iterable of str
        Each NAME=VALUE.

    Raises
    ------
    CostmodelError
        If one is not ``name=value``, names no figure, or comes twice.
    """
    changes: dict[str, str] = {}
    for setting in settings:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not value:
            raise CostmodelError(f"wanted NAME=VALUE, such as 'hbm=6 TB/s', got {setting!r}")
        if name not in NAMES:
            raise unknown_name("device figure", name, NAMES)
        if name in changes:
            raise CostmodelError(f"device figure {name!r} is set twice")
        changes[name] = value
    return changes


def changed(spec: Spec, changes: Mapping[str, str | float]) -> Spec:
    """Return a copy of a spec with other figures; its name ends in ``*`` if they are the device's own.

    Parameters
    ----------
    spec : Spec
        What to change.
    changes : mapping of str to str or float
        By name, each a quantity or a multiple of what it is (``"2x"``): hbm [B/s], hbm_capacity, l2, l3,
        shared, registers [B], l2_bandwidth [B/s], link (the fastest within a node, one way) [B/s], network
        (each device's port to other nodes, one way) [B/s], launch, step [s], power [W], a dtype [FLOP/s] (on
        the engine that is fastest for it, the other being no faster; the matrix engine, where none does it),
        ``units``, and ``clock`` [Hz]: the boost clock, with which all others go, and which a GeForce board
        does not raise where it is given, and no multiple. The last two scale every rate; a dtype given beside
        them is taken as it is. Memory is never faster than the cache before it: an l2_bandwidth that hbm
        would outrun, and that is not given itself, goes with it.

    Raises
    ------
    UnknownNameError
        If there is no such figure.
    SpecError
        If a value is not a quantity of the right kind, or impossible.
    """
    for name in changes:
        if name not in NAMES:
            raise unknown_name("device figure", name, NAMES)
    data = spec.model_dump(by_alias=True, exclude_none=True)
    held = spec.graphics_memory and "clock" in changes and not _TIMES.match(str(changes["clock"]))
    try:
        changes = {name: _of_now(spec, name, value) for name, value in changes.items()}
        _scale(data, spec, changes)
        if held:
            data["clocks"].pop("max", None)  # no board raises a clock that is set
        for name, value in changes.items():
            if name in _FIGURES or name == _LINK:
                keys, dimension = _place(spec, name)
                _put(data, keys, _quantity(value, dimension))
                if name == _LINK:
                    data["links"][keys[1]].pop("total", None)
            elif name in DTYPES:
                _put_rate(data, _engine(spec, name), name, _quantity(value, "FLOP/s"))
        if "hbm" in changes and "l2_bandwidth" not in changes:
            _keep_up(data, spec, str(changes["hbm"]))
        marked = spec.name.endswith("*") or changes.keys() <= _AROUND
        data["name"] = spec.name if marked else f"{spec.name}*"
        result = Spec.model_validate(data)
    except CostmodelError as error:
        raise SpecError(f"cannot change {spec.name}: {error}") from error
    numbers = {keys: figure.si for keys, figure in quantities(result)}
    for keys, message in plausible.impossible(numbers):
        raise SpecError(f"cannot change {spec.name}: {'.'.join(keys)}: {message}")
    return result


def clocked(spec: Spec, times: float) -> Spec:
    """Return a spec at so many times its clocks, and its rates with them, under its own name.

    What a board does by itself is no what-if, and is not held against what is possible.
    """
    data = spec.model_dump(by_alias=True, exclude_none=True)
    _scale(data, spec, {"clock": _of_now(spec, "clock", f"{times:.9g}x")})
    return Spec.model_validate(data)


def bounds(spec: Spec, names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the least and greatest value [SI] that each of some figures may be changed to.

    The spec's other figures stay as they are; of those named it is not said here which two of them do not
    go together.

    Parameters
    ----------
    spec : Spec
        What would be changed.
    names : iterable of str
        As `changed` has them; figures with a dimension, no units and no clock.
    """
    keys = {name: ("compute", "matrix", name) if name in DTYPES else _place(spec, name)[0] for name in names}
    others = {path: figure.si for path, figure in quantities(spec) if path not in keys.values()}
    return {name: plausible.bounds(path, others) for name, path in keys.items()}


def _place(spec: Spec, name: str) -> tuple[Keys, str]:
    """Return where a figure stands in a spec, and its dimension."""
    if name != _LINK:
        return _FIGURES[name]
    kind = spec.fastest_link
    if kind is None:
        raise CostmodelError("no link within a node is known of it")
    return ("links", kind, "oneway"), "bytes/s"


def _of_now(spec: Spec, name: str, value: str | float) -> str | float:
    """Return a multiple of what a figure is as a quantity, anything else as it came."""
    times = _TIMES.match(value) if isinstance(value, str) else None
    if times is None:
        return value
    dimension = ""
    if name in _FIGURES or name == _LINK:
        keys, dimension = _place(spec, name)
        now = {path: figure.si for path, figure in quantities(spec)}.get(keys)
    elif name == "units":
        now = spec.units.count.si
    elif name == "clock":
        now, dimension = spec.clocks.boost.si, "Hz"
    else:
        rates, dimension = getattr(spec.compute, _engine(spec, name)), "FLOP/s"
        now = rates[name].si if name in rates else None
    if not now:
        raise CostmodelError(f"wanted {name} as a quantity, got {value!r} of a figure that the spec lacks")
    return f"{float(times[1]) * now:.10g} {_UNITS.get(dimension, dimension)}".strip()


def _keep_up(data: dict[str, Any], spec: Spec, hbm: str) -> None:
    """Raise the cache's bandwidth to the memory's, where the spec says it and it is less."""
    l2 = spec.memory.l2
    if l2 and l2.bandwidth and l2.bandwidth.si < parse(hbm, "bytes/s"):
        _put(data, _FIGURES["l2_bandwidth"][0], hbm)


def _quantity(value: object, dimension: str) -> str:
    parse(value, dimension)
    return str(value)


def _put(data: dict[str, Any], keys: Keys, value: str | int) -> None:
    """Set a figure; sections on the way are made where the device has none."""
    section = data
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    figure: dict[str, Any] = {"value": value, "status": "assumed", "reason": "what-if"}
    if isinstance(value, str):
        figure["range"] = (value, value)
    section[keys[-1]] = figure


def _put_rate(data: dict[str, Any], fastest: str, dtype: str, value: str) -> None:
    """Set a format's rate on the engine that is fastest for it; the other then is no faster."""
    _put(data, ("compute", fastest, dtype), value)
    other = "vector" if fastest == "matrix" else "matrix"
    stated = data["compute"].get(other, {}).get(dtype)
    if stated is not None and parse(stated["value"], "FLOP/s") > parse(value, "FLOP/s"):
        _put(data, ("compute", other, dtype), value)


def _engine(spec: Spec, dtype: str) -> str:
    def rate(rates: Rates) -> float:
        return rates[dtype].si if dtype in rates else 0.0

    return "vector" if rate(spec.compute.vector) > rate(spec.compute.matrix) else "matrix"


def _scale(data: dict[str, Any], spec: Spec, changes: Mapping[str, str | float]) -> None:
    """Apply ``units`` and ``clock`` with all rates that follow from them."""
    factor = 1.0
    if "units" in changes:
        count = _whole(changes["units"])
        _put(data, ("units", "count"), count)
        factor = count / spec.units.count.si
    if "clock" in changes:
        faster = parse(changes["clock"], "Hz") / spec.clocks.boost.si
        factor *= faster
        for name, stated in spec.clocks:
            if stated is not None:
                _put(data, ("clocks", name), f"{stated.si * faster:.10g} Hz")
        _put(data, ("clocks", "boost"), _quantity(changes["clock"], "Hz"))
    for engine, rates in spec.compute:
        for dtype, rate in rates.items() if factor != 1.0 else ():
            _put(data, ("compute", engine, dtype), _tera(rate.si * factor))
            data["compute"][engine][dtype]["range"] = tuple(_tera(end * factor) for end in rate.ends)


def _tera(rate: float) -> str:
    return f"{rate / 1e12:.10g} TFLOP/s"


def _whole(value: str | float) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not number.is_integer() or number < 1:
        raise CostmodelError(f"wanted a whole number of units, got {shown(value)}")
    return int(number)
