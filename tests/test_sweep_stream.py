"""Sweeps as files: parts survive a kill and become one file, the same whichever engine computes it."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costmodel as cm
from costmodel.cli import run
from costmodel.errors import CostmodelError, OutputError, TableError, UnavailableError, UnknownNameError
from costmodel.sweep import Engine, estimate, job_of, make_grid, stream, whole
from costmodel.sweep import case as cases
from costmodel.sweep import grid as grids
from costmodel.sweep.files import join

SIZES = {
    "batch": [1, 2, 8],
    "seq": np.arange(1, 21) * 128,
    "heads": [4, 8, 12],
    "head_dim": 64,
    "hidden": [64, 96],
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make boxes and chunks so small that a test's grid has many."""
    monkeypatch.setattr(cases, "BOX", 50)
    monkeypatch.setattr(grids, "CHUNK", 100)


def a_grid(**more: object) -> grids.Grid:
    return make_grid(
        [cm.TiledAttention(), cm.LSTM()], ["h200-sxm", "a100-sxm-80gb"], rung="bound", **{**SIZES, **more}
    )


class Stopped(Exception):
    """Stand for whatever stops a sweep in the middle."""


def stop_after(calls: int):
    """Return a progress that stops the sweep at its nth call."""
    left = iter(range(calls))

    def progress(done: int) -> None:
        if next(left, None) is None:
            raise Stopped

    return progress


# -- what is in the file -----------------------------------------------------------------------


def test_streamed_file_is_the_table(tmp_path):
    grid = a_grid()
    path = tmp_path / "x.parquet"
    assert stream(grid, path) == grid.points
    found, wanted = pd.read_parquet(path), whole(grid)
    assert list(found) == list(wanted)
    for name in wanted:
        if wanted[name].dtype == "category":
            assert list(found[name].astype(str)) == list(wanted[name].astype(str))
        else:
            assert np.array_equal(found[name], wanted[name], equal_nan=True), name
    assert os.listdir(tmp_path) == ["x.parquet"]


def test_file_has_only_the_requested_columns_and_rows(tmp_path):
    grid = a_grid(where="seconds > 1e-6 and seq != 128", prices={"h200-sxm": 3.6})
    rows = stream(grid, tmp_path / "x.parquet", columns=["device", "cost", "heads"])
    found, wanted = pd.read_parquet(tmp_path / "x.parquet"), whole(grid)
    assert rows == len(found) == len(wanted) < grid.points
    assert list(found) == ["device", "cost", "heads"]
    assert np.array_equal(found["cost"], wanted["cost"], equal_nan=True)
    none = a_grid(where="seq > 1e9")
    assert stream(none, tmp_path / "none.parquet") == 0
    assert list(pd.read_parquet(tmp_path / "none.parquet")) == list(none.columns)
    with pytest.raises(UnknownNameError, match="column 'costs'"):
        stream(grid, tmp_path / "y.parquet", columns=["costs"])
    with pytest.raises(CostmodelError, match="each once, got cost twice"):
        stream(grid, tmp_path / "y.parquet", columns=["cost", "heads", "cost"])


@pytest.mark.parametrize("engine", [Engine(workers=1), Engine(workers=3), Engine("processes", workers=2)])
def test_file_is_the_same_with_every_engine(tmp_path, engine, monkeypatch):
    if engine.name == "processes":
        monkeypatch.undo()  # other processes have chunks of the usual size
    stream(a_grid(), tmp_path / "one.parquet", engine=Engine(workers=1))
    stream(a_grid(), tmp_path / "many.parquet", engine=engine)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()


def test_name_without_an_ending_is_a_folder_of_parts(tmp_path):
    grid = a_grid()
    assert stream(grid, tmp_path / "x") == grid.points
    assert np.array_equal(pd.read_parquet(tmp_path / "x")["seconds"], whole(grid)["seconds"])
    stream(grid, tmp_path / "x.parquet")
    assert stream(grid, tmp_path / "x") == grid.points  # nothing left to do


# -- stopped, and going on ---------------------------------------------------------------------


def test_stopped_sweep_goes_on_where_it_was(tmp_path):
    grid, path = a_grid(), tmp_path / "x.parquet"
    stream(grid, tmp_path / "whole.parquet")
    parts = tmp_path / "x.parquet.parts"
    with pytest.raises(Stopped):
        stream(grid, path, progress=stop_after(4))
    assert not path.exists()
    # The parts written so far are readable.
    begun = pd.read_parquet(parts)
    assert 0 < len(begun) < grid.points
    before = {part.name: part.stat().st_mtime_ns for part in parts.glob("part-*")}
    # A truncated part, as a full disk leaves it, and a temporary file of a killed process.
    broken = sorted(parts.glob("part-*"))[0]
    broken.write_bytes(broken.read_bytes()[:-50])
    (parts / ".part-000007-xyz.parquet").write_bytes(b"PAR1")
    told = []

    def stop_late(done: int) -> None:
        told.append(done)
        if len(told) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        stream(grid, path, progress=stop_late)
    kept = {part.name: part.stat().st_mtime_ns for part in parts.glob("part-*")}
    assert told[0] > 0
    assert all(kept[name] == time for name, time in before.items() if name != broken.name)
    assert stream(grid, path) == grid.points
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["whole.parquet", "x.parquet"]


SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    import costmodel as cm
    from costmodel.sweep import case as cases, grid as grids, make_grid, stream
    cases.BOX, grids.CHUNK = 50, 100
    grid = make_grid(cm.LSTM(), "h200-sxm", rung="bound", seq=range(1, 51), batch=range(1, 21), hidden=64)
    calls = []
    def progress(done):
        calls.append(done)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
    stream(grid, Path(sys.argv[1]), progress=progress)
"""


def test_killed_sweep_loses_no_finished_part(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "x.parquet")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    grid = make_grid(cm.LSTM(), "h200-sxm", rung="bound", seq=range(1, 51), batch=range(1, 21), hidden=64)
    parts = sorted((tmp_path / "x.parquet.parts").glob("part-*"))
    assert 4 <= len(parts) < len(grid.chunks)
    points = {f"part-{chunk.number:06}.parquet": grid.points_of(chunk) for chunk in grid.chunks}
    assert all(pq.read_metadata(part).num_rows == points[part.name] for part in parts)
    assert len(pd.read_parquet(tmp_path / "x.parquet.parts")) == sum(points[part.name] for part in parts)
    assert stream(grid, tmp_path / "whole.parquet") == stream(grid, tmp_path / "x.parquet") == 1000
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_parts_of_another_sweep_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(Stopped):
        stream(a_grid(), path, progress=stop_after(3))
    other = a_grid(batch=[1, 2])
    with pytest.raises(OutputError, match="another sweep"):
        stream(other, path)
    with pytest.raises(OutputError, match="another sweep"):
        stream(a_grid(), path, columns=["seconds"])
    assert stream(other, path, overwrite=True) == other.points == len(pd.read_parquet(path))


def test_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="something else"):
        stream(a_grid(), tmp_path / "x", overwrite=True)
    assert os.listdir(tmp_path / "x") == ["thesis.tex"]
    with pytest.raises(OutputError, match="no folder"):
        stream(a_grid(), tmp_path / "no" / "x")


def test_sweep_that_fails_at_once_leaves_nothing_behind(tmp_path):
    with pytest.raises(Stopped):
        stream(a_grid(), tmp_path / "x.parquet", progress=stop_after(0))
    assert os.listdir(tmp_path) == []


MEMORY = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    import costmodel as cm
    from costmodel.sweep import Engine, case as cases, grid as grids, make_grid, stream
    cases.BOX, grids.CHUNK = 4096, 16384
    def points(batches, name):
        seq = np.arange(1, 2049)
        grid = make_grid(cm.LSTM(), "h200-sxm", rung="bound", batch=range(1, batches + 1), seq=seq, hidden=64)
        stream(grid, Path(sys.argv[1]) / name, engine=Engine(workers=1))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    first = points(32, "a.parquet")
    print(points(256, "b.parquet") - first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_memory_does_not_grow_with_the_grid(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    # Half a million points more; their table would take 100 MB.
    assert grown < 30e6


# -- estimates, engines ------------------------------------------------------------------------


def test_estimate_gives_points_and_bytes(tmp_path):
    grid = a_grid()
    found = estimate(grid, job_of(grid), Engine(workers=1))
    stream(grid, tmp_path / "parts")
    size = sum(part.stat().st_size for part in (tmp_path / "parts").glob("part-*"))
    assert (found.points, found.parts) == (grid.points, len(grid.chunks))
    assert found.sampled <= found.points
    assert found.bytes == pytest.approx(size, rel=0.5)
    assert found.seconds == pytest.approx(found.points / found.points_per_s)
    assert estimate(grid, job_of(grid, best="seconds")).bytes == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "spark"}, "unknown engine"),
        ({"workers": 0}, "at least 1"),
        ({"cluster": "tcp://x:1"}, "engine dask, got tcp://x:1 for the engine threads"),
    ],
)
def test_bad_engines_are_refused(options, text):
    with pytest.raises(CostmodelError, match=text):
        Engine(**options)


class Deadly:
    """A job that ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (3,)


def test_dead_worker_process_is_reported():
    grid = a_grid()
    with pytest.raises(UnavailableError, match=r"a worker process died.* same command again"):
        list(Engine("processes", workers=1).run(grid, Deadly(), grid.chunks))


def test_missing_dask_is_refused_with_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UnavailableError, match="pip install"):
        stream(a_grid(), tmp_path / "x.parquet", engine=Engine("dask"))
    assert os.listdir(tmp_path) == []


