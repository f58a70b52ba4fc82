"""The validation page, checked against statistics computed row by row."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert

from costmodel import reports
from costmodel.errors import TableError
from costmodel.reports import binding, errors
from costmodel.reports.figure import at_first, choose


@pytest.fixture
def measured() -> pd.DataFrame:
    generator = np.random.default_rng(7)
    rows = 600
    seconds = 10 ** generator.uniform(-5, -1, rows)
    return pd.DataFrame(
        {
            "layer": "matmul",
            "options": "matmul[bf16]",
            "device": generator.choice(["maker/one", "maker/two"], rows),
            "op": generator.choice(["gemm", "softmax", "lstm"], rows),
            "dtype": "bf16",
            "rung": generator.choice(["bound", "kernel"], rows),
            "state": "warm",
            "bound": generator.choice(["matrix:bf16", "hbm"], rows),
            "measured_s": seconds,
            "seconds": seconds * np.exp(generator.normal(0, 0.2, rows)),
            "lower_s": seconds * generator.uniform(0.1, 0.9, rows),
            "held_out": generator.random(rows) < 0.5,
        }
    )


def test_errors_are_those_of_each_cell(measured: pd.DataFrame) -> None:
    measured.loc[::10, "seconds"] = np.nan
    table = errors.rows(measured, ["device", "op", "rung"])
    assert table["rows"].sum() == len(measured)
    for cell in table.itertuples():
        rows = [
            row
            for row in measured.itertuples()
            if (row.device, row.op, row.rung) == (cell.device, cell.op, cell.rung)
        ]
        signed = [100 * (r.seconds / r.measured_s - 1) for r in rows if r.seconds == r.seconds]
        assert (cell.rows, cell.predicted) == (len(rows), len(signed))
        assert cell.median_ape == pytest.approx(statistics.median(map(abs, signed)))
        assert cell.mean_ape == pytest.approx(statistics.fmean(map(abs, signed)))
        assert cell.bias == pytest.approx(statistics.median(signed))
        assert cell.under_lower == 0.0


def test_only_held_out_rows_count(measured: pd.DataFrame) -> None:
    page = reports.validation(measured)
    table = next(t for s in page.sections for t in s.tables).frame
    assert table["rows"].sum() == measured["held_out"].sum()
    assert f"{(~measured['held_out']).sum():,} more, of shapes that constants" in page.asked[1]


def test_measurement_predicted_on_two_rungs_counts_once(measured: pd.DataFrame) -> None:
    once = reports.validation(measured.assign(rung="bound"))
    both = [measured.assign(rung=rung) for rung in ("bound", "kernel")]
    assert reports.validation(pd.concat(both, ignore_index=True)).asked == once.asked


def test_finding_states_shares_within_10_per_cent_and_a_factor_of_1_5(measured: pd.DataFrame) -> None:
    page = reports.validation(measured)
    held = measured[
        measured["held_out"]
        & (measured["device"] == page.picks[0].values[0])
        & (measured["rung"] == "kernel")
    ]
    ratios = [p / m for p, m in zip(held["seconds"], held["measured_s"], strict=True)]
    close = 100 * sum(abs(r - 1) <= 0.1 for r in ratios) / len(ratios)
    near = 100 * sum(1 / 1.5 <= r <= 1.5 for r in ratios) / len(ratios)
    assert page.findings[0] == (
        f"{close:.0f} % of {len(ratios)} predictions are within 10 % of the measurement, "
        f"{near:.0f} % within a factor of 1.5"
    )


def test_spread_of_reruns_is_shown_beside_errors(measured: pd.DataFrame) -> None:
    """A third of the cases were visited once: their spread is unknown, not 0."""
    frame = measured.assign(spread=np.resize([0.02, 0.12, np.nan], len(measured)), held_out=True)
    page = reports.validation(frame)
    table = next(t for section in page.sections for t in section.tables if t.name == "accuracy")
    assert table.columns[-2].heading == "Reruns differ by"
    for cell in table.frame.itertuples():
        same = (frame["device"] == cell.device) & (frame["op"] == cell.op) & (frame["rung"] == cell.rung)
        known = frame.loc[same, "spread"].dropna().tolist()
        assert cell.reruns == pytest.approx(100 * statistics.median(known))
    assert "by over 10 % in 200 of 400" in page.caveat
    alone = reports.validation(frame.assign(spread=np.nan))
    assert "No case was measured twice" in alone.caveat
    assert "Reruns differ by" not in alone.html


def test_different_launches_directions_and_kernels_have_separate_errors(measured: pd.DataFrame) -> None:
    """Graph or eager, forward or backward, two kernels of one operation: eight cells."""
    halves = {
        "launch": ["graph", "eager"],
        "direction": ["fwd", "bwd"],
        "kernel": ["sdpa math", "sdpa flash"],
    }
    frame = measured.assign(device="maker/one", op="attention", rung="kernel", held_out=True)
    generator = np.random.default_rng(3)
    frame = frame.assign(**{name: generator.choice(values, len(frame)) for name, values in halves.items()})
    page = reports.validation(frame)
    table = next(t for section in page.sections for t in section.tables if t.name == "accuracy")
    assert len(table.frame) == 8
    assert table.frame["rows"].sum() == len(frame)
    headings = [column.heading for column in table.columns]
    assert headings[:4] == ["Op", "Kernel", "Direction", "Launch"]
    # A column without differences is not shown, but is exported.
    assert "Device" not in headings
    assert set(table.frame["device"]) == {"maker/one"}


@pytest.mark.parametrize("order", [["bound", "kernel"], ["kernel", "bound"]])
def test_best_rung_is_shown_first(measured: pd.DataFrame, order: list[str]) -> None:
    rows = measured.assign(rung=np.resize(order, len(measured)))
    page = reports.validation(rows)
    assert at_first(page.picks)["rung"] == "kernel"
    assert "rung kernel" in page.lead


def test_caveat_counts_rows_under_the_bound(measured: pd.DataFrame) -> None:
    assert reports.validation(measured).caveat == "No measurement is below the lower bound."
    measured.loc[:, "lower_s"] = 1.01 * measured["measured_s"]
    held_out = int(measured["held_out"].sum())
    assert reports.validation(measured).caveat.startswith(f"{held_out} measurements are below the lower")


def test_charts_compile_and_page_is_small(measured: pd.DataFrame) -> None:
    many = pd.concat([measured] * 20, ignore_index=True)
    page = reports.validation(many)
    for section in page.sections:
        for figure in section.figures:
            assert len(figure.frame) <= 5000
            spec = figure.chart(choose(figure.frame, at_first(page.picks))).to_dict()
            assert vl_convert.vegalite_to_vega(json.dumps(spec))["marks"]
    assert len(page.html.encode()) < 3_000_000


def test_bad_tables_are_refused(measured: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="lacks measured_s"):
        reports.validation(measured.drop(columns="measured_s"))
    with pytest.raises(TableError, match="no row has both"):
        reports.validation(measured.assign(seconds=np.nan))
    with pytest.raises(TableError, match="more than one column device"):
        reports.validation(pd.concat([measured, measured[["device"]]], axis=1))


def test_page_has_definitions_sources_and_its_command(measured: pd.DataFrame) -> None:
    page = reports.validation(measured.assign(device="nvidia/h200-sxm"), command="made --so")
    notes = dict(next(section for section in page.sections if section.name == "means").notes)
    assert {"Measured", "Error", "Time, at rung bound", "Time, at rung kernel", "matmul"} <= set(notes)
    figures = next(t for section in page.sections for t in section.tables if t.name == "figures").frame
    bandwidth = figures.set_index("figure").loc["memory.hbm.bandwidth"]
    assert (bandwidth["value"], bandwidth["device"]) == ("4800 GB/s", "nvidia/h200-sxm")
    assert bandwidth["source"]
    assert "made --so" in page.html


def test_stated_footprint_is_compared_with_measured_memory(measured: pd.DataFrame) -> None:
    some = {"op": ["gemm", "gemm", "lstm"], "kernel": "k", "dtype": "fp32", "direction": "fwd"}
    bytes_ = pd.DataFrame(
        {**some, "measured_bytes": [100.0, 200.0, 1000.0], "stated_bytes": [100.0, 210.0, 500.0]}
    )
    memory = bytes_.assign(ratio=bytes_["stated_bytes"] / bytes_["measured_bytes"])
    page = reports.validation(measured, memory=memory)
    (section,) = (one for one in page.sections if one.name == "memory")
    wanted = (
        "The stated footprint is within 10 % of the measured one in 67 % of 3 cases; furthest off is lstm, "
        "stated as 0.5 times the measured one"
    )
    assert page.findings[-1] == wanted
    vl_convert.vegalite_to_vega(section.figures[0].chart(section.figures[0].frame).to_dict())
    assert "memory" not in [one.name for one in reports.validation(measured).sections]


def looks(spec: Any, channel: str) -> dict[str, str]:
    """Return the appearance of each value in a channel, from anywhere in a spec."""
    if isinstance(spec, list):
        return {name: look for part in spec for name, look in looks(part, channel).items()}
    if not isinstance(spec, dict):
        return {}
    scale = spec.get(channel, {}).get("scale", {}) if isinstance(spec.get(channel), dict) else {}
    domain, many = scale.get("domain", []), scale.get("range", [])
    own = {name: many[i % len(many)] for i, name in enumerate(domain)} if many else {}
    return own | {name: look for part in spec.values() for name, look in looks(part, channel).items()}


def test_op_has_the_same_colour_and_shape_in_every_chart(measured: pd.DataFrame) -> None:
    """Whichever ops a chart has: memory is of one op without times, and in another order."""
    some = {"op": ["copy", "lstm", "gemm"], "kernel": "k", "dtype": "fp32", "direction": "fwd"}
    memory = pd.DataFrame({**some, "measured_bytes": 100.0, "stated_bytes": 100.0, "ratio": 1.0})
    page = reports.validation(measured, memory=memory)
    specs = {figure.name: figure.spec(page.picks) for one in page.sections for figure in one.figures}
    for channel in ("color", "shape"):
        every = [looks(specs[name], channel) for name in ("agreement", "tightness", "occupied")]
        assert set(every[0]) == {"gemm", "softmax", "lstm", "copy"}
        assert every[0] == every[1] == every[2]
        assert len(set(every[0].values())) == 4
    strokes, points = (looks(specs["residuals"], channel) for channel in ("stroke", "color"))
    wanted = {binding.LIMITS[limit][0]: binding.LIMITS[limit][2] for limit in ("matrix", "hbm")}
    assert strokes == points == wanted


def test_counted_cases_are_listed_even_if_none_could_be_counted(measured: pd.DataFrame) -> None:
    row = {"case": "copy fp32", "op": "copy", "kernel": "k", "dtype": "fp32", "direction": "fwd"}
    nothing = dict.fromkeys(("measured_bytes", "ratio", "lts_bytes", "instructions"), np.nan)
    told = {"status": "unavailable", "reason": "no permission", "stated_bytes": 8.0, "l2_bytes": 0.0}
    page = reports.validation(measured, traffic=pd.DataFrame([{**row, **nothing, **told}]))
    (section,) = (one for one in page.sections if one.name == "traffic")
    assert not section.figures
    assert list(section.tables[0].frame["reason"]) == ["no permission"]


def test_section_on_constants_appears_only_with_constants(measured: pd.DataFrame) -> None:
    constants = pd.DataFrame(
        [{"op": "gemm", "direction": "fwd", "dtype": "fp32", "constant": "peak_share", "value": "0.81",
          "low": "0.78", "high": "0.85", "unit": "1", "meaning": "share of the peak"}]
    )  # fmt: skip
    names = [section.name for section in reports.validation(measured, constants=constants).sections]
    assert "constants" in names
    assert "constants" not in [section.name for section in reports.validation(measured).sections]


@pytest.mark.parametrize("columns", [1, 2])
def test_legend_of_ops_has_as_many_columns_as_the_page_sets(measured: pd.DataFrame, columns: int) -> None:
    """The page's script sets them by width; on a phone a second column would be cut off."""
    page = reports.validation(measured)
    figure = next(f for section in page.sections for f in section.figures if f.name == "agreement")
    drawn = figure.chart(choose(figure.frame, at_first(page.picks))).properties(width=300).to_dict()
    vega = vl_convert.vegalite_to_vega(json.dumps(drawn | {"config": {"legend": {"columns": columns}}}))
    (legend,) = vega["legends"]
    assert legend.get("columns", vega["config"]["legend"]["columns"]) == columns


@pytest.mark.usefixtures("browser")
def test_points_are_drawn_at_full_opacity(
    measured: pd.DataFrame, drawn: Callable[..., tuple[str, str]]
) -> None:
    """On a dark page a blue outline at 0.7 is hard to see."""
    dom, _ = drawn(reports.validation(measured).html)
    start = dom.index('data-figure="errors"')
    part = dom[start : dom.index("</figure>", start)]
    assert "mark-symbol role-mark" in part
    assert 'opacity="0.7"' not in part
