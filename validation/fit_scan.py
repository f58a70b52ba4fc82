"""Fit gated delta net and causal convolution to one cell: device × op × dtype × framework.

The loss is soft-L1 on log(predicted/measured) at a scale of 3 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel.hardware import Device
from costmodel.kernels import conv, delta
from costmodel.kernels._replay import SCANS, TICKS
from costmodel.validation.log_fit import defaults, least_log_error, on_ticks

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
#: Constants that a kernel does not have.
_ABSENT: dict[str, dict[str, float]] = {
    "fused": {"token_cycles": 0.0},
    "chunked": {"droop": 0.0, "overlap": 1.2, "block_cycles": 0.0},
    "causal_conv1d_decode": {"token_cycles": 0.0},
}


def delta_kernel(name: str) -> str:
    """Return which of ``delta.KERNELS`` a measured kernel of that name is."""
    if name.startswith("fused_recurrent"):
        return "decode"
    return "fused" if name.endswith("flashinfer") else "chunked"


def arguments(rows: pd.DataFrame, _device: Device) -> dict[str, Any]:
    """Return the keyword arguments of ``conv.seconds`` or ``delta.seconds`` for rows of one cell.

    Parameters
    ----------
    rows : DataFrame
        Of one op, dtype and kernel. Convolution: ``batch``, ``seq_q``, ``n`` (channels), ``k``;
        delta net: ``batch``, ``seq_q``, ``heads_q``, ``heads_kv``, ``head_dim``, ``kernel``.
    """
    op = str(rows["op"].iloc[0])

    def column(name: str) -> NDArray[np.float64]:
        return rows[name].to_numpy(dtype=np.float64)

    common: dict[str, Any] = {
        "batch": column("batch"),
        "seq": column("seq_q"),
        "dtype": str(rows["dtype"].iloc[0]),
    }
    if op.startswith("causal_conv1d"):
        return {**common, "channels": column("n"), "width": column("k"), "decode": op.endswith("decode")}
    kernel = delta_kernel(str(rows["kernel"].iloc[0]))
    heads = {"heads": column("heads_q"), "value_heads": column("heads_kv"), "head_dim": column("head_dim")}
    return {**common, **heads, "kernel": kernel}


def free(rows: pd.DataFrame, _device: Device) -> tuple[str, ...]:
    """Return the names of the constants that rows of this cell determine."""
    return _FREE[_part(rows)]


def _part(rows: pd.DataFrame) -> str:
    """Return the operation of a cell, or of a delta net's prefill which of two kernels it is."""
    op = str(rows["op"].iloc[0])
    return delta_kernel(str(rows["kernel"].iloc[0])) if op == "gdn_chunk_prefill" else op


def fit(rows: pd.DataFrame, device: Device, start: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of one cell; see `costmodel.validation.cells.recipe`."""
    part, names = _part(rows), free(rows, device)
    kwargs, measured = arguments(rows, device), rows["latency_s"].to_numpy(dtype=np.float64)
    model: ModuleType = conv if part.startswith("causal_conv1d") else delta
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
