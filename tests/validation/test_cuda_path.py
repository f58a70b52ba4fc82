"""The host code for a GPU, run on a machine without one: see ``fake_cuda``."""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import sys
import types

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")

from costmodel import hardware  # noqa: E402
from costmodel.cli import run  # noqa: E402
from costmodel.errors import CostmodelError, UnavailableError  # noqa: E402
from costmodel.validation import (  # noqa: E402
    allocations,
    calibrate,
    campaign,
    counters,
    heldout,
    journal,
    memory,
    microbench,
    places,
    plans,
    record,
    registry,
    report,
    spec,
    spec_gpu,
    timing,
    torch_env,
)
from costmodel.validation.case import case  # noqa: E402
from costmodel.validation.execute import RandomMaker, prepare  # noqa: E402
from costmodel.validation.join import with_predictions  # noqa: E402
from costmodel.validation.journal import Journal  # noqa: E402
from costmodel.validation.measuring import known_device, measure  # noqa: E402
from costmodel.validation.torch_env import machine  # noqa: E402

from .fake_cuda import Torch  # noqa: E402

SIZES = {
    "matmul": {"m": 32, "n": 16, "k": 64},
    "bmm": {"batch": 2, "m": 8, "n": 8, "k": 8},
    "sdpa-math": {"batch": 1, "heads": 2, "seq": 8, "head_dim": 8},
    "softmax": {"m": 8, "n": 8},
    "linear-attention": {"batch": 1, "heads": 2, "seq": 8, "head_dim": 8},
    "scan-levels": {"batch": 1, "seq": 8, "hidden": 8},
    "lstm": {"batch": 2, "seq": 3, "hidden": 8},
    "lstm-loop": {"batch": 2, "seq": 3, "hidden": 8},
}


@pytest.fixture
def fake(monkeypatch):
    """Give the measuring code a torch whose CUDA device is the CPU; torch itself is unchanged."""
    module = Torch()

    def imported(name):
        return module if name == "torch" else importlib.import_module(name)

    monkeypatch.setattr(torch_env, "importlib", types.SimpleNamespace(import_module=imported))
    # Triton would launch on a real device or interpret, and an interpreted barrier never ends.
    kernels = [f"costmodel.validation.triton_{name}" for name in ("attention", "arithmetic", "barrier")]
    for name in ("triton", *kernels):
        monkeypatch.setitem(sys.modules, name, None)
    move = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device, dtype: move(self, dtype=dtype))
    # The times are the CPU's and mean nothing: do not spend minutes on them.
    monkeypatch.setattr(timing, "MAX_SAMPLES", 5)
    monkeypatch.setattr(timing, "MAX_CALLS", 10)
    timing._side_stream.cache_clear()
    yield module
    timing._side_stream.cache_clear()


def cases(names=SIZES):
    for name in names:
        for direction in registry.find(name).directions:
            for launch in ("graph", "eager") if direction == "fwd" else ("eager",):
                yield case(name, SIZES[name], direction=direction, launch=launch)
    yield case("matmul", SIZES["matmul"], dtype="bf16", state="cold")


def test_campaign_runs_every_case_and_records_sensors(fake, tmp_path):
    wanted = list(cases())
    frame = measure("cuda", cases=wanted, journal=tmp_path / "j.jsonl", budget_s=600.0, passes=2)
    assert set(frame["status"]) == {"ok"}, frame[["case", "reason"]].to_string()
    assert len(frame) == len(wanted)
    assert set(frame["gpu"]) == {"nvidia/h200-sxm"}
    assert (frame["visits"] == 2).all()
    graphs = frame[frame["launch"] == "graph"]
    assert set(graphs["timer"]) == {"cudagraph-event-median"}
    assert set(frame[frame["launch"] == "eager"]["timer"]) == {"queued-event-median"}
    assert fake.cuda.captured == 2 * len(graphs)
    assert fake.cuda.replayed > 0
    # A missing sensor is empty; the others are converted to SI units.
    assert frame["temperature_c"].isna().all()
    assert (frame["clock_hz"] == 1.98e9).all()
    assert (frame["power_w"] == 350.0).all()
    joined = with_predictions(frame, hardware.load("nvidia/h200-sxm"))
    assert joined[joined["bench"] != "lstm-loop"]["seconds"].notna().all()
    assert list(report.verdicts(joined, "cuda")["demand"]) == ["matmul", "attention", "recurrent"]


