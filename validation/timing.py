"""How long a call takes: warmed up until stable, repeated within a budget, its clock named.

On CUDA a sample is the time between two events around a number of calls; on the CPU that of
``perf_counter``. A warm sample repeats one call on the same operands. A cold one flushes the
caches, takes other operands, and holds one call: another quantity, never mixed with the first.
Eager calls on CUDA are queued behind each other, so that their samples show the slower of the
host's dispatch and the kernel; a replayed graph shows kernels alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from costmodel.validation.torch_env import load_torch

#: Calls that follow each other may differ by this much once warm.
STABLE = 0.05
#: A sample lasts at least this long [s], so that its clock's resolution does not show.
SAMPLE_S = {"cpu": 1e-3, "cuda": 5e-4}
#: At most these many samples, and calls in one.
MAX_SAMPLES, MAX_CALLS = 60, 200
#: At least these many samples, even over budget; a call that takes a second is not asked for more.
MIN_SAMPLES = 3
#: Calls captured in one graph: as many as take this long [s] one by one, at most these. The gap between two
#: replays is of microseconds, and so is what the host needs for one: of a few short kernels it would be all.
GRAPH_S, GRAPH_CALLS = 1e-3, 100


@dataclass(frozen=True)
class Timing:
    """Samples of one case in one visit, summarised.

    Attributes
    ----------
    median_s, q1_s, q3_s, min_s : float
        Of the time of one call over the samples [s].
    samples, calls, warmup : int
        Samples, calls in each, calls before the first.
    stable : bool
        Whether the warm-up ended because calls took the same time, not because its time was up.
    """

    median_s: float
    q1_s: float
    q3_s: float
    min_s: float
    samples: int
    calls: int
    warmup: int
    stable: bool


@dataclass(frozen=True)
class Stopwatch:
    """Times a number of calls on one kind of device.

    Attributes
    ----------
    kind : str
        ``cpu`` or ``cuda``.
    flush_bytes : int
        How much memory is gone through to empty the caches [bytes].
    """

    kind: str
    flush_bytes: int

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """Return the time of one call, averaged over that many in a row [s]."""
        if self.kind == "cpu":
            begin = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - begin) / calls
        cuda = load_torch().cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / calls

    def flusher(self) -> Callable[[], object]:
        """Return a function that puts other data into every cache.

        On CUDA it is queued before the timed call, and hides that call's dispatch. It reads, twice to be as
        long as reading and writing would be: what it had written would go to memory at the call's cost.
        """
        torch = load_torch()
        scratch = torch.zeros(max(1, self.flush_bytes // 4), dtype=torch.float32, device=self.kind)
        if self.kind == "cpu":
            return lambda: scratch.add_(1.0)
        return lambda: (scratch.sum(), scratch.sum())


def stopwatch(kind: str, cache_bytes: int) -> Stopwatch:
    """Return the clock of a device whose caches hold that much."""
    return Stopwatch(kind, 4 * cache_bytes)


def captured(
    call: Callable[[], object], scope: AbstractContextManager[Any], calls: int = GRAPH_CALLS
) -> Callable[[], object]:
    """Return a function that replays that many of a call as one CUDA graph.

    Raises
    ------
    RuntimeError
        If the call does what a graph cannot hold (a synchronisation, an allocation of another stream).
    """
    torch, side = load_torch(), _side_stream()
    side.wait_stream(torch.cuda.current_stream())
    with scope, torch.cuda.stream(side):
        for _ in range(3):  # lazy initialisation must be over before the capture
            call()
        side.synchronize()
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=side):
                for _ in range(calls):
                    call()
        except BaseException:
            _abandon(torch, pool)
            raise
    torch.cuda.current_stream().wait_stream(side)

    def replay() -> object:
        return graph.replay()

    return replay


def _abandon(torch: Any, pool: Any) -> None:
    """Tell the allocator that a capture is over which CUDA broke off: until 2.12 torch does not.

    It would take the capture to be going on, and refuse to give any memory back: every later capture begins
    with that, and would fail too (pytorch/pytorch#180395).
    """
    with contextlib.suppress(RuntimeError):  # where torch did
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)


@cache
def _side_stream() -> Any:
    """Return the stream that graphs are captured on: one for all, as libraries keep memory for each."""
    return load_torch().cuda.Stream()


def warm_up(watch: Stopwatch, call: Callable[[], object], budget_s: float) -> tuple[float, int, bool]:
    """Call until three calls in a row take the same time, or the budget is spent.

    Returns
    -------
    seconds, calls, stable : float, int, bool
        Time of the last call [s], how many there were, and whether they had become stable.
    """
    began, recent = time.perf_counter(), [watch.seconds(call, 1)]
    count = 1
    while time.perf_counter() - began < budget_s and count < 10 * MAX_CALLS:
        recent = [*recent[-2:], watch.seconds(call, 1)]
        count += 1
        if len(recent) == 3 and max(recent) <= (1 + STABLE) * min(recent):
            return recent[-1], count, True
    return recent[-1], count, False


def measure_warm(
    watch: Stopwatch, call: Callable[[], object], budget_s: float, *, per_call: int = 1
) -> Timing:
    """Time a call repeated on the same operands.

    Parameters
    ----------
    watch : Stopwatch
        The clock.
    call : callable
        What is timed.
    budget_s : float
        How long the whole may take; at least ``MIN_SAMPLES`` samples are taken.
    per_call : int
        Kernels in one call (a graph holds several): times are of one kernel.
    """
    began = time.perf_counter()
    once, warmup, stable = warm_up(watch, call, 0.3 * budget_s)
    left = budget_s - (time.perf_counter() - began)
    enough = int(np.ceil(SAMPLE_S[watch.kind] / max(once, 1e-9)))
    affordable = int(left / max(once, 1e-9) / MIN_SAMPLES)
    calls = int(np.clip(min(enough, affordable), 1, MAX_CALLS))
    samples: list[float] = []
    while _wanted(samples, once * calls, began, budget_s):
        samples.append(watch.seconds(call, calls) / per_call)
    return _summary(samples, calls, warmup, stable)


def measure_cold(watch: Stopwatch, calls: Sequence[Callable[[], object]], budget_s: float) -> Timing:
    """Time single calls on rotated operands, each after the caches were flushed."""
    began, flush = time.perf_counter(), watch.flusher()
    for call in calls:
        call()
    samples: list[float] = []
    while _wanted(samples, 0.0, began, budget_s):
        flush()
        samples.append(watch.seconds(calls[len(samples) % len(calls)], 1))
    return _summary(samples, 1, len(calls), stable=True)


def measure_difference(
    watch: Stopwatch, long: Callable[[], object], short: Callable[[], object], budget_s: float, *, apart: int
) -> Timing | None:
    """Time what a longer call does beyond a shorter one, each sample taken of both in turn.

    Whatever else the machine does, it does to both; pairs whose longer call was no slower were disturbed
    in between, and are left out.

    Parameters
    ----------
    watch : Stopwatch
        The clock.
    long, short : callable
        The same work `apart` times more often in one than in the other.
    budget_s : float
        How long the whole may take; at least ``MIN_SAMPLES`` pairs are taken.
    apart : int
        Times are of one of these.

    Returns
    -------
    Timing or None
        None where every pair was disturbed.
    """
    began = time.perf_counter()
    warmed = [warm_up(watch, call, 0.15 * budget_s) for call in (short, long)]
    both = sum(once for once, _, _ in warmed)
    pairs: list[float] = []
    while _wanted(pairs, both, began, budget_s):
        base = watch.seconds(short, 1)
        pairs.append((watch.seconds(long, 1) - base) / apart)
    sound = [each for each in pairs if each > 0]
    if not sound:
        return None
    return _summary(sound, 1, sum(n for _, n, _ in warmed), stable=all(stable for _, _, stable in warmed))


def _wanted(samples: Sequence[float], sample_s: float, began: float, budget_s: float) -> bool:
    """Return whether another sample is to be taken."""
    if len(samples) >= MAX_SAMPLES:
        return False
    spent = time.perf_counter() - began
    if len(samples) < MIN_SAMPLES:
        return not samples or sample_s < 1.0 or spent + sample_s < budget_s
    return spent + sample_s < budget_s


def _summary(samples: Sequence[float], calls: int, warmup: int, stable: bool) -> Timing:
    q1, median, q3 = np.percentile(samples, [25, 50, 75])
    return Timing(
        float(median), float(q1), float(q3), float(min(samples)), len(samples), calls, warmup, stable
    )
