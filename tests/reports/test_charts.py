"""Charts compile and have units, and their findings are what the rows say, counted by hand."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert

from costmodel import reports
from costmodel.reports import helping, split, style
from costmodel.reports.figure import Figure, at_first, choose

EVERY = ("time", "crossovers", "flops", "traffic", "depth", "roofline", "binding", "memory")


def figure(page: reports.Page, name: str) -> Figure:
    return next(f for section in page.sections for f in section.figures if f.name == name)


def said(page: reports.Page, name: str, device: str = "maker/one") -> str:
    return figure(page, name).say({"where": device})


@pytest.mark.parametrize("kind", ["page", "hostile_page"])
def test_every_chart_compiles(kind: str, request: pytest.FixtureRequest) -> None:
    page: reports.Page = request.getfixturevalue(kind)
    names = []
    for section in page.sections:
        for found in section.figures:
            rows = choose(found.frame, at_first(page.picks))
            spec = found.chart(rows).to_dict()
            vega = vl_convert.vegalite_to_vega(json.dumps(spec))
            assert vega["marks"], found.name
            assert spec["title"]["text"] == found.finding(rows)
            assert spec["description"] == found.about
            assert len(found.frame) <= 5000
            names.append(found.name)
    assert names == list(EVERY)


def axes(spec: Any) -> list[str]:
    """Return the titles of all axes of a spec."""
    found = []
    if isinstance(spec, dict):
        for channel in ("x", "y"):
            title = spec.get("encoding", {}).get(channel, {}).get("title")
            found += [title] if title else []
        found += [title for value in spec.values() for title in axes(value)]
    elif isinstance(spec, list):
        found = [title for value in spec for title in axes(value)]
    return found


def test_axes_have_units(page: reports.Page) -> None:
    unitless = {"dependent steps"}
    for name in EVERY:
        titles = set(axes(figure(page, name).spec(page.picks)))
        assert titles, name
        assert all(re.search(r"\[.+\]$", title) for title in titles - unitless), (name, titles)


def test_charts_refer_to_the_pages_rows_and_carry_none(page: reports.Page) -> None:
    """Otherwise the page would hold each row once per chart."""
    for name in EVERY:
        spec = figure(page, name).spec(page.picks)
        assert spec["data"] == {"name": "rows"}
        assert "datasets" not in spec


def test_forty_nine_lines_look_different() -> None:
    channels = style.series_line("series", [str(i) for i in range(49)])
    colours, dashes = (channel.to_dict()["scale"]["range"] for channel in channels)
    looks = list(zip(colours, map(tuple, dashes), strict=True))
    assert looks[:7] == list(zip(style.OKABE_ITO, map(tuple, style.DASHES), strict=True))
    assert len(set(looks)) == 49


def cielab(colour: str) -> np.ndarray:
    """Return L*, a*, b* of an sRGB colour (IEC 61966-2-1; CIE 15)."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    primaries = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(primaries) @ linear / (0.95047, 1.0, 1.08883)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_bars_and_points_of_many_layers_look_different() -> None:
    names = [str(i) for i in range(49)]
    bars = style.series_bars(names).to_dict()["scale"]["range"]
    assert tuple(bars[:7]) == style.OKABE_ITO
    for one, other in itertools.combinations(bars[:14], 2):
        assert np.linalg.norm(cielab(one) - cielab(other)) > 20, (one, other)
    looks = [channel.to_dict()["scale"]["range"] for channel in style.series_points(names)]
    assert len(set(zip(*looks, strict=True))) == 49


def test_lines_have_one_legend_for_colour_and_dashes(table: pd.DataFrame, facts: reports.Facts) -> None:
    """With and without bands: a channel with legend None would remove the legend of the lines."""
    banded = table.assign(lo80_s=0.9 * table["seconds"], hi80_s=1.1 * table["seconds"])
    for frame in (table, banded):
        page = reports.compare(frame, facts=facts)
        for name in ("roofline", "time", "flops", "traffic", "depth", "memory"):
            vega = vl_convert.vegalite_to_vega(json.dumps(figure(page, name).spec(page.picks)))
            (legend,) = vega["legends"]
            assert {"stroke", "strokeDash"} <= set(legend), name
            assert "disable" not in legend, name


