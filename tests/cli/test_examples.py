"""Every command's help has an example, and the example runs as written."""

import inspect
import json
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

import costmodel as cm
from costmodel.cli import measuring as cli_measuring
from costmodel.cli.app import COMMANDS
from costmodel.errors import CostmodelError
from costmodel.validation import measuring, plans

NAMES = [name for name, _, _ in COMMANDS]


def example(text: str) -> list[str]:
    (found,) = re.findall(r"Example:\s+costmodel (.+)", text)
    return shlex.split(found)


@pytest.fixture
def desk(tmp_path, monkeypatch, costmodel):
    """Work in a folder with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(cm.hardware.loader.FOLDER / "nvidia" / "t4.yaml", "t4.yaml")
    row = {"gpu": "h200-sxm", "op": "gemm", "dtype": "bf16", "m": 64, "n": 64, "k": 64, "latency_s": 5e-6}
    pd.DataFrame([row]).to_csv("measured.csv", index=False)
    inputs = {
        "Input Dims": [[64, 64], [64, 64]],
        "Input type": ["float", "float"],
        "Concrete Inputs": ["", ""],
    }
    call = {"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 9, "args": inputs}
    Path("trace.json").write_text(json.dumps({"traceEvents": [call]}), encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("report", "validate")])
def test_example_in_the_help_runs(costmodel, desk, name):
    ended = costmodel(*example(costmodel(name, "--help").out))
    assert (ended.status, ended.err) == (0, "")


def test_example_of_report_runs_on_the_output_of_sweeps(costmodel, desk):
    pytest.importorskip("vl_convert", reason="a page needs the extra costmodel[report]")
    for name in ("sweep", "report"):
        ended = costmodel(*example(costmodel(name, "--help").out))
        assert (ended.status, ended.err) == (0, "")
    assert Path("report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_page_shows_the_figures_of_a_device_of_ones_own(costmodel, desk):
    """A table has a device's name alone; the spec says what it reaches."""
    pytest.importorskip("vl_convert", reason="a page needs the extra costmodel[report]")
    t4 = Path("t4.yaml").read_text(encoding="utf-8")
    own = re.sub(r"(?m)^vendor: .*", "vendor: Acme", re.sub(r"(?m)^name: .*", "name: acme/x1", t4))
    Path("x1.yaml").write_text(re.sub(r"(?m)^title: .*", "title: Acme X1", own), encoding="utf-8")
    sizes = ["seq=128..4096:log2", "batch=8", "hidden=1024"]
    words = ["--set", "dtype=fp16", "-m", "x1.yaml", "h200-sxm", "-D", *sizes, "-o", "sweep.csv"]
    assert costmodel("sweep", "lstm", *words).status == 0
    pages = {}
    for name, given in (("without", []), ("with", ["-m", "x1.yaml"])):
        assert costmodel("report", "sweep.csv", *given, "-o", f"{name}.html").status == 0
        pages[name] = Path(f"{name}.html").read_text(encoding="utf-8")
    assert ("roof is not known" in pages["without"]) > ("roof is not known" in pages["with"])
    assert ("Acme X1" in pages["with"]) > ("Acme X1" in pages["without"])
    for wrong, says in (
        (["sweep.csv", "-m", "t4"], "has no rows of nvidia/t4; its devices: acme/x1, nvidia/h200-sxm"),
        (["-m", "x1.yaml"], "-m names devices of a FILE"),
    ):
        ended = costmodel("report", *wrong, "-o", "none.html")
        assert ended.status == 2
        assert says in ended.err


def _no_page(*_, **__):
    raise CostmodelError("no page")


def test_devices_whose_constants_are_used_are_named_once(capsys):
    """A call of several kernels may have constants of several devices, one of them the device itself."""
    origins = ["self", "nvidia/a, self", "nvidia/a, nvidia/b", "none, nvidia/b", "nvidia/a"]
    frame = pd.DataFrame({"constants_from": origins, "seconds": 1.0, "rung": "calibrated"})
    cli_measuring._print_borrowed(frame)
    said = capsys.readouterr().out
    assert said == (
        "4 of 5 rows are predicted without constants of this device (nvidia/a, nvidia/b); --fit makes them\n"
    )


def test_example_of_validate_runs_with_a_smaller_budget(costmodel, desk, monkeypatch):
    """On eight of its kernels for five seconds, in place of a minute."""
    pytest.importorskip("torch", reason="measuring needs the extra costmodel[validation]")
    few = plans.plan("cpu", full=False)[:8]
    monkeypatch.setattr(plans, "plan", lambda kind, *, full: few)
    monkeypatch.setattr(measuring, "known_device", lambda here: cm.hardware.load("cpu/xeon-8480plus"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd()))
    words = example(costmodel("validate", "--help").out)
    words[words.index("--budget") + 1] = "5"
    ended = costmodel(*words)
    assert ended.status == 0
    # On a busy machine five seconds may be too few.
    assert all("the time was over after" in line for line in ended.err.splitlines())
    assert "held-out shapes" in ended.out
    # Nothing was fitted on this Xeon, and the errors of its assumed constants must say so.
    assert "predicted without constants of this device (none: assumed); --fit makes them" in ended.out
    assert Path("validation-cpu.parquet").is_file()
    assert Path("validation-cpu.html").is_file()
    # A second run says that it resumes, and prints errors even if the page then fails.
    monkeypatch.setattr(cm.reports, "validation", _no_page)
    ended = costmodel(*words, "--force")
    assert ended.status == 2
    assert "costmodel: resuming the measurements in " in ended.err
    assert "no page" in ended.err
    assert "held-out shapes" in ended.out


def test_refused_fit_leaves_errors_and_page(costmodel, desk, monkeypatch):
    """Eight products are too few to fit: errors and page are written, and the reason is printed."""
    pytest.importorskip("torch", reason="measuring needs the extra costmodel[validation]")
    few = plans.plan("cpu", full=False)[:8]
    monkeypatch.setattr(plans, "plan", lambda kind, *, full: few)
    monkeypatch.setattr(measuring, "known_device", lambda here: cm.hardware.load("cpu/xeon-8480plus"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd()))
    ended = costmodel("validate", "--fit", "--report", "--budget", "10")
    assert (ended.status, "held-out shapes" in ended.out) == (2, True), ended.err
    assert Path("validation-cpu.html").is_file(), ended.err
    assert "nothing to write: gemm fp32" in ended.err


def test_first_sentences_of_help_fit_into_the_list_of_commands():
    """On a terminal of 80 columns; longer ones would be truncated."""
    said = {name: inspect.getdoc(command).splitlines()[0] for name, command, _ in COMMANDS}
    assert not {name: text for name, text in said.items() if len(text) > 63 or not text.endswith(".")}


def test_help_lists_every_command_of_the_contract(costmodel):
    text = costmodel().out
    for name in (
        "devices",
        "layers",
        "show",
        "predict",
        "sweep",
        "crossover",
        "score",
        "report",
        "validate",
        "check",
    ):
        assert re.search(rf"^  {name} ", text, re.MULTILINE), name
