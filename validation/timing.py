"""Time calls: warm up until stable, and repeat within a time budget.

On CUDA a sample is the time between two events around a number of calls; on the CPU it is taken by
``perf_counter``. A warm sample repeats one call on the same operands. A cold sample flushes the caches, uses
other operands, and has a single call; it is a different quantity and never mixed with warm ones. Eager calls
on CUDA are queued back to back, so their samples show the slower of the host's dispatch and the kernel; a
replayed graph shows kernels alone.
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

#: Relative difference between consecutive calls below which they count as warm.
STABLE = 0.05
#: Shortest duration of a sample [s], so that the clock's resolution does not matter.
SAMPLE_S = {"cpu": 1e-3, "cuda": 5e-4}
#: Largest number of samples, and of calls in one sample.
MAX_SAMPLES, MAX_CALLS = 60, 200
#: Smallest number of samples, even over budget, except for calls that take a second or more.
MIN_SAMPLES = 3
#: Duration of the calls captured in one graph [s], and the most calls. The gap between two replays and the
#: host's time for one are microseconds, which would dominate the time of a few short kernels.
GRAPH_S, GRAPH_CALLS = 1e-3, 100


@dataclass(frozen=True)
class Timing:
    """Summary of the samples of one case in one visit.

    Attributes
    ----------
    median_s, q1_s, q3_s, min_s : float
        Median, quartiles and minimum of the time of one call [s].
    samples, calls, warmup : int
        Number of samples, calls in each, and calls of the warm-up.
    stable : bool
        Whether the warm-up ended because calls took equal times, not because of its budget.
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
    """Timer of calls on one kind of device.

    Attributes
    ----------
    kind : str
        ``cpu`` or ``cuda``.
    flush_bytes : int
        Memory to traverse to flush the caches [bytes].
    """

    kind: str
    flush_bytes: int

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """Return the time of one call, averaged over `calls` consecutive ones [s]."""
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
        """Return a function that replaces the content of all caches.

        On CUDA it is queued before the timed call and hides that call's dispatch. It only reads, because data
        that it wrote would be written back to memory during the timed call. It reads twice, to take as long
        as reading and writing.
        """
        torch = load_torch()
        scratch = torch.zeros(max(1, self.flush_bytes // 4), dtype=torch.float32, device=self.kind)
        if self.kind == "cpu":
            return lambda: scratch.add_(1.0)
        return lambda: (scratch.sum(), scratch.sum())


def stopwatch(kind: str, cache_bytes: int) -> Stopwatch:
    """Return the timer of a kind of device with caches of `cache_bytes`."""
    return Stopwatch(kind, 4 * cache_bytes)


def captured(
    call: Callable[[], object], scope: AbstractContextManager[Any], calls: int = GRAPH_CALLS
) -> Callable[[], object]:
    """Return a function that replays `calls` calls as one CUDA graph.

    Raises
    ------
    RuntimeError
        If the call does something that cannot be captured (a synchronisation, an allocation on another
        stream).
    """
    torch, side = load_torch(), _side_stream()
    side.wait_stream(torch.cuda.current_stream())
    with scope, torch.cuda.stream(side):
        for _ in range(3):  # lazy initialisation must happen before the capture
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
    """Tell the allocator that CUDA aborted a capture, which torch does not do up to 2.12.

    The allocator would otherwise consider the capture as ongoing and refuse to release memory; every later
    capture begins with that, and would fail too (pytorch/pytorch#180395).
    """
    with contextlib.suppress(RuntimeError):  # torch has done it already
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)


@cache
def _side_stream() -> Any:
    """Return the stream for captures: a single one, because libraries keep memory for each stream."""
    return load_torch().cuda.Stream()


def warm_up(watch: Stopwatch, call: Callable[[], object], budget_s: float) -> tuple[float, int, bool]:
    """Call until three consecutive calls take the same time, or the budget is spent.

    Returns
    -------
    seconds, calls, stable : float, int, bool
        Time of the last call [s], number of calls, and whether they became stable.
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
        The call to time.
    budget_s : float
        Time budget of the whole measurement [s]; at least ``MIN_SAMPLES`` samples are taken.
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
    """Time the difference between a longer and a shorter call; each sample takes both in turn.

    Other load on the machine affects both alike. Pairs whose longer call was not slower were disturbed in
    between, and are left out.

    Parameters
    ----------
    watch : Stopwatch
        The clock.
    long, short : callable
        Calls that differ by `apart` repetitions of the same work.
    budget_s : float
        Time budget of the whole measurement [s]; at least ``MIN_SAMPLES`` pairs are taken.
    apart : int
        Number of these repetitions; times are of one.

    Returns
    -------
    Timing or None
        None if every pair was disturbed.
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
    """Return whether to take another sample."""
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
