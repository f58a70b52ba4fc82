"""A campaign: many cases, visited in several passes, within a time, resumable.

Each pass visits every case once, in an order of its own, so that a drift of the machine shows as
the spread between a case's visits and not as a difference between cases. What went wrong with one
case (out of memory, wrong result, no such kernel) is recorded as such, and the rest goes on.
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

#: Sets of operands that a cold measurement goes round.
COPIES = 3
#: A visit that is given less time than this measures little but its own preparation [s].
LEAST_VISIT_S = 0.02

#: How libraries say that they have no kernel for a case.
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
    """Measure cases, and write each visit to the journal as soon as it is over.

    Parameters
    ----------
    cases : sequence of Case
        What to measure; visits that the journal already has are not made again.
    machine : Machine
        Where.
    journal : Journal
        Open for appending.
    budget_s : float
        How long the campaign may take; no visit is begun after it.
    passes : int
        Visits of each case.
    progress : callable
        Told (visits done, visits planned, case) before each visit.
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
    """Yield (pass, case): all cases of a pass before the next, each pass shuffled in its own fixed way."""
    for number in range(passes):
        order = list(cases)
        random.Random(number).shuffle(order)
        for case in order:
            yield number, case


def visit(case: Case, machine: Machine, watch: timing.Stopwatch, budget_s: float, *, check: bool) -> Row:
    """Prepare and time one case, and where asked check it and watch its memory; return what is recorded.

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
    except Exception as fault:  # Triton's and cuDNN's errors have no base in common but this
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
        prepared.run()  # what is only done the first time is over
        once = watch.seconds(prepared.run, 1)
    return int(np.clip(np.ceil(timing.GRAPH_S / max(once, 1e-9)), 1, timing.GRAPH_CALLS))


def _timer(case: Case, watch: timing.Stopwatch) -> str:
    """Return how the time was taken: four things are called latency, and a row says which it is."""
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
    """Return what is recorded: the fault, and the one before it (that ends a capture, this broke it)."""
    reason, hidden = first_line(fault), fault.__context__
    if hidden is not None and not fault.__suppress_context__:
        reason += f" (after: {first_line(hidden)})"
    return {"status": status, "reason": reason[:300]}


def _after_failure(machine: Machine, case: Case, row: Row) -> None:
    """Give back what a failed case held; stop if the device works no more.

    Raises
    ------
    UnavailableError
        After an error that no later call on the same CUDA context survives.
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
