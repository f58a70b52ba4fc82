"""The best of a grid, against the whole table sorted by pandas."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import costmodel as cm
from costmodel.errors import CostmodelError, UnknownNameError
from costmodel.sweep import Engine, best, front, make_grid, whole
from costmodel.sweep import case as cases
from costmodel.sweep import grid as grids
from costmodel.sweep.pareto import Front, front_of

LEAST = {"seconds": "seconds", "energy": "energy_j", "cost": "cost", "footprint_bytes": "footprint_bytes"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make boxes and chunks so small that a test's grid has many."""
    monkeypatch.setattr(cases, "BOX", 40)
    monkeypatch.setattr(grids, "CHUNK", 130)


@pytest.fixture
def grid() -> grids.Grid:
    return make_grid(
        [cm.TiledAttention(), cm.LSTM()],
        ["h200-sxm", "a100-sxm-80gb"],
        rung="bound",
        seq=np.arange(1, 13) * 64,
        batch=[4, 1, 2],
        heads=[8, 2, 4],
        kv_heads=[1, 4],
        head_dim=[64, 128],
        hidden=[256, 64],
        where="(layer == 'lstm' or heads % kv_heads == 0) and seconds > 2e-6",
        prices={"h200-sxm": 3.5, "a100-sxm-80gb": 1.2},
    )


@pytest.mark.parametrize("of", LEAST)
def test_best_is_the_row_with_the_least_of_the_column(grid, of):
    frame = whole(grid)
    # idxmin gives the first of equals, and so do we.
    wanted = frame.loc[[frame[LEAST[of]].idxmin()]].reset_index(drop=True)
    found = best(grid, of, engine=Engine(workers=2))
    pd.testing.assert_frame_equal(
        found.astype({"bound": str}), wanted.astype({"bound": str}), check_categorical=False
    )
    assert best(grid, f"-{of}")[LEAST[of]][0] == frame[LEAST[of]].max()


FORMULAS = {
    "cost / batch": lambda t: t["cost"] / t["batch"],
    "-batch / seconds": lambda t: -t["batch"] / t["seconds"],
    "max(time, energy) * sqrt(batch)": lambda t: t[["seconds", "energy_j"]].max(axis=1) * t["batch"] ** 0.5,
}


@pytest.mark.parametrize("of", FORMULAS)
def test_best_of_a_formula_is_the_row_where_pandas_finds_its_least(grid, of):
    """Points that the condition leaves out have no value, whatever the formula makes of them."""
    frame = whole(grid)
    values = FORMULAS[of](frame)
    found = best(grid, of, engine=Engine(workers=2))
    assert FORMULAS[of](found).tolist() == [values.min()]
    by_device = best(grid, of, by=["device"])
    least = values.groupby(frame["device"].astype(str)).min()
    assert dict(zip(by_device["device"], FORMULAS[of](by_device), strict=True)) == least.to_dict()


def test_front_of_formulas_trades_time_for_the_cost_of_a_sequence(grid):
    frame, found = whole(grid), front(grid, "seconds", "cost / batch")
    each = found["cost"] / found["batch"]
    assert (np.diff(found["seconds"]) > 0).all()
    assert (np.diff(each) < 0).all()
    assert each.iloc[-1] == (frame["cost"] / frame["batch"]).min()
    assert found["seconds"].iloc[0] == frame["seconds"].min()


@pytest.mark.parametrize(
    ("of", "says"),
    [
        ("cost / layer", "wanted a numeric column, such as seconds, got 'layer', which is text"),
        ("cost / nobody", "'nobody'"),
        ("cost /", "formula 'cost /': wanted an expression, such as 'cost / batch'"),
        ("cost < batch", "formula 'cost < batch': wanted a number, such as 'cost / batch'"),
        ("exec(batch)", "'exec'"),
        ("3", "formula '3': has no column; wanted one, such as 'cost / batch'"),
        ("cost / hidden", "hidden is not a size of every layer; leave out tiled-attention"),
    ],
)
def test_formula_that_is_none_is_refused(grid, of, says):
    with pytest.raises(CostmodelError, match=says):
        best(grid, of)


def test_requested_engine_does_the_work_and_reports_progress(grid, monkeypatch):
    asked, told = [], []
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, *work: asked.append(self) or run(self, *work))
    engine = Engine(workers=1)
    best(grid, "seconds", engine=engine, progress=told.append)
    assert asked == [engine]
    # Progress counts up chunk by chunk to all points.
    assert told == [sum(map(grid.points_of, grid.chunks[: n + 1])) for n in range(len(told))]
    assert 1 < len(told) == len(grid.chunks)


@pytest.mark.parametrize(
    "by", [["layer"], ["seq"], ["batch", "device"], ["head_dim", "seq", "batch"], ["heads"]]
)
def test_best_by_has_the_least_of_every_group(grid, by):
    frame = whole(grid).astype({"layer": str, "device": str})
    first = frame.groupby(by, dropna=False)["cost"].idxmin().sort_values()
    found = best(grid, "cost", by=by)
    # Rows of a layer that lacks a size form one more group.
    assert np.array_equal(found["cost"], frame.loc[first, "cost"])
    for name in by:
        assert list(found[name].astype(str)) == list(frame.loc[first, name].astype(str))


