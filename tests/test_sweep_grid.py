"""Grids: every point once and in order, the numbers of single predictions, conditions, energy and cost."""

import itertools
import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import costmodel as cm
from costmodel import layers
from costmodel.errors import CostmodelError, SizeError, UnavailableError, UnknownNameError
from costmodel.sweep import case as cases
from costmodel.sweep import grid as grids
from costmodel.sweep import make_grid, product, rows_of, whole
from costmodel.sweep import program as program_of
from costmodel.sweep.where import condition

SIZES = {"batch": [1, 2, 8], "seq": np.arange(1, 9) * 128, "heads": [4, 8, 12], "head_dim": 64}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make boxes and chunks so small that a test's grid has many."""
    monkeypatch.setattr(cases, "BOX", 7)
    monkeypatch.setattr(grids, "CHUNK", 20)


@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=5), box=st.integers(1, 40))
def test_boxes_are_every_point_once_and_in_order(shape, box):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "BOX", box)
        axes = {name: np.arange(1.0, n + 1) for name, n in zip("abcde", shape, strict=False)}
        case = cases.Case(cm.LSTM(), cm.hardware.load("h200-sxm"), axes, {})
        found = []
        for number in range(case.boxes):
            start, slices = case.box(number)
            inside = list(
                itertools.product(*(axis[s] for axis, s in zip(axes.values(), slices, strict=True)))
            )
            assert start == len(found)
            assert len(inside) <= box
            found += inside
    assert found == list(itertools.product(*axes.values()))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("rung", ["bound", "kernel"])
def test_a_grid_has_the_numbers_of_single_predictions(rung):
    kinds = [cm.TiledAttention(causal=True), cm.LSTM()]
    grid = make_grid(kinds, ["h200-sxm", "a100-sxm-80gb"], rung=rung, hidden=[64, 96], **SIZES)
    frame = whole(grid)
    assert len(frame) == grid.points
    for row in frame.sample(12, random_state=1).itertuples():
        layer = kinds[row.layer == "lstm"]
        sizes = {n: getattr(row, n) for n in ("batch", "seq", "heads", "head_dim", "hidden")}
        p = cm.predict(layer, row.device, {n: v for n, v in sizes.items() if n in layer.sizes()}, rung=rung)
        assert row.seconds == pytest.approx(p.seconds, rel=1e-12)
        assert (row.depth, row.hbm_bytes, row.launches) == (p.depth, p.hbm_bytes, p.launches)
    chosen = [0, grid.points - 1, 17, 5]
    pd.testing.assert_frame_equal(
        rows_of(grid, chosen).astype({"bound": str}),
        frame.iloc[chosen].reset_index(drop=True).astype({"bound": str}),
        check_categorical=False,
        rtol=1e-12,
    )


#: Sizes that go together in every layer; sizes not named here are 64.
USUAL = {
    "batch": [1, 3], "seq": [64, 256, 4096], "heads": [8, 16], "head_dim": [64, 128], "hidden": [256, 512],
    "d_model": [1024, 2048], "m": [64, 999], "n": [128, 4096], "k": [4, 256], "state": [16, 64],
    "experts": 8, "top_k": 2, "seq_kv": 8192, "devices": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(layers.classes()))
def test_boxes_of_every_layer_have_the_numbers_of_flat_columns(name):
    layer = layers.get(name)()
    sizes = {size: USUAL.get(size, 64) for size in layer.required}
    flat = cm.predict(layer, "h200-sxm", product(sizes))
    frame = whole(make_grid(layer, "h200-sxm", sizes))
    for column in (
        "seconds",
        "lower_s",
        "serial_s",
        "matrix_flops",
        "hbm_bytes",
        "l2_bytes",
        "footprint_bytes",
    ):
        assert np.allclose(frame[column], getattr(flat, column), rtol=1e-12, atol=0), column
    assert list(frame["bound"].astype(str)) == list(flat.bound)


