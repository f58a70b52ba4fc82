"""Fit the attention models' constants to one cell: device × op × dtype × framework.

Frameworks differ by 10–20 % (they run other kernels), but releases of one framework only by 1–4 %, which is
less than the model's own error. Cells are therefore named by the framework without its release. The constants
that the cell's kernel uses are free; the others keep their values in ``start``, or their defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from costmodel import kernels
from costmodel.hardware import Device
from costmodel.kernels import _flash as flash
from costmodel.kernels._replay import TICKS
from costmodel.kernels.base import Array
from costmodel.validation.cells import arguments, model_of
from costmodel.validation.log_fit import defaults, least_log_error, on_ticks

#: Kernel models that are fitted here.
MODELS = ("attention", "decode")
DECODE = "attention_decode"
#: Libraries that split the keys of a prefill, and therefore launch a merging kernel.
_SPLITTING = ("fa3", "fa3-graphs", "fa4", "flashinfer")
#: Constants that a few long calls do not determine, and how many rows are few.
_OF_MEMORY = {"bandwidth_share", "ramp_cycles", "cache_share", "l2_unit_bytes", "stagger_cycles"}
_FEW = 50
#: Initial values in two valleys of the loss: steps limited by their work, and by latency with a fast L2.
_STARTS: tuple[dict[str, float], ...] = ({}, {"step_cycles": 4000.0, "l2_unit_bytes": 100.0})


def free(rows: pd.DataFrame, device: Device) -> tuple[str, ...]:
    """Return the names of the constants that rows of this cell determine."""
    static, op = arguments(rows.iloc[:1], device), str(rows["op"].iloc[0])
    kernel, fixed = static["kernel"], {"tick_s", "phase_s"}
    if static.get("cache_write") != "token":
        fixed.add("token_cycles")
    if op != DECODE and kernel not in _SPLITTING:
        fixed.add("merge_cycles")
    if op == DECODE and kernel not in flash.MERGING:
        fixed.add("merge_cycles")
    if not kernel.startswith("fa3"):
        fixed |= {"merge_block_cycles", "merge_work_cycles"}
    if kernel not in flash.LOOKING_UP:
        fixed.add("sequence_cycles")
    if not kernel.startswith("fa2"):
        fixed |= {"copy_cycles", "return_cycles"}
    if kernel != "trtllm":
        fixed.add("reduce_bytes_per_cycle")
    if len(rows) < _FEW:
        fixed |= _OF_MEMORY
    return tuple(name for name in kernels.model(model_of(op, device)).CONSTANTS if name not in fixed)


def fit(rows: pd.DataFrame, device: Device, start: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of one cell; see `costmodel.validation.cells.recipe`.

    Rows with and without a mask may be fitted together.
    """
    kernel = kernels.model(model_of(str(rows["op"].iloc[0]), device))
    measured = rows["latency_s"].to_numpy(dtype=np.float64)
    ops = [(rows["op"] == op).to_numpy() for op in rows["op"].unique()]
    parts = [(ours, arguments(rows[ours], device)) for ours in ops]
    begin = {name: constant.default for name, constant in kernel.CONSTANTS.items()}
    names = free(rows, device)

    def predict(values: Mapping[str, float]) -> Array:
        times = np.empty(len(rows))
        for ours, kwargs in parts:
            times[ours] = kernel.seconds(device, values, **kwargs).seconds
        return times

    def best(starts: Iterable[Mapping[str, float]], free: tuple[str, ...]) -> dict[str, float]:
        expected = defaults(kernel.CONSTANTS, free)
        return least_log_error(
            predict, measured, kernel.CONSTANTS, free, starts, expected=expected, evaluations=60
        )[1]

    smooth = best(({**begin, **start, **first} for first in _STARTS), names)
    tick = TICKS.get(device.family)
    if tick is None:
        return smooth
    return best(on_ticks(smooth, tick, "launch_cycles", tick * device.clock_hz), (*names, "phase_s"))
