"""The events of a trace: torch's operations, which of them called which, and their GPU kernels."""

from __future__ import annotations

import gc
import gzip
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from costmodel.errors import TableError, first_line

#: Categories of events that run on a GPU.
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
#: Categories of the runtime and driver calls that launch kernels; they have the same names on AMD.
LAUNCHES = ("cuda_runtime", "cuda_driver")
#: The first two bytes of a gzip file.
_GZIP = b"\x1f\x8b"

Event = dict[str, Any]


@dataclass(eq=False, slots=True)
class Op:
    """One call of an operation on the host.

    Attributes
    ----------
    name : str
        torch's name: ``aten::mm``.
    start, end : int
        When it began and ended on the host [ns].
    inputs, strides : list
        Shape and strides of each input; of a list of tensors, a list of these; else an empty list. Traces of
        earlier releases have no strides.
    types : list of str
        Type of each input: ``float``, ``c10::BFloat16``, ``Scalar``, …
    values : list of str
        Value of each input that is a number, a flag or a list of numbers; else empty.
    own : int
        Time on the host, without that of the operations it called [ns].
    parent : Op or None
        The operation that called it.
    kernels : list of Kernel
        The kernels that it launched itself.
    memory : list of tuple of int
        Address and size [bytes] of host memory that it, or an operation it called, allocated (positive) or
        freed (negative). Empty unless the trace records memory (``profile_memory=True``).
    """

    name: str
    start: int
    end: int
    inputs: list[Any]
    strides: list[Any]
    types: list[str]
    values: list[str]
    own: int
    parent: Op | None = None
    kernels: list[Kernel] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)

    @property
    def allocated(self) -> int:
        """Host memory that is still allocated at its end, normally that of its results [bytes]."""
        held: dict[int, int] = {}
        for address, size in self.memory:
            if size > 0:
                held[address] = size
            else:
                held.pop(address, None)
        return sum(held.values())

    @property
    def leaves_device(self) -> bool:
        """Whether it copies anything to or from a GPU's own memory, not only within it."""
        copies = (kernel.name for kernel in self.kernels if kernel.name.startswith("Memcpy"))
        return any(not name.startswith("Memcpy DtoD") for name in copies)

    @property
    def seconds(self) -> float:
        """Time on the host, including the operations that it called [s]."""
        return (self.end - self.start) * 1e-9


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel, copy or fill on a GPU.

    Attributes
    ----------
    name : str
        The kernel's name, or ``Memcpy HtoD (…)``.
    device : int
        Number of the GPU.
    start, seconds : float
        Start and duration [s].
    blocks : int or None
        Thread blocks (on AMD: threads) of its launch; None if the trace does not say.
    """

    name: str
    device: int
    start: float
    seconds: float
    blocks: int | None


@dataclass(frozen=True)
class Trace:
    """The content of a trace.

    Attributes
    ----------
    ops : list of Op
        Operations on the host; callers precede the operations they call.
    launched_by_none : list of Kernel
        Kernels that no operation in the trace launched: CUDA graphs, libraries that torch does not see.
    gpus : mapping of int to str
        The driver's name of each GPU.
    units : mapping of int to int
        Multiprocessors (on AMD: compute units) of each GPU, if the trace has them.
    """

    ops: list[Op]
    launched_by_none: list[Kernel]
    gpus: dict[int, str]
    units: dict[int, int]

    @property
    def gpu_numbers(self) -> set[int]:
        """Numbers of the GPUs that ran anything; empty for the trace of a CPU."""
        launched = (kernel for op in self.ops for kernel in op.kernels)
        return {kernel.device for kernel in (*launched, *self.launched_by_none)}


@contextmanager
def uncollected() -> Iterator[None]:
    """Suspend garbage collection: with millions of objects, all in use, it takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read(path: Path) -> Trace:
    """Return the content of a trace file.

    Raises
    ------
    TableError
        If the file does not exist or is not a trace of torch.profiler, or shapes were not recorded.
    """
    found = _json(path)
    events = found.get("traceEvents") if isinstance(found, dict) else None
    if not isinstance(events, list):
        raise TableError(f"{path}: no trace of torch.profiler: wanted a JSON object with traceEvents")
    kinds: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if _is_timed(event):
            kinds[event["cat"]].append(event)
    calls = kinds["cpu_op"]
    if not calls:
        raise TableError(
            f"{path}: names no operation of torch; profile with activities=[ProfilerActivity.CPU, …] too"
        )
    if not any("Input Dims" in _args(event) for event in calls):
        raise TableError(f"{path}: has no shapes; profile with record_shapes=True")
    on_gpu = [event for kind in ON_GPU for event in kinds[kind]]
    processes = len({str(event.get("pid")) for event in calls})
    if on_gpu and processes > 1:
        # Each process numbers its operations from 1, so kernels cannot be assigned to them.
        raise TableError(f"{path}: {processes} processes in one trace; wanted a trace for each")
    memory = [event for event in events if _is_memory(event)]
    launched = {_args(event).get("correlation"): event for kind in LAUNCHES for event in kinds[kind]}
    ops, by_id = _ops(calls, memory)
    gpus = _gpus(found)
    return Trace(
        ops,
        _attach(on_gpu, by_id, launched),
        gpus={number: str(each["name"]) for number, each in gpus.items() if each.get("name")},
        units={
            number: each["numSms"] for number, each in gpus.items() if isinstance(each.get("numSms"), int)
        },
    )


