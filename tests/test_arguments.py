"""Bad input through the Python API: every public function refuses it with one clear line of costmodel's own.

CONTRIBUTING.md, "Bad input is one line", states what every public function must do. Values that are no input
of any function (an object, a closed file, …) must always be refused.
"""

import dataclasses
import importlib
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import costmodel as cm
from costmodel import hardware, layers, model_story, models, parallel, reports, story, validation
from costmodel.arguments import typed
from costmodel.errors import CostmodelError, OutputError, SizeError, UnknownNameError
from costmodel.explore import page as explore
from costmodel.score import score

grids = importlib.import_module("costmodel.sweep")

H200 = hardware.load("nvidia/h200-sxm")
LSTM, FLASH = cm.LSTM(), cm.TiledAttention()
SIZES = {"batch": 2, "seq": 64, "hidden": 64}
ONE = cm.predict(LSTM, H200, **SIZES)
FRAME = cm.sweep([LSTM], [H200], **SIZES)
GRID = grids.make_grid([LSTM], [H200], **SIZES)
GPT2 = models.load("gpt2-small" if "gpt2-small" in models.available() else "gpt2")
STACK = parallel.stack_of(models.load("llama-2-7b"))
EIGHT = parallel.Cluster(device=H200, devices=8)
BY_TENSOR = parallel.Layout(tensor=8)
STEP = {"model": STACK, "cluster": EIGHT, "layout": BY_TENSOR, "batch": 8, "seq": 512}
TRAINING = parallel.Training(**STEP)
MEASURED = pd.DataFrame({"gpu": ["H200"], "op": ["gemm"], "dtype": ["bf16"], "m": [64], "n": [64], "k": [64]})
PAGE = reports.compare(FRAME)
STACKED = {"num_layers": 2, "d_model": 64, "vocab": 100}


class Call:
    """A valid call, one argument of which can be replaced by an invalid value."""

    def __init__(self, function, *args, **kwargs):
        self.function, self.args, self.kwargs = function, args, kwargs

    @property
    def slots(self):
        return [*range(len(self.args)), *self.kwargs]

    def spoiled(self, slot, value):
        args = [value if place == slot else one for place, one in enumerate(self.args)]
        return self.function(*args, **{k: value if k == slot else one for k, one in self.kwargs.items()})


HOW = {"rung": None, "state": "warm", "framework": None}
GRIDDED = {**HOW, "where": None, "prices": None, **SIZES}
STEPPED = {"seq_kv": None, "gradient_bytes": None, "rung": "bound"}

