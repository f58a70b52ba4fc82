"""Ratios of times measured in one run, in turns; medians are compared."""

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
        The calls to time, in turns, so that a change of the machine's speed affects all of them.
    rounds : int
        Number of turns, after one that is not timed.
    calls : int
        Calls in a turn.
    clock : callable
        Returns seconds; default: CPU time, which other work on the machine affects least.
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
