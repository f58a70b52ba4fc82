"""The page: self-contained, safe, and readable without a mouse, colour vision or a network."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html.parser
import itertools
import json
import re
from pathlib import Path

import pytest

from costmodel import reports
from costmodel.errors import OutputError
from costmodel.reports import page as pages
from costmodel.reports import render
from costmodel.reports.style import OKABE_ITO

CHARTS = 8


class Elements(html.parser.HTMLParser):
    """The elements of a page, as a browser's parser finds them, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def elements(page: reports.Page) -> Elements:
    return Elements(page.html)


# -- self-contained ------------------------------------------------------------------------------


def test_page_loads_nothing(elements: Elements) -> None:
    loading = {
        name: value
        for _, attributes in elements.found
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "poster", "action", "background")
    }
    assert loading == {}
    assert all(attributes["href"].startswith("#") for attributes in elements.all("a"))
    assert elements.all("link") == []
    assert "url(" not in render.asset("page.css")
    assert "@import" not in render.asset("page.css")


def test_policy_allows_the_pages_own_scripts_and_nothing_else(elements: Elements) -> None:
    policy = next(
        attributes["content"]
        for attributes in elements.all("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    kinds = [attributes.get("type") for attributes in elements.all("script")]
    run = [text for text, kind in zip(elements.scripts, kinds, strict=True) if kind is None]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run}
    assert set(directives["script-src"].split()) == hashes
    assert len(run) == 2
    assert "unsafe-eval" not in policy
    assert not [a for _, attributes in elements.found for a in attributes if a.startswith("on")]


def test_page_is_small(page: reports.Page) -> None:
    assert len(page.html.encode()) < 3_000_000


def test_title_that_is_no_text_has_question_marks(page: reports.Page) -> None:
    """As in a command with the name of a file that is not in UTF-8."""
    html = dataclasses.replace(page, title="a\udcff", command="costmodel report a\udcff.csv").html
    assert "<title>a?</title>" in html
    assert "costmodel report a?.csv" in html


def test_page_that_is_too_large_is_refused(page: reports.Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LARGEST", 1000)
    copy = reports.Page(**{name: getattr(page, name) for name in page.__dataclass_fields__})
    with pytest.raises(OutputError, match="fewer rows"):
        _ = copy.html


# -- hostile names -------------------------------------------------------------------------------


def test_hostile_names_stay_text(hostile_page: reports.Page) -> None:
    found = Elements(hostile_page.html)
    assert found.all("img") == []
    assert len(found.all("script")) == 3
    assert not [a for _, attributes in found.found for a in attributes if a.startswith("on")]
    assert "</script><script>" not in hostile_page.html.replace("</script>\n<script>", "")
    assert "<!--" not in re.sub(r"<script>.*?</script>", "", hostile_page.html, flags=re.DOTALL)


def test_hostile_names_are_shown_unchanged(hostile_page: reports.Page) -> None:
    found = Elements(hostile_page.html)
    store = json.loads(found.scripts[0])
    devices = store["picks"][0]["values"]
    assert devices[0] == "</script><script>document.documentElement.dataset.pwned='1'</script>"
    assert devices[0] in "".join(found.words)


# -- for every reader ----------------------------------------------------------------------------


def test_every_chart_has_a_caption_and_only_the_first_finding_is_announced(elements: Elements) -> None:
    plots = [attributes for attributes in elements.all("div") if attributes.get("class") == "plot"]
    assert len(plots) == CHARTS
    assert len(elements.all("figcaption")) == CHARTS
    findings = [attributes for attributes in elements.all("h3") if attributes.get("class") == "finding"]
    assert [bool(attributes.get("aria-live")) for attributes in findings] == [True] + [False] * (CHARTS - 1)


def test_tables_have_captions_and_headed_columns(elements: Elements) -> None:
    tables = elements.all("table")
    assert tables
    assert len(elements.all("caption")) == len(tables)
    assert all(attributes["scope"] == "col" for attributes in elements.all("th"))
    assert all(
        attributes["tabindex"] == "0" and attributes["aria-label"]
        for attributes in elements.all("div")
        if attributes.get("class") == "scroll"
    )


def test_heading_levels_go_down_one_at_a_time(elements: Elements) -> None:
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))


def test_page_has_a_language_a_title_and_valid_links(elements: Elements) -> None:
    assert elements.all("html")[0]["lang"] == "en"
    assert "Chain or pairs" in "".join(elements.words)
    targets = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    assert all(attributes["href"][1:] in targets for attributes in elements.all("a"))


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2."""
    full = colour if len(colour) == 7 else "#" + "".join(2 * c for c in colour[1:])
    parts = [int(full[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_enough_contrast(theme: int) -> None:
    """WCAG 2.2, 1.4.3: 4.5:1 for text; about 3:1 for lines (1.4.11)."""
    blocks = re.findall(r":root \{(.*?)\}", render.asset("page.css"), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", blocks[theme]))
    for ground in ("paper", "panel", "stripe"):
        for text in ("ink", "soft", "accent"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for line in OKABE_ITO[:4]:
        assert contrast(line, colours["paper"]) >= 2.9, line


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_edges_of_fields_and_buttons_have_enough_contrast(theme: int) -> None:
    """WCAG 2.2, 1.4.11: 3:1 for the edges of controls and for the focus."""
    style = render.asset("page.css") + render.asset("explorer.css")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", blocks[theme]))
    edges = set(re.findall(r"border: 1px solid (#[0-9a-f]{6});", style)) | {colours["accent"]}
    assert len(edges) > 1
    for edge in edges:
        assert contrast(edge, colours["paper"]) >= 3, edge


# -- saving --------------------------------------------------------------------------------------


def test_save_writes_the_page(page: reports.Page, tmp_path: Path) -> None:
    path = reports.save(page, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == page.html
    assert list(tmp_path.iterdir()) == [path]


def test_save_does_not_overwrite_unless_asked(page: reports.Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match=r"exists.*overwrite=True"):
        reports.save(page, path)
    assert path.read_text() == "mine"
    reports.save(page, path, overwrite=True)
    assert path.read_text(encoding="utf-8") == page.html


def test_save_leaves_nothing_when_the_disk_is_full(
    page: reports.Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, text: str, **kwargs: object) -> int:
        with self.open("w") as stream:
            stream.write(text[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left"):
        reports.save(page, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["report.txt", "missing/report.html", "."])
def test_save_refuses_invalid_paths_with_one_line(page: reports.Page, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*") as caught:
        reports.save(page, tmp_path / name)
    assert "\n" not in str(caught.value)


def test_notebook_shows_the_page_in_a_sandbox(page: reports.Page) -> None:
    frame = Elements(page._repr_html_()).all("iframe")[0]
    assert frame["srcdoc"] == page.html
    assert "allow-same-origin" not in frame["sandbox"]
