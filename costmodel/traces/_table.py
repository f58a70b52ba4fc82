"""A trace as a table of measured kernels."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from costmodel import hardware
from costmodel.arguments import typed
from costmodel.errors import TableError, UnknownNameError
from costmodel.measured import NUMERIC
from costmodel.traces import _dies, _operations, _passes, _rounding
from costmodel.traces._events import Kernel, Op, Trace, busy, read, uncollected

#: Timers of measured tables that stand for a trace's times, on a GPU and on a CPU.
ON_GPU, ON_CPU = "kernel-time", "perf_counter-median"
#: Recurrences, whose time runs from the first kernel's start to the last one's end.
_IN_STEPS = ("rnn", "lstm", "gru")
#: Prefixes of operations with matrix products.
_PRODUCTS = ("gemm", "bmm", "attention_", "convolution", *_IN_STEPS)


@typed
def read_trace(path: str | Path, *, gpu: str | None = None) -> pd.DataFrame:
    """Return a trace of torch.profiler as a table of measured kernels.

    Write the trace with ``record_shapes=True`` and ``export_chrome_trace``; ``.json`` and ``.json.gz`` are
    read. An operation's time is that in which at least one of its kernels (or of the operations it called)
    ran on the GPU; for recurrent layers, from the first kernel's start to the last one's end. If nothing ran
    on a GPU, it is the host's time.

    Parameters
    ----------
    path : str or Path
        The trace.
    gpu : str, optional
        The device it was recorded on, as for `costmodel.predict`; default: the GPU that the trace names (a
        trace does not name its CPU). For boards and modules of two GPUs it is the half that the program
        used.

    Returns
    -------
    DataFrame
        A row for each operation and its inputs' shapes, the longest first: the columns of measured tables
        (``gpu``, ``op``, ``dtype``, sizes, ``kernel``, ``grid``, ``timer``, ``framework``, ``direction``,
        ``latency_s``, the median of its calls), ``torch_op``, ``inputs`` (their shapes), ``calls`` and
        ``total_s``, the time of all calls [s]. Passes over memory that are no measured operation have an op
        that starts with ``pass_``, and state their bytes. If no layer describes an operation, ``op`` is
        torch's own name, and `costmodel.score.score` gives a reason instead of a prediction; ``unread``
        says what the trace lacks.

    Raises
    ------
    TableError
        If it is not a trace, lacks shapes, has several processes with GPUs, or names a device without a
        spec.
    UnknownNameError
        If no device is called `gpu`.
    """
    source = Path(path)
    if gpu is not None:
        hardware.load(gpu)
    with uncollected():
        calls = pd.DataFrame(_calls(read(source), gpu, source))
    named = [name for name in calls if name not in ("latency_s", "grid")]
    kinds = calls.groupby(named, dropna=False, sort=False)
    table = kinds.agg(
        grid=("grid", "first"),
        latency_s=("latency_s", "median"),
        calls=("latency_s", "size"),
        total_s=("latency_s", "sum"),
    )
    table = table.reset_index().sort_values("total_s", ascending=False, kind="stable", ignore_index=True)
    return table.astype({name: "Int64" for name in table if name in NUMERIC and name != "latency_s"})


def _calls(trace: Trace, gpu: str | None, source: Path) -> list[dict[str, Any]]:
    """Return a row for each operation, with its time on the GPU if anything ran there, else on the host."""
    if trace.gpu_numbers:
        return list(_gpu_calls(trace, gpu, source))
    if gpu is None:
        raise TableError(
            f"{source}: nothing ran on a GPU, and a trace does not name its CPU; say which it is (-m, gpu=)"
        )
    device = hardware.load(gpu)
    if device.spec.units.kind != "core":
        raise TableError(
            f"{source}: nothing ran on a GPU, and {device.name} is no CPU; say which it is (-m, gpu=), "
            "or profile with ProfilerActivity.CUDA too"
        )
    return list(_cpu_calls(trace, gpu))


def _cpu_calls(trace: Trace, cpu: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each operation; the time of those with a layer includes what they called."""
    rows: dict[Op, dict[str, Any] | None] = {}
    covered: set[Op] = set()
    for op in trace.ops:
        if op.parent in covered:
            covered.add(op)
            continue
        rows[op] = _operations.row(op)
        if rows[op]:
            covered.add(op)
    for op, found in rows.items():
        seconds = op.seconds if found else op.own * 1e-9
        row = {**_described(op, found), "timer": ON_CPU, "grid": None, "latency_s": seconds}
        if row["op"] == "convolution_depthwise":
            # A CPU's model of passes counts instructions per element, not per tap.
            row["op"] = "convolution_grouped"
        yield {"gpu": cpu, **row}


