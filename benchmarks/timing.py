"""Ratios of times taken in one run: contenders take turns, medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def medians(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    calls: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Return the median time of one call of each [s].

    Parameters
    ----------
    contenders : mapping of str to callable
        What is timed, in turns: a machine that slows down slows all of them down.
    rounds : int
        Turns; one more goes before them, untimed.
    calls : int
        Calls in a turn.
    clock : callable
        Returns seconds; default the processor's, which other work on the machine disturbs least.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            start = clock()
            for _ in range(calls):
                call()
            if turn:
                times[name].append((clock() - start) / calls)
    return {name: statistics.median(values) for name, values in times.items()}


def report(what: str, against: str, times: Mapping[str, float], limit: float) -> bool:
    """Print a ratio beside its limit; return whether it is within."""
    ratio = times[what] / times[against]
    verdict = "ok" if ratio <= limit else "TOO SLOW"
    took = f"{what:<30} {times[what] * 1e3:>10.3f} ms"
    print(f"{took}  {ratio:>7.2f} × {against:<30} at most {limit:g}: {verdict}")
    return ratio <= limit
