"""Fit the attention models' constants to one cell: device × op × dtype × framework.

Frameworks differ by 10–20 % (they run other kernels), releases of one framework by 1–4 %, which is
less than the model's own error: a cell is named by its framework without the release. Free are the
constants that a cell's kernel has; the rest keep what ``start`` gives them, or their defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from costmodel import implementations, measured
from costmodel.hardware import Device
from costmodel.kernels import _flash as flash
from costmodel.kernels import attention, decode
from costmodel.kernels._replay import TICKS
from costmodel.kernels.base import Array
from costmodel.validation.log_fit import defaults, least_log_error, on_ticks

DECODE, ENCODER = "attention_decode", "attention_prefill_noncausal"
#: The release whose decode rows on A100 leave the new token out of seq_kv (its harness's README).
_UNCOUNTED = "vllm 0.14.0"
#: Libraries that split the keys of a prefill, and so launch a kernel that merges.
_SPLITTING = ("fa3", "fa3-graphs", "fa4", "flashinfer")
#: A step bound by its work, and one by its latency, with L2 as fast as units take it: valleys of the loss.
_STARTS: tuple[dict[str, float], ...] = ({}, {"step_cycles": 4000.0, "l2_unit_bytes": 100.0})


def model(op: str) -> Any:
    """Return the kernel model of that op."""
    return decode if op == DECODE else attention


def arguments(rows: pd.DataFrame, device: Device) -> dict[str, Any]:
    """Return the keyword arguments of the kernel model for rows of one op, dtype and framework.

    Parameters
    ----------
    rows : DataFrame
        With the columns ``op``, ``batch``, ``heads_q``, ``heads_kv``, ``head_dim``, ``seq_q`` or
        ``seq_kv``, and where they are there ``dtype``, ``framework``, ``kernel`` and ``gpu``.
    device : Device
        Where they were measured: libraries choose their kernels by architecture.
    """
    first = {name: str(rows[name].iloc[0]) for name in ("op", "dtype", "framework", "kernel") if name in rows}
    framework, causal = first.get("framework", ""), first["op"] != ENCODER
    beside = implementations.beside("attention", first["op"], measured.framework(framework)[0], "fwd")
    names = {"batch": "batch", "heads": "heads_q", "kv_heads": "heads_kv", "head_dim": "head_dim"}
    sizes = {ours: rows[theirs].to_numpy(dtype=np.float64) for ours, theirs in names.items()}
    common = {
        **sizes,
        "dtype": first.get("dtype", "bf16"),
        "kernel": flash.kernel_named(device, first.get("kernel", ""), framework, causal),
    }
    if first["op"] == DECODE:
        uncounted = framework == _UNCOUNTED and device.family == "ampere"
        return {**common, "seq_kv": rows["seq_kv"].to_numpy(dtype=np.float64) + uncounted}
    return {
        **common,
        "seq": rows["seq_q"].to_numpy(dtype=np.float64),
        "causal": causal,
        **beside,
    }


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
    return tuple(name for name in model(op).CONSTANTS if name not in fixed)


def fit(rows: pd.DataFrame, device: Device, start: Mapping[str, float]) -> dict[str, float]:
    """Return the constants of one cell; see `costmodel.validation.cells.recipe`."""
    kernel = model(str(rows["op"].iloc[0]))
    kwargs, measured = arguments(rows, device), rows["latency_s"].to_numpy(dtype=np.float64)
    begin = {name: constant.default for name, constant in kernel.CONSTANTS.items()}
    names = free(rows, device)

    def predict(values: Mapping[str, float]) -> Array:
        return np.asarray(kernel.seconds(device, values, **kwargs).seconds, dtype=np.float64)

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