# -- joining -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(rows=st.lists(st.integers(0, 300), min_size=1, max_size=6))
def test_joined_file_is_the_files_one_after_the_other(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("join")
    random = np.random.default_rng(len(rows))
    tables, paths = [], []
    for i, count in enumerate(rows):
        codes = pa.array(random.integers(0, 2, count), pa.int8())
        columns = {
            "seconds": pa.array(random.random(count)),
            "layer": pa.DictionaryArray.from_arrays(codes, pa.array([f"x{i}", "y"])),
            "seq": pa.array(np.full(count, 1024.0)),
            "batch": pa.nulls(count, pa.float64()),
        }
        tables.append(pa.table(columns))
        paths.append(folder / f"{i}.parquet")
        pq.write_table(tables[-1], paths[-1])
    join(paths, folder / "all.parquet", ("seq", "batch"))
    found = pq.read_table(folder / "all.parquet")
    wanted = pd.concat([table.to_pandas().astype({"layer": str}) for table in tables], ignore_index=True)
    pd.testing.assert_frame_equal(found.to_pandas().astype({"layer": str}), wanted)
    assert pq.read_metadata(folder / "all.parquet").num_row_groups <= len(rows)


def test_truncated_part_is_refused(tmp_path):
    pq.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(TableError, match=r"b\.parquet: not a whole"):
        join([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "c.parquet", ())


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    """Run costmodel in this process and return its exit status and what it printed."""

    def call(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        status = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out + err

    return call


SWEEP = ("sweep", "lstm", "-m", "h200-sxm", "--rung", "bound", "-D", "seq=1..100", "batch=1..20", "hidden=64")


@pytest.mark.parametrize(
    ("lengths", "said"),
    [("8", "1 of 1 layer on a device, in 1 part"), ("8,9", "4 of 2 layers on devices, in 2 parts")],
)
def test_a_plan_counts_in_the_singular_too(command, lengths, said):
    layers = ["lstm", "gru"][: len(lengths.split(","))]
    sizes = ("-D", f"seq={lengths}", "batch=1", "hidden=64")
    assert f"{said}\n" in command("sweep", *layers, "-m", "h200-sxm", *sizes, "--plan")[1]


def test_command_writes_searches_and_plans(command, tmp_path):
    status, text = command(*SWEEP, "--plan", "--json")
    assert (status, json.loads(text)["points"]) == (0, 2000)
    assert "points/s" in command(*SWEEP, "--plan")[1]
    out: Path = tmp_path / "x.parquet"
    assert command(*SWEEP, "-o", out, "--columns", "seq,batch,seconds") == (0, "")
    frame = pd.read_parquet(out)
    assert list(frame) == ["seq", "batch", "seconds"]
    status, text = command(*SWEEP, "--best", "-batch", "--where", "seconds < 2e-4", "--json")
    row = json.loads(text)[0]
    assert row["batch"] == frame[frame["seconds"] < 2e-4]["batch"].max()
    status, text = command(*SWEEP, "--pareto", "seconds,-seq", "--json")
    assert json.loads(text)[-1]["seq"] == 100
    status, text = command(*SWEEP, "--best", "cost", "--price", "h200-sxm=3.6", "--by", "seq", "--json")
    assert len(json.loads(text)) == 100


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--best", "cost"), "price per hour"),
        (("--best", "second"), "'seconds'"),
        (("--best", "seconds", "--pareto", "seconds,depth"), "not both"),
        (("--pareto", "seconds"), "two columns"),
        (("--by", "seq"), "--best"),
        (("--columns", "seq,colour"), "'colour'"),
        (("--where", "import os"), "wanted an expression"),
        (("--price", "h200-sxm=cheap"), "number"),
        (("--engine", "ray"), "known: dask"),
        (("--best", "seconds", "--by", "device,colour"), "colour"),
    ],
)
def test_command_refuses_bad_options_with_one_line(command, words, says):
    status, text = command(*SWEEP, *words)
    assert (status, text.count("\n"), says in text) == (2, 1, True), text


@pytest.mark.parametrize(("columns", "says"), [("seq,seq", "got seq twice"), ("second", "'seconds'")])
@pytest.mark.parametrize("plan", [(), ("--plan",)])
def test_columns_are_checked_before_any_work(command, tmp_path, columns, says, plan):
    status, text = command(*SWEEP, "-o", tmp_path / "x.parquet", "--columns", columns, *plan)
    assert (status, text.count("\n"), says in text) == (2, 1, True), text
    assert os.listdir(tmp_path) == []


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


def test_terminal_shows_progress_and_time_left(tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert run([str(word) for word in (*SWEEP, "-o", tmp_path / "x.parquet")]) == 0
    shown = screen.getvalue()
    assert "100.0 % of 2,000 points" in shown
    assert "left" in shown
    assert "2,000 rows; costmodel" in shown.splitlines()[-1]
