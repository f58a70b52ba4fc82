"""Hardware counters: the tool's output is parsed, and its absence recorded."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.validation import counters, memory, plans
from costmodel.validation.case import case

ONE = case("copy", {"m": 1024, "n": 256}, dtype="bf16")

#: As ``ncu --csv --print-units base`` writes it: notes, a header, a line for each kernel and metric.
OUTPUT = """==PROF== Connected to process 4242
==PROF== Profiling "vectorized_elementwise_kernel": 0%....100% - 1 pass
"ID","Process ID","Kernel Name","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","4242","copy_kernel","0","9.0","Command line profiler metrics","dram__bytes_read.sum","byte","524,288"
"0","4242","copy_kernel","0","9.0","Command line profiler metrics","dram__bytes_write.sum","byte","1,024"
"0","4242","copy_kernel","0","9.0","Command line profiler metrics","lts__t_sectors_srcunit_tex.sum","sector","32,768"
"0","4242","copy_kernel","0","9.0","Command line profiler metrics","smsp__inst_executed.sum","inst","8,192"
"1","4242","other_kernel","0","9.0","Command line profiler metrics","dram__bytes_read.sum","byte","100"
"1","4242","other_kernel","0","9.0","Command line profiler metrics","sm__cycles_elapsed.max","cycle","77"
"2","4242","reduce_kernel","0","9.0","Command line profiler metrics","dram__bytes_read.sum","byte","251,658,240"
"2","4242","reduce_kernel","0","9.0","Command line profiler metrics","dram__bytes_write.sum","byte","523,264"
"2","4242","reduce_kernel","0","9.0","Command line profiler metrics","lts__t_sectors_srcunit_tex.sum","sector","7864320"
"""  # noqa: E501


def test_counts_are_summed_over_kernels():
    """The last kernel is the sweep that evicts what the case wrote: its writes count as the case's."""
    assert counters.parse(OUTPUT) == {
        "dram_bytes": 524388 + 524288,
        "dram_read_bytes": 524388.0,
        "dram_write_bytes": 1024.0 + 523264.0,
        "lts_bytes": 1048576.0,
        "instructions": 8192.0,
        "kernels": 2.0,
    }


def test_metric_without_a_number_is_nan():
    got = counters.parse(OUTPUT.replace('"8,192"', '"n/a"'))
    assert np.isnan(got["instructions"])
    assert got["dram_read_bytes"] == 524388


ALONE = '"ID","Metric Name","Metric Value"\n'


@pytest.mark.parametrize(
    "text", ["", "==PROF== nothing profiled", ALONE, ALONE + '"0","dram__bytes_read.sum","1"\n']
)
def test_output_without_counts_is_empty(text):
    assert counters.parse(text) == {}


def test_without_the_tool_counts_are_unavailable(monkeypatch):
    monkeypatch.setattr(counters.shutil, "which", lambda _: None)
    got = counters.count(ONE)
    assert (got.status, got.values) == ("unavailable", {})
    assert "ncu" in got.reason


@pytest.mark.parametrize(
    ("code", "said", "status", "reason"),
    [
        (1, "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission", "unavailable", "may not read"),
        (1, "==ERROR== Failed to initialize the profiler: LibraryNotLoaded", "unavailable", "cannot reach"),
        (3, "Traceback\nValueError: no such case", "failed", "ValueError: no such case"),
        (0, "==PROF== no kernel", "failed", "counted no kernel"),
        (0, OUTPUT, "ok", ""),
    ],
)
def test_status_and_reason_follow_the_tools_output(code, said, status, reason, monkeypatch):
    seen = []

    def run(command, _):
        seen.append(command)
        return subprocess.CompletedProcess(command, code, stdout=said, stderr="")

    monkeypatch.setattr(counters.shutil, "which", lambda _: "ncu")
    monkeypatch.setattr(counters, "_run", run)
    got = counters.count(ONE)
    assert got.status == status
    assert reason in got.reason
    assert seen[0][:6] == ["ncu", "--csv", "--print-units", "base", "--clock-control", "none"]
    assert seen[0][6:10] == ["--cache-control", "none", "--replay-mode", "application"]