# -- findings, against arithmetic on the formulas the rows are made of -----------------------------


def test_finding_on_time_states_ratio_memory_and_the_fastest(page: reports.Page) -> None:
    # At 8,192: chain 8.192 ms and GB, pairs 67.1 ms and GB; memory 2 GB. At 128: 128 µs and 16.4 µs.
    assert said(page, "time") == (
        "At 8,192 tokens, chain[bf16] takes 8.19 ms (exceeds memory) and pairs[bf16] 67.1 ms "
        "(exceeds memory), 8.2 times as long; at 128 tokens, pairs[bf16] is fastest"
    )
    assert "chain[bf16] takes 16.4 ms" in said(page, "time", "maker/two")


def test_finding_on_time_names_every_layer_and_treats_near_times_as_equal(
    table: pd.DataFrame, facts: reports.Facts
) -> None:
    """A third layer needs 0.2 % more time than `pairs`, and a hundredth of its memory."""
    third = table[table["layer"] == "pairs"].assign(layer="near", options="near[bf16]")
    third = third.assign(seconds=1.002 * third["seconds"], footprint_bytes=third["footprint_bytes"] / 100)
    page = reports.compare(pd.concat([table, third]), facts=facts)
    text = said(page, "time")
    assert "pairs[bf16] 67.1 ms (exceeds memory) and near[bf16] 67.2 ms, 8.2 times" in text
    assert text.endswith("at 128 tokens, pairs[bf16] and near[bf16] are fastest")


def test_points_that_do_not_fit_the_memory_are_hollow(page: reports.Page) -> None:
    # 2 GB hold both up to 512 of the lengths 128, 512, 2,048 and 8,192; see the finding on memory.
    found = figure(page, "time")
    assert (found.frame["held"] == (found.frame["seq"] <= 512)).all()
    rows = choose(found.frame, {"where": "maker/one"})
    svg = vl_convert.vegalite_to_svg(found.chart(rows).to_dict())
    hollow = re.search(r'<g class="mark-symbol [^"]*paper_hollow.*?</g>', svg, re.DOTALL)
    assert hollow
    assert hollow.group().count("<path") == 4


def test_finding_on_crossovers_states_the_length(page: reports.Page) -> None:
    # 1 µs · n = 1 ns · n² at n = 1000, on both devices: straight lines on log axes, so exact.
    frame = figure(page, "crossovers").frame
    inside = frame[frame["from_seq"] > 128]
    assert inside["from_seq"].tolist() == pytest.approx([1000.0, 1000.0], rel=1e-12)
    assert inside["series"].tolist() == ["chain[bf16]", "chain[bf16]"]
    assert said(page, "crossovers") == "In both cases chain[bf16] is fastest from about 1,000 tokens on"


def test_finding_on_crossovers_groups_devices_by_the_final_winner(
    table_of: Callable[..., pd.DataFrame], facts: reports.Facts
) -> None:
    """`chain` takes twice as long on the second device, is always
    fastest on the third and never on the last.
    """
    devices = ("maker/one", "maker/two", "maker/three", "maker/four")
    table = table_of(devices=devices)
    factors = {"maker/two": 2.0, "maker/three": 1e-3, "maker/four": 1e3}
    chain = table["layer"] == "chain"
    table.loc[chain, "seconds"] *= table.loc[chain, "device"].map(factors).fillna(1.0)
    text = said(reports.compare(table, facts=facts), "crossovers")
    # 1 µs · n = 1 ns · n² at 1,000; 2 µs · n at 2,000.
    assert text == (
        "In 2 of 4 cases chain[bf16] is fastest beyond a crossover that lies between about 1,000 tokens "
        "(maker/one) and about 2,000 tokens (maker/two); "
        "on maker/three chain[bf16] is fastest at every length; "
        "on maker/four pairs[bf16] is fastest at every length"
    )


def test_finding_on_the_roofline_states_shares_of_the_peak(page: reports.Page) -> None:
    # chain: 1e6·n FLOP in 1e-6·n s = 1 TFLOP/s of 10; pairs: 1e4·n² in 1e-9·n² = 10 TFLOP/s.
    assert said(page, "roofline") == "Highest share of peak FLOP/s: pairs[bf16] 100 % and chain[bf16] 10 %"
    assert said(page, "roofline", "maker/two").endswith("pairs[bf16] 50 % and chain[bf16] 5 %")