@pytest.mark.parametrize(("lasts", "calls"), [(1e-6, 100), (2.1e-5, 48), (3e-4, 4), (2e-3, 1)])
def test_graph_holds_one_long_call_or_many_short_ones(lasts, calls, fake, monkeypatch):
    ran = []
    watch = timing.stopwatch("cuda", 2**20)
    ready = dataclasses.replace(prepare(case("copy", {"m": 4, "n": 4}), "cuda"), run=lambda: ran.append(1))
    monkeypatch.setattr(timing.Stopwatch, "seconds", lambda *_: lasts)
    held = []
    monkeypatch.setattr(timing, "captured", lambda run, scope, calls: held.append(calls) or run)
    one = case("copy", {"m": 4, "n": 4}, launch="graph")
    taken = campaign._time(one, ready, machine("cuda"), watch, 0.01)
    assert held == [calls]
    assert taken.median_s == pytest.approx(lasts / calls)


def test_command_records_rows_rates_counters_and_a_page(fake, tmp_path, monkeypatch, capsys):
    """`validate --device cuda` on a short plan."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plans, "plan", lambda kind, full: list(cases(["matmul", "softmax"])))
    monkeypatch.setattr(microbench, "_SIDES", {"cuda": (8,)})
    name = tmp_path / "h200"
    monkeypatch.setattr(counters.shutil, "which", lambda _: None)
    asked = ["--record", "--count", "--report"]
    words = ["validate", "--device", "cuda", *asked, "--budget", "200", "-o", str(name)]
    assert run(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "held-out shapes" in said
    # The CPU's times are not those of an H200: the command says so for each cell.
    assert "matmul fp32 fwd+bwd eager warm" in said.partition("off by over 30 %")[2]
    assert {path.name for path in tmp_path.glob("h200.*")} == {
        "h200.csv", "h200.parquet", "h200.micro.csv", "h200.counters.csv", "h200.html",
    }  # fmt: skip
    assert set(pd.read_csv(name.with_suffix(".counters.csv"))["status"]) == {"unavailable"}
    assert "Traffic from hardware counters" in name.with_suffix(".html").read_text(encoding="utf-8")
    assert {"step", "bandwidth"} <= set(pd.read_csv(name.with_suffix(".micro.csv"))["quantity"])
    assert run(words) != 0  # existing files are not replaced without being asked
    assert "exists" in capsys.readouterr().err


def test_fit_knows_name_and_hash_of_its_table(fake, tmp_path, monkeypatch):
    """As for tables that others measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plans, "plan", lambda kind, full: list(cases(["bmm"])))
    seen = []

    def fitted(rows, _, *, hashes):
        seen.append((set(rows["table"]) if hashes else "table" in rows, hashes))
        raise CostmodelError("too few")

    monkeypatch.setattr(calibrate, "calibrate", fitted)
    name, words = tmp_path / "h200", ["validate", "--device", "cuda", "--fit", "--budget", "100"]
    assert run(words) == 2
    monkeypatch.setattr(microbench, "microbenchmarks", lambda _: pd.DataFrame())
    assert run([*words, "--record", "-o", str(name)]) == 2
    kept = hashlib.sha256(name.with_suffix(".parquet").read_bytes()).hexdigest()[:12]
    assert seen == [(False, {}), ({"h200.parquet"}, {"h200.parquet": kept})]


def test_counting_comes_last(fake, tmp_path, monkeypatch, capsys):
    """It takes minutes and may be interrupted: fit and errors must not be lost then."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plans, "plan", lambda kind, full: list(cases(["matmul"])))
    fitted = []
    monkeypatch.setattr("costmodel.cli.measuring._fit_rows", lambda *_: fitted.append(1) or True)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "traffic", stopped)
    words = ["--fit", "--count", "--budget", "100", "-o", str(tmp_path / "h200")]
    assert run(["validate", "--device", "cuda", *words]) == 130
    assert fitted
    assert "held-out shapes" in capsys.readouterr().out


def test_failed_rates_leave_rows_and_page(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plans, "plan", lambda kind, full: list(cases(["matmul"])))

    def fails(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nMore")

    monkeypatch.setattr(microbench, "microbenchmarks", fails)
    name = tmp_path / "h200"
    words = ["validate", "--device", "cuda", "--record", "--report", "--budget", "100", "-o", str(name)]
    assert run(words) == 0
    said = capsys.readouterr()
    assert "held-out shapes" in said.out
    assert "costmodel: no rates recorded: CUDA out of memory. Tried to allocate 20.00 GiB\n" in said.err
    assert {path.suffix for path in tmp_path.glob("h200.*")} == {".csv", ".parquet", ".html"}


def test_part_of_a_gpu_is_not_fitted_as_the_whole(fake, tmp_path, monkeypatch, capsys):
    """132 units here, 108 in the spec given: refused before anything is measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("costmodel.validation.measuring.measure", lambda *_, **__: pytest.fail("measured"))
    assert run(["validate", "--device", "cuda", "--fit", "--spec", "a100-sxm-80gb", "--budget", "0"]) == 2
    said = capsys.readouterr().err
    assert "108 SM" in said
    assert "132 of NVIDIA H200" in said


