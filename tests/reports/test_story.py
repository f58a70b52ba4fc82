"""The story's frames, checked length by length against predictions and counts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware, reports, story
from costmodel.errors import TableError, UnavailableError
from costmodel.evaluate import evaluate

CASES = (
    ("nvidia/p100-sxm2-16gb", "fp32", "base", "training (forward and backward)"),
    ("nvidia/h200-sxm", "bf16", "big", "inference (forward)"),
)


def case_of(device: str, dtype: str, model: str, work: str) -> story.Case:
    return story.Case(hardware.load(device), dtype, model, work, "bound")


def rows_of(frame: pd.DataFrame, case: story.Case) -> pd.DataFrame:
    where = "where" if "where" in frame else "row"
    keys = case.keys
    return frame[
        (frame[where] == keys["where"]) & (frame["model"] == keys["model"]) & (frame["work"] == keys["work"])
    ]


def test_story_has_ten_devices_in_their_native_formats() -> None:
    formats: dict[str, set[str]] = {}
    for case in story.cases(map(hardware.load, story.DEVICES), "bound"):
        formats.setdefault(case.device.name, set()).add(case.dtype)
    assert len(formats) == 10
    for device, dtypes in formats.items():
        old = {"nvidia/p100-sxm2-16gb": {"fp16", "fp32"}, "nvidia/v100-sxm2-16gb": {"fp16"}}
        assert dtypes == old.get(device, {"bf16"}), device


def test_models_are_those_of_the_paper(frames: reports.Frames) -> None:
    """Vaswani et al. 2017, Table 3: (d, h, d_ff) of base and big, N = 6; from 128 to 131,072 tokens."""
    blocks = frames.rows[frames.rows["layer"] == "transformer-block"]
    sizes = blocks[["d_model", "heads", "d_ff", "num_layers"]].drop_duplicates().to_numpy().tolist()
    assert sizes == [[512, 8, 2048, 6], [1024, 16, 4096, 6]]
    lstm = frames.rows[frames.rows["layer"] == "lstm"]
    assert lstm[["hidden", "num_layers"]].drop_duplicates().to_numpy().tolist() == [[512, 6], [1024, 6]]
    assert sorted(frames.rows["seq"].unique()) == [2.0**k for k in range(7, 18)]


def test_parts_add_up_to_the_time(frames: reports.Frames) -> None:
    keys = ["where", "model", "work", "series", "seq"]
    parts = frames.parts.groupby(keys)["seconds"].sum()
    whole = frames.rows.astype({"series": str}).set_index(keys)["seconds"]
    assert len(parts) == len(whole)
    assert np.allclose(parts.sort_index(), whole.sort_index(), rtol=1e-12)


@pytest.mark.parametrize("names", CASES)
def test_segments_name_the_fastest_layer_at_every_length(
    frames: reports.Frames, names: tuple[str, ...]
) -> None:
    case = case_of(*names)
    lengths = np.unique(np.geomspace(128, 131072, 400).round())
    times = {name: case.predict(layer, lengths).seconds for name, layer in case.layers.items()}
    segments = rows_of(frames.fastest, case)
    for i, length in enumerate(lengths):
        inside = segments[(segments["from_seq"] <= length) & (length <= segments["to_seq"])]
        least = min(float(values[i]) for values in times.values())
        assert min(float(times[name][i]) for name in inside["series"]) == pytest.approx(least, rel=1e-9)
    assert segments["from_seq"].min() == 128
    assert segments["to_seq"].max() == 131072


@pytest.mark.parametrize("names", CASES)
def test_longest_sequence_fits_and_one_more_token_does_not(
    frames: reports.Frames, names: tuple[str, ...]
) -> None:
    case = case_of(*names)
    longest = rows_of(frames.longest, case).set_index("series")["longest_seq"]
    for name, layer in case.layers.items():
        at, beyond = (
            evaluate(layer, seq=int(longest[name]) + extra, **case.sizes(layer))["footprint_bytes"]
            for extra in (0, 1)
        )
        assert at <= case.device.hbm_capacity < beyond


def test_depth_is_6_n_for_lstms_and_6_for_transformers(frames: reports.Frames) -> None:
    rows = frames.rows[frames.rows["direction"] == "fwd"]
    lstm, block = (rows[rows["layer"] == name] for name in ("lstm", "transformer-block"))
    assert (lstm["depth"] == 6 * lstm["seq"]).all()
    assert (block["depth"] == 6).all()


def test_page_has_every_chart_and_sourced_figures(frames: reports.Frames) -> None:
    page = reports.story(frames)
    assert len(page.html.encode()) < 3_000_000
    names = [figure.name for section in page.sections for figure in section.figures]
    wanted = ["time", "split", "crossovers", "flops", "traffic", "depth", "roofline", "binding", "helping"]
    assert names == [*wanted, "memory", "longest", "families"]
    assert "H200" in page.lead
    figures = next(t for s in page.sections for t in s.tables if t.name == "figures").frame
    assert set(figures["device"]) == set(frames.rows["device"])
    assert (figures["source"] != "").sum() > 50
    assert figures.loc[figures["status"] == "assumed", "note"].str.contains("range").all()


def test_findings_are_what_the_rows_say(frames: reports.Frames) -> None:
    page = reports.story(frames)
    case = story.Case(hardware.load("nvidia/h200-sxm"), "bf16", "base", "inference (forward)", "bound")
    rows = rows_of(frames.rows, case)
    last = rows[rows["seq"] == 131072].set_index("series")
    ratio = last["seconds"].max() / last["seconds"].min()
    assert f"{last['seconds'].idxmin()} takes" in page.findings[0]
    assert f"{last['seconds'].idxmax()} " in page.findings[0]
    assert f"{ratio:,.0f} times as long" in page.findings[0]
    assert "786,432 steps" in page.findings[2]


def test_changes_agree_with_predictions(frames: reports.Frames) -> None:
    """By Amdahl's law a doubled figure at most halves the time;
    attention = tiled is the tiled Transformer.
    """
    changes = frames.changes
    assert set(changes["where"]) == set(frames.rows["where"])
    figures = changes[changes["kind"] == "figure"]
    assert figures["speedup"].between(1 - 1e-9, 2 + 1e-9).all()
    tiled = changes[changes["change"] == "attention = tiled"].set_index("where")
    for where, one in tiled.iterrows():
        rows = frames.rows[(frames.rows["where"] == where) & (frames.rows["seq"] == one["seq"])]
        rows = rows[rows["model"].str.startswith("base") & (rows["direction"] == "fwd")].set_index("series")
        times = rows["seconds"]
        expected = times["Transformer (stored)"] / times["Transformer (tiled)"]
        assert one["speedup"] == pytest.approx(expected, rel=1e-9)


def test_crossovers_are_exact(frames: reports.Frames) -> None:
    """At each boundary the order changes between one token and the next."""
    changes = frames.fastest[(frames.fastest["of"] == "time") & (frames.fastest["from_seq"] > 128)]
    every = {
        tuple(case.keys.values()): case for case in story.cases(map(hardware.load, story.DEVICES), "bound")
    }
    for row in itertools.islice(changes.itertuples(), 10):
        case = every[row.row, row.model, row.work]
        lengths = [row.from_seq - 1, row.from_seq]
        times = {name: case.predict(layer, lengths).seconds for name, layer in case.layers.items()}
        assert min(times, key=lambda name: times[name][1]) == row.series
        assert min(times, key=lambda name: times[name][0]) != row.series


def test_file_is_compared_at_its_own_rung(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "sweep.csv"
    table.to_csv(path, index=False)
    assert story.page(path).command == "costmodel report sweep.csv"
    with pytest.raises(UnavailableError, match="costmodel sweep"):
        story.page(path, rung="kernel")


@pytest.mark.parametrize("column", ["device", "layer", "seconds"])
def test_file_without_a_column_of_a_sweep_is_refused(
    tmp_path: Path, table: pd.DataFrame, column: str
) -> None:
    """Such as a table that `costmodel score` wrote, or a sweep's with --columns."""
    path = tmp_path / "sweep.csv"
    table.drop(columns=column).to_csv(path, index=False)
    with pytest.raises(TableError, match=f"^not a sweep's table: it lacks {column}; .* without --columns$"):
        story.page(path)


def marks(spec: Any) -> list[dict[str, Any]]:
    """Return all views of a spec that have a mark."""
    if isinstance(spec, list):
        return [found for part in spec for found in marks(part)]
    if not isinstance(spec, dict):
        return []
    return ([spec] if "mark" in spec else []) + [found for part in spec.values() for found in marks(part)]


def test_text_in_charts_has_the_colour_of_the_page(frames: reports.Frames) -> None:
    """Black text is unreadable on a dark page: views named ink_… are coloured by the page's style."""
    page = reports.story(frames)
    for section in page.sections:
        for figure in section.figures:
            for view in marks(figure.spec(page.picks)):
                if view["mark"]["type"] == "text":
                    own = {"color", "fill"} & set(view["encoding"])
                    assert own or view.get("name", "").startswith("ink_"), figure.name
