"""Fit the kernel models of a CPU to one cell: op × dtype × framework.

The memory levels are one set of constants for the whole machine, fitted on copies first, and held
for all other kernels. The loss is soft-L1 on log(predicted/measured) at a scale of 3 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel.hardware import Device
from costmodel.kernels import _cpu, cpu_attention, cpu_decode, cpu_gemm, cpu_recurrence, cpu_stream
from costmodel.validation.log_fit import least_log_error

_READS = {"elementwise_add": 2.0, "elementwise_mul": 2.0}
_PATTERNS = {"softmax": "softmax", "layernorm": "norm", "rmsnorm": "rmsnorm"}
_GATES = {"rnn": 1.0, "gru": 3.0, "lstm": 4.0}
#: Columns of tables → sizes of the models.
_COLUMNS = {
    "gemm": {"m": "m", "n": "n", "k": "k"},
    "bmm": {"b": "batch", "m": "m", "n": "n", "k": "k"},
    "attention": {
        "batch": "batch",
        "heads_q": "heads",
        "heads_kv": "kv_heads",
        "seq_q": "seq",
        "seq_kv": "seq_kv",
        "head_dim": "head_dim",
    },
    "recurrence": {"seq": "steps", "batch": "batch", "hidden": "hidden"},
    "stream": {"m": "rows", "n": "cols"},
}


def model(op: str) -> ModuleType:
    """Return the kernel model of an op on a CPU."""
    if op in ("gemm", "bmm"):
        return cpu_gemm
    if op in _GATES:
        return cpu_recurrence
    if op == "attention_decode":
        return cpu_decode
    return cpu_attention if op.startswith("attention") else cpu_stream


def arguments(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the keyword arguments of the op's model for rows of one op and dtype."""
    op = str(rows["op"].iloc[0])
    family = (
        op
        if op in _COLUMNS
        else {cpu_recurrence: "recurrence", cpu_attention: "attention", cpu_decode: "attention"}.get(
            model(op), "stream"
        )
    )
    found: dict[str, Any] = {
        size: rows[column].to_numpy(dtype=np.float64) for column, size in _COLUMNS[family].items()
    }
    found["dtype"] = str(rows["dtype"].iloc[0])
    if family == "stream":
        found |= {"reads": _READS.get(op, 1.0), "pattern": _PATTERNS.get(op, "elementwise")}
    elif family == "recurrence":
        found["gates"] = _GATES[op]
    elif op == "attention_decode":
        del found["seq"]
    elif family == "attention":
        found["causal"] = op == "attention_prefill"
    return found


def free(op: str) -> tuple[str, ...]:
    """Return the constants that rows of an op determine, memory levels apart."""
    names = [name for name in model(op).CONSTANTS if name not in _cpu.MEMORY and name != "overlap"]
    if model(op) is cpu_stream and op not in _PATTERNS:
        names.remove("row_cycles")
    if op == "gemm":
        names.remove("matrix_s")
    return tuple(names)


def fit(rows: pd.DataFrame, device: Device, start: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return the constants of one cell.

    Parameters
    ----------
    rows : DataFrame
        Rows to fit on, of one op, dtype and framework, with ``latency_s``, and ``other_s`` where the
        measurement holds more than this kernel (a recurrent layer's input products).
    device : Device
        Where they were measured.
    start : mapping of str to float, optional
        Values to begin with; those that are not free stay: the memory levels, fitted on copies.
    """
    op = str(rows["op"].iloc[0])
    kernel, kwargs = model(op), arguments(rows)
    other: NDArray[np.float64] | float = (
        rows["other_s"].to_numpy(dtype=np.float64) if "other_s" in rows else 0.0
    )
    measured = rows["latency_s"].to_numpy(dtype=np.float64)
    begin = dict(start or {})
    names = free(op)
    if op == "elementwise_copy":
        names = (*names, *_cpu.MEMORY)
    harness = kernel.HARNESS[0]
    begin.setdefault(harness, 0.8 * float(measured.min()))
    if device.units == 1:
        names = tuple(name for name in names if name != "fork_s")

    def predict(values: Mapping[str, float]) -> NDArray[np.float64]:
        return np.asarray(kernel.seconds(device, values, **kwargs).seconds + other)

    return least_log_error(predict, measured, kernel.CONSTANTS, names, begin)[1]