def test_device_kept_aside_is_refused_before_it_is_measured(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("costmodel.validation.measuring.measure", lambda *_, **__: pytest.fail("measured"))
    assert run(["validate", "--device", "cuda", "--fit", "--spec", "h100-sxm", "--budget", "0"]) == 2
    assert "nothing is fitted on this device" in capsys.readouterr().err


def test_peak_memory_leaves_out_what_a_library_keeps(fake, monkeypatch):
    """By hand: operands 300, a workspace of 5,000 kept from the first call on, 40 for each call."""
    calls = []

    def run():
        if not calls:
            fake.cuda.allocated += 5000
        calls.append(1)
        fake.cuda.peak = fake.cuda.allocated + 40

    def made(*_):
        fake.cuda.allocated += 300
        return prepared

    prepared = type("P", (), {"scope": contextlib.nullcontext, "run": staticmethod(run)})
    monkeypatch.setattr(allocations, "prepare", made)
    assert allocations.prepare_watched(None, "cuda") == (prepared, 340)


def test_caches_of_a_gpu_are_emptied_by_reading(fake):
    """Written data would stay in L2 and be evicted to memory during the timed call."""
    made = []
    zeros = fake.zeros
    fake.zeros = lambda *sizes, **how: made.append(zeros(*sizes, **how)) or made[-1]
    for kind, written in (("cuda", False), ("cpu", True)):
        flush = timing.stopwatch(kind, 2**16).flusher()
        before = made[-1]._version
        flush()
        assert (made[-1]._version > before) is written
        assert made[-1].nbytes == 4 * 2**16


@pytest.mark.parametrize("state", ["cold", "warm"])
def test_profiled_range_is_the_case_and_a_sweep(state, fake, monkeypatch):
    """Caches are emptied by reading just before; what the case left in them is written out just after."""
    said = []
    one = case("matmul", SIZES["matmul"], state=state)
    ready = prepare(one, "cuda")
    ready = dataclasses.replace(ready, run=lambda: said.append("case"))
    monkeypatch.setattr(counters, "prepare", lambda *_: ready)
    elsewhere = types.SimpleNamespace(sum=lambda: said.append("sweep"))
    fake.ones = lambda count, device: said.append(f"{count * 4} bytes on {device}") or elsewhere
    fake.cuda.profiler = types.SimpleNamespace(
        start=lambda: said.append("start"), stop=lambda: said.append("stop")
    )
    counters._run_counted(json.dumps(one.as_dict()))
    again = ["case"] if state == "warm" else []
    before = [f"{4 * 2**20} bytes on cuda", *["case"] * 3, "sweep", *again]
    assert said == [*before, "start", "case", "sweep", "stop"]


@pytest.mark.parametrize(("cudnn", "side_by_side"), [(91900, True), (91200, False), (None, False)])
def test_bf16_weights_are_flattened_where_cudnn_has_the_format(cudnn, side_by_side, fake, monkeypatch):
    known, asked = {torch.half, torch.float, torch.double}, []
    flags = types.SimpleNamespace(version=lambda: cudnn, CUDNN_TENSOR_DTYPES=known)
    monkeypatch.setattr(fake, "backends", types.SimpleNamespace(cudnn=flags))
    monkeypatch.setattr(torch.nn.LSTM, "flatten_parameters", lambda _: asked.append(torch.bfloat16 in known))
    make = RandomMaker(fake, "cuda", torch.bfloat16, torch.Generator(), gradients=False)
    registry.find("lstm").build(case("lstm", SIZES["lstm"], dtype="bf16"), make)
    assert asked[-1] is side_by_side  # when it was moved to the device


class OutOfResources(Exception):
    """Stand for Triton's exception, which is no RuntimeError."""


def failing(monkeypatch, error, breaks=lambda: None):
    right = registry.find("softmax")

    def build(case, make):
        if case.launch == "graph":
            breaks()
            raise error
        return right.build(case, make)

    monkeypatch.setitem(registry.benches(), "softmax", type(right)(**{**right.__dict__, "build": build}))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "out of memory"),
        (OutOfResources("out of resource: shared memory, Required: 294912"), "unavailable"),
        (RuntimeError("cuDNN Frontend error: … cudnn_status: CUDNN_STATUS_NOT_SUPPORTED"), "unavailable"),
        (RuntimeError("cuDNN Frontend error: No execution plans support the graph."), "unavailable"),
        (RuntimeError("CUDA error: operation not permitted when stream is capturing"), "failed"),
        (TypeError("unexpected"), "failed"),
    ],
    ids=str,
)  # fmt: skip
def test_error_of_one_case_leaves_the_others_measured(error, status, fake, tmp_path, monkeypatch):
    failing(monkeypatch, error)
    frame = measure(
        "cuda", cases=list(cases(["softmax", "bmm"])), journal=tmp_path / "j.jsonl", budget_s=200.0, passes=1
    )
    bad = frame[frame["status"] != "ok"]
    assert list(bad["status"]) == [status]
    assert list(bad["launch"]) == ["graph"]
    assert fake.cuda.emptied == fake.cuda.captured + 1  # the failed case's memory was released