def _gpu_calls(trace: Trace, gpu: str | None, source: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each operation that ran kernels, by the outermost one that a layer describes."""
    owners: dict[Op, Op] = {}
    rows: dict[Op, dict[str, Any] | None] = {}
    kernels: dict[Op, list[Kernel]] = defaultdict(list)
    for op in trace.ops:
        above = owners.get(op.parent) if op.parent else None
        if above is not None and rows[above]:
            owners[op] = above
        else:
            owners[op], rows[op] = op, _operations.row(op)
        kernels[owners[op]].extend(op.kernels)

    names = {number: _named(trace, number, gpu, source) for number in trace.gpu_numbers}
    for op, run in kernels.items():
        if not run:
            continue
        longest = max(run, key=lambda kernel: kernel.seconds)
        described = _described(op, *_multiplied(rows[op], run))
        whole = described["op"] in _IN_STEPS
        described["kernel"] = described.get("kernel") or longest.name
        yield {
            "gpu": names[longest.device],
            **described,
            "timer": ON_GPU,
            "grid": longest.blocks,
            "latency_s": _span(run) if whole else busy(run),
        }
    for kernel in trace.launched_by_none:
        yield {
            "gpu": names[kernel.device],
            "op": kernel.name,
            "dtype": None,
            "unread": "",
            "torch_op": "",
            "inputs": "",
            "kernel": kernel.name,
            "timer": ON_GPU,
            "grid": kernel.blocks,
            "latency_s": kernel.seconds,
        }


def _multiplied(found: dict[str, Any] | None, run: list[Kernel]) -> tuple[dict[str, Any] | None, str]:
    """Return an operation's row with the format of its products, or none and why that is not known."""
    if not found or found["dtype"] != "fp32" or not found["op"].startswith(_PRODUCTS):
        return found, ""
    if _rounding.rounded(run):
        return {**found, "dtype": "tf32"}, ""
    convolves = found["op"].startswith("convolution")
    unclear = (_rounding.unclear_convolution if convolves else _rounding.unclear)(run)
    return (None if unclear else found), unclear


def _named(trace: Trace, number: int, gpu: str | None, source: Path) -> str:
    """Return what a GPU is called: as the user says, or as the trace does where there is a spec of it."""
    units = trace.units.get(number)
    if gpu is not None:
        return _dies.seen(gpu, units)
    name = trace.gpus.get(number)
    if name is None:
        raise TableError(f"{source}: does not name GPU {number}; say which device it is (-m, gpu=)")
    try:
        name = _dies.seen(name, units)
        hardware.load(name)
    except UnknownNameError:
        raise TableError(
            f"{source}: ran on {name!r}, of which there is no spec; name a device to take for it (-m, gpu=)"
        ) from None
    return name


def _described(op: Op, found: dict[str, Any] | None, unclear: str = "") -> dict[str, Any]:
    """Return what a row says of its operation, or why it has none."""
    unread = {"op": op.name, "dtype": _operations.first_dtype(op), "unread": unclear or _passes.lacking(op)}
    known = {"direction": "fwd", **found, "unread": ""} if found else unread
    return {**known, "framework": "pytorch", "torch_op": op.name, "inputs": json.dumps(op.inputs)}


def _span(kernels: list[Kernel]) -> float:
    """Return the time from the start of the first kernel to the end of the last [s]."""
    ends = [kernel.start + kernel.seconds for kernel in kernels]
    return max(ends) - min(kernel.start for kernel in kernels)
