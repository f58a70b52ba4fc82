"""Count bytes and instructions with hardware counters through Nsight Compute, where permitted.

A case runs in its own process under ``ncu``, once, after a warm-up, without clock control. We flush the
caches ourselves, once before all of a case's kernels, and by reading: ncu would flush them before every
kernel, and data that a flush had written would be evicted during the case. Data that the case leaves dirty in
L2 is written back when other memory is read afterwards; of that read, the last kernel, only writes count. If
the counters do not fit into one pass, the whole process is repeated, so that no pass sees the cache content
of another. Many machines do not permit users to read counters; that is recorded, and nothing else depends on
them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from costmodel.validation.case import Case, from_dict
from costmodel.validation.execute import prepare
from costmodel.validation.timing import stopwatch
from costmodel.validation.torch_env import load_torch, machine

#: Nsight Compute's metric → our column, and the size of one count. For L2 these are the multiprocessors'
#: requests, in sectors of 32 bytes; ``lts__t_bytes`` would include traffic between L2's halves.
METRICS = {
    "dram__bytes_read.sum": ("dram_read_bytes", 1),
    "dram__bytes_write.sum": ("dram_write_bytes", 1),
    "lts__t_sectors_srcunit_tex.sum": ("lts_bytes", 32),
    "smsp__inst_executed.sum": ("instructions", 1),
}
_COLUMNS = tuple(column for column, _ in METRICS.values())
#: Columns of a counted case.
COUNTED = ("dram_bytes", *_COLUMNS, "kernels")
#: Messages of ncu where counters are not available on this machine, and what they mean.
_REFUSALS = {
    "ERR_NVGPUCTRPERM": "this user may not read the GPU's counters (ERR_NVGPUCTRPERM)",
    "Failed to initialize the profiler": "Nsight Compute cannot reach the GPU's counters here",
}
#: Time limit of a case [s]; its process runs once for each pass of the counters.
TIMEOUT_S = 180.0
#: Time limit of all counting [s]: that of a campaign on a GPU.
BUDGET_S = 400.0


@dataclass(frozen=True)
class Counts:
    """Counts of one case, or the reason why there are none.

    Attributes
    ----------
    status : str
        ``ok``, ``unavailable`` (no tool, no permission, or no time left) or ``failed``.
    reason : str
        The reason, unless the status is ``ok``.
    values : dict of str to float
        The columns of ``COUNTED``, summed over the case's kernels.
    """

    status: str
    reason: str
    values: dict[str, float]


def count_cases(cases: Iterable[Case], *, budget_s: float = BUDGET_S) -> pd.DataFrame:
    """Return the counts of cases, one row per case: ``row_id``, ``status``, ``reason`` and ``COUNTED``.

    Once counters are unavailable or the time is over, all further cases have that status.
    """
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    for one in cases:
        if not rows or rows[-1]["status"] != "unavailable":
            left = budget_s - (time.perf_counter() - began)
            counts = count(one, timeout_s=min(TIMEOUT_S, left)) if left > 0 else _over(budget_s)
        rows.append({"row_id": one.key, "status": counts.status, "reason": counts.reason, **counts.values})
    return pd.DataFrame(rows, columns=["row_id", "status", "reason", *COUNTED])


def _over(budget_s: float) -> Counts:
    return Counts("unavailable", f"the {budget_s:.0f} s for counting were over", {})


def count(case: Case, *, timeout_s: float = TIMEOUT_S) -> Counts:
    """Run one case under Nsight Compute and return its counts."""
    tool = shutil.which("ncu")
    if tool is None:
        return Counts("unavailable", "Nsight Compute (ncu) is not installed", {})
    command = [
        *(tool, "--csv", "--print-units", "base", "--clock-control", "none"),
        *("--cache-control", "none", "--replay-mode", "application"),
        *("--profile-from-start", "off", "--metrics", ",".join(METRICS)),
        *(sys.executable, "-m", "costmodel.validation.counters", json.dumps(case.as_dict())),
    ]
    try:
        done = _run(command, timeout_s)
    except subprocess.TimeoutExpired:
        return Counts("failed", f"not done within {timeout_s:.0f} s", {})
    except OSError as error:
        return Counts("unavailable", f"ncu cannot be started: {error.strerror or error}", {})
    said = done.stdout + done.stderr
    refused = next((why for words, why in _REFUSALS.items() if words in said), None)
    if refused:
        return Counts("unavailable", refused, {})
    if done.returncode != 0:
        lines = [line for line in said.splitlines() if line.strip()] or ["no output"]
        return Counts("failed", lines[-1][:300], {})
    values = parse(done.stdout)
    return Counts("ok", "", values) if values else Counts("failed", "ncu counted no kernel", {})


def _run(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command; on a timeout or interruption, also kill the processes that it started."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            out, said = process.communicate(timeout=timeout_s)
        except BaseException:
            # The profiled case is a child of ncu, which would otherwise keep the GPU.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, said)


def parse(text: str) -> dict[str, float]:
    """Return the sums over a case's kernels in the output of ``ncu --csv --print-units base``.

    The last kernel is the read after the case, of which only the writes belong to the case. Empty if the
    output has no such table; a metric without a number makes its sum NaN.
    """
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        return {}
    table = csv.DictReader(io.StringIO("\n".join(lines[first:])))
    rows = [(int(row["ID"]), row) for row in table if row.get("Metric Name") in METRICS]
    kernels = sorted({number for number, _ in rows})
    if len(kernels) < 2:
        return {}
    sums = dict.fromkeys(_COLUMNS, 0.0)
    for number, row in rows:
        column, size = METRICS[row["Metric Name"]]
        if number < kernels[-1] or column == "dram_write_bytes":
            sums[column] += size * _number(row["Metric Value"])
    total = sums["dram_read_bytes"] + sums["dram_write_bytes"]
    return {"dram_bytes": total, **sums, "kernels": float(len(kernels) - 1)}


def _number(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return float("nan")


def _run_counted(text: str) -> None:
    """Run the case given as JSON, with the profiler on for the last call only."""
    case = from_dict(json.loads(text))
    torch, here = load_torch(), machine("cuda")
    prepared = prepare(case, "cuda")
    elsewhere = torch.ones(stopwatch("cuda", here.cache_at_most).flush_bytes // 4, device="cuda")
    with prepared.scope():
        for _ in range(3):
            prepared.run()
        elsewhere.sum()
        if case.state == "warm":
            prepared.run()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        prepared.run()
        elsewhere.sum()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    _run_counted(sys.argv[1])
