"""Every layer side by side: none is missing, and the growth stated for each is that of its times."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware, systems
from costmodel.layers import classes, get

pytest.importorskip("altair", reason="needs costmodel[report]")
from costmodel.reports import families

PLACE = ("H200", hardware.load("nvidia/h200-sxm"), "bf16")


@pytest.fixture(scope="module")
def times():
    return systems.times([PLACE], rung="bound")


@pytest.fixture(scope="module")
def growth():
    return systems.growth().set_index("layer")


def test_every_layer_with_a_length_is_there(times, growth):
    """The registry decides, so that a new layer appears by itself."""
    with_length = {
        name for name, layer in classes().items() if {"seq", "seq_kv"} & {*layer(dtype="bf16").required}
    }
    assert set(times["layer"]) == set(growth.index) == with_length
    assert len(with_length) >= 40
    assert (times.groupby("layer")["seq"].count() == len(systems.LENGTHS)).all()
    assert (times["family"] == times["layer"].map(lambda name: get(name).family)).all()


def test_sizes_are_those_of_models_that_have_such_layers():
    """DeepSeek-V4 has four streams, V3.2 chooses 2,048 keys, Mixtral two of eight experts."""
    sizes = {name: systems.sizes_of(get(name)()) for name in ("hyper-connection", "top-k-attention", "moe")}
    assert sizes["hyper-connection"]["streams"] == 4
    assert sizes["top-k-attention"]["top_k"] == 2048
    assert (sizes["moe"]["top_k"], sizes["moe"]["experts"]) == (2, 8)


def test_growth_is_that_of_table_1(growth):
    """Vaswani et al., Table 1: complexity, sequential operations, path."""
    assert growth.loc["dense-attention", ["complexity", "sequential", "path"]].tolist() == [
        "O(n²·d)", "O(1)", "O(1)",
    ]  # fmt: skip
    assert growth.loc["rnn", ["complexity", "sequential", "path"]].tolist() == ["O(n·d²)", "O(n)", "O(n)"]
    assert growth.loc["conv", ["complexity", "sequential"]].tolist() == ["O(K·n·d²)", "O(1)"]
    assert not growth["complexity"].str.contains(r"\\").any(), "letters, not LaTeX"


def test_times_grow_with_the_degree_of_the_arithmetic(times, growth):
    """At rung `bound` and length 131,072 smaller terms no longer matter: the slope is the exponent."""
    ends = families.rows(times).dropna(subset="slope").set_index("layer")["slope"]
    for name in (
        "dense-attention",
        "tiled-attention",
        "mla",
        "lstm",
        "rwkv",
        "retnet",
        "conv",
        "swiglu",
        "moe",
    ):
        assert ends[name] == pytest.approx(growth.loc[name, "exponent"], abs=0.1), name


@pytest.mark.parametrize("name", classes())
def test_every_layer_has_formulas_a_source_and_what_is_left_out(name):
    """As ``costmodel show`` prints them, in every direction."""
    layer = get(name)
    assert re.search(r"arXiv|doi|\b(19|20)\d\d\b|§|first principles|modeling_", layer.source), layer.source
    assert len(layer.not_counted) > 5
    assert len((layer.__doc__ or "").strip()) > 20
    for direction in layer.directions:
        text = layer(direction=direction).cost._repr_latex_()
        assert "hbm bytes" in text
        assert "Distinct" not in text


def frame(exponents):
    lengths = (128, 512, 2048)
    rows = [
        {"where": where, "layer": layer, "family": "f", "seq": n, "seconds": 1e-9 * n**power, "bound": "hbm"}
        for where, (layer, power), n in itertools.product(("one", "two"), exponents.items(), lengths)
    ]
    return pd.DataFrame(rows)


def test_slopes_are_of_the_last_two_lengths():
    drawn = families.rows(frame({"square": 2.0, "line": 1.0, "root": 1.5}))
    ends = drawn.dropna(subset="slope")
    assert len(ends) == 6
    assert (ends["seq"] == 2048).all()
    assert ends.groupby("layer")["slope"].mean().round(9).to_dict() == {"line": 1.0, "root": 1.5, "square": 2}
    assert set(ends["text"]) == {"square  n²", "line  n", "root  n^1.5"}


def test_names_do_not_overlap():
    """Thirty lines that end at nearly one point: their names stay in order, apart and inside the chart."""
    many = {f"layer-{i:02}": 1.5 + 1e-4 * i for i in range(30)}
    drawn = families.rows(frame(many))
    one = drawn[drawn["where"] == "one"]
    ends = one.dropna(subset="place").sort_values("seconds")
    span = np.log(one["seconds"].max() / one["seconds"].min())
    apart = np.diff(np.log(ends["place"])) / span * families._height(30)
    assert apart.min() >= families.NAME_HEIGHT * (1 - 1e-9)
    assert ends["place"].between(one["seconds"].min(), one["seconds"].max() * (1 + 1e-12)).all()


def test_finding_counts_layers_by_growth():
    """2,048 tokens by hand: 2.05 µs and 4.19 ms."""
    drawn = families.rows(frame({"square": 2.0, "line": 1.0, "root": 1.5, "other": 1.05}))
    said = families.finding(drawn[drawn["where"] == "one"])
    assert said.startswith("At 2,048 tokens, 2 of 4 layers grow about as n, 1 about as n² and 1 in between")
    assert "square (4.19 ms) takes 2,048 times as long as line (2.05 µs)" in said


def test_chart_has_room_for_every_name(times):
    spec = families.chart(families.rows(times)).to_dict()
    assert spec["height"] >= families.NAME_HEIGHT * times["layer"].nunique()
    assert len(spec["layer"]) == 4