def test_chunks_hold_every_point_once_and_do_not_cross_cases():
    grid = make_grid(
        [cm.LSTM(), cm.GRU()], "h200-sxm", rung="bound", batch=range(1, 900), seq=range(1, 900), hidden=8
    )
    assert sum(grid.points_of(chunk) for chunk in grid.chunks) == grid.points == 2 * 899 * 899
    assert max(grid.points_of(chunk) for chunk in grid.chunks) <= 2 * grids.CHUNK
    assert [chunk.case for chunk in grid.chunks] == sorted(chunk.case for chunk in grid.chunks)


def test_grid_of_a_billion_points_is_computed_only_where_asked():
    grid = make_grid(cm.Matmul(), "h200-sxm", rung="bound", **{n: np.arange(1, 1001) for n in "mnk"})
    assert grid.points == 10**9
    last = rows_of(grid, [10**9 - 1])
    assert list(last.loc[0, ["m", "n", "k"]]) == [1000, 1000, 1000]
    assert last["matrix_flops"][0] == 2 * 1000**3


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"rung": "bond"}, "unknown rung 'bond'; did you mean 'bound'"),
        ({"framework": "vlm"}, "unknown framework 'vlm'; did you mean 'vllm'"),
        ({"state": "wram"}, "unknown state 'wram'; did you mean 'warm'"),
    ],
)
def test_unknown_words_are_refused_when_the_grid_is_made(asked, text):
    with pytest.raises(UnknownNameError, match=text):
        make_grid(cm.LSTM(), "h200-sxm", batch=1, seq=8, hidden=8, **asked)


def test_state_is_a_size_where_it_is_a_number():
    mamba = layers.get("mamba")()
    grid = make_grid(mamba, "h200-sxm", rung="bound", batch=1, seq=8, d_model=8, state=[8, 16])
    assert whole(grid)["state_size"].tolist() == [8, 16]


def test_a_grid_has_at_most_a_million_million_points():
    axis = np.arange(1, 10_001)
    assert make_grid(cm.Matmul(), "h200-sxm", rung="bound", m=axis, n=axis, k=axis).points == 10**12
    text = r"wanted at most 1,000,000,000,000 points, got 1,000,100,000,000; give longer steps"
    with pytest.raises(SizeError, match=text):
        make_grid(cm.Matmul(), "h200-sxm", rung="bound", m=axis, n=axis, k=[*axis, 20_000])


def test_grid_survives_pickling():
    grid = make_grid(cm.LSTM(), "h200-sxm", rung="bound", batch=1, seq=[1, 2], hidden=8, where="seq > 1")
    grid.warm_up()
    back = pickle.loads(pickle.dumps(grid))
    assert back.identity == grid.identity
    assert len(whole(back)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"rung": "bound"},
        {"seq": [1, 2, 4]},
        {"where": "seq > 1"},
        {"prices": {"h200-sxm": 2.0}},
        {"state": "cold"},
        {"framework": "pytorch"},
    ],
)
def test_identity_changes_with_every_part_of_a_sweep(change):
    given = {"batch": 1, "seq": [1, 2, 3], "hidden": 8}
    one, other = (make_grid(cm.LSTM(), "h200-sxm", **{**given, **more}) for more in ({}, change))
    assert one.identity == make_grid(cm.LSTM(), "h200-sxm", **given).identity
    assert one.identity != other.identity
    faster = cm.hardware.load("h200-sxm").replace(hbm="6 TB/s")
    assert one.identity != make_grid(cm.LSTM(), faster, **given).identity


def test_identity_changes_with_options_of_a_layer():
    ways = [{}, {"bidirectional": True}, {"direction": "bwd"}, {"dtype": "fp16"}]
    grids = [
        make_grid(cm.LSTM(**way), "h200-sxm", rung="bound", batch=1, seq=[1, 2], hidden=8) for way in ways
    ]
    assert len({grid.identity for grid in grids}) == len(ways)


