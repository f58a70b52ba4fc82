"""Traces for the tests: recorded here by torch on the CPU, or put together in Kineto's form for a GPU."""

import importlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def record(path: Path, program: Callable[[], object], *, shapes: bool = True, memory: bool = False) -> Path:
    """Write the trace of a program that runs on this CPU."""
    profiling = importlib.import_module("torch.profiler")
    program()  # what is done once alone is not measured
    activities = [profiling.ProfilerActivity.CPU]
    with profiling.profile(activities=activities, record_shapes=shapes, profile_memory=memory) as profiler:
        program()
    profiler.export_chrome_trace(str(path))
    return path


def op(
    name: str,
    start: float,
    dur: float,
    number: int,
    *inputs: tuple[list[Any], str, str],
    tid: int = 1,
) -> Event:
    """Return an operation of the host [µs]; an input is its shape, its type and its value."""
    dims, types, values = (list(each) for each in zip(*inputs, strict=True)) if inputs else ([], [], [])
    args = {"External id": number, "Input Dims": dims, "Input type": types, "Concrete Inputs": values}
    return {
        "ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": tid, "ts": start, "dur": dur, "args": args,
    }  # fmt: skip


def kernel(
    name: str, start: float, dur: float, number: int | None, *, device: int = 0, cat: str = "kernel"
) -> Event:
    """Return a kernel of the GPU [µs], launched by the operation of a number."""
    args = {"External id": number, "device": device, "stream": 7, "grid": [32, 4, 2], "block": [256, 1, 1]}
    if number is None:
        del args["External id"]
    return {"ph": "X", "cat": cat, "name": name, "pid": 0, "tid": 7, "ts": start, "dur": dur, "args": args}


def write(path: Path, events: Iterable[Any], *gpus: str) -> Path:
    """Write a trace of these events, on GPUs of these names."""
    properties = [{"id": number, "name": name} for number, name in enumerate(gpus)]
    marks = [{"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "python"}}]
    trace = {"schemaVersion": 1, "deviceProperties": properties, "traceEvents": [*marks, *events]}
    path.write_text(json.dumps(trace), encoding="utf-8")
    return path


def bf16(*shape: int) -> tuple[list[int], str, str]:
    """Return an input: a tensor in bf16."""
    return list(shape), "c10::BFloat16", ""


def fp32(*shape: int) -> tuple[list[int], str, str]:
    """Return an input: a tensor in fp32."""
    return list(shape), "float", ""


def number(value: object) -> tuple[list[int], str, str]:
    """Return an input: a number or a flag."""
    return [], "Scalar", str(value)


#: An input that is left out.
NONE: tuple[list[int], str, str] = ([], "", "")
