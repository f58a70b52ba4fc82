"""Documentation: examples print the output shown under them, commands run, charts draw what the text says."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import costmodel
from costmodel import LSTM, hardware, parallel, predict
from costmodel.cli import run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import charts  # noqa: E402 - scripts of the site, no package
import examples  # noqa: E402
import hooks  # noqa: E402

PAGES = {page.name: page.read_text(encoding="utf-8") for page in examples.pages()}


@pytest.mark.parametrize("page", PAGES)
def test_examples_print_the_output_shown_under_them(page):
    assert examples.filled(PAGES[page]) == PAGES[page]


def test_every_block_of_python_has_its_output():
    for page, text in PAGES.items():
        found = examples.BLOCKS.findall(text)
        assert [language for _, language, *_ in found].count("python") == text.count("```python"), page
        assert all(out.strip() for *_, out, _ in found), page


#: Commands shown without output; those with output run in the test above.
ALONE = [c for text in PAGES.values() for c in examples.COMMANDS.findall(examples.BLOCKS.sub("", text))]


@pytest.mark.parametrize("command", [c for c in ALONE if not c.startswith("validate")])
def test_commands_shown_without_output_run(command, monkeypatch, capsys):
    """All but `validate`, which measures for minutes."""
    monkeypatch.chdir(ROOT)
    assert run(shlex.split(command)) == 0, capsys.readouterr().err


def test_device_shown_in_adding_md_is_valid(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGES["adding.md"], re.DOTALL)
    file = tmp_path / "one.yaml"
    file.write_text(text, encoding="utf-8")
    assert hardware.check(file) == []
    p = predict(LSTM(dtype="fp16"), file, batch=8, seq=100, hidden=512)
    assert (p.device.name, p.bound) == ("acme/one", "depth")


def drawn(name):
    """Return the points of a chart on its logarithmic axes: label → rows of x and y, at rising x."""
    chart = charts.CHARTS[name]().to_dict()
    (rows,) = chart["datasets"].values()
    channels = chart["layer"][0]["encoding"]
    x, y = (channels[axis]["field"] for axis in "xy")
    lines = {}
    for row in sorted(rows, key=lambda row: row[x]):
        lines.setdefault(row["label"], []).append((row[x], row[y]))
    return {label: np.log2(np.array(points, dtype=float)) for label, points in lines.items()}


def slopes(lines):
    return {label: np.diff(points[:, 1]) / np.diff(points[:, 0]) for label, points in lines.items()}


@pytest.mark.parametrize("name", charts.CHARTS)
def test_charts_have_several_lines_of_finite_points(name):
    lines = drawn(name)
    assert len(lines) >= 2
    assert all(np.isfinite(points).all() for points in lines.values())


def test_charts_show_what_the_text_says_of_them():
    hardware = {label: points[-1, 1] for label, points in drawn("hardware").items()}
    assert hardware["LSTM, H200"] == pytest.approx(hardware["LSTM, ten times the device"], abs=0.1)
    assert hardware["tiled attention, H200"] > hardware["tiled attention, ten times the device"] + 3
    batch = slopes(drawn("batch"))
    assert batch["LSTM"][:3].max() < 0.2
    assert batch["LSTM"][-1] > 0.5
    assert batch["tiled attention"][2:].min() > 0.8
    race = drawn("race")
    assert (race["attention"][:, 1] < race["recurrence"][:, 1]).all()
    work = slopes(drawn("work"))
    assert work["core"] == pytest.approx(2)
    assert 1 <= work["whole layer"][0] < 1.1
    assert 1.6 < work["whole layer"][-1] < 2
    memory = slopes(drawn("memory"))
    assert memory["tiled"][-1] == pytest.approx(1)
    assert 1.9 < memory["stored scores"][-1] < 2
    intensity = {label: 2 ** points[:, 1] for label, points in drawn("intensity").items()}
    assert intensity["stored scores"].max() <= 32 < intensity["ridge of the A100"][0] < intensity["tiled"][-1]
    cache = slopes(drawn("cache"))
    assert (cache["llama-2-7b"][-1], cache["mistral-7b"][-1]) == (pytest.approx(1), 0)
    devices = slopes(drawn("devices"))["DistFlashAttn"]
    assert -0.95 < devices[0] < -0.8, "two devices fetch for one round only, more for the next round too"
    assert devices[1:] == pytest.approx(-1, abs=0.05)
    pairs = {label: rising[-1] for label, rising in slopes(drawn("pairs")).items()}
    wanted = {"all pairs": 2, "combiner": 1.5, "window of 1,024": 1, "bigbird": 1}
    assert pairs == pytest.approx(wanted, abs=0.05)


def test_charts_named_in_pages_exist_and_have_a_description():
    named = [found for text in PAGES.values() for found in re.findall(r"!\[([^\]]*)\]\(chart:(\w+)\)", text)]
    assert {name for _, name in named} == set(charts.CHARTS)
    assert all(len(about) > 20 for about, _ in named)
    assert "(charts/work.svg)" in hooks.on_page_markdown("![x](chart:work)")


def test_the_reference_has_every_public_name():
    said = set(re.findall(r"^::: ([\w.]+)$", hooks.on_page_markdown(PAGES["reference.md"]), re.MULTILINE))
    for name in set(dir(costmodel)) - {"__version__", "layers", "models", "parallel"}:
        value = getattr(costmodel, name)
        home = getattr(value, "__module__", None)
        names = {f"costmodel.{name}", home, f"{home}.{name}", (home or "").rpartition(".")[0]}
        assert names & said, name
    assert {f"costmodel.parallel.{name}" for name in parallel.__all__} <= said


def test_the_contents_list_every_page_and_links_lead_to_one():
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(contents)["nav"]
    groups = [[entry] if isinstance(entry, str) else next(iter(entry.values())) for entry in nav]
    listed = [page for group in groups for page in group]
    assert sorted(listed) == sorted(PAGES)
    for text in PAGES.values():
        assert set(re.findall(r"\]\((\w+\.md)\)", text)) <= set(PAGES)