def test_roof_is_the_lesser_of_memory_and_engine(page: reports.Page) -> None:
    frame = figure(page, "roofline").frame
    roof = frame[frame["kind"] == "roof"]
    assert len(roof) == 6
    assert (roof["rate"] == roof["intensity"].map(lambda x: min(1e13, 1e12 * x))).all()
    assert 10.0 in set(roof["intensity"])


def test_findings_on_counts_state_counts_and_ratio(page: reports.Page) -> None:
    assert said(page, "flops") == (
        "At 8,192 tokens, pairs[bf16] computes 671 GFLOP, chain[bf16] 8.19 GFLOP: 82 times as much"
    )
    assert said(page, "traffic") == "At 8,192 tokens, chain[bf16] and pairs[bf16] move 81.9 MB"
    assert said(page, "depth") == (
        "At 8,192 tokens, chain[bf16] takes 8,192 steps, pairs[bf16] 1 step: 8,192 times as many"
    )


def test_axis_that_is_no_length_is_not_called_one(table: pd.DataFrame, facts: reports.Facts) -> None:
    """Along m of a product there is no length, no stack and no longest sequence."""
    page = reports.compare(table.rename(columns={"seq": "m"}), facts=facts)
    assert said(page, "binding").startswith("Most frequent limit over all devices and sizes: ")
    assert said(page, "memory").startswith("Memory of 2 GB holds chain[bf16] up to m = 512; ")
    headings = {section.name: section.heading for section in page.sections}
    assert headings["memory"] == "Memory"
    abouts = [figure.about for section in page.sections for figure in section.figures]
    assert not re.search("length|longest", " ".join((*page.findings, *headings.values(), *abouts)))


@pytest.mark.parametrize(
    ("sizes", "labels"),
    [
        ((1024, 2048, 4096, 8192), ["1,024", "2,048", "4,096", "8,192"]),
        ((128, 1024), ["128", "256", "512", "1,024"]),
    ],
)
def test_axis_over_octaves_has_powers_of_two_as_ticks(sizes: tuple[float, ...], labels: list[str]) -> None:
    """Between 1,024 and 8,192 it once had ticks at 1,500, 2,500, …, which are no sizes of the table."""
    alt = pytest.importorskip("altair")
    frame = pd.DataFrame({"m": sizes, "y": 1.0})
    drawn = alt.Chart(frame).mark_point().encode(style.length_axis("m"), alt.Y("y:Q", axis=None))
    svg = vl_convert.vegalite_to_svg(drawn.properties(width=700).to_dict())
    assert re.findall(r">([\d,]+)</text>", svg) == labels


def test_finding_on_memory_states_the_longest_that_fits(page: reports.Page) -> None:
    # 2 GB hold 1e6·n up to 2,000 and 1e3·n² up to 1,414: of the lengths, 512 each.
    assert said(page, "memory") == (
        "Memory of 2 GB holds chain[bf16] up to 512 tokens; pairs[bf16] up to 512 tokens"
    )


def test_finding_on_limits_states_where_each_layer_is_bound(page: reports.Page) -> None:
    assert said(page, "binding") == (
        "Most frequent limit over all devices and lengths: chain[bf16]: main memory (always); "
        "pairs[bf16]: matrix engine (always)"
    )


def test_every_choice_has_a_finding(page: reports.Page) -> None:
    for name in EVERY:
        found = figure(page, name).findings(page.picks)
        mine = figure(page, name).picks(page.picks)
        assert len(found) == (2 if mine else 1)
        assert all(found.values())


def test_intervals_are_drawn_if_the_table_has_them(table: pd.DataFrame, facts: reports.Facts) -> None:
    table = table.assign(lo80_s=0.9 * table["seconds"], hi80_s=1.1 * table["seconds"])
    drawn = json.dumps(figure(reports.compare(table, facts=facts), "time").spec(()))
    assert '"area"' in drawn
    assert '"area"' not in json.dumps(
        figure(reports.compare(table.drop(columns="lo80_s"), facts=facts), "time").spec(())
    )