#: A valid call of every public function, and of every class that users construct, by its name in `__all__`.
CALLS = {
    "crossover": Call(
        cm.crossover, LSTM, FLASH, H200, over="seq", of="flops", rung=None, limit=64,
        batch=1, hidden=64, heads=1, head_dim=64,
    ),
    "elasticities": Call(cm.elasticities, ONE),
    "evaluate": Call(cm.evaluate, LSTM, **SIZES),
    "from_torch": Call(cm.from_torch, None, dims=None, direction="fwd", fusion="eager", dtype=None),
    "log2_range": Call(cm.log2_range, 1, 8),
    "predict": Call(cm.predict, LSTM, H200, {}, **HOW, harness=None, kernel=None, **SIZES),
    "sweep": Call(cm.sweep, LSTM, H200, {}, **GRIDDED),
    "what_if": Call(cm.what_if, ONE, [H200]),
    "hardware.Device": Call(hardware.Device, H200.spec),
    "hardware.available": Call(hardware.available),
    "hardware.measured": Call(hardware.measured),
    "hardware.check": Call(hardware.check, "nowhere.yaml"),
    "hardware.family_of": Call(hardware.family_of, "nvidia/h200-sxm"),
    "hardware.foreign_families": Call(hardware.foreign_families, H200),
    "hardware.load": Call(hardware.load, "h200-sxm"),
    "hardware.nearest_families": Call(hardware.nearest_families, H200),
    "hardware.parse_device_set": Call(hardware.parse_device_set, ["hbm=6 TB/s"]),
    "hardware.relatives": Call(hardware.relatives, H200, ["nvidia/a100-sxm-80gb"]),
    "hardware.resolve": Call(hardware.resolve, "h200-sxm"),
    "sweep.Engine": Call(grids.Engine, name="threads", workers=1, cluster=None),
    "sweep.as_frame": Call(grids.as_frame, ONE),
    "sweep.best": Call(grids.best, GRID, "seconds", by=(), engine=None, progress=None),
    "sweep.concat": Call(grids.concat, [FRAME]),
    "sweep.estimate": Call(grids.estimate, GRID, grids.job_of(GRID), None),
    "sweep.front": Call(grids.front, GRID, "seconds", "hbm_bytes", engine=None, progress=None),
    "sweep.job_of": Call(grids.job_of, GRID, best=None, by=(), pareto=None, columns=None),
    "sweep.make_grid": Call(grids.make_grid, [LSTM], [H200], {}, **GRIDDED),
    "sweep.product": Call(grids.product, {"seq": [1, 2]}),
    "sweep.rows_of": Call(grids.rows_of, GRID, [0]),
    "sweep.stream": Call(
        grids.stream, GRID, Path("out.parquet"), columns=None, engine=None, overwrite=True, progress=None
    ),
    "sweep.whole": Call(grids.whole, GRID),
    "reports.check_installed": Call(reports.check_installed),
    "reports.compare": Call(reports.compare, FRAME, facts=None, title="title", command="command"),
    "reports.explorer": Call(reports.explorer, None, title=None, command="command"),
    "reports.model": Call(reports.model, None, first="prefill", command="command"),
    "reports.read": Call(reports.read, "nowhere.csv"),
    "reports.save": Call(reports.save, PAGE, "page.html", overwrite=True),
    "reports.story": Call(reports.story, None, command="command"),
    "reports.validation": Call(
        reports.validation, FRAME, constants=None, memory=None, traffic=None, facts=None, command="command"
    ),
    "validation.measure": Call(
        validation.measure, "cpu", journal="no folder/x.jsonl", full=False, cases=[], budget_s=0.1, passes=1,
        device_name="x",
    ),
    "validation.run": Call(validation.run, "cpu", spec_file="no device", rung=None, journal=None, cases=[]),
    "models.Architecture": Call(models.Architecture, GPT2.name, GPT2.family, GPT2.fields),
    "models.Part": Call(models.Part.of, "part", LSTM, repeats=1, shared=False, **SIZES),
    "models.architectures": Call(models.architectures),
    "models.available": Call(models.available),
    "models.from_config": Call(models.from_config, {}, name="x", model_type=None),
    "models.load": Call(models.load, "llama-2-7b", model_type=None),
    "models.title": Call(models.title, "llama-2-7b"),
    "parallel.Cluster": Call(parallel.Cluster, device=H200, devices=8, node=8, price=1.0),
    "parallel.LanguageModel": Call(
        parallel.LanguageModel, **STACKED, attention="tiled", tied=True, dtype="bf16", embedded=None
    ),
    "parallel.Layered": Call(parallel.Layered.of, GPT2, dtype="bf16", attention="tiled"),
    "parallel.Layout": Call(
        parallel.Layout, tensor=1, pipeline=1, data=1, micro_batch=1, interleave=1, expert=1, expert_tensor=1,
        sequence_parallel=False, recompute="none", zero=0, overlap=True, overlap_experts=False,
    ),
    "parallel.Training": Call(parallel.Training, **STEP, **STEPPED),
    "parallel.Transformer": Call(
        parallel.Transformer, **STACKED, heads=2, kv_heads=None, d_ff=None, head_dim=None, gated=False,
        norm="layer", causal=True, dropout=False,
    ),
    "parallel.largest_batch": Call(parallel.largest_batch, TRAINING, margin=0.1),
    "parallel.longest_sequence": Call(parallel.longest_sequence, TRAINING, margin=0.1),
    "parallel.plan": Call(
        parallel.plan, STACK, EIGHT, batch=8, seq=512, margin=0.1, **STEPPED
    ),
    "parallel.stack_of": Call(parallel.stack_of, GPT2, dtype="bf16", attention="tiled"),
    # Not in `__all__`: layers, methods of devices and models, and the functions behind the commands.
    "layers.get": Call(layers.get, "lstm"),
    "LSTM": Call(cm.LSTM, dtype="bf16", direction="fwd", convention="exact", bidirectional=False),
    "TiledAttention": Call(cm.TiledAttention, causal=True, tile=None, schedule="fa2"),
    "from_text": Call(cm.LSTM.from_text, {"bias": "true"}),
    "Device.peak": Call(H200.peak, "bf16", "matrix"),
    "Device.replace": Call(H200.replace, hbm="6 TB/s", units=100),
    "Device.ridge": Call(H200.ridge, "bf16"),
    "Architecture.decode": Call(GPT2.decode, "bf16"),
    "Architecture.prefill": Call(GPT2.prefill, "bf16", attention="tiled"),
    "Architecture.training": Call(
        GPT2.training, "bf16", attention="tiled", optimizer="adamw", recompute="none"
    ),
    "score": Call(score, MEASURED, rung=None),
    "explore": Call(explore, [LSTM], [H200], {}, title=None, command="command"),
    "story": Call(story.story, rung="bound", devices=["nvidia/h200-sxm"], lengths=[128]),
    "model_story": Call(
        model_story.story, GPT2, [H200], batch=1, seq=64, new=4, dtype="bf16", attention="tiled",
        rung="bound", clusters=(), others=(),
    ),
}  # fmt: skip
#: Classes that only the program constructs and users read: answers, tables and their parts.
ANSWERS = {
    "CostmodelError", "Crossover", "Prediction", "hardware.Fault", "hardware.Quantity", "hardware.Status",
    "sweep.Estimate", "sweep.Grid", "reports.Explorer", "reports.Facts", "reports.Frames",
    "reports.ModelFrames", "reports.Page", "models.Model",
}  # fmt: skip