def test_identity_changes_with_a_users_spec_and_constants(tmp_path):
    """Files of one name, of which the program's own hash knows nothing."""
    folder = Path(cm.hardware.__file__).parent / "nvidia"
    spec, fitted = ((folder / f"h200-sxm{end}").read_text() for end in (".yaml", ".calibration.yaml"))
    refitted = yaml.safe_load(fitted)
    for section in refitted["sections"]:
        section["constants"] = {name: 0.9 * value for name, value in section["constants"].items()}
    said = {
        "one": (spec, fitted),
        "other power": (spec.replace("700 W", "600 W"), fitted),
        "third power": (spec.replace("700 W", "650 W"), fitted),
        "other constants": (spec, yaml.safe_dump(refitted, sort_keys=False)),
    }
    identities = set()
    for name, files in said.items():
        (tmp_path / name).mkdir()
        for end, text in zip((".yaml", ".calibration.yaml"), files, strict=True):
            (tmp_path / name / f"h200-sxm{end}").write_text(text)
        device = tmp_path / name / "h200-sxm.yaml"
        identities.add(make_grid(cm.LSTM(), device, batch=1, seq=8, hidden=8).identity)
    assert len(identities) == len(said)


def test_identity_changes_with_every_module_that_predictions_use(tmp_path, monkeypatch):
    counted = ("plan.py", "kernels/gemm.py", "hardware/device.py", "hardware/families.yaml")
    for name in (*counted, "cli/app.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    folders = {"costmodel": tmp_path, "costmodel.hardware": tmp_path / "hardware"}
    monkeypatch.setattr(program_of.resources, "files", folders.__getitem__)

    def identity():
        program_of.program.cache_clear()
        return make_grid(cm.LSTM(), "h200-sxm", rung="bound", batch=1, seq=[1, 2], hidden=8).identity

    first = identity()
    try:
        for name in counted:
            before = identity()
            (tmp_path / name).write_text("x = 2\n", encoding="utf-8")
            assert identity() != before, name
            (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
        (tmp_path / "cli" / "app.py").write_text("x = 2\n", encoding="utf-8")
        assert identity() == first
    finally:
        program_of.program.cache_clear()


# -- energy and cost ---------------------------------------------------------------------------


def test_energy_is_tdp_times_time_and_cost_the_users_price_times_time():
    sizes = {"batch": 1, "seq": [8, 16], "hidden": 256}
    frame = cm.sweep(
        cm.LSTM(),
        ["h200-sxm", "a100-sxm-80gb"],
        rung="bound",
        prices={"a100-sxm-80gb": 0.36},
        **{**sizes},
        where="seq > 0",
    )
    h200, a100 = (frame[frame["device"] == name] for name in ("nvidia/h200-sxm", "nvidia/a100-sxm-80gb"))
    # NVIDIA's datasheets: up to 700 W, and 400 W.
    assert np.allclose(h200["energy_j"], 700 * h200["seconds"], rtol=1e-15)
    assert np.allclose(a100["energy_j"], 400 * a100["seconds"], rtol=1e-15)
    assert np.allclose(a100["cost"], 1e-4 * a100["seconds"], rtol=1e-15)
    assert h200["cost"].isna().all()
    assert "cost" not in cm.sweep(cm.LSTM(), "a100-sxm-80gb", rung="bound", **sizes)


def test_a_price_is_of_the_device_that_it_names():
    """A changed device is not the one that it was made from."""
    h200 = cm.hardware.load("h200-sxm")
    faster = h200.replace(hbm="6 TB/s")
    sizes = {"batch": 1, "seq": 8, "hidden": 8}
    for name in (faster.name, "h200-sxm"):
        frame = cm.sweep(cm.LSTM(), [h200, faster], rung="bound", prices={name: 3.6}, **sizes)
        paid = frame[frame["cost"].notna()]
        assert paid["device"].tolist() == [name if name == faster.name else h200.name]
        assert np.allclose(paid["cost"], 1e-3 * paid["seconds"], rtol=1e-15)


def test_a_device_may_be_free():
    """As in `costmodel model` and `costmodel plan`: one's own, whose price is 0, costs 0, not NaN."""
    sizes = {"batch": 1, "seq": [8, 16], "hidden": 8}
    frame = cm.sweep(cm.LSTM(), ["l4", "a40"], rung="bound", prices={"l4": 0, "a40": 1}, **sizes)
    free = frame["device"] == "nvidia/l4"
    assert (frame["cost"][free] == 0).all()
    assert (frame["cost"][~free] > 0).all()


def test_a_device_without_a_tdp_has_no_energy():
    tpu = cm.hardware.load("google/tpu-v5e")
    frame = cm.sweep(cm.LSTM(), tpu, rung="bound", batch=1, seq=8, hidden=8)
    assert tpu.tdp_w is None
    assert frame["energy_j"].isna().all()


@pytest.mark.parametrize(
    ("prices", "text"),
    [
        ({"a100-sxm-80gb": 1.0}, "device .* of this sweep"),
        ({"h200-sxm": -1.0}, "at least 0 for an hour, got -1.0"),
        ({"h200-sxm": math.nan}, "at least 0 for an hour, got nan"),
        ({"h200-sxm": math.inf}, "at least 0 for an hour, got inf"),
        ({"h200-sxm": 1.0, "nvidia/h200-sxm": 2.0}, "of nvidia/h200-sxm is given twice: 1.0 and 2.0"),
    ],
)
def test_bad_prices_are_refused(prices, text):
    with pytest.raises(CostmodelError, match=text):
        make_grid(cm.LSTM(), "h200-sxm", rung="bound", prices=prices, batch=1, seq=8, hidden=8)


# -- conditions --------------------------------------------------------------------------------

CONDITIONS = [
    "seq >= 512",
    "heads % kv_heads == 0",
    "seconds < 1e-5 and batch in (1, 8)",
    "layer == 'lstm' or heads == 8",
    "bound != 'hbm' and not seq == 128",
    "256 <= seq <= 512 and l2_bytes / hbm_bytes > 0.1",
    "batch * seq + 1 > 1000 and device != 'nvidia/a100-sxm-80gb'",
    "footprint_bytes < 2.5e6 and batch not in (2,)",
    "seq > 1e9",
]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("text", CONDITIONS)
def test_conditions_keep_the_rows_that_pandas_keeps(text):
    kinds = [cm.TiledAttention(), cm.LSTM()]
    given = {**SIZES, "kv_heads": [2, 3], "hidden": 64}
    both = "heads % kv_heads == 0"
    # The layer refuses heads that kv_heads does not divide: `where` removes them before they are predicted.
    everything = cm.sweep(
        kinds, ["h200-sxm", "a100-sxm-80gb"], rung="bound", where=f"layer == 'lstm' or {both}", **given
    )
    text = text if text == both else f"(layer == 'lstm' or {both}) and ({text})"
    found = cm.sweep(kinds, ["h200-sxm", "a100-sxm-80gb"], rung="bound", where=text, **given)
    wanted = everything.astype(dict.fromkeys(everything.select_dtypes("category"), object)).query(text)
    assert len(found) == len(wanted)
    assert np.array_equal(found["seconds"], wanted["seconds"])
    assert np.array_equal(found["heads"], wanted["heads"], equal_nan=True)


@pytest.mark.parametrize(
    "text", ["layer == 'lstm'", "options == 'lstm[fp16]'", "dtype == 'fp16'", "device == 'google/tpu-v5e'"]
)
def test_conditions_on_text_and_sizes_apply_before_sizes_are_refused(text):
    """Four heads cannot share three keys evenly, and the layer refuses them."""
    kinds = [cm.TiledAttention(), cm.LSTM(dtype="fp16")]
    sizes = {"batch": 1, "seq": 8, "hidden": 8, "heads": 4, "head_dim": 8, "kv_heads": [2, 3]}
    found = cm.sweep(kinds, "h200-sxm", rung="bound", where=f"{text} or heads % kv_heads == 0", **sizes)
    attention = found[found["layer"] == "tiled-attention"]
    assert attention["kv_heads"].tolist() == [2]


@pytest.mark.parametrize("given", [{}, {"summary": [2, 8, 32]}])
def test_conditions_on_sizes_with_defaults_apply_before_sizes_are_refused(given):
    """A block of `stride` positions cannot be summarised in more of them, and the layer refuses it."""
    strides, layer = [4, 8, 16], layers.get("strided")(pattern="fixed")
    sizes = {"batch": 1, "heads": 2, "seq": 256, "head_dim": 64, "stride": strides, **given}
    with pytest.raises(SizeError, match="summary"):
        make_grid(layer, "h200-sxm", sizes, rung="bound")
    found = cm.sweep(layer, "h200-sxm", sizes, rung="bound", where="stride >= summary")
    summaries = given.get("summary", [layer.defaults["summary"]])
    wanted = {(stride, summary) for stride in strides for summary in summaries if stride >= summary}
    assert {(row.stride, row.summary) for row in found.itertuples()} == wanted


def test_sizes_that_equal_others_by_default_are_known_before_sizes_are_refused():
    """Channels that come in three groups; those that go in are as many by default."""
    layer = layers.get("conv")(groups=3)
    sizes = {"batch": 1, "seq": 8, "d_model": [4, 6, 9]}
    found = cm.sweep(layer, "h200-sxm", sizes, rung="bound", where="input % 3 == 0")
    assert found["d_model"].tolist() == [6, 9]


@pytest.mark.parametrize("where", ["seq > 5", "seconds < 0"])
def test_boxes_without_a_wanted_point_are_skipped(where):
    grid = make_grid(cm.LSTM(), "h200-sxm", rung="bound", batch=1, seq=[1, 5], hidden=8, where=where)
    assert list(grid.predicted(grid.chunks[0])) == []


def test_sizes_that_do_not_go_together_are_refused_when_the_grid_is_made():
    with pytest.raises(SizeError, match="heads"):
        make_grid(cm.TiledAttention(), "h200-sxm", rung="bound", kv_heads=[1, 5], **SIZES)


@given(a=st.integers(-5, 5), b=st.integers(1, 5))
@pytest.mark.parametrize(
    "text",
    [
        "a // b + a % b * 2 - -a",
        "max(a, b, 2) ** 2 / min(a, b) > abs(a)",
        "sqrt(b) < 2",
        "ceil(a / b) * 10 + floor(a / b) + +a",
        "log2(b) >= 1",
        "a < b <= 3 != a or not (a in (1, b) and b not in [2, a])",
        "0 < b in (1, 3)",
    ],
)
def test_arithmetic_of_conditions_is_pythons(text, a, b):
    if "min" in text and min(a, b) == 0:
        return
    names = {"a": float(a), "b": float(b), "max": max, "min": min, "abs": abs, "sqrt": math.sqrt}
    names |= {"ceil": math.ceil, "floor": math.floor, "log2": math.log2}
    compared = f"{text} == {eval(text, {}, names)!r}" if "<" not in text and ">" not in text else text
    wanted = eval(compared, {}, names)
    assert bool(condition(compared, ["a", "b"])({"a": float(a), "b": float(b)}.__getitem__)) == bool(wanted)


def test_parts_of_a_condition_are_what_and_joins_at_the_top():
    known = ["a", "b", "seconds"]
    for text, parts in (
        ("a % b == 0 and seconds < 1 and not b > 2", [("a", "b"), ("seconds",), ("b",)]),
        ("a > 1 and b > 1 or seconds < 1", [("a", "b", "seconds")]),
        ("not (a > 1 and b > 1)", [("a", "b")]),
    ):
        assert [tuple(sorted(part.columns)) for part in condition(text, known).parts()] == parts


def test_whole_numbers_of_conditions_do_not_wrap_around():
    """10³⁰ has 100 bits."""
    a = {"a": np.array([1.0, 1e29, 1e31])}
    assert condition("a < 10 ** 30", ["a"])(a.__getitem__).tolist() == [True, True, False]


def test_a_quotient_by_zero_is_infinite_or_nothing_without_a_warning():
    a = np.array([-1.0, 0.0, 1.0])
    with warnings.catch_warnings(action="error"):
        assert condition("a / 0 > 1", ["a"])({"a": a}.__getitem__).tolist() == [False, False, True]


@pytest.mark.parametrize("where", [None, "seq > 4"])
def test_what_a_device_cannot_run_is_refused_when_the_grid_is_made(where):
    sizes = {"batch": 1, "seq": 8, "hidden": 8, "where": where}
    with pytest.raises(UnavailableError, match="no fp8 rate"):
        make_grid(cm.LSTM(dtype="fp8"), ["h200-sxm", "nvidia/p100-sxm2-16gb"], **sizes)
    with pytest.raises(UnavailableError, match="has no constants of its own"):
        make_grid(cm.LSTM(), ["h200-sxm", "google/tpu-v5e"], rung="calibrated", **sizes)


def test_size_that_no_layer_has_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="foo"):
        cm.sweep(cm.LSTM(), "h200-sxm", batch=1, seq=[8], hidden=8, foo=3)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", CostmodelError, "wanted an expression"),
        ("seq <", CostmodelError, "wanted an expression"),
        ("seq", CostmodelError, "wanted a comparison"),
        ("sek > 1", UnknownNameError, "'seq'"),
        ("exp(seq) > 1", UnknownNameError, "unknown function"),
        ("__import__('os').system('true')", UnknownNameError, "unknown function"),
        ("seq.real > 1", CostmodelError, "1': seq.real is not arithmetic"),
        ("(lambda: 1)() > 0", UnknownNameError, "unknown function"),
        ("[x for x in (1, 2)]", CostmodelError, "not arithmetic"),
        ("seq in 'abc'", CostmodelError, "not arithmetic"),
        ("seq in batch", CostmodelError, "not arithmetic"),
        ("1 < seq in batch", CostmodelError, "not arithmetic"),
        ("seq not in (1, 2) < batch", CostmodelError, "not arithmetic"),
        ("seq < None", CostmodelError, "not arithmetic"),
        ("seq < 9223372036854775808", CostmodelError, "not arithmetic"),  # 2⁶³
        ("max() > 1", CostmodelError, "not arithmetic"),
        ("max(seq, key=1) > 1", CostmodelError, "not arithmetic"),
        # NumPy would write the logarithms of the first over the second.
        ("log2(seq, seq) > 1", CostmodelError, "log2 takes one value, got 2$"),
        ("abs(seq, batch, 1) > 1", CostmodelError, "abs takes one value, got 3$"),
        ("seq & 1 == 1", CostmodelError, "1': BitAnd is not arithmetic"),
        ("layer + 1 > 2", CostmodelError, "condition"),
        ("device == 5", CostmodelError, "5': mixes text and numbers"),
        ("seq in (1, 'a')", CostmodelError, "mixes text and numbers"),
        ("'a' < seq", CostmodelError, "mixes text and numbers; compare like with like$"),
        ("sqrt(layer) > 1", CostmodelError, "mixes text and numbers"),
        ("-" * 500 + "seq > 1", CostmodelError, "deep$"),
        ("seq > 1" + " + 1" * 5000, CostmodelError, "deep$|wanted an expression"),
    ],
)
def test_invalid_condition_is_refused(text, error, says):
    with pytest.raises(error, match=says):
        cm.sweep(cm.LSTM(), "h200-sxm", rung="bound", batch=1, seq=[8], hidden=8, where=text or " ")
