"""The documentation does what it says: examples print what stands under them, commands run, charts draw."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from costmodel.cli import run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import charts  # noqa: E402 - scripts of the site, no package
import examples  # noqa: E402
import hooks  # noqa: E402

PAGES = {page.name: page.read_text(encoding="utf-8") for page in examples.pages()}


@pytest.mark.parametrize("page", PAGES)
def test_examples_print_what_stands_under_them(page):
    assert examples.filled(PAGES[page]) == PAGES[page]


def test_every_block_of_python_has_its_output():
    for page, text in PAGES.items():
        assert len(examples.BLOCKS.findall(text)) == text.count("```python"), page
        assert all(out.strip() for _, _, out, _ in examples.BLOCKS.findall(text)), page


@pytest.mark.parametrize("command", [c for text in PAGES.values() for c in examples.COMMANDS.findall(text)])
def test_commands_run(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert run(shlex.split(command)) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", charts.CHARTS)
def test_charts_draw_what_they_are_given(name):
    drawn = charts.CHARTS[name]().to_dict()
    (rows,) = drawn["datasets"].values()
    assert len({row["series"] for row in rows}) >= 2
    assert all(row[drawn["encoding"]["y"]["field"]] > 0 for row in rows)


def test_pictures_named_in_pages_exist_and_are_described():
    named = [found for text in PAGES.values() for found in re.findall(r"!\[([^\]]*)\]\(chart:(\w+)\)", text)]
    assert {name for _, name in named} == set(charts.CHARTS)
    assert all(len(about) > 20 for about, _ in named)
    assert "(charts/work.svg)" in hooks.on_page_markdown("![x](chart:work)")


def test_the_contents_list_every_page_and_links_lead_to_one():
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(contents)["nav"]
    groups = [[entry] if isinstance(entry, str) else next(iter(entry.values())) for entry in nav]
    listed = [page for group in groups for page in group]
    assert sorted(listed) == sorted(PAGES)
    for text in PAGES.values():
        assert set(re.findall(r"\]\((\w+\.md)\)", text)) <= set(PAGES)
