"""Fit the recurrence by device, dtype, library and direction, with a step's cost for each op.

Published shapes are few (about 30 per device), and libraries choose tiles erratically. Ops therefore share
all constants but ``step_s``, and each constant has a prior around its initial value, of the width given here.
The loss is soft-L1 on log(predicted/measured) at a scale of 10 %.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from costmodel.hardware import Device
from costmodel.kernels import recurrence
from costmodel.validation.cells import arguments, repeats

#: Kernel models that are fitted here.
MODELS = ("recurrence",)
#: Free constants and the width of their prior, in natural logarithms.
_CHAIN = {
    "call_s": 0.7,
    "chain_s": 1.5,
    "bandwidth_share": 0.5,
    "share_4": 1.0,
    "share_16": 0.7,
    "share_32": 0.5,
    "share_64": 0.5,
    "split": 1.0,
}
#: Further ones for a library that uses persistent kernels for some shapes.
_PERSISTENT = {"sync_s": 0.7}
_BATCHED = {"call_s": 0.7, "batched_share": 0.5, "bandwidth_share": 0.5}
_STEP_PRIOR, _PRIOR_WEIGHT, _SCALE = 0.5, 0.15, 0.1
_START = {
    "call_s": 5e-5,
    "step_s": 2e-5,
    "chain_s": 5e-9,
    "bandwidth_share": 0.7,
    "share_4": 0.05,
    "share_16": 0.3,
    "share_32": 0.4,
    "share_64": 0.5,
    "split": 2.0,
    "batched_share": 0.7,
    "sync_s": 2e-6,
}


def fit_ops(rows: pd.DataFrame, device: Device) -> dict[str, dict[str, float]]:
    """Return the constants of each op's cell from a joint fit.

    Parameters
    ----------
    rows : DataFrame
        Rows to fit on, of one device, dtype, framework and direction, with ``latency_s`` [s]. If the
        measurement includes more than the recurrence (input products), ``other_s`` is its predicted time [s].
    device : Device
        The device they were measured on.
    """
    stepwise, ops = rows["direction"].iloc[0] != "bwd_weights", sorted(rows["op"].unique())
    parts = {op: rows[rows["op"] == op] for op in ops}
    kwargs = {op: arguments(part, device) for op, part in parts.items()}
    often = {op: repeats(part) for op, part in parts.items()}
    shared = _CHAIN if stepwise else _BATCHED
    if stepwise and any(given.get("chosen_by") for given in kwargs.values()):
        shared = shared | _PERSISTENT
    names = list(shared)
    target = np.concatenate([np.log(parts[op]["latency_s"].to_numpy(dtype=np.float64)) for op in ops])
    other = {
        op: part["other_s"].to_numpy(dtype=np.float64) if "other_s" in part else 0.0
        for op, part in parts.items()
    }

    begin = np.log([_START[name] for name in names] + [_START["step_s"]] * (len(ops) if stepwise else 0))
    limits = [recurrence.CONSTANTS[name] for name in names] + [recurrence.CONSTANTS["step_s"]] * (
        len(begin) - len(names)
    )
    low, high = np.log([limit.low for limit in limits]), np.log([limit.high for limit in limits])
    widths = np.array(list(shared.values()))

    def constants(x: NDArray[np.float64]) -> dict[str, dict[str, float]]:
        common = {**_START, **dict(zip(names, np.exp(x[: len(names)]).tolist(), strict=True))}
        steps = np.exp(x[len(names) :]).tolist() or [_START["step_s"]] * len(ops)
        return {op: {**common, "step_s": step} for op, step in zip(ops, steps, strict=True)}

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        values = constants(x)
        times = [
            often[op] * recurrence.seconds(device, values[op], **kwargs[op]).seconds + other[op] for op in ops
        ]
        steps = x[len(names) :]
        drawn = (x[: len(names)] - begin[: len(names)]) / widths
        apart = (steps - steps.mean()) / _STEP_PRIOR if len(steps) else steps
        return np.concatenate(
            [np.log(np.concatenate(times)) - target, _PRIOR_WEIGHT * drawn, _PRIOR_WEIGHT * apart]
        )

    found = least_squares(
        residuals, np.clip(begin, low, high), bounds=(low, high), loss="soft_l1", f_scale=_SCALE
    )
    used = {*shared, "step_s"} if stepwise else set(shared)
    return {
        op: {name: value for name, value in cell.items() if name in used}
        for op, cell in constants(found.x).items()
    }


def fit(rows: pd.DataFrame, device: Device, _start: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of one op's cell; `fit_ops` is better if there are rows of several ops."""
    return fit_ops(rows, device)[str(rows["op"].iloc[0])]
