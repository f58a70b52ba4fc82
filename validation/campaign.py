"""Run a campaign: many cases, visited in several passes within a time budget; it can be resumed.

Each pass visits every case once in its own order, so that a drift of the machine appears as spread between a
case's visits and not as a difference between cases. The failure of a case (out of memory, wrong result, no
such kernel) is recorded, and the campaign continues.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from costmodel.errors import UnavailableError, first_line
from costmodel.validation import timing
from costmodel.validation.allocations import prepare_watched
from costmodel.validation.case import Case
from costmodel.validation.execute import IncorrectResultError, Prepared, prepare, relative_error
from costmodel.validation.journal import Journal, Row
from costmodel.validation.sensors import sensors
from costmodel.validation.torch_env import Machine, load_torch

#: Sets of operands that a cold measurement rotates.
COPIES = 3
#: Least time given to a visit [s]; a shorter one would consist mostly of its preparation.
LEAST_VISIT_S = 0.02

#: Phrases in libraries' errors that mean there is no kernel for a case.
_MISSING = ("no available kernel", "not implemented", "not supported", "not_supported", "no execution plan")

Progress = Callable[[int, int, str], None]


def run_campaign(
    cases: Sequence[Case],
    machine: Machine,
    journal: Journal,
    *,
    budget_s: float,
    passes: int = 3,
    progress: Progress = lambda _done, _planned, _what: None,
) -> None:
    """Measure cases, and write each visit to the journal as soon as it ends.

    Parameters
    ----------
    cases : sequence of Case
        Cases to measure; visits that are already in the journal are not repeated.
    machine : Machine
        The machine to measure.
    journal : Journal
        Open for appending.
    budget_s : float
        Time budget [s], after which no visit starts.
    passes : int
        Visits per case.
    progress : callable
        Called with (visits done, visits planned, case) before each visit.
    """
    began = time.perf_counter()
    done = {(row["key"], row["pass"]) for row in journal.rows}
    ended = {row["key"] for row in journal.rows if row["status"] != "ok"}
    todo = [visit for visit in schedule(cases, passes) if (visit[1].key, visit[0]) not in done]
    watch = timing.stopwatch(machine.kind, machine.cache_at_most)
    planned = len(cases) * passes
    for index, (number, case) in enumerate(todo):
        if case.key in ended:
            continue
        left = budget_s - (time.perf_counter() - began)
        if left <= 0:
            break
        progress(planned - len(todo) + index, planned, str(case))
        share = max(LEAST_VISIT_S, left / (len(todo) - index))
        start = time.perf_counter()
        which = {"key": case.key, "pass": number, "case": case.as_dict()}
        journal.begin(which)
        row = visit(case, machine, watch, share, check=number == 0)
        journal.append({**which, "took_s": time.perf_counter() - start, **row})
        if row["status"] != "ok":
            ended.add(case.key)
            _after_failure(machine, case, row)


def schedule(cases: Sequence[Case], passes: int) -> Iterator[tuple[int, Case]]:
    """Yield (pass, case), pass by pass; each pass has its own fixed random order."""
    for number in range(passes):
        order = list(cases)
        random.Random(number).shuffle(order)
        for case in order:
            yield number, case


def visit(case: Case, machine: Machine, watch: timing.Stopwatch, budget_s: float, *, check: bool) -> Row:
    """Prepare and time one case, optionally check its result and memory; return the record.

    Returns
    -------
    dict
        ``status`` is ``ok``, ``incorrect``, ``out of memory``, ``unavailable`` or ``failed``, with
        a ``reason`` for all but the first; then the timing, the memory and the state of the machine.
    """
    torch = load_torch()
    began = time.perf_counter()
    error = peak = None
    try:
        if check:
            prepared, peak = prepare_watched(case, machine.kind)
            error = relative_error(case, prepared)
        else:
            prepared = prepare(case, machine.kind)
        left = budget_s - (time.perf_counter() - began)
        measured = _time(case, prepared, machine, watch, max(left, LEAST_VISIT_S))
    except IncorrectResultError as wrong:
        return _failed("incorrect", wrong)
    except UnavailableError as missing:
        return _failed("unavailable", missing)
    except Exception as fault:  # Triton's and cuDNN's errors have no other common base class
        return _failed(_kind_of(torch, fault), fault)
    return {
        "status": "ok",
        "timer": _timer(case, watch),
        **asdict(measured),
        "error": error,
        "peak_bytes": peak,
        **sensors(machine.kind),
    }


def _time(
    case: Case, prepared: Prepared, machine: Machine, watch: timing.Stopwatch, budget_s: float
) -> timing.Timing:
    if case.launch == "graph":
        calls = _calls_of_a_graph(prepared, watch)
        replay = timing.captured(prepared.run, prepared.scope(), calls)
        return timing.measure_warm(watch, replay, budget_s, per_call=calls)
    if case.state == "cold":
        others = [prepare(case, machine.kind, copy=number) for number in range(1, COPIES)]
        with prepared.scope():
            return timing.measure_cold(watch, [p.run for p in (prepared, *others)], budget_s)
    with prepared.scope():
        return timing.measure_warm(watch, prepared.run, budget_s)


def _calls_of_a_graph(prepared: Prepared, watch: timing.Stopwatch) -> int:
    with prepared.scope():
        prepared.run()  # one-time initialisation
        once = watch.seconds(prepared.run, 1)
    return int(np.clip(np.ceil(timing.GRAPH_S / max(once, 1e-9)), 1, timing.GRAPH_CALLS))


def _timer(case: Case, watch: timing.Stopwatch) -> str:
    """Return the name of the timing method: four different things are called latency."""
    if watch.kind == "cpu":
        return "perf_counter-median"
    return "cudagraph-event-median" if case.launch == "graph" else "queued-event-median"


def _kind_of(torch: Any, fault: Exception) -> str:
    text = str(fault).lower()
    if isinstance(fault, (MemoryError, torch.OutOfMemoryError)):
        return "out of memory"
    if "out of memory" in text or "can't allocate memory" in text or "cannot allocate memory" in text:
        return "out of memory"
    if any(words in text for words in _MISSING) or type(fault).__name__ == "OutOfResources":
        return "unavailable"
    return "failed"


def _failed(status: str, fault: Exception) -> Row:
    """Return the record of a failure: the error, and the one that caused it (one may only end a capture)."""
    reason, hidden = first_line(fault), fault.__context__
    if hidden is not None and not fault.__suppress_context__:
        reason += f" (after: {first_line(hidden)})"
    return {"status": status, "reason": reason[:300]}


def _after_failure(machine: Machine, case: Case, row: Row) -> None:
    """Release what a failed case held; stop if the device no longer works.

    Raises
    ------
    UnavailableError
        If the error makes every later call on the same CUDA context fail.
    """
    gc.collect()
    if machine.kind != "cuda":
        return
    torch = load_torch()
    try:
        torch.cuda.empty_cache()
        torch.zeros(1, device=machine.kind).add_(1.0)
        torch.cuda.synchronize()
    except RuntimeError as fault:
        raise UnavailableError(
            f"the device stopped working at {case} ({row['reason']}; then {first_line(fault)}); "
            "run the same command again to go on with the cases after it"
        ) from None
