"""Fit the memory-bound kernels' constants to one cell: device × op × dtype × framework.

At most twelve constants of ``costmodel.kernels.stream`` are free, depending on harness and op; the others
keep their values in ``start``, or their defaults. The loss is soft-L1 on log(predicted/measured) at a scale
of 3 %: nearly a median fit, which a few disturbed rows cannot change much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel.hardware import Device
from costmodel.harness import HOSTED
from costmodel.kernels import stream
from costmodel.measured import harness
from costmodel.validation.cells import arguments
from costmodel.validation.log_fit import known, least_log_error

#: Kernel models that are fitted here.
MODELS = ("stream",)
#: The harness whose rows contain the host's dispatch, of which a kernel hides a part.
_EAGER = "eager-events"
_ROW_WISE = ("row_s", "iteration_s", "resident_share", "overlap")
#: Candidates for the number of rows below which the clock had not been raised yet.
_SLOW_ROWS = (500.0, 1000.0, 2050.0, 4100.0, 8200.0)
#: Number of rows from which all constants are free, and from which the raising of the clock is fitted, too.
_FEW, _MANY = 40, 100
#: Rows of at most this time show how much of the host's dispatch a kernel hides [s].
_SHORT = 7e-5
#: Typical constants of passes, used as priors of eager fits.
_EXPECTED = {
    "bandwidth_share": 0.87,
    "cache_share": 1.0,
    "element_cycles": 10.0,
    "row_s": 2.5e-6,
    "iteration_s": 4e-7,
    "resident_share": 0.7,
    "overlap": 3.0,
    "occupancy": 0.5,
    "straddling": 0.01,
    "dispatch_s": 1.8e-5,
    "record_s": 1.2e-5,
}
#: The same for row-wise passes timed without a host, whose rows determine less.
_EXPECTED_OF_ROWS = {
    "bandwidth_share": 0.82,
    "element_cycles": 30.0,
    "row_s": 1e-6,
    "iteration_s": 3e-7,
    "resident_share": 0.7,
    "overlap": 3.0,
}
#: Passes of one instruction per element, whose cost memory traffic always hides.
_PLAIN = {f"elementwise_{op}{kind}" for op in ("add", "mul", "div") for kind in ("", "_scalar")} | {"relu"}
#: Pass with arithmetic → pass of as many operands whose bandwidth share, fitted before, is its prior; and the
#: weight of that prior.
SHARE_OF = {
    "elementwise_pow": "elementwise_add",
    "elementwise_pow_scalar": "elementwise_add_scalar",
    "gelu": "elementwise_add_scalar",
    "tanh": "elementwise_add_scalar",
}
_SURE = 10.0
#: Priors of a layer norm, which is dispatched through more of the framework than other passes.
_EXPECTED_OF = {"layernorm": {"dispatch_s": 4e-5, "record_s": 2e-5}}

_STARTS: tuple[dict[str, float], ...] = (
    {"occupancy": 0.75, "row_s": 1e-6, "iteration_s": 3e-7, "overlap": 5.0, "resident_share": 0.6},
    {"occupancy": 0.9, "row_s": 4e-6, "iteration_s": 1e-6, "overlap": 3.0, "resident_share": 0.5},
    {
        "occupancy": 0.5,
        "row_s": 4e-6,
        "iteration_s": 3e-7,
        "overlap": 2.0,
        "element_cycles": 20.0,
        "bandwidth_share": 0.8,
    },
)


def _starts(pattern: str) -> Sequence[Mapping[str, float]]:
    """Return initial values for a pattern; an elementwise pass is limited by memory, or by arithmetic."""
    if pattern == "elementwise":
        return ({}, {"element_cycles": 150.0})
    return [{k: v for k, v in start.items() if k != "occupancy" or pattern == "norm"} for start in _STARTS]


def free(rows: pd.DataFrame, device: Device) -> tuple[str, ...]:
    """Return the names of the constants that rows of this cell determine."""
    timed = harness(rows["timer"].iloc[0])
    host = timed in HOSTED
    pattern = arguments(rows.iloc[:1], device)["pattern"]
    plain = str(rows["op"].iloc[0]) in _PLAIN
    names = ["bandwidth_share", *([] if plain else ["element_cycles"])]
    if not host:
        names += ["start_s", "cache_share", "cache_bytes"]
    else:
        long = timed == _EAGER and rows["latency_s"].min() > _SHORT
        names += ["dispatch_s"] if long else ["dispatch_s", "record_s"]
    if len(rows) < _FEW:
        # A norm's long rows show when they are read from memory again; a softmax's do not.
        more = {"elementwise": (), "norm": ("row_s", "resident_share")}
        return (*names, *more.get(pattern, ("row_s",)))
    if pattern == "elementwise" or not host:
        names += ["warm_share", *(["cache_share"] if host else [])]
    if pattern != "elementwise":
        names += [*_ROW_WISE, *{"norm": ("occupancy",), "softmax": ("straddling",)}.get(pattern, ())]
    return tuple(names)


def fit(rows: pd.DataFrame, device: Device, start: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of one cell; see `costmodel.validation.cells.recipe`.

    A bandwidth share in `start` is its prior.
    """
    prior = {"bandwidth_share": start["bandwidth_share"]} if "bandwidth_share" in start else {}
    kwargs, names = arguments(rows, device), free(rows, device)
    measured = rows["latency_s"].to_numpy(dtype=np.float64)
    timed = harness(rows["timer"].iloc[0])
    eager = timed == _EAGER
    expected = {**_EXPECTED, **_EXPECTED_OF.get(str(rows["op"].iloc[0]), {})} if eager else {}
    if timed not in HOSTED and kwargs["pattern"] != "elementwise":
        expected = _EXPECTED_OF_ROWS
    if "element_cycles" not in names:
        start = {"element_cycles": _EXPECTED["element_cycles"], **start}
    if "record_s" in names:
        floor = float(measured.min())
        start = {"dispatch_s": 0.55 * floor, "record_s": 0.45 * floor, **start}
    elif eager:
        start = {"record_s": expected["record_s"], **start}

    said = known(stream.CONSTANTS, expected) | known(stream.CONSTANTS, prior, sure=_SURE)

    def predict(values: Mapping[str, float]) -> NDArray[np.float64]:
        return stream.seconds(device, values, **kwargs).seconds

    def run(more: Mapping[str, float], names: tuple[str, ...]) -> tuple[float, dict[str, float]]:
        starts = ({**first, **start, **more} for first in _starts(kwargs["pattern"]))
        return least_log_error(predict, measured, stream.CONSTANTS, names, starts, expected=said)

    best = run({}, names)
    if "dispatch_s" in names and len(rows) >= _MANY:
        for threshold in _SLOW_ROWS:
            found = run({"slow_rows": threshold, "slow_clock": 1.3}, (*names, "slow_clock", "slow_host"))
            if found[0] < 0.97 * best[0]:
                best = found
    return best[1]
