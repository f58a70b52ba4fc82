"""What-if devices: a changed copy of a spec, with each change marked as assumed."""

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
#: Figures of the surroundings, not of the device itself, so that its fitted constants still apply.
_AROUND = frozenset({"network"})

#: All names that `changed` accepts.
NAMES = (*_FIGURES, _LINK, "units", "clock", *DTYPES)
#: A multiple of a figure's present value, such as ``2x``; the resulting value is checked later.
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
        If one is not ``name=value``, does not name a figure, or occurs twice.
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
    """Return a copy of a spec with changed figures; its name ends in ``*`` if they are the device's own.

    Parameters
    ----------
    spec : Spec
        The spec to change.
    changes : mapping of str to str or float
        By name, each a quantity or a multiple of the present value (``"2x"``): hbm [B/s], hbm_capacity, l2,
        l3, shared, registers [B], l2_bandwidth [B/s], link (the fastest within a node, one way) [B/s],
        network (each device's port to other nodes, one way) [B/s], launch, step [s], power [W], a dtype
        [FLOP/s], ``units`` and ``clock`` [Hz].

        A dtype's rate is set on its fastest engine (matrix, if no engine has the dtype), and the other
        engine's is limited to it. ``clock`` is the boost clock, and the other clocks change in proportion; if
        it is given as a quantity, a GeForce board does not raise it further. ``units`` and ``clock`` scale
        every rate; a dtype given as well is not scaled. Unless l2_bandwidth is given, it is raised to at
        least that of hbm.

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
            data["clocks"].pop("max", None)  # a clock that is set is not raised
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
    """Return a spec with its clocks, and its rates with them, multiplied by a factor, under its own name.

    A board does this by itself, so it is not a what-if and is not checked for plausibility.
    """
    data = spec.model_dump(by_alias=True, exclude_none=True)
    _scale(data, spec, {"clock": _of_now(spec, "clock", f"{times:.9g}x")})
    return Spec.model_validate(data)


def bounds(spec: Spec, names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the least and greatest value [SI] to which figures may be changed.

    The spec's other figures stay as they are. Whether the named figures are consistent with each other is not
    checked.

    Parameters
    ----------
    spec : Spec
        The spec to change.
    names : iterable of str
        Names as for `changed`, except ``units`` and ``clock``.
    """
    keys = {name: ("compute", "matrix", name) if name in DTYPES else _place(spec, name)[0] for name in names}
    moving = {*keys.values()}
    if "hbm" in keys:
        moving.add(_FIGURES["l2_bandwidth"][0])  # it is raised with the memory's
    others = {path: figure.si for path, figure in quantities(spec) if path not in moving}
    return {name: plausible.bounds(path, others) for name, path in keys.items()}


def _place(spec: Spec, name: str) -> tuple[Keys, str]:
    """Return a figure's path in a spec, and its dimension."""
    if name != _LINK:
        return _FIGURES[name]
    kind = spec.fastest_link
    if kind is None:
        raise CostmodelError("no link within a node is known of it")
    return ("links", kind, "oneway"), "bytes/s"


def _of_now(spec: Spec, name: str, value: str | float) -> str | float:
    """Return a multiple of a figure's present value as a quantity, and anything else unchanged."""
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
    """Raise the cache's bandwidth to the memory's if the spec states a lower one."""
    l2 = spec.memory.l2
    if l2 and l2.bandwidth and l2.bandwidth.si < parse(hbm, "bytes/s"):
        _put(data, _FIGURES["l2_bandwidth"][0], hbm)


def _quantity(value: object, dimension: str) -> str:
    parse(value, dimension)
    return str(value)


def _put(data: dict[str, Any], keys: Keys, value: str | int) -> None:
    """Set a figure; missing sections are created."""
    section = data
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    figure: dict[str, Any] = {"value": value, "status": "assumed", "reason": "what-if"}
    if isinstance(value, str):
        figure["range"] = (value, value)
    section[keys[-1]] = figure


def _put_rate(data: dict[str, Any], fastest: str, dtype: str, value: str) -> None:
    """Set a format's rate on its fastest engine, and limit the other engine's to it."""
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
    """Apply ``units`` and ``clock``, and scale all rates accordingly."""
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