@pytest.mark.parametrize(
    "pair", [("seconds", "-matrix_flops"), ("cost", "seconds"), ("-seq", "footprint_bytes")]
)
def test_front_has_the_rows_that_no_other_beats(grid, pair):
    frame = whole(grid)
    found = front(grid, *pair, engine=Engine(workers=2))
    values = np.array([-frame[p[1:]] if p[0] == "-" else frame[p] for p in pair])
    answer = np.array([-found[p[1:]] if p[0] == "-" else found[p] for p in pair])
    # Nothing in the table is at least as good in both and better in one; nothing like that is left out.
    for point in answer.T:
        no_worse, better = (values <= point[:, None]).all(axis=0), (values < point[:, None]).any(axis=0)
        assert not (no_worse & better).any()
    beaten = [((answer <= p[:, None]).all(axis=0)).any() for p in values.T]
    assert all(beaten)
    assert len(np.unique(answer, axis=1).T) == len(found)
    assert (np.diff(answer[0]) > 0).all()


numbers = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30)


@given(one=numbers, other=numbers)
def test_fronts_merge_to_the_front_of_all(one, other):
    def of(pairs, first):
        array = np.array(pairs, dtype=float).reshape(-1, 2)
        return front_of(array[:, 0], array[:, 1], np.arange(first, first + len(pairs)))

    merged = of(one, 0).merge(of(other, len(one)))
    turned = of(other, len(one)).merge(of(one, 0))
    points = [*one, *other]
    wanted = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert {(a, b) for a, b in zip(merged.first, merged.second, strict=True)} == wanted
    assert len(merged.number) == len(wanted)
    # Of equal points the first is kept, whatever the order of merging.
    assert merged.numbers() == turned.numbers() == [points.index(p) for p in sorted(wanted)]


def test_filtering_by_a_long_known_front_loses_no_point_of_the_whole():
    rng = np.random.default_rng(0)
    first = rng.random(20_000)
    # All points of a hyperbola are on the front; half are moved off it, and some are infinite.
    second = 1 / first + np.where(rng.random(first.size) < 0.5, rng.random(first.size), 0.0)
    second[::100] = np.inf
    known = front_of(first[:10_000], second[:10_000], np.arange(10_000))
    later = known.may_join(first[10_000:], second[10_000:]) + 10_000
    assert later.size < 9_500
    whole = front_of(first, second, np.arange(first.size))
    joined = known.merge(front_of(first[later], second[later], later))
    assert joined.numbers() == whole.numbers()
    assert len(whole.number) > 9_000
    assert list(Front().may_join(np.array([1.0, np.inf]), np.ones(2))) == [0]


def test_best_of_no_rows_is_an_empty_table():
    grid = make_grid(cm.LSTM(), "h200-sxm", rung="bound", batch=1, seq=[8, 16], hidden=64, where="seq > 99")
    assert best(grid, "seconds").empty
    assert list(best(grid, "seconds")) == list(grid.columns)


@pytest.mark.parametrize(
    ("of", "text"),
    [
        ("cost", "give that of google/tpu-v5e"),
        ("-cost", "give that of google/tpu-v5e"),
        ("energy", "leave out google/tpu-v5e"),
        ("-heads", "leave out lstm"),
    ],
)
def test_objective_unknown_for_some_rows_is_refused(of, text):
    """A device without a price is neither dearer nor silently left out."""
    grid = make_grid(
        [cm.LSTM(), cm.TiledAttention()],
        ["h200-sxm", "tpu-v5e"],
        {"batch": 1, "seq": 8, "hidden": 8, "heads": [1, 2], "head_dim": 8},
        rung="bound",
        prices={"h200-sxm": 99.0},
    )
    with pytest.raises(CostmodelError, match=text):
        best(grid, of, by=["device"])
    with pytest.raises(CostmodelError, match=text):
        front(grid, "seconds", of)


@pytest.mark.parametrize(
    ("of", "by", "error", "text"),
    [
        ("cost", [], CostmodelError, "price per hour .* nvidia/h200-sxm"),
        ("bound", [], CostmodelError, "numeric column, such as seconds, got 'bound', which is text"),
        ("-device", [], CostmodelError, "got 'device', which is text"),
        ("second", [], UnknownNameError, "'seconds'"),
        ("seconds", ["colour"], UnknownNameError, "group by"),
    ],
)
def test_invalid_objective_or_group_is_refused(of, by, error, text):
    grid = make_grid(cm.LSTM(), "h200-sxm", rung="bound", batch=1, seq=[8, 16], hidden=64)
    with pytest.raises(error, match=text):
        best(grid, of, by=by)
