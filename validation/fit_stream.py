"""Fit the memory-bound kernels' constants to one cell: device × op × dtype × framework.

Free are, by harness and op, at most twelve constants of ``costmodel.kernels.stream``; the rest
keep what ``start`` gives them, or their defaults. The loss is soft-L1 on log(predicted/measured)
at a scale of 3 %: a median fit, which a few disturbed rows cannot turn.
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
#: Of the harnesses whose rows hold the host's dispatch, the one of which a kernel hides a part.
_EAGER = "eager-events"
_ROW_WISE = ("row_s", "iteration_s", "resident_share", "overlap")
#: Rows below which a clock may not have been raised yet, tried one by one.
_SLOW_ROWS = (500.0, 1000.0, 2050.0, 4100.0, 8200.0)
#: Fewer rows than this determine only the constants that every row depends on, and when a clock was raised.
_FEW, _MANY = 40, 100
#: Time that a row must undercut for rows to tell what a kernel hides of its host [s].
_SHORT = 7e-5
#: What constants of passes came out as on most devices: eager fits go from them as far as rows say.
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
#: The same of passes of rows timed without a host, of which rows leave more open.
_EXPECTED_OF_ROWS = {
    "bandwidth_share": 0.82,
    "element_cycles": 30.0,
    "row_s": 1e-6,
    "iteration_s": 3e-7,
    "resident_share": 0.7,
    "overlap": 3.0,
}
#: Passes of one instruction an element: nowhere do rows tell it from what memory takes meanwhile.
_PLAIN = {f"elementwise_{op}{kind}" for op in ("add", "mul", "div") for kind in ("", "_scalar")} | {"relu"}
#: Whose share of the bandwidth, fitted before, a pass with arithmetic has: of as many operands, and so sure.
SHARE_OF = {
    "elementwise_pow": "elementwise_add",
    "elementwise_pow_scalar": "elementwise_add_scalar",
    "gelu": "elementwise_add_scalar",
    "tanh": "elementwise_add_scalar",
}
_SURE = 10.0
#: A layer norm is dispatched through more of the framework than other passes.
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
    """Return where fits of such a kernel begin: of a pass, by memory and by its arithmetic."""
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
        # A norm's long rows tell when they are read again from memory; a softmax's do not.
        more = {"elementwise": (), "norm": ("row_s", "resident_share")}
        return (*names, *more.get(pattern, ("row_s",)))
    if pattern == "elementwise" or not host:
        names += ["warm_share", *(["cache_share"] if host else [])]
    if pattern != "elementwise":
        names += [*_ROW_WISE, *{"norm": ("occupancy",), "softmax": ("straddling",)}.get(pattern, ())]
    return tuple(names)


def fit(rows: pd.DataFrame, device: Device, start: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of one cell; see `costmodel.validation.cells.recipe`.

    Where a share of the bandwidth is given, it is expected to be that.
    """
    lent = {"bandwidth_share": start["bandwidth_share"]} if "bandwidth_share" in start else {}
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

    said = known(stream.CONSTANTS, expected) | known(stream.CONSTANTS, lent, sure=_SURE)

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