#: Arguments that are functions.
FUNCTIONS = {(f"sweep.{name}", "progress") for name in ("best", "front", "stream")} | {("sweep.estimate", 1)}


class NoInput:
    """An object that is no valid argument of any function."""


CLOSED = io.StringIO()
CLOSED.close()
#: Values that no function accepts.
NOWHERE = st.sampled_from([NoInput(), CLOSED, 1j, Decimal(2), b"x", ...])
#: Values that some functions accept and most do not.
ELSEWHERE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**400, -(2**63), math.nan, math.inf, -math.inf, 0.5, -1.5]),
    st.sampled_from(["", " ", "nonsense", "3", "a\0b", "x" * 300, "{", "1 GB", "../..", "é"]),
    st.sampled_from([Path("/"), Path("nowhere/x.yaml"), Path("a\0b"), Path()]),
    st.lists(st.sampled_from([None, 0, -1, 1.5, "x", math.nan, "seq"]), max_size=2),
    st.dictionaries(st.sampled_from(["a", 1, None]), st.sampled_from([None, 1, "x"]), max_size=1),
    st.sampled_from([(), np.array([]), np.array([1.0, math.nan]), np.array("x"), np.float64(-1)]),
    st.sampled_from([pd.DataFrame(), pd.DataFrame({"a": [1]}), pd.Series([1.0])]),
    st.sampled_from([LSTM, cm.LSTM, H200, ONE, GRID, GPT2, EIGHT, BY_TENSOR, PAGE]),
)


