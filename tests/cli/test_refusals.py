"""Bad input: status 2, one clear line on standard error, nothing on standard output."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import costmodel as cm
from costmodel.cli import run

LSTM = ("predict", "lstm", "-m", "h200-sxm", "--rung", "bound")
FULL = (*LSTM, "-D", "batch=8", "hidden=64")
HEADS = ("batch=8", "heads=4", "seq=64", "head_dim=64")
ATTENTION = ("predict", "tiled-attention", "-m", "h200-sxm", "-D", *HEADS)
PASS = ("predict", "causal-conv1d", "-m", "h200-sxm", "-D", "batch=8", "seq=64", "d_model=64")

PLAN = ("plan", "gpt2", "-m", "t4", "-D", "batch=8", "seq=64")


def size(text: str) -> tuple[str, ...]:
    return (*FULL, f"seq={text}")


CATALOGUE = {
    "unknown command": (("predic",), "unknown command", "did you mean 'predict'"),
    "no command at all": (("zzzzz",), "unknown command", "known: check, crossover"),
    "a layer in a use": (("explain", "lstm", "--use", "decode", "-m", "t4", "-D", "seq=1"), "is a layer"),
    "a model among layers": (("sweep", "lstm", "gpt2", "-m", "t4"), "gpt2 is a model, not a layer"),
    "unknown layer": (("predict", "lstn", "-m", "t4"), "unknown layer", "'lstm'"),
    "a layer by its paper's name": (("show", "flash-attention"), "unknown layer", "'tiled-attention'"),
    "a model as people write it": (("model", "gpt-3"), "unknown model", "'gpt3-175b'"),
    "a layer or a device": (("sweep", "lstm", "-m", "t4", "mi300y"), "unknown layer or device", "'mi300x'"),
    "neither layer nor device": (
        ("sweep", "lstm", "-m", "t4", "zzzzz"),
        "unknown layer or device",
        "`costmodel layers` and `costmodel devices`",
    ),
    "a length where none is": (
        ("model", "mamba-130m", "-m", "h200-sxm", "--use", "decode", "-D", "seq_kv=100"),
        "mamba-130m decode takes no length",
        "got seq_kv",
    ),
    "a device too many": ((*LSTM, "a100-sxm-80gb", "-D", "seq=1"), "unexpected a100-sxm-80gb", "`sweep`"),
    "another device without its option": (
        ("explain", "lstm", "-m", "t4", "--or", "l4", "a30", "-D", "seq=1"),
        "unexpected a30",
        "repeat an option",
    ),
    "what is no file": (
        ("sweep", "lstm", "-m", "t4", "-D", "seq=1", "batch=1", "hidden=8", "-o", "/dev/null"),
        "cannot write /dev/null",
        "not a folder of parts",
    ),
    "unknown device": (("predict", "lstm", "-m", "h20-sxm"), "unknown device", "h200-sxm"),
    "nothing like a device": (("predict", "lstm", "-m", "zzzzz"), "unknown device", "`costmodel devices`"),
    "unknown kernel": ((*ATTENTION, "--kernel", "fa5"), "unknown kernel", "'fa4'"),
    "AMD's kernel on NVIDIA": ((*ATTENTION, "--kernel", "cktile_fwd"), "does not run on", "fa2"),
    "another layer's kernel": ((*FULL, "seq=3", "--kernel", "fa3"), "unknown kernel", "flashrnn"),
    "a kernel where none has a name": ((*PASS, "--kernel", "fa3"), "goes by a name", "leave it out"),
    "unknown framework": ((*FULL, "seq=3", "--framework", "torch"), "unknown framework", "'pytorch'"),
    "no device": (("predict", "lstm"), "--machine"),
    "no layer": (("predict", "-m", "t4"), "predict: missing argument 'LAYER'", "`costmodel predict --help`"),
    "unknown size": ((*FULL, "sequ=3"), "unknown size", "'seq'"),
    "a size of another layer": ((*FULL, "seq=3", "heads=3"), "unknown size 'heads' of lstm"),
    "missing size": (FULL, "needs seq", "length of the sequence"),
    "zero": (size("0"), "size seq", "at least 1", "'0'"),
    "negative": (size("-1"), "size seq", "at least 1", "'-1'"),
    "not a number": (size("nan"), "size seq", "whole number"),
    "infinite": (size("1e400"), "size seq", "at most 1099511627776", "1e400"),
    "absurd": (size("1" + "0" * 500), "size seq", "at most"),
    "fractional": (size("2.5"), "size seq", "whole number", "2.5"),
    "text": (size("many"), "size seq", "whole number", "many"),
    "empty": (size(""), "wanted NAME=VALUE"),
    "a range downwards": (size("100..10"), "goes up", "100..10"),
    "a range of nothing": (size(".."), "size seq", "whole number"),
    "a step of another base": (size("1..8:log3"), "log2", "'log3'"),
    "a range too long": (size("1..1000000000"), "10,000,000 values", ":log2"),
    "a size twice": ((*FULL, "seq=3", "seq=4"), "seq is given twice"),
    "no equals sign": ((*LSTM, "-D", "seq8192"), "wanted NAME=VALUE", "seq8192"),
    "no equals sign at first": ((*LSTM, "-D", "batch", "seq=3"), "wanted NAME=VALUE", "'batch'"),
    "a size without its value": ((*FULL, "seq"), "wanted -D seq=VALUE, got seq"),
    "a size without its value in a sweep": (
        ("sweep", "lstm", "-m", "t4", "-D", "batch=1", "seq"),
        "wanted -D seq=VALUE, got seq",
    ),
    "an all-reduce's algorithm of another collective": (
        ("predict", "collective[algorithm=custom,collective=all-gather]", "-m", "h200-sxm"),
        "algorithm custom of collective: applies to an all-reduce",
        "leave it out",
    ),
    "a model with brackets": (
        ("sweep", "gpt2[fp16]", "--use", "decode", "-m", "t4", "-D", "seq=1"),
        "options of a model are given by --set",
        "got gpt2[fp16]",
    ),
    "a generation where one step is asked": (
        ("sweep", "gpt2", "--use", "generation", "-m", "l4", "-D", "seq=1"),
        "--use generation is of many steps: `costmodel model gpt2` predicts it",
    ),
    "several sizes of a model": (("model", "gpt2", "-m", "l4", "-D", "seq=1,2"), "`sweep` with --use"),
    "a model in a format the device lacks": (
        ("model", "gpt2", "-m", "a100-sxm-80gb", "-D", "seq=8", "--dtype", "fp8"),
        "no fp8 rate",
        "--weights fp8 stores weights in fp8 and computes in bf16",
    ),
    "an infinite price": (("model", "gpt2", "-m", "l4", "-D", "seq=8", "--price", "inf"), "1000000", "'inf'"),
    "an infinite price of a plan": ((*PLAN, "--devices", "8", "--price", "inf"), "1000000", "'inf'"),
    "unknown flag without a command": (("--jsom",), "costmodel: no such option: --jsom"),
    "unknown option": ((*LSTM, "--set", "projecte=true"), "option 'projecte' of lstm", "'projected'"),
    "option of a wrong kind": ((*FULL, "seq=3", "--set", "bias=maybe"), "true or false", "maybe"),
    "unknown dtype": ((*FULL, "seq=3", "--set", "dtype=bf61"), "unknown dtype", "'bf16'"),
    "unknown direction": ((*FULL, "seq=3", "--set", "direction=back"), "direction 'back' of lstm", "bwd"),
    "an option without its value": (
        ("predict", "collective[algorithm]", "-m", "t4"),
        "option algorithm of collective: wanted algorithm=VALUE",
    ),
    "two models": (("model", "gpt2", "bert-base"), "wanted one model, got gpt2 and bert-base"),
    "a folder for a device": (("predict", "lstm", "-m", "."), "unknown device '.'", "ends in .yaml"),
    "unbalanced brackets": (("predict", "lstm[fp16", "-m", "t4"), "LAYER[OPTION=VALUE"),
    "unknown rung": ((*FULL[:4], "--rung", "bond", *FULL[6:], "seq=3"), "unknown rung", "'bound'"),
    "unknown state": ((*FULL, "seq=3", "--state", "wram"), "unknown state", "'warm'"),
    "a dtype the device lacks": (
        ("predict", "matmul", "-m", "p4", "--rung", "bound", "-D", "m=1", "n=1", "k=1", "--set", "dtype=fp8"),
        "has no fp8 rate; it has fp64, fp32, fp16 (--set dtype=fp32 would do)",
    ),
    "the default dtype, which the device lacks": (
        ("sweep", "lstm", "-m", "v100-sxm2-16gb", "-D", "batch=1", "seq=8", "hidden=8"),
        "has no bf16 rate; it has fp64, fp32, fp16 (--set dtype=fp16 would do)",
    ),
    "a model in the default dtype, which the device lacks": (
        ("model", "gpt2", "-m", "v100-sxm2-16gb", "-D", "seq=8"),
        "has no bf16 rate; it has fp64, fp32, fp16 (--dtype fp16 would do)",
    ),
    "unknown figure": ((*FULL, "seq=3", "--device-set", "hmb=6 TB/s"), "unknown device figure", "'hbm'"),
    "figure without a unit": ((*FULL, "seq=3", "--device-set", "hbm=6"), "without a unit"),
    "a negative multiple": ((*FULL, "seq=3", "--device-set", "hbm=-2x"), "impossible value -9.6 TB/s"),
    "a multiple beyond all": ((*FULL, "seq=3", "--device-set", "bf16=1e9x"), "impossible value"),
    "impossible figure": ((*FULL, "seq=3", "--device-set", "hbm=6 EB/s"), "EB/s"),
    "unknown flag": ((*FULL, "seq=3", "--jsom"), "--json"),
    "flag without its value": ((*FULL, "seq=3", "--rung"), "--rung"),
    "a device that is no file": (("predict", "lstm", "-m", "none.yaml"), "none.yaml", "No such file"),
    "nothing to check": (("check", "none.yaml"), "none.yaml", "No such file"),
    "a folder to check": (("check", "."), "cannot read .", "directory"),
    "size of no layer swept": (
        ("sweep", "lstm", "gru", "-m", "t4", "-D", "heads=8"),
        "unknown size 'heads' of lstm, gru",
    ),
    "too many rows": (
        ("sweep", "lstm", "-m", "t4", "-D", "seq=1..100000", "batch=1..100000", "hidden=8"),
        "10,000,000,000",
    ),
    "output of no known kind": (("sweep", "lstm", "-m", "t4", "-o", "x.xlsx"), ".csv or .parquet"),
    "output to a dash": (("sweep", "lstm", "-m", "t4", "-o", "-"), "name of a file", "CSV is printed"),
    "layouts of no known kind": (
        ("plan", "llama-2-7b", "-m", "t4", "--devices", "1", "-D", "batch=1", "seq=8", "-o", "x.txt"),
        ".csv or .parquet",
    ),
    "output nowhere": (("sweep", "lstm", "-m", "t4", "-o", "no/such/x.csv"), "no folder"),
    "crossing what is not compared": (
        ("crossover", "lstm", "gru", "--over", "seq", "--of", "floops"),
        "unknown quantity",
        "'flops'",
    ),
    "crossing times of no device": (
        ("crossover", "lstm", "gru", "--over", "seq"),
        "needs a device: -m DEVICE; counts (--of flops",
    ),
    "a rung of counts": (
        ("crossover", "lstm", "gru", "--over", "seq", "--of", "flops", "--rung", "bound"),
        "--rung bound needs a device too",
    ),
    "a figure of no device that is crossed on": (
        ("crossover", "lstm", "gru", "--over", "seq", "--of", "flops", "--device-set", "hbm=2x"),
        "--device-set hbm=2x needs a device too",
    ),
    "crossing over nothing": (("crossover", "lstm", "gru"), "--over"),
    "crossing over many": (
        ("crossover", "lstm", "gru", "--over", "seq", "-D", "hidden=1,2", "-m", "t4"),
        "one value of hidden",
    ),
    "explaining many": (
        ("explain", "lstm", "-m", "h200-sxm", "-D", "batch=1", "hidden=8", "seq=1,2"),
        "explain: wanted one value of seq, got 2; `predict`",
    ),
    "measuring on no kind of device": (("validate", "--device", "gpu"), "unknown kind", "'cpu'"),
    "fitting nothing": (("validate", "--fit", "none.parquet"), "none.parquet", "no such file"),
    "fitting no runtimes": (("validate", "--fit", "published_runtimes.csv"), "cannot read the published"),
    "tables that are not fitted": (("validate", "none.parquet"), "--fit", "costmodel score"),
    "a name for the page": (("validate", "--report", "x.html"), "x.html: tables", "-o NAME"),
    "counting on a CPU": (("validate", "--count"), "--count", "--device cuda"),
    "measuring for no rung": (("validate", "--rung", "kernl"), "unknown rung", "'kernel'"),
    "sizes too large together": (
        ("predict", "matmul", "-m", "h200-sxm", "-D", "m=1e12", "n=1e12", "k=1e12"),
        "sizes of matmul",
        "too large together",
        "k=1000000000000",
    ),
    "a negative budget": (("validate", "--budget", "-3"), "--budget", "wanted", "0, got '-3'"),
    "a plan for devices without a link": (
        ("plan", "gpt2", "-m", "i9-13900k", "--devices", "1", "-D", "batch=8", "seq=64", "--rung", "bound"),
        "cpu/i9-13900k has no link to other devices",
        "`costmodel model --use training`",
    ),
    "no devices": ((*PLAN, "--devices", "0"), "--devices", "wanted", "equal to 1, got '0'"),
    "tokens without end": ((*PLAN, "--devices", "8", "--tokens", "inf"), "--tokens", "got 'inf'"),
    "a price below nothing": ((*PLAN, "--devices", "8", "--price", "-1"), "--price", "got '-1'"),
    "a margin that is none": ((*PLAN, "--devices", "8", "--margin", "nan"), "--margin", "0.9, got 'nan'"),
    "workers that are no whole number": (
        ("sweep", "lstm", "-m", "t4", "--workers", "1e9"),
        "--workers",
        "wanted a valid integer",
        "got '1e9'",
    ),
    "a report of what is no sweep": (("report", "none.csv", "-o", "x.html"), "none.csv"),
    "a page that is no page": (("report", "-o", "x.pdf"), ".html"),
    "an engine for a table that one thread makes": (
        ("sweep", "lstm", "-m", "t4", "-D", "seq=3", "--engine", "dask", "--cluster", "tcp://127.0.0.1:1"),
        "--cluster",
        "give one of these too",
    ),
    "workers for a table that one thread makes": (
        ("sweep", "lstm", "-m", "t4", "-D", "seq=3", "--workers", "2", "-o", "x.csv"),
        "--workers",
    ),
    "an option in brackets and beside them": (
        ("predict", "tiled-attention[causal=true]", "-m", "t4", "--set", "causal=false"),
        "causal of tiled-attention is given twice",
        "'true' in brackets and 'false'",
    ),
    "new tokens of no generation": (
        ("model", "gpt2", "-m", "t4", "--new", "64", "-D", "seq=16"),
        "--new applies to --use generation",
    ),
    "no new token": (
        ("model", "gpt2", "-m", "t4", "--use", "generation", "--new", "0", "-D", "seq=16"),
        "1 to 1,048,576 new tokens, got 0",
    ),
    "sizes of no model": (("model", "-D", "seq=16"), "-D seq=16 needs a model", "lists them"),
    "the price of a model alone": (("model", "gpt2", "--price", "2"), "--price 2 needs a device"),
    "a price of a page": (("model", "gpt2", "-m", "t4", "--price", "2", "--report", "x.html"), "--price"),
    "two lengths to explain": (
        ("explain", "gpt2", "--use", "decode", "-m", "h200-sxm", "-D", "seq=8", "seq_kv=9"),
        "explain: decode takes one length, -D seq_kv",
    ),
    "the rung of a model alone": (("model", "gpt2", "--rung", "bound"), "--rung bound needs a device"),
    "the state of a model alone": (("model", "gpt2", "--state", "cold"), "--state cold needs a device"),
    "a plan by no column": (
        ("sweep", "lstm", "-m", "l4", "-D", "batch=1", "seq=2", "hidden=8", "--plan", "--best", "seconds",
         "--by", "nonsense"),
        "unknown column to group by 'nonsense'",
    ),
    "a figure of no device": (("model", "gpt2", "--device-set", "hbm=6 TB/s"), "needs a device"),
    "two lengths for one": (
        ("model", "gpt2", "-m", "t4", "-D", "seq=16", "seq_kv=99"),
        "prefill takes one length, -D seq=",
    ),
    "a size that no generation has": (
        ("model", "gpt2", "-m", "t4", "--use", "generation", "-D", "seq=16", "heads=3"),
        "generation takes -D seq=… batch=…, got heads too",
    ),
    "a device twice where one will do": ((*FULL, "seq=3", "-m", "t4"), "--machine is given 2 times"),
    "an option that a shell left empty": (
        ("sweep", "lstm", "-m", "t4", "-D", "seq=1", "batch=1", "hidden=8", "--best", ""),
        "--best is given without a value",
    ),
    "a tile of nothing": (
        ("predict", "matmul", "-m", "h200-sxm", "-D", "m=8", "n=8", "k=8", "--kernel", "sgemm_0x0"),
        "unknown kernel",
        "'sgemm_128x64'",
    ),
    "what takes no time": (
        ("explain", "collective", "-m", "h200-sxm", "-D", "m=8", "n=8", "devices=1"),
        "takes no time at these sizes",
    ),
    "more points than anyone waits for": (
        ("sweep", "lstm", "-m", "t4", "-D", "seq=1..1e6", "batch=1..1e6", "hidden=1..1e6", "--plan"),
        "at most 1,000,000,000,000 points",
        "longer steps",
    ),
    "attention of a decoding step": (
        ("model", "gpt2", "-m", "t4", "--use", "decode", "-D", "seq_kv=16", "--attention", "dense"),
        "--attention applies to prefill",
    ),
    "scoring nothing": (("score", "none.csv", "-o", "x.csv"), "none.csv", "no such file"),
    "scoring a folder": (("score", ".", "-o", "x.csv"), "is a folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", CATALOGUE)
def test_bad_input_is_one_clear_line(costmodel, monkeypatch, tmp_path, case):
    monkeypatch.chdir(tmp_path)
    words, *fragments = CATALOGUE[case]
    ended = costmodel(*words)
    assert ended.status == 2
    assert ended.out == ""
    assert ended.err.startswith("costmodel: ")
    assert ended.err.count("\n") == 1
    assert len(ended.err) < 500
    for fragment in fragments:
        assert fragment.lower() in ended.err.lower()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["predict", "crossover", "sweep"])
def test_with_json_an_error_leaves_standard_output_empty(costmodel, command):
    ended = costmodel(command, "lstm", "lstn", "-m", "t4", "--json")
    assert (ended.status, ended.out) == (2, "")


@pytest.mark.parametrize("asked", [("--fit",), ("--record",), ()])
def test_measuring_a_cpu_under_a_gpus_spec_is_refused(costmodel, monkeypatch, tmp_path, asked):
    pytest.importorskip("torch", reason="measuring needs the extra costmodel[validation]")
    monkeypatch.setattr("costmodel.validation.measuring.measure", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ended = costmodel("validate", "--device", "cpu", "--spec", "nvidia/h200-sxm", "--budget", "0", *asked)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "nvidia/h200-sxm has units of kind SM" in ended.err


@pytest.mark.parametrize("missing", ["altair", "vl_convert"])
def test_missing_report_packages_are_refused_before_measuring(costmodel, monkeypatch, tmp_path, missing):
    pytest.importorskip("torch", reason="measuring needs the extra costmodel[validation]")
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("costmodel.validation.measuring.measure", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ended = costmodel("validate", "--spec", "xeon-8480plus", "--budget", "0", "--report")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "pip install 'costmodel[report]'" in ended.err


def test_missing_cuda_is_one_clear_line(costmodel, monkeypatch, tmp_path):
    torch = pytest.importorskip("torch", reason="measuring needs the extra costmodel[validation]")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    ended = costmodel("validate", "--device", "cuda")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "--device cpu" in ended.err


# -- output ------------------------------------------------------------------------------------

SWEEP = ("sweep", "lstm", "-m", "t4", "--rung", "bound", "--set", "dtype=fp16")
GRID = ("-D", "batch=1", "hidden=8", "seq=1..2000")


def test_existing_output_is_kept_unless_forced(costmodel, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("mine", encoding="utf-8")
    ended = costmodel(*SWEEP, *GRID, "-o", path)
    assert ended.status == 2
    assert "it exists" in ended.err
    assert "--force" in ended.err
    assert path.read_text(encoding="utf-8") == "mine"
    assert costmodel(*SWEEP, *GRID, "-o", path, "--force").status == 0
    assert path.read_text(encoding="utf-8").startswith("layer,")
    assert os.listdir(tmp_path) == ["x.csv"]


def test_folder_is_not_overwritten(costmodel, tmp_path):
    (tmp_path / "x.csv").mkdir()
    ended = costmodel(*SWEEP, *GRID, "-o", tmp_path / "x.csv", "--force")
    assert (ended.status, "it is a folder" in ended.err) == (2, True)


def test_folder_without_write_permission_is_one_clear_line(costmodel):
    # No user may create a file here, not even root.
    ended = costmodel(*SWEEP, *GRID, "-o", "/proc/x.csv")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "cannot write /proc/x.csv" in ended.err


def _on_a_full_disk() -> None:
    """Let no file grow beyond 64 KiB: writing more fails as it does on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_full_disk_leaves_no_partial_file_and_keeps_the_old_one(tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    words = [
        sys.executable,
        "-B",
        "-m",
        "costmodel",
        *SWEEP,
        *GRID[:-1],
        "seq=1..9000",
        "-o",
        name,
        "--force",
    ]
    ended = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, preexec_fn=_on_a_full_disk, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"cannot write {name}" in ended.stderr
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
    assert os.listdir(tmp_path) == [name]


# -- how it ends -------------------------------------------------------------------------------


def test_ctrl_c_ends_with_130_and_no_traceback(monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cm.hardware, "available", interrupted)
    assert run(["devices"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_pipe_closed_early_is_no_error():
    command = f"{sys.executable} -m costmodel sweep lstm -m t4 --rung bound -D batch=1 hidden=8 seq=1..90000"
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} --set dtype=fp16 | head -n 1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.stdout.startswith("layer,")
    assert ended.stderr == ""


def test_pipe_closed_at_once_is_no_error():
    command = f"{sys.executable} -m costmodel devices --json"  # more than a pipe's first buffer
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_microseconds_are_us_on_an_ascii_terminal():
    question = ("predict", "lstm", "-m", "h200-sxm", "-D", "batch=1", "hidden=64", "seq=8")
    words = [sys.executable, "-m", "costmodel", *question]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    plain = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    full = subprocess.run(words, env=environment, capture_output=True, check=True).stdout.decode("utf-8")
    assert "µs" in full
    assert plain == full.replace("µ", "u").encode("ascii", errors="replace").decode("ascii")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_answer_that_cannot_be_written_is_one_clear_line():
    with open("/dev/full", "w", encoding="utf-8") as full:
        words = [sys.executable, "-m", "costmodel", "show", "lstm"]
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "costmodel: cannot write the answer: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_letters_that_an_encoding_lacks_are_no_error(encoding):
    words = [sys.executable, "-m", "costmodel", "show", "dense-attention"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}

    def said(*more: str) -> str:
        ended = subprocess.run([*words, *more], env=environment, capture_output=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, b"")
        return ended.stdout.decode(encoding)

    assert "?" in said()
    # JSON escapes every letter in ASCII.
    assert "1/√d_h" in json.loads(said("--json"))["not_counted"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("devices", "cannot write the answer: standard output is closed\n"),
        ("show lstm --json", "cannot write the answer: standard output is closed\n"),
        ("predict lstn -m t4", "unknown layer 'lstn'"),
    ],
)
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_an_answer_to_a_closed_output_is_refused_in_one_line(command, says, closed):
    """A script must not take an answer that nobody got for a success."""
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m costmodel {command} {closed}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    heard = closed == ">&-"
    assert ended.stderr.count("\n") == heard
    assert ended.stderr.startswith(f"costmodel: {says}" if heard else "")


def test_a_file_is_written_with_standard_output_closed(tmp_path):
    words = f"sweep lstm -m t4 --set dtype=fp16 --rung bound -D batch=1 hidden=8 seq=1 -o {tmp_path}/x.csv"
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m costmodel {words} >&-"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "x.csv").read_text(encoding="utf-8").count("\n") == 2


def test_truncated_table_is_one_clear_line(costmodel, tmp_path):
    whole = tmp_path / "whole.parquet"
    assert costmodel(*SWEEP, *GRID, "-o", whole).status == 0
    short = tmp_path / "short.parquet"
    short.write_bytes(whole.read_bytes()[:-100])
    ended = costmodel("score", short, "-o", tmp_path / "out.csv")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert not (tmp_path / "out.csv").exists()


def test_file_whose_name_is_no_text_is_one_clear_line(costmodel, tmp_path, llama):
    """A page can do without such a name; a table cannot."""
    config = tmp_path / "c\udcff.json"
    config.write_text(json.dumps(llama), encoding="utf-8")
    table = tmp_path / "x.csv"
    ended = costmodel("sweep", config, "--use", "decode", "-m", "l4", "-D", "seq=8", "-o", table)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "wanted a name in UTF-8, got 'c\\udcff decode'" in ended.err
    assert not table.exists()


def test_yaml_bomb_is_refused_without_expanding_it(costmodel, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("\n".join(lines), encoding="utf-8")
    assert costmodel("check", bomb).status == 2
    assert costmodel("predict", "lstm", "-m", bomb).err.count("\n") == 1


def test_faulty_specs_are_refused_with_their_line(costmodel, tmp_path):
    sound = (cm.hardware.loader.FOLDER / "nvidia" / "h200-sxm.yaml").read_text(encoding="utf-8")
    faults = {
        "typo": (sound.replace("bandwidth:", "bandwith:", 1), "bandwith"),
        "no unit": (sound.replace("4800 GB/s", "4800", 1), "without a unit"),
        "sparse peak": (sound.replace("bf16: {value: 989.4", "bf16: {value: 1978.9", 1), "bf16"),
        "duplicate key": (sound + "vendor: NVIDIA\n", "vendor"),
    }
    for name, (text, fragment) in faults.items():
        path = Path(tmp_path / f"{name.replace(' ', '-')}.yaml")
        path.write_text(text, encoding="utf-8")
        ended = costmodel("predict", "lstm", "-m", path, "-D", "batch=1", "seq=1", "hidden=1")
        assert ended.status == 2, name
        assert ended.err.count("\n") == 1, name
        assert "line " in ended.err, name
        assert fragment in costmodel("check", path).out, name