def _json(path: Path) -> Any:
    """Return the content of a JSON file, compressed or not."""
    try:
        if path.is_dir():
            raise TableError("is a folder, wanted a trace of torch.profiler")
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if data[:2] == _GZIP else data)
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except (ValueError, EOFError, OSError, RecursionError, zlib.error) as error:
        raise TableError(f"{path}: not readable as JSON: {first_line(error)}") from None


def _is_timed(event: Any) -> bool:
    """Return whether an event has a start and a duration, unlike marks and names of threads."""
    return (
        isinstance(event, dict)
        and isinstance(event.get("cat"), str)
        and isinstance(event.get("name"), str)
        and all(
            isinstance(time := event.get(name), int | float) and math.isfinite(time) for name in ("ts", "dur")
        )
    )


def _is_memory(event: Any) -> bool:
    """Return whether an event is a mark that host memory was allocated or freed."""
    if not isinstance(event, dict) or event.get("name") != "[memory]":
        return False
    args, time = _args(event), event.get("ts")
    numbers = all(isinstance(args.get(name), int) for name in ("Addr", "Bytes"))
    return numbers and args.get("Device Type") == 0 and isinstance(time, int | float) and math.isfinite(time)


def _args(event: Event) -> Event:
    """Return an event's arguments; on AMD a kernel that no operation launched has none."""
    args = event.get("args")
    return args if isinstance(args, dict) else {}


def _ns(microseconds: float) -> int:
    """Return a time as whole nanoseconds, so that starts and ends compare exactly."""
    return round(microseconds * 1000)


def _ops(calls: Iterable[Event], memory: Iterable[Event]) -> tuple[list[Op], dict[Any, Op]]:
    """Return the operations, callers first, and by External id; calls are found by nesting in time."""
    threads: dict[tuple[str, str], list[tuple[Op, Any]]] = defaultdict(list)
    for event in calls:
        threads[_thread(event)].append((_op(event), _args(event).get("External id")))
    changes: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in memory:
        changes[_thread(event)].append(event)
    found: list[Op] = []
    by_id: dict[Any, Op] = {}
    for thread, thread_calls in threads.items():
        first = len(found)
        running: list[Op] = []
        # Of two operations that start together, the longer one is the caller.
        for op, number in sorted(thread_calls, key=lambda call: (call[0].start, -call[0].end)):
            while running and op.start >= running[-1].end:
                running.pop()
            if running:
                op.parent = running[-1]
                op.parent.own = max(op.parent.own - (op.end - op.start), 0)
            running.append(op)
            found.append(op)
            if isinstance(number, int) and number:  # 0 stands for none
                by_id[number] = op
        _note_memory(found[first:], changes[thread])
    return found, by_id