def test_every_public_name_is_called_here_or_is_an_answer():
    every = {name for name in cm.__all__ if name != "__version__"}
    inner = {"hardware": hardware, "sweep": grids, "reports": reports, "validation": validation}
    inner |= {"models": models, "parallel": parallel}
    for prefix, module in inner.items():
        every |= {f"{prefix}.{name}" for name in module.__all__ if callable(getattr(module, name))}
    every -= {*inner, "layers"} - {"sweep"}
    assert every - set(CALLS) - ANSWERS - {"sweep.sweep", "sweep.log2_range"} == set()


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.slots])
@settings(max_examples=50, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_invalid_arguments_are_refused_with_one_line(name, data, tmp_path, monkeypatch):
    """Hypothesis replaces one argument at a time; values of `NOWHERE` must be refused."""
    monkeypatch.chdir(tmp_path)
    call = CALLS[name]
    slot = data.draw(st.sampled_from(call.slots))
    nowhere, value = data.draw(NOWHERE.map(lambda v: (True, v)) | ELSEWHERE.map(lambda v: (False, v)))
    # A callback is the user's: what it raises is not costmodel's to report.
    assume(not callable(value) or (name, slot) not in FUNCTIONS)
    try:
        call.spoiled(slot, value)
    except CostmodelError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert len(text) < 1000
    else:
        assert not nowhere, f"{name} takes {value!r} as {slot}"


# -- values that used to be accepted ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda: parallel.Layout(recompute="nonsense"), "unknown recompute 'nonsense' of a layout"),
        (lambda: parallel.Layout(sequence_parallel="no"), "wanted sequence_parallel to be True or False"),
        (lambda: parallel.LanguageModel(num_layers=-1, d_model=64, vocab=10), "size num_layers: wanted"),
        (lambda: parallel.LanguageModel(num_layers=1, d_model=64, vocab=1.5), "size vocab: wanted"),
        (lambda: parallel.LanguageModel(**STACKED, embedded=0), "size embedded: wanted"),
        (lambda: parallel.stack_of(GPT2, attention="banana"), "unknown attention"),
        (lambda: parallel.stack_of(GPT2, dtype="fp33"), "unknown dtype"),
        (lambda: parallel.Transformer(**STACKED, heads=2, norm="max"), "unknown norm"),
        (lambda: parallel.Cluster(device="h300", devices=8), "unknown device"),
        (lambda: parallel.Training(**STEP, gradient_bytes=10**400), "wanted gradient_bytes above 0"),
        (lambda: grids.best(GRID, "seconds", by="device"), "wanted by to be several, each text, got 'd"),
        (lambda: grids.stream(GRID, "table.csv"), "wanted a name that ends in .parquet"),
        (lambda: grids.job_of(GRID, pareto=["seconds"]), "wanted two columns, got 1"),
        (lambda: grids.rows_of(GRID, [1]), "wanted numbers of points from 0 to 0, got 1"),
        (lambda: grids.Engine(workers=1.5), "workers: wanted a whole number of at least 1, got 1.5"),
        (lambda: reports.save(PAGE, "x.html", overwrite="no"), "wanted overwrite to be True or False"),
        (lambda: reports.compare(None), r"wanted frame to be a DataFrame \(a table of pandas\), got None"),
        (lambda: cm.what_if(3), r"wanted prediction to be a Prediction \(as costmodel.predict returns it\)"),
        (lambda: cm.crossover(LSTM, FLASH, over="seq", of="flops", batch=[[1]]), "wanted one batch"),
        (lambda: models.Part.of("x", LSTM, batch="2 + 2"), "wanted batch to be an Expr or a number, got '2"),
        (lambda: model_story.story(GPT2, []), "wanted one device or more"),
        (lambda: story.story(devices=[]), "wanted one device or more"),
        (lambda: hardware.family_of("nvidia/h300"), "unknown device"),
    ],
)  # fmt: skip
def test_invalid_values_once_accepted_are_refused(ask, text):
    with pytest.raises(CostmodelError, match=text):
        ask()


@pytest.mark.parametrize(
    ("given", "text"),
    [({"budget_s": math.nan}, "wanted budget_s above 0"), ({"passes": 0}, "passes: wanted a whole number")],
)
def test_measure_refuses_an_invalid_budget_or_number_of_passes(given, text):
    pytest.importorskip("torch")
    with pytest.raises(CostmodelError, match=text):
        validation.measure("cpu", cases=[], **given)