def waits(x):
    return x * float(x.sum())


def draws(x):
    return torch.randn(x.shape, generator=torch.Generator())


def synchronises(x):
    torch_env.load_torch().cuda.synchronize()
    return x


@pytest.mark.parametrize("call", [waits, draws, synchronises])
def test_failed_capture_is_recorded_with_its_cause(call, fake, tmp_path, monkeypatch):
    """The error at the end of the capture hides the original one. Eager calls go on."""
    right = registry.find("softmax")

    def build(case, make):
        return dataclasses.replace(right.build(case, make), call=call, exact=call)

    monkeypatch.setitem(registry.benches(), "softmax", dataclasses.replace(right, build=build))
    # `draws` gives other numbers in each call, so results are not compared here.
    monkeypatch.setattr(campaign, "relative_error", lambda *_: 0.0)
    wanted = [case("softmax", SIZES["softmax"], launch=launch) for launch in ("graph", "eager")]
    wanted += list(cases(["bmm", "matmul"]))
    frame = measure("cuda", cases=wanted, journal=tmp_path / "j.jsonl", budget_s=200.0, passes=1)
    assert set(frame[frame["bench"] != "softmax"]["status"]) == {"ok"}  # captures after it go on
    assert fake.cuda.underway == []
    assert len(fake.cuda.released) == 1  # that capture's memory; torch releases the others'
    frame = frame[frame["bench"] == "softmax"].set_index("launch")
    assert list(frame.loc[["graph", "eager"], "status"]) == ["failed", "ok"]
    assert "previous error during capture" in frame.loc["graph", "reason"]
    assert (
        "(after: CUDA error: operation not permitted when stream is capturing)"
        in frame.loc["graph", "reason"]
    )


@pytest.mark.parametrize(
    "fault", [FileNotFoundError("/nonexistent/cc"), RuntimeError("Failed to find C compiler.\nMore")], ids=str
)
def test_rates_are_taken_where_triton_cannot_compile(fault, fake, monkeypatch):
    """The campaign's rows exist by then: a missing C compiler must not cost the fit and the page."""

    def fails(*_, **__):
        raise fault

    monkeypatch.setattr(microbench, "_SIDES", {"cuda": (8,)})
    barrier = types.SimpleNamespace(chain=lambda *_: fails)
    arithmetic = types.SimpleNamespace(multiply_adds=lambda *_: fails)
    for name, module in (("barrier", barrier), ("arithmetic", arithmetic)):
        monkeypatch.setitem(sys.modules, f"costmodel.validation.triton_{name}", module)
    with pytest.warns(UserWarning, match="not measured, as Triton failed") as said:
        rows = microbench.microbenchmarks(machine("cuda"), budget_s=1.0)
    assert {"bandwidth", "matmul", "launch", "step"} == set(rows["quantity"])
    assert {str(one.message).partition(":")[0] for one in said} == {"vector units", "steps inside a kernel"}
    assert all("More" not in str(one.message) for one in said)