def _thread(event: Event) -> tuple[str, str]:
    return str(event.get("pid")), str(event.get("tid"))


def _note_memory(ops: list[Op], changes: list[Event]) -> None:
    """Record what the operations of a thread (callers first) allocated and freed while they ran."""
    waiting, running = iter([*ops, None]), list[Op]()
    coming = next(waiting)
    for event in sorted(changes, key=lambda each: each["ts"]):
        now, args = _ns(event["ts"]), _args(event)
        while coming and coming.start <= now:
            running.append(coming)
            coming = next(waiting)
        running = [op for op in running if now <= op.end]
        for op in running:
            op.memory.append((args["Addr"], args["Bytes"]))


def _op(event: Event) -> Op:
    args = _args(event)
    start = _ns(event["ts"])
    took = max(_ns(event["dur"]), 0)
    return Op(
        name=event["name"],
        start=start,
        end=start + took,
        inputs=_list(args.get("Input Dims")),
        strides=_list(args.get("Input Strides")),
        types=[str(one) for one in _list(args.get("Input type"))],
        values=[str(one) for one in _list(args.get("Concrete Inputs"))],
        own=took,
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _attach(events: Iterable[Event], by_id: dict[Any, Op], launched: dict[Any, Event]) -> list[Kernel]:
    """Add each kernel to the operation that launched it; return the kernels without one."""
    alone: list[Kernel] = []
    for event in events:
        args = _args(event)
        kernel = Kernel(
            name=event["name"],
            device=_device(event),
            start=event["ts"] * 1e-6,
            seconds=max(event["dur"], 0) * 1e-6,
            blocks=_blocks(args.get("grid")),
        )
        op = _launcher(args, by_id, launched)
        (op.kernels if op else alone).append(kernel)
    return alone


def _device(event: Event) -> int:
    """Return the GPU that ran an event: ``device``, ``inDevice`` for a copy between two GPUs, or its pid."""
    args = _args(event)
    said = (args.get("device"), args.get("inDevice"), event.get("pid"))
    return next((number for number in said if isinstance(number, int)), 0)


def _launcher(args: Event, by_id: dict[Any, Op], launched: dict[Any, Event]) -> Op | None:
    """Return the operation that launched a kernel, or None.

    Before October 2024, Kineto gave kernels that no operation launched (those of a CUDA graph) their own
    correlation number as External id, which may also be the number of an unrelated operation.
    """
    number = args.get("External id")
    op = by_id.get(number) if isinstance(number, int) else None
    if op and number == args.get("correlation"):
        launch = launched.get(number)
        if launch and not op.start <= _ns(launch["ts"]) <= op.end:
            return None
    return op


def _blocks(grid: Any) -> int | None:
    """Return the number of blocks of a grid, or None if it is not a grid."""
    sides = _list(grid)
    return math.prod(sides) if sides and all(isinstance(side, int) for side in sides) else None


def _gpus(trace: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the properties of a trace's GPUs, by number."""
    return {
        each["id"] if isinstance(each.get("id"), int) else number: each
        for number, each in enumerate(_list(trace.get("deviceProperties")))
        if isinstance(each, dict)
    }


def busy(kernels: Iterable[Kernel]) -> float:
    """Return the time in which at least one of the kernels ran [s]."""
    return sum(end - start for start, end in _stretches(kernels))


def _stretches(kernels: Iterable[Kernel]) -> Iterator[tuple[float, float]]:
    """Yield the start and end of each period in which kernels ran without a gap [s]."""
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