def test_grouping_by_a_column_twice_equals_grouping_once():
    once, twice = (grids.best(GRID, "seconds", by=by) for by in (["seq"], ["seq", "seq"]))
    pd.testing.assert_frame_equal(once, twice)


def test_name_too_long_for_the_file_system_is_a_costmodel_error():
    for ask in (models.load, reports.read):
        with pytest.raises(CostmodelError, match="File name too long"):
            ask("x" * 300)


def test_paths_may_be_strings(tmp_path):
    FRAME.to_csv(tmp_path / "x.csv", index=False)
    assert len(reports.read(str(tmp_path / "x.csv"))) == len(FRAME)
    assert grids.stream(GRID, str(tmp_path / "x.parquet")) == GRID.points
    with pytest.raises(OutputError, match="exists"):
        grids.stream(GRID, str(tmp_path / "x.parquet"))


def test_error_text_is_folded_into_one_line():
    for error in (CostmodelError, UnknownNameError):
        assert str(error("wanted this,\n\n  got\tthat")) == "wanted this, got that"


# -- the check itself ----------------------------------------------------------------------------


@typed
def spoken(
    names: Sequence[str] = (),
    sizes: Mapping[str, float] | None = None,
    *more: int,
    each: Iterable[int] = (),
    tell: Callable[[int], None] | None = None,
    sure: bool = False,
    count: int = 1,
    **rest: float,
):
    """Say what was given."""
    return names, sizes, more, list(each), tell, sure, count, rest


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((["a"], {"a": 1}, "anything", None), {}),
        ((("a", "b"), None), {"each": iter([1, 2]), "sure": np.bool_(True), "count": np.int64(3)}),
        (([],), {"each": {1, 2}, "tell": print, "other": np.float32(1.0)}),
        (([],), {"each": np.array([1, 2])}),
        (([],), {"sizes": {}, "each": range(3), "count": 2.5}),
    ],
)
def test_arguments_that_match_their_annotations_are_accepted(args, kwargs):
    assert len(spoken(*args, **kwargs)) == 8


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        (("abc",), {}, "spoken: wanted names to be several, each text, got 'abc'"),
        ((["a", 1],), {}, r"wanted names to be several, each text, got \['a', 1\]"),
        (([], [("a", 1)]), {}, "wanted sizes to be a mapping of text to a number or None, got"),
        (([], {"a": "1"}), {}, "wanted sizes to be"),
        ((), {"each": np.array(1)}, "wanted each to be several, each a number, got a ndarray"),
        ((np.array([1]),), {}, "wanted names to be several, each text"),
        ((), {"each": open}, "wanted each to be several, each a number, got a builtin"),
        ((), {"tell": cm.models.load("gpt2")}, "got an Architecture"),
        ((), {"tell": 3}, "wanted tell to be a function or None, got 3"),
        ((), {"sure": 1}, "wanted sure to be True or False, got 1"),
        ((), {"count": True}, "wanted count to be a number, got True"),
        ((), {"other": "1"}, "wanted other to be a number, got '1'"),
        ((), {"count": str}, "got the class str"),
    ],
)
def test_arguments_that_contradict_their_annotations_are_refused(args, kwargs, text):
    with pytest.raises(CostmodelError, match=text):
        spoken(*args, **kwargs)


def test_checking_does_not_consume_an_iterator():
    given = iter([1, "x"])
    assert spoken(each=given)[3] == [1, "x"]


def test_wrong_number_is_a_size_error_and_wrong_call_a_type_error():
    with pytest.raises(SizeError):
        spoken(count="3")
    with pytest.raises(TypeError, match="positional argument"):
        cm.predict()
    with pytest.raises(TypeError, match="unexpected keyword"):
        cm.what_if(ONE, nonsense=1)


def test_dataclasses_replace_checks_its_arguments_too():
    with pytest.raises(CostmodelError, match="Layout: wanted overlap to be True or False"):
        dataclasses.replace(BY_TENSOR, overlap=None)
    assert typed(spoken).__doc__ == "Say what was given."
