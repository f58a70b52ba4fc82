"""A campaign keeps what it measured, whatever stops it, and mixes
no rows of different machines or versions.
"""

import dataclasses
import errno
import json
import signal
import subprocess
import sys
import time

import pytest

from costmodel.errors import OutputError, TableError, UnavailableError
from costmodel.validation import campaign, journal, measuring, record, registry
from costmodel.validation.case import case
from costmodel.validation.journal import Journal
from costmodel.validation.measuring import measure

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")


def run(cases, here, path, **more):
    book = Journal(path, here)
    with book:
        campaign.run_campaign(cases, here, book, **{"budget_s": 200.0, "passes": 2, **more})
    return book.rows


def test_every_case_is_visited_in_every_pass(tiny, here, tmp_path):
    rows = run(tiny, here, tmp_path / "j.jsonl")
    assert [row["pass"] for row in rows] == [0, 0, 0, 1, 1, 1]  # interleaved: all of a pass, then the next
    for row in rows:
        assert row["status"] == "ok"
        assert 0 < row["min_s"] <= row["q1_s"] <= row["median_s"] <= row["q3_s"]
        # Checked before it is timed, once.
        assert (row["error"] is not None) == (row["pass"] == 0)


def test_each_pass_has_an_order_of_its_own():
    cases = [case("copy", {"m": 1, "n": n}) for n in range(1, 30)]
    visits = list(campaign.schedule(cases, 2))
    first, second = ([c for number, c in visits if number == p] for p in (0, 1))
    assert sorted(first, key=str) == sorted(second, key=str) == sorted(cases, key=str)
    assert first != second
    assert visits == list(campaign.schedule(cases, 2))


def test_continued_campaign_measures_only_what_is_missing(tiny, here, tmp_path):
    path = tmp_path / "j.jsonl"
    assert run(tiny, here, path, budget_s=0.0) == []
    run(tiny[:2], here, path)
    before = path.read_bytes()
    rows = run(tiny, here, path)
    assert path.read_bytes().startswith(before)
    assert len({(row["key"], row["pass"]) for row in rows}) == len(rows) == 6


_CHILD = """
import sys
from pathlib import Path
from costmodel.validation.case import case
from costmodel.validation.measuring import measure
from costmodel.validation.torch_env import load_torch
load_torch().set_num_threads(int(sys.argv[2]))
cases = [case("copy", {"m": 8, "n": n}) for n in range(1, 400)]
measure("cpu", journal=Path(sys.argv[1]), cases=cases, budget_s=300, passes=1, device_name="cpu/x")
"""


def test_killed_campaign_loses_no_finished_visit(here, tmp_path):
    path = tmp_path / "j.jsonl"
    # A journal refuses rows of another number of threads, of which the system may grant each process its own.
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(path), str(here.units)])
    try:
        deadline = time.monotonic() + 300
        while not path.exists() or path.read_bytes().count(b"\n") < 6:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    kept = path.read_bytes().count(b"\n") - 1
    # A half-written line, as after a kill during a write.
    with path.open("ab") as file:
        file.write(b'{"key": "half a li')
    cases = [case("copy", {"m": 8, "n": n}) for n in range(1, 400)]
    rows = run(cases, here, path, budget_s=1.0, passes=1)
    assert len(rows) > kept >= 5
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_second_campaign_on_a_journal_is_refused(tiny, here, tmp_path):
    """Each would measure the other's load, and write each case twice."""
    path = tmp_path / "j.jsonl"
    waiting = Journal(path, here)
    with Journal(path, here) as book:
        book._file.write('{"half a li')  # as it looks while the other writes
        book._file.flush()
        with pytest.raises(OutputError, match="another campaign is measuring"):
            run(tiny, here, path)
        assert path.read_bytes().endswith(b"half a li")
        with pytest.raises(OutputError, match="another campaign is measuring"):
            measuring.set_aside(path)
    run(tiny[:1], here, path, passes=1)
    # A journal object made before reads what was written meanwhile.
    with waiting:
        assert len(waiting.rows) == 1