def test_shares_of_time_are_computed_and_stated() -> None:
    parts = pd.DataFrame(
        {
            "seq": [128.0, 128.0, 256.0, 256.0],
            "part": ["gemm", "attention", "gemm", "attention"],
            "seconds": [3.0, 1.0, 6.0, 7.0],
            "series": "block",
            "label": "block",
        }
    )
    rows = split.rows(parts)
    assert rows["share"].tolist() == pytest.approx([0.75, 0.25, 6 / 13, 7 / 13])
    assert split.finding(rows) == "Over half of the time goes into: block: attention from 256 tokens on"
    assert vl_convert.vegalite_to_vega(json.dumps(split.chart(rows).to_dict()))["marks"]


def test_finding_on_changes_separates_options_from_figures() -> None:
    changes = pd.DataFrame(
        {
            "where": "one",
            "series": ["chain", "chain", "chain", "pairs", "pairs", "idle"],
            "seq": 512,
            "change": [
                "hbm times 2",
                "bf16 times 2",
                "wavefront = True",
                "l2 capacity times 2",
                "units times 2",
                "no",
            ],
            "kind": ["figure", "figure", "choice", "figure", "figure", "figure"],
            "seconds": 1.0,
            "speedup": [1.01, 1.02, 3.0, 1.5, 1.9, 1.0],
            "constants_from": "none",
        }
    )
    rows = helping.rows(changes)
    assert helping.finding(rows) == (
        "At 512 tokens, chain is 3 times as fast with staggered layers (wavefront), and gains less than 5 % "
        "from doubling any one figure of the device; pairs is 1.9 times as fast with compute units × 2; "
        "idle gains nothing from doubling any one figure of the device"
    )
    assert vl_convert.vegalite_to_vega(json.dumps(helping.chart(rows).to_dict()))["marks"]


def test_majority_of_the_time_is_stated_from_where_it_lasts() -> None:
    """A majority that is lost later, or that the longest length does not have, does not count."""
    seq = [128.0, 256.0, 512.0, 1024.0]
    for shares, said in (
        ((0.6, 0.4, 0.7, 0.8), "block: attention from 512 tokens on"),
        ((0.6, 0.7, 0.8, 0.9), "block: attention"),
    ):
        parts = pd.DataFrame(
            {
                "seq": seq * 2,
                "part": ["attention"] * 4 + ["gemm"] * 4,
                "seconds": [*shares, *(1 - share for share in shares)],
                "series": "block",
                "label": "block",
            }
        )
        assert split.finding(split.rows(parts)) == f"Over half of the time goes into: {said}"
    thirds = parts.assign(part=["attention"] * 4 + ["gemm"] * 2 + ["norm"] * 2)
    third = thirds[thirds["seq"] > 256].assign(seconds=[0.9, 0.4, 0.1, 0.6])
    more = pd.concat([third, third[third["seq"] == 1024].head(1).assign(part="gemm", seconds=0.3)])
    assert split.finding(split.rows(more)) == "Over half of the time goes into: block: no single part"


@pytest.mark.parametrize("values", [(610e6, 890e6), (2.1e9, 4.9e9), (889e6, 889e6), (1e6, 9e6), (1e3, 1e9)])
def test_logarithmic_axis_has_labels_however_short(values: tuple[float, float]) -> None:
    alt = style.altair()
    frame = pd.DataFrame({"x": [1.0, 2.0], "bytes": values})
    drawn = (
        alt.Chart(frame).mark_point().encode(alt.X("x:Q"), style.log_y("bytes", "memory [B]", style.BYTES))
    )
    assert re.search(r">[\d.]+[kMG]B</text>", vl_convert.vegalite_to_svg(drawn.to_dict()))


def test_caveat_states_whose_constants_were_used(
    table: pd.DataFrame, facts: reports.Facts, page: reports.Page
) -> None:
    assert "Fitted constants" not in page.caveat
    table["constants_from"] = table["layer"].map({"chain": "self", "pairs": "maker/other"})
    fitted = reports.compare(table.assign(rung="kernel"), facts=facts)
    assert fitted.caveat.endswith(
        "Fitted constants: chain[bf16] from the device itself; pairs[bf16] from maker/other."
    )
    origins = next(t for s in fitted.sections for t in s.tables if t.name == "constants").frame
    assert len(origins) == 4