def test_broken_device_ends_the_campaign(fake, tmp_path, monkeypatch):
    error = "CUDA error: an illegal memory access was encountered"
    failing(monkeypatch, RuntimeError(error), lambda: setattr(fake.cuda, "broken", error))
    wanted, path = list(cases(["softmax", "bmm"])), tmp_path / "j.jsonl"
    with pytest.raises(UnavailableError, match=r"stopped working at softmax .* run the same command again"):
        measure("cuda", cases=wanted, journal=path, budget_s=200.0, passes=1)
    # The case that broke it is recorded: the next run does not try it again.
    fake.cuda.broken = ""
    frame = measure("cuda", cases=wanted, journal=path, budget_s=200.0, passes=1)
    assert list(frame[frame["status"] != "ok"]["bench"]) == ["softmax"]
    assert len(frame) == len(wanted)


def test_cuda_without_a_gpu_is_one_clear_line(fake, tmp_path):
    fake.cuda.available = False
    with pytest.raises(UnavailableError, match="no NVIDIA GPU or driver is visible; use --device cpu"):
        measure("cuda", journal=tmp_path / "j.jsonl")
    fake.version.cuda = None
    with pytest.raises(UnavailableError, match="built without CUDA"):
        machine("cuda")


def test_journal_of_another_machine_is_refused(fake, tmp_path, here):
    path = tmp_path / "j.jsonl"
    with Journal(path, machine("cuda")):
        pass
    with pytest.raises(CostmodelError, match="its rows are of kind 'cuda'"):
        journal.read(path, here)


def test_microbenchmarks_measure_every_quantity(fake, monkeypatch):
    monkeypatch.setattr(microbench, "_SIDES", {"cuda": (8,)})
    rows = microbench.microbenchmarks(machine("cuda"), budget_s=1.0)
    assert {"bandwidth", "matmul", "launch", "step"} == set(rows["quantity"])
    assert {"eager", "graph"} <= set(rows[rows["quantity"] == "step"]["pattern"])
    assert (rows["value"] > 0).all()


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H200", "nvidia/h200-sxm"),
        ("NVIDIA H100 80GB HBM3", "nvidia/h100-sxm"),
        ("NVIDIA H100 PCIe", "nvidia/h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "nvidia/a100-sxm-80gb"),
        ("NVIDIA A100 80GB PCIe", "nvidia/a100-pcie-80gb"),
        ("NVIDIA GH200 480GB", "nvidia/gh200-96gb"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "nvidia/rtx-pro-6000-server"),
        ("NVIDIA GeForce RTX 4090", "nvidia/rtx-4090"),
        ("Tesla V100-SXM2-16GB", "nvidia/v100-sxm2-16gb"),
        ("Tesla T4", "nvidia/t4"),
    ],
)
def test_names_from_drivers_are_recognised(title, name, fake, monkeypatch):
    facts = fake.cuda.get_device_properties(0)
    facts.name = title
    monkeypatch.setattr(fake.cuda, "get_device_properties", lambda _: facts)
    assert places.find_device(machine("cuda")).name == name


def test_gpu_without_a_spec_is_refused_with_what_to_do(fake, monkeypatch):
    facts = fake.cuda.get_device_properties(0)
    facts.name = "NVIDIA Z9000"
    monkeypatch.setattr(fake.cuda, "get_device_properties", lambda _: facts)
    with pytest.raises(UnavailableError, match=r"no spec of NVIDIA Z9000: .* --spec SPEC.yaml"):
        places.find_device(machine("cuda"))


def test_gpu_without_a_spec_gets_one_from_its_rates(fake, monkeypatch, tmp_path):
    facts = fake.cuda.get_device_properties(0)
    facts.name = "NVIDIA Z9000"
    monkeypatch.setattr(fake.cuda, "get_device_properties", lambda _: facts)
    monkeypatch.setattr(spec_gpu, "_highest_clock", lambda: 1.98e9)
    # The rates of a GPU, since an empty replay on the CPU is no launch.
    rows = [("matmul", name, 2**26, 4e14, "FLOP/s") for name in ("bf16", "tf32")]
    rows += [("bandwidth", "copy", 2**28, 4e12, "B/s"), ("launch", "graph", 4, 2e-6, "s")]
    rows += [("step", "graph", 4, 2e-6, "s")]
    table = pd.DataFrame(rows, columns=["quantity", "pattern", "bytes", "value", "unit"])
    monkeypatch.setattr(spec, "microbenchmarks", lambda _: table.assign(best=table["value"]))
    device = known_device(machine("cuda"), tmp_path)
    assert (device.name, device.family, device.units) == ("nvidia/z9000", "hopper", 132)
    # Hopper's unit does 4,096 FLOP a clock in 16 bits, and half as many in TF32.
    assert device.peak("bf16") == pytest.approx(132 * 4096 * 1.98e9, rel=1e-3)
    assert device.peak("tf32") == pytest.approx(132 * 2048 * 1.98e9, rel=1e-3)
    assert places.find_device(machine("cuda"), tmp_path).name == "nvidia/z9000"


