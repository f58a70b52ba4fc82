"""Turn a campaign's visits into one tidy table: one row per case, in the columns of measured tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from costmodel.errors import CostmodelError, TableError
from costmodel.files import beside, write_whole
from costmodel.validation.case import Case, from_dict
from costmodel.validation.journal import Row
from costmodel.validation.registry import find
from costmodel.validation.torch_env import Machine

#: Relative difference between visits above which a case counts as noisy.
NOISY = 0.10
#: Average number of other runnable processes from which a CPU counts as shared; an idle one has a few tenths.
BUSY = 0.5
#: Median relative difference between visits above which the machine was shared or throttled.
DISTURBED = 0.10

#: Size of the vocabulary → column of tables where the names differ, by the first word of the operation.
_COLUMNS = {
    "attention": {"seq": "seq_q", "heads": "heads_q", "kv_heads": "heads_kv"},
    "bmm": {"batch": "b"},
}
_SIZES = ("b", "m", "n", "k", "batch", "seq_q", "seq_kv", "heads_q", "heads_kv", "head_dim")
_RECURRENT = ("seq", "hidden", "input", "num_layers")
_OPTIONS = ("causal", "bidirectional")


def table(visits: Sequence[Row], machine: Machine, device: str) -> pd.DataFrame:
    """Return one row for each case.

    Parameters
    ----------
    visits : sequence of dict
        Visits from the journal.
    machine : Machine
        The machine they were made on.
    device : str
        Name or spec file of the device, for the column ``gpu``.

    Returns
    -------
    DataFrame
        The columns that tables of measured kernels have (sizes, ``op``, ``latency_s`` [s], …), and ``bench``,
        ``launch``, ``state``, ``case`` (all of it, as JSON), ``status``, ``reason``, ``q1_s``, ``q3_s`` [s]
        (median of the visits' quartiles), ``spread`` (between visits: largest less smallest median, over the
        median; empty for a single visit), ``visits``, ``samples``, ``error`` (relative, against float64),
        ``peak_bytes``, ``clock_hz``, ``temperature_c``, ``power_w``, ``load``, and versions of hardware and
        software. Latency is the median over visits of the median over samples.

    Raises
    ------
    TableError
        If there is no visit.
    """
    if not visits:
        raise TableError("nothing was measured: the budget was over before the first visit; give more")
    frame = pd.DataFrame(
        {"key": [row["key"] for row in visits], "row": range(len(visits))},
    )
    rows = [
        _row([visits[i] for i in group], machine, device)
        for _, group in frame.groupby("key", sort=True)["row"]
    ]
    result = pd.DataFrame(rows)
    for name in (*_SIZES, *_RECURRENT, "visits", "samples", "peak_bytes"):
        result[name] = result[name].astype("Int64") if name in result else pd.array([], dtype="Int64")
    for name in _OPTIONS:
        result[name] = result[name].astype("boolean")
    return result.sort_values(["op", "bench", "dtype", "direction", "row_id"], ignore_index=True)


def _row(visits: Sequence[Row], machine: Machine, device: str) -> dict[str, Any]:
    case = from_dict(visits[0]["case"])
    bench = find(case.bench)
    op = bench.op(case)
    failed = [v for v in visits if v["status"] != "ok"]
    good = pd.DataFrame([v for v in visits if v["status"] == "ok"])
    return {
        "row_id": case.key,
        "source": "own",
        "licence": "Apache-2.0",
        "gpu": device,
        "framework": f"pytorch {machine.torch.partition('+')[0]}",
        "kernel": bench.kernel,
        "op": op,
        "dtype": case.dtype,
        **size_columns(case, op),
        **{name: case.option(name, False) for name in _OPTIONS},
        "direction": case.direction,
        **_times(good),
        "bench": case.bench,
        "launch": case.launch,
        "state": case.state,
        "case": json.dumps(case.as_dict(), sort_keys=True),
        "status": failed[0]["status"] if failed else "ok",
        "reason": failed[0]["reason"] if failed else "",
        "visits": len(good),
        **{name: value for name, value in asdict(machine).items() if name not in ("kind", "title")},
        "machine": machine.title,
    }


def size_columns(case: Case, op: str) -> dict[str, int | None]:
    """Return the sizes of a case by the columns of measured tables; None where it has none."""
    words = _COLUMNS.get(op.partition("_")[0], {})
    found: dict[str, int | None] = dict.fromkeys((*_SIZES, *_RECURRENT))
    found |= {words.get(name, name): value for name, value in case.sizes}
    if op.startswith("attention"):
        found["seq_kv"] = found["seq_kv"] or found["seq_q"]
        found["heads_kv"] = found["heads_kv"] or found["heads_q"]
    if found["hidden"] is not None:
        found["input"] = found["input"] or found["hidden"]
        found["num_layers"] = found["num_layers"] or 1
    return found


def _times(good: pd.DataFrame) -> dict[str, Any]:
    """Return the columns that visits measured; empty where none succeeded."""
    names = ("q1_s", "q3_s", "clock_hz", "temperature_c", "power_w", "load", "peak_bytes", "error")
    if good.empty:
        nothing: dict[str, Any] = {"latency_s": None, "timer": None, "spread": None, "samples": 0}
        return nothing | dict.fromkeys(names)
    medians = good["median_s"]
    latency = float(medians.median())
    read = {name: pd.to_numeric(good[name], errors="coerce").median() for name in names}
    return {
        "latency_s": latency,
        "timer": good["timer"].iloc[0],
        # One visit does not show how much two would differ.
        "spread": float((medians.max() - medians.min()) / latency) if len(medians) > 1 else float("nan"),
        "samples": int(good["samples"].sum()),
        **{name: None if pd.isna(value) else float(value) for name, value in read.items()},
    }


def disturbance(frame: pd.DataFrame) -> str:
    """Return a line on how much visits of a case differ, and whether that is too much.

    Parameters
    ----------
    frame : DataFrame
        As `table` returns it.
    """
    again = frame[(frame["status"] == "ok") & (frame["visits"] > 1)]
    others, slowed = _others(frame), _slowed(frame)
    if again.empty:
        text, typical = "no case was visited twice: how far reruns differ is not known", 0.0
    else:
        typical = float(again["spread"].median())
        noisy = int((again["spread"] > NOISY).sum())
        text = f"visits of a case differ by {typical:.1%} (median)"
        text += f"; by over {NOISY:.0%} in {noisy} of {len(again)}"
    if others > BUSY:
        text += f"; {others:.1f} other processes ran meanwhile: repeat when this machine is quiet"
    elif slowed:
        text += f"; {slowed}: repeat when this machine is quiet"
    elif typical > DISTURBED:
        text += ": another load is on this machine, or its clock drifts; repeat when it is quiet"
    return text


def _slowed(frame: pd.DataFrame) -> str:
    """Return how far a CPU's cores were below the highest rate seen; empty if they were not.

    Another virtual machine's thread on the same core halves the rate, and shows neither as load nor as time
    stolen.
    """
    if not {"clock_hz", "timer"} <= set(frame):
        return ""
    rates = pd.to_numeric(frame.loc[frame["timer"] == "perf_counter-median", "clock_hz"]).dropna()
    if rates.empty or rates.median() >= (1 - DISTURBED) * rates.max():
        return ""
    typical, highest = rates.median() / 1e9, rates.max() / 1e9
    return (
        f"a core ran at {typical:.2f} GHz (median; at most {highest:.2f}), because others share it or its "
        "clock is lowered"
    )


def _others(frame: pd.DataFrame) -> float:
    """Return the median number of runnable processes besides our threads on a CPU."""
    if not {"load", "units", "timer"} <= set(frame):
        return 0.0
    ours = frame[frame["timer"] == "perf_counter-median"]
    more = (pd.to_numeric(ours["load"]) - ours["units"]).median()
    return 0.0 if pd.isna(more) else float(more)


def unfinished(frame: pd.DataFrame, cases: int, passes: int) -> str:
    """Return a line on what there was no time for; empty if all planned visits were made.

    Parameters
    ----------
    frame : DataFrame
        As `table` returns it.
    cases, passes : int
        Number of cases in the plan, and visits per case; a failed case is visited once.
    """
    good = frame[frame["status"] == "ok"]
    visits = int(good["visits"].clip(upper=passes).sum()) + passes * (len(frame) - len(good))
    if visits >= cases * passes:
        return ""
    return (
        f"the time was over after {visits:,} of {cases * passes:,} visits, {len(frame):,} of {cases:,} "
        "cases: the same command goes on with the rest (--force: it replaces the files that this one wrote)"
    )


def save(frame: pd.DataFrame, path: Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write the table as Parquet, and beside it a human-readable summary as CSV.

    Returns
    -------
    parquet, csv : Path
        Paths of the files written.

    Raises
    ------
    OutputError
        If one of them cannot be written.
    """
    parquet, csv = beside(path, ".parquet"), beside(path, ".csv")
    write_whole(parquet, lambda place: frame.to_parquet(place, index=False), overwrite=overwrite)
    summary = summarise(frame)
    write_whole(
        csv, lambda place: summary.to_csv(place, index=False, float_format="%.5g"), overwrite=overwrite
    )
    return parquet, csv


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the human-readable columns: operation, sizes, times, spread, versions."""
    first = ["op", "kernel", "dtype", "direction", "launch", "state"]
    last = ["latency_s", "q1_s", "q3_s", "spread", "visits", "samples", "error", "status", "reason"]
    # Operations that do not occur in external tables keep the vocabulary's names: linear attention has
    # `heads`.
    known = (*_SIZES, *_RECURRENT, "heads")
    sizes = [name for name in known if name in frame and frame[name].notna().any()]
    facts = ["gpu", "machine", "framework", "driver", "runtime", "costmodel"]
    return frame[[*first, *sizes, *_OPTIONS, *last, *facts]]


def cases_of(frame: pd.DataFrame) -> list[Case]:
    """Return the case of each row of a table.

    Raises
    ------
    TableError
        If a row's ``case`` is not one that `validate --record` wrote.
    """
    return [_case_in(text) for text in frame["case"]]


def _case_in(text: object) -> Case:
    try:
        return from_dict(json.loads(str(text)))
    except (CostmodelError, AttributeError, KeyError, TypeError, ValueError):
        raise TableError(
            f"column case: wanted a case as `validate --record` writes it, got {text!r}"
        ) from None