def test_tool_that_hangs_is_ended_with_its_child(monkeypatch, tmp_path):
    """The case runs in a child of ncu; left running, it would keep the GPU."""
    tool, child = tmp_path / "ncu", tmp_path / "child"
    tool.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {child}\nwait\n")
    tool.chmod(0o755)
    monkeypatch.setattr(counters.shutil, "which", lambda _: str(tool))
    assert counters.count(ONE, timeout_s=1).reason == "not done within 1 s"
    ended = Path("/proc") / child.read_text().strip()
    for _ in range(100):
        if not ended.exists() or "State:\tZ" in (ended / "status").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the child of the tool runs on")


def test_counted_traffic_is_compared_with_the_layers(monkeypatch):
    monkeypatch.setattr(counters, "count", lambda *_, **__: counters.Counts("ok", "", counters.parse(OUTPUT)))
    got = memory.traffic([ONE], hardware.load("nvidia/h200-sxm"))
    # One table of 1024 × 256 in 16 bits is read, one is written.
    assert got.loc[0, "stated_bytes"] == 2 * 2 * 1024 * 256
    assert got.loc[0, "ratio"] == pytest.approx(1, rel=1e-3)


def test_unavailable_counters_are_asked_for_once(monkeypatch):
    asked = []

    def count(one, **_):
        asked.append(one)
        return counters.Counts("unavailable", "no permission", {})

    monkeypatch.setattr(counters, "count", count)
    got = memory.traffic(plans.counted(), hardware.load("nvidia/h200-sxm"))
    assert asked == plans.counted()[:1]
    assert set(got["status"]) == {"unavailable"}
    assert set(got["reason"]) == {"no permission"}
    assert got["ratio"].isna().all()


def test_failed_case_leaves_the_others_counted(monkeypatch):
    answers = iter(("failed", "ok"))
    monkeypatch.setattr(counters, "count", lambda *_, **__: counters.Counts(next(answers), "", {}))
    assert list(counters.count_cases(plans.counted()[:2])["status"]) == ["failed", "ok"]


def test_counting_stops_at_its_time_budget(monkeypatch):
    """Rows are written only at the end, so a command stopped while counting would lose them all."""
    given = []

    def count(one, timeout_s):
        given.append(timeout_s)
        time.sleep(0.05)
        return counters.Counts("ok", "", {})

    monkeypatch.setattr(counters, "count", count)
    got = counters.count_cases(plans.counted()[:4], budget_s=0.08)
    assert list(got["status"]) == ["ok", "ok", "unavailable", "unavailable"]
    assert set(got["reason"][2:]) == {"the 0 s for counting were over"}
    assert 0.08 > given[0] > given[1] > 0


def test_counted_cases_show_how_traffic_grows():
    """Dense traffic grows with n², tiled with n (FlashAttention-2 re-reads from L2); FA-1's falls as 1/M."""
    table = memory.traffic(plans.counted(), hardware.load("nvidia/h200-sxm"))
    stated = dict(zip(table["case"], table["stated_bytes"], strict=True))

    def of(*words):
        return [size for name, size in stated.items() if all(word in name.split() for word in words)]

    dense, tiled = of("sdpa-math"), of("sdpa-flash")
    assert dense[-1] / dense[-2] == pytest.approx(4, rel=0.05)
    assert tiled[-1] / tiled[-2] == pytest.approx(2, rel=0.01)
    (small,), (large,) = (of("schedule=fa1", f"tile_cols={n}", f"tile_rows={n}") for n in (16, 64))
    assert small / large == pytest.approx(4, rel=0.01)
    device = hardware.load("nvidia/h200-sxm")
    fits, does_not = (4 * 2 * n * 2 * n for n in (512, 4096))
    assert fits < device.onchip_capacity < does_not


def test_peak_memory_is_compared_with_the_footprint():
    names = {"op": "gemm", "kernel": "k", "dtype": "bf16", "direction": "fwd", "case": "{}"}
    frame = pd.DataFrame(
        [
            {**names, "peak_bytes": 200, "footprint_bytes": 150.0},
            {**names, "peak_bytes": pd.NA, "footprint_bytes": 1.0},
        ]
    )
    got = memory.footprints(frame)
    assert list(got["ratio"]) == [0.75]


def test_counters_on_cuda(cuda):
    got = counters.count(case("copy", {"m": 8192, "n": 8192}, dtype="fp32", state="cold"))
    if got.status == "unavailable":
        pytest.skip(got.reason)
    assert got.status == "ok"
    for name in ("dram_read_bytes", "dram_write_bytes", "lts_bytes"):
        assert got.values[name] >= 0.9 * 4 * 8192**2, name