def test_recurrent_rows_of_a_gpu_are_fitted_as_they_are_predicted(fake):
    """Rows are predictions times 1.5: the fit must know the products, algorithms and stacks."""
    device = hardware.load("nvidia/h200-sxm")
    wanted = [c for c in plans.plan("cuda") if c.bench in ("lstm", "gru") and c.dtype == "fp16"]
    wanted = [c for c in wanted if (c.direction, c.launch) == ("fwd", "graph")]
    words = ("timer", "median_s", "q1_s", "q3_s", "clock_hz", "temperature_c", "power_w", "load")
    seen = dict.fromkeys((*words, "peak_bytes", "error", "samples"), 1.0) | {"status": "ok"}
    seen["timer"] = "cudagraph-event-median"
    visits = [{"key": c.key, "case": c.as_dict(), **seen} for c in wanted]
    frame = record.table(visits, machine("cuda"), device.name)
    rows = frame.assign(latency_s=1.5 * with_predictions(frame, device, rung="kernel")["seconds"])
    got = calibrate.calibrate(rows, device, date="2025-01-01")
    assert {(cell.op, cell.framework) for cell in got.file.sections} == {
        ("lstm", "pytorch"),
        ("gru", "pytorch"),
    }
    off = (got.held_out["seconds"] / got.held_out["latency_s"] - 1).abs()
    assert off.median() < 0.05
    assert off.max() < 0.3


def test_fit_is_compared_with_what_is_predicted_without_it(fake):
    """torch's products on an H200 take its TensorRT-LLM constants of
    cuBLAS, not those of an A100 and its host.
    """
    device = hardware.load("nvidia/h200-sxm")
    wanted = [c for c in plans.plan("cuda") if (c.bench, c.dtype, c.direction) == ("bmm", "bf16", "fwd")]
    words = ("median_s", "q1_s", "q3_s", "clock_hz", "temperature_c", "power_w", "load")
    seen = dict.fromkeys((*words, "peak_bytes", "error", "samples"), 1.0)
    seen |= {"status": "ok", "timer": "cudagraph-event-median"}
    visits = [{"key": c.key, "case": c.as_dict(), **seen} for c in wanted if c.launch == "graph"]
    frame = record.table(visits, machine("cuda"), device.name)
    known = with_predictions(frame, device).set_index("row_id")
    assert set(known["constants_from"]) == {"self"}
    # Predictions, and 30 % more where a fit sees them: its constants are 30 % off elsewhere, and are refused.
    seen_by_fit = np.where(heldout.held_out(frame), 1.0, 1.3)
    rows = frame.assign(latency_s=known.loc[frame["row_id"], "seconds"].to_numpy() * seen_by_fit)
    got = calibrate.calibrate(rows, device, date="2025-01-01")
    without = got.held_out.set_index("row_id")["without_s"]
    np.testing.assert_allclose(without, known.loc[without.index, "seconds"])
    assert got.file.sections == ()
    assert "without it" in got.refused[0]


def test_plan_has_only_cases_that_a_gpu_can_run():
    """Every kernel exists there in its format and direction; no backward pass is captured alone."""
    wanted = plans.plan("cuda")
    assert {c.bench for c in wanted} >= {"matmul", "sdpa-flash", "sdpa-cudnn", "triton-attention"}
    assert {(c.bench, c.dtype) for c in wanted} >= {("scaled-mm", "fp8"), ("lstm", "fp16"), ("gru", "bf16")}
    for one in wanted:
        bench = registry.find(one.bench)
        assert "cuda" in bench.devices
        assert one.dtype in bench.dtypes
        assert one.direction in bench.directions
        assert not (one.launch == "graph" and one.direction == "bwd")
        assert not (one.launch == "graph" and one.state == "cold")
        if one.get("kv_heads", one.get("heads", 0)) != one.get("heads", 0):
            # torch documents the first two for its argument enable_gqa.
            assert one.bench in ("sdpa-math", "sdpa-flash", "sdpa-cudnn")