def test_unfinished_campaign_says_what_is_missing(tiny, here, tmp_path):
    rows = run(tiny[:2], here, tmp_path / "j.jsonl", passes=1)
    frame = record.table(rows, here, "cpu/x")
    assert "after 2 of 6 visits, 2 of 3 cases: the same command" in record.unfinished(
        frame, cases=3, passes=2
    )
    assert record.unfinished(frame, cases=2, passes=1) == ""
    # A case that failed is not visited again.
    failed = frame.assign(status=["failed", "ok"], visits=[0, 2])
    assert record.unfinished(failed, cases=2, passes=2) == ""


def test_journal_set_aside_is_kept_under_another_name(tiny, here, tmp_path):
    path = tmp_path / "j.jsonl"
    run(tiny, here, path, passes=1)
    before = path.read_bytes()
    kept = measuring.set_aside(path)
    assert not path.exists()
    assert kept.read_bytes() == before
    assert measuring.set_aside(path) is None


def test_interrupted_campaign_keeps_its_visits(tiny, here, tmp_path):
    def stop(done, planned, what):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny, here, tmp_path / "j.jsonl", progress=stop)
    assert len(journal.read(tmp_path / "j.jsonl", here)[0]) == 2


class FullDisk:
    """A file on a disk that has room for some lines."""

    def __init__(self, file, lines):
        self._file, self._left = file, lines

    def write(self, text):
        if self._left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._left -= 1
        return self._file.write(text)

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_full_disk_keeps_the_visits_before(tiny, here, tmp_path):
    path = tmp_path / "j.jsonl"
    book = Journal(path, here)
    with book:
        book._file = FullDisk(book._file, 4)  # each visit has a line before it that says which
        with pytest.raises(OutputError, match="No space left on device; the 2 visits before are kept"):
            campaign.run_campaign(tiny, here, book, budget_s=200.0, passes=1)
    assert len(run(tiny, here, path, passes=1)) == 3


def test_journal_of_another_version_or_device_is_refused(tiny, here, tmp_path):
    path = tmp_path / "j.jsonl"
    run(tiny[:1], here, path, passes=1)
    for change in ({"torch": "1.0"}, {"title": "another"}, {"units": 999}, {"costmodel": "0"}):
        with pytest.raises(
            TableError, match=f"its rows are of {next(iter(change))}.*begin anew with --fresh"
        ):
            Journal(path, dataclasses.replace(here, **change))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a journal\n", "line 1 is not a record"),
        (b'{"schema": 99}\n', "not a journal of format"),
        (b"\xff\xfe\n", "line 1 is not a record"),
        (b'{"schema": 1}\n', "line 1 does not say what was measured"),
        (b'{"schema": 1, "machine": null}\n', "line 1 does not say what was measured"),
    ],
)
def test_invalid_journal_is_refused_and_left_as_it_is(content, message, here, tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_bytes(content)
    with pytest.raises(TableError, match=f"{message}.*; begin anew with --fresh"):
        Journal(path, here)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", ["{broken", '{"x": 1}', '{"key": null, "pass": 0, "status": "ok"}', "[]"])
def test_broken_line_in_the_middle_is_refused_by_its_number(tiny, here, tmp_path, line):
    path = tmp_path / "j.jsonl"
    run(tiny, here, path, passes=1)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], f"{line}\n", *lines[2:]]))
    with pytest.raises(TableError, match="line 3 is not a record"):
        Journal(path, here)


@pytest.mark.parametrize(
    "change",
    [{"case": {}}, {"case": {"bench": "copy"}}, {"key": "0" * 16}, {"median_s": None}, {"timer": None}],
    ids=str,
)
def test_incomplete_visit_is_refused_by_its_line(change, tiny, here, tmp_path):
    """When the journal is read, and not when a table is made after all has been measured."""
    path = tmp_path / "j.jsonl"
    run(tiny[:2], here, path, passes=1)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], json.dumps(json.loads(lines[2]) | change), ""]))
    with pytest.raises(TableError, match="line 3 is not a record"):
        Journal(path, here)


