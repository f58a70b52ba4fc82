"""Fit gated delta net and causal convolution to one cell: device × op × dtype × framework.

The loss is soft-L1 on log(predicted/measured) at a scale of 3 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel import kernels
from costmodel.hardware import Device
from costmodel.kernels._replay import SCANS, TICKS
from costmodel.validation.cells import arguments, model_of
from costmodel.validation.log_fit import defaults, least_log_error, on_ticks

#: Kernel models that are fitted here.
MODELS = ("conv", "delta", "state_update")
_WARM = ("start_cycles", "bandwidth_share", "cache_share", "cache_bytes")
_FREE = {
    "causal_conv1d_prefill": (*_WARM, "token_cycles", "unit_bytes"),
    "causal_conv1d_decode": _WARM,
    "gdn_recurrent_decode": _WARM,
    "fused": (
        "start_cycles",
        "stagger_cycles",
        "block_cycles",
        "chunk_cycles",
        "droop",
        "droop_s",
        "bandwidth_share",
        "overlap",
    ),
    "chunked": (
        *_WARM,
        "token_cycles",
        "chunk_cycles",
        "stagger_cycles",
        "part_cycles",
        "head_units",
        "extra_passes",
        "overlap",
    ),
}
_STARTS: tuple[dict[str, float], ...] = (
    {},
    {"overlap": 1.05, "head_units": 1.5, "cache_share": 0.2, "cache_bytes": 30.0},
    {"overlap": 6.0, "cache_share": 1.0, "bandwidth_share": 0.6},
)
#: Fixed values of constants that a kernel does not use.
_ABSENT: dict[str, dict[str, float]] = {
    "fused": {"token_cycles": 0.0},
    "chunked": {"droop": 0.0, "overlap": 1.2, "block_cycles": 0.0},
    "causal_conv1d_decode": {"token_cycles": 0.0},
}


def free(rows: pd.DataFrame, device: Device) -> tuple[str, ...]:
    """Return the names of the constants that rows of this cell determine."""
    return _FREE[_part(rows, device)]


def _part(rows: pd.DataFrame, device: Device) -> str:
    """Return the operation of a cell, or for a delta net's prefill its kernel."""
    op = str(rows["op"].iloc[0])
    return str(arguments(rows.iloc[:1], device)["kernel"]) if op == "gdn_chunk_prefill" else op


def fit(rows: pd.DataFrame, device: Device, start: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of one cell; see `costmodel.validation.cells.recipe`."""
    part, names = _part(rows, device), free(rows, device)
    kwargs, measured = arguments(rows, device), rows["latency_s"].to_numpy(dtype=np.float64)
    model = kernels.model(model_of(str(rows["op"].iloc[0]), device))
    first_cycles = float(measured.min()) * device.clock_hz
    fixed = {"start_cycles": first_cycles, **_ABSENT.get(part, {}), **start}

    def predict(values: Mapping[str, float]) -> NDArray[np.float64]:
        return np.asarray(model.seconds(device, values, **kwargs).seconds)

    def best(starts: Iterable[Mapping[str, float]], free: tuple[str, ...]) -> dict[str, float]:
        expected = defaults(model.CONSTANTS, free)
        return least_log_error(predict, measured, model.CONSTANTS, free, starts, expected=expected)[1]

    own = ({name: value for name, value in first.items() if name in names} for first in _STARTS)
    smooth = best(({**first, **fixed} for first in own), names)
    tick = TICKS.get(device.family)
    if tick is None:
        return smooth
    starts = on_ticks(smooth, tick, "start_cycles", tick / SCANS * device.clock_hz)
    return best(starts, (*names, "phase_s"))
