"""The events of a trace: which operations torch called, which of them called which, and their GPU kernels."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from costmodel.errors import TableError, first_line

#: Categories of events that a GPU runs.
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
#: What the first two bytes of a gzip file are.
_GZIP = b"\x1f\x8b"

Event = dict[str, Any]


@dataclass(eq=False)
class Op:
    """One call of an operation on the host.

    Attributes
    ----------
    name : str
        As torch calls it: ``aten::mm``.
    start, seconds : float
        When it began, and how long it took on the host, the operations that it called included [s].
    inputs : list
        Shape of each input; of a list of tensors their shapes, of anything else an empty list.
    types : list of str
        Type of each input: ``float``, ``c10::BFloat16``, ``Scalar``, …
    values : list of str
        Value of each input that is a number, a flag or a list of numbers; else empty.
    parent : Op or None
        The operation that called it.
    own_s : float
        Time on the host that none of the operations it called took [s].
    kernels : list of Kernel
        What it launched itself.
    """

    name: str
    start: float
    seconds: float
    inputs: list[Any]
    types: list[str]
    values: list[str]
    parent: Op | None = None
    own_s: float = 0.0
    kernels: list[Kernel] = field(default_factory=list)


@dataclass(frozen=True)
class Kernel:
    """One kernel, copy or fill on a GPU.

    Attributes
    ----------
    name : str
        Its own name, or ``Memcpy HtoD (…)``.
    device : int
        Number of the GPU.
    start, seconds : float
        When it began, and how long it took [s].
    blocks : int or None
        Thread blocks (on AMD threads) of its launch; None where the trace does not say.
    """

    name: str
    device: int
    start: float
    seconds: float
    blocks: int | None


@dataclass(frozen=True)
class Trace:
    """What a trace holds.

    Attributes
    ----------
    ops : list of Op
        Operations on the host, each after the one that called it.
    launched_by_none : list of Kernel
        Kernels of no operation in the trace: CUDA graphs, libraries that torch does not see.
    gpus : mapping of int to str
        Name of each GPU, as its driver gives it.
    """

    ops: list[Op]
    launched_by_none: list[Kernel]
    gpus: dict[int, str]

    @property
    def gpu_numbers(self) -> set[int]:
        """Numbers of the GPUs that anything ran on; none in the trace of a CPU."""
        launched = (kernel for op in self.ops for kernel in op.kernels)
        return {kernel.device for kernel in (*launched, *self.launched_by_none)}


def read(path: Path) -> Trace:
    """Return what a trace holds.

    Raises
    ------
    TableError
        If there is no such file, it is no trace of torch.profiler, or shapes were not recorded.
    """
    found = _json(path)
    events = found.get("traceEvents") if isinstance(found, dict) else None
    if not isinstance(events, list):
        raise TableError(f"{path}: no trace of torch.profiler: wanted a JSON object with traceEvents")
    timed = [event for event in events if _is_timed(event)]
    calls = [event for event in timed if event["cat"] == "cpu_op"]
    if not calls:
        raise TableError(
            f"{path}: names no operation of torch; profile with activities=[ProfilerActivity.CPU, …] too"
        )
    if not any("Input Dims" in event["args"] for event in calls):
        raise TableError(f"{path}: has no shapes; profile with record_shapes=True")
    ops, by_id = _ops(calls)
    alone = _attach((event for event in timed if event["cat"] in ON_GPU), by_id)
    return Trace(ops, alone, _gpus(found))


def _json(path: Path) -> Any:
    """Return what a JSON file holds, packed or not."""
    try:
        if path.is_dir():
            raise TableError("is a folder, wanted a trace of torch.profiler")
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if data[:2] == _GZIP else data)
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except (ValueError, EOFError, OSError, RecursionError) as error:
        raise TableError(f"{path}: not readable as JSON: {first_line(error)}") from None


def _is_timed(event: Any) -> bool:
    """Tell events with a beginning, a duration and arguments from marks and from names of threads."""
    return (
        isinstance(event, dict)
        and isinstance(event.get("cat"), str)
        and isinstance(event.get("name"), str)
        and isinstance(event.get("args"), dict)
        and all(isinstance(event.get(name), int | float) for name in ("ts", "dur"))
    )


def _ops(calls: Iterable[Event]) -> tuple[list[Op], dict[Any, Op]]:
    """Return the operations, callers first, and by External id; a thread's events are nested by time."""
    threads: dict[tuple[Any, Any], list[Event]] = defaultdict(list)
    for event in calls:
        threads[event.get("pid"), event.get("tid")].append(event)
    found: list[Op] = []
    by_id: dict[Any, Op] = {}
    for thread in threads.values():
        running: list[Op] = []
        # Of two that begin together the longer one is the caller.
        for event in sorted(thread, key=lambda e: (e["ts"], -e["dur"])):
            op = _op(event)
            while running and op.start >= running[-1].start + running[-1].seconds:
                running.pop()
            if running:
                op.parent = running[-1]
                op.parent.own_s = max(op.parent.own_s - op.seconds, 0.0)
            running.append(op)
            found.append(op)
            by_id[event["args"].get("External id")] = op
    by_id.pop(None, None)
    return found, by_id


def _op(event: Event) -> Op:
    of = event["args"]
    seconds = event["dur"] * 1e-6
    return Op(
        name=event["name"],
        start=event["ts"] * 1e-6,
        seconds=seconds,
        inputs=list(of.get("Input Dims") or ()),
        types=[str(one) for one in of.get("Input type") or ()],
        values=[str(one) for one in of.get("Concrete Inputs") or ()],
        own_s=seconds,
    )


def _attach(events: Iterable[Event], by_id: dict[Any, Op]) -> list[Kernel]:
    """Give each kernel to the operation that launched it; return those that none did."""
    alone: list[Kernel] = []
    for event in events:
        of = event["args"]
        grid = of.get("grid")
        kernel = Kernel(
            name=event["name"],
            device=int(of.get("device") or 0),
            start=event["ts"] * 1e-6,
            seconds=event["dur"] * 1e-6,
            blocks=_product(grid) if isinstance(grid, list) else None,
        )
        op = by_id.get(of.get("External id"))
        (op.kernels if op else alone).append(kernel)
    return alone


def _product(sides: Iterable[Any]) -> int:
    found = 1
    for side in sides:
        found *= int(side)
    return found


def _gpus(trace: dict[str, Any]) -> dict[int, str]:
    """Return the names of a trace's GPUs by number."""
    return {
        int(each.get("id", number)): str(each["name"])
        for number, each in enumerate(trace.get("deviceProperties") or ())
        if isinstance(each, dict) and each.get("name")
    }


def busy(kernels: Iterable[Kernel]) -> float:
    """Return for how long at least one of some kernels ran [s]."""
    return sum(end - start for start, end in _stretches(kernels))


def _stretches(kernels: Iterable[Kernel]) -> Iterator[tuple[float, float]]:
    """Yield when kernels ran, those that overlap as one."""
    reached: tuple[float, float] | None = None
    for kernel in sorted(kernels, key=lambda k: k.start):
        end = kernel.start + kernel.seconds
        if reached and kernel.start <= reached[1]:
            reached = reached[0], max(reached[1], end)
            continue
        if reached:
            yield reached
        reached = kernel.start, end
    if reached:
        yield reached