def replaced(monkeypatch, name, call):
    right = registry.find(name)

    def build(case, make):
        return dataclasses.replace(right.build(case, make), call=call)

    monkeypatch.setitem(registry.benches(), name, dataclasses.replace(right, build=build))


def no_memory(*_):
    raise MemoryError


def allocator_fails(*_):
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 9 bytes"
    )


def no_kernel(*_):
    raise RuntimeError("No available kernel. Aborting execution.")


def breaks(*_):
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nC++ frames follow")


def test_case_that_ends_the_process_is_not_tried_again(tiny, here, tmp_path, monkeypatch):
    """Otherwise a library that crashes, or a kernel that never
    ends, would stop every campaign at its case.
    """
    path, left = tmp_path / "j.jsonl", []
    replaced(monkeypatch, "softmax", lambda x: left.append(path.read_bytes()) or x.softmax(-1))
    softmax = [case("softmax", {"m": 4, "n": 8})]
    (row,) = run(softmax, here, path, passes=1)
    assert row["status"] == "ok"
    assert b"begun" not in path.read_bytes()  # a finished visit leaves only its row
    path.write_bytes(left[0] + b'{"half a')  # as if the process had ended in the call
    rows = run([*softmax, *tiny], here, path, passes=1)
    assert [row["status"] for row in rows] == ["failed", "ok", "ok", "ok"]
    assert "the process ended in this visit" in rows[0]["reason"]
    assert rows[0]["key"] == softmax[0].key
    assert run([*softmax, *tiny], here, path, passes=1) == rows


@pytest.mark.parametrize(
    ("call", "status", "reason"),
    [
        (no_memory, "out of memory", "MemoryError"),
        (allocator_fails, "out of memory", "can't allocate memory"),
        (no_kernel, "unavailable", "No available kernel"),
        (breaks, "failed", "mat1 and mat2"),
        (lambda x: x.exp(), "incorrect", "relative error"),
    ],
)
def test_error_of_one_case_is_recorded_and_the_others_are_measured(
    call, status, reason, tiny, here, tmp_path, monkeypatch
):
    replaced(monkeypatch, "softmax", call)
    rows = run(tiny, here, tmp_path / "j.jsonl")
    bad = [row for row in rows if row["status"] != "ok"]
    assert [row["status"] for row in bad] == [status]  # not tried again in the second pass
    assert reason in bad[0]["reason"]
    assert "\n" not in bad[0]["reason"]
    assert "median_s" not in bad[0]
    assert len([row for row in rows if row["status"] == "ok"]) == 4
    # Nor when the campaign goes on.
    assert len(run(tiny, here, tmp_path / "j.jsonl")) == len(rows)


def test_folder_that_cannot_be_made_is_one_line(here, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((OutputError, TableError), match="cannot"):
        run([], here, tmp_path / "file" / "j.jsonl")


def test_spec_is_not_measured_where_it_cannot_be_written(here, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(measuring.spec, "measure_spec", lambda _: pytest.fail("measured"))
    with pytest.raises(OutputError, match="cannot write"):
        measuring.known_device(here, tmp_path / "file" / "folder")


def test_missing_cuda_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match=r"cuda was asked for.*use --device cpu") as caught:
        measure("cuda")
    assert "\n" not in str(caught.value)


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnavailableError, match=r"pip install 'costmodel\[validation\]'"):
        measure("cpu")


def test_campaign_runs_on_cuda(cuda, tmp_path):
    cases = [
        case("matmul", {"m": 256, "n": 256, "k": 256}, dtype="bf16", launch=launch, state=state)
        for launch, state in (("eager", "warm"), ("graph", "warm"), ("eager", "cold"))
    ]
    rows = run(cases, cuda, tmp_path / "j.jsonl")
    assert len(rows) == 6
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["timer"] for row in rows} == {"queued-event-median", "cudagraph-event-median"}
    assert all(row["peak_bytes"] >= 3 * 2 * 256 * 256 for row in rows)
