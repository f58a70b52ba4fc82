"""The page in a real browser: charts draw under its own policy, choices work, nothing hostile runs.

Skipped where there is no Chromium.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Callable

import pandas as pd
import pytest

from costmodel import reports

pytestmark = pytest.mark.usefixtures("browser")


def attribute(dom: str, name: str) -> str | None:
    """Return an attribute of the root element."""
    root = re.search(r"<html[^>]*>", dom)
    assert root
    found = re.search(rf'{name}="([^"]*)"', root.group())
    return html.unescape(found.group(1)) if found else None


def texts(part: str) -> list[str]:
    """Return the cells of a table's body."""
    body = re.search(r"<tbody>(.*?)</tbody>", part, re.DOTALL)
    assert body
    return [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", body.group(1), re.DOTALL)]


def test_every_chart_draws_and_tables_keep_their_text(
    page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    dom, log = drawn(page.html)
    charts = sum(len(section.figures) for section in page.sections)
    assert attribute(dom, "data-drawn") == str(charts)
    assert "could not be drawn" not in dom
    # The menu is beside the image, not inside it, where a screen reader would not find it.
    images = re.findall(r'<div class="chart-wrapper[^>]*role="img"[^>]*aria-label="Chart\. [^"]{60,}"', dom)
    assert len(images) == charts
    assert len(re.findall(r'<summary[^>]*aria-label="Save this chart"', dom)) == charts
    assert "Content Security Policy" not in log
    assert "Uncaught" not in log
    assert "Conflicting" not in log
    # The script writes table cells in the format of the page without scripts.
    name = 'id="table-predictions"'
    assert texts(dom[dom.index(name) :]) == texts(page.html[page.html.index(name) :])
    assert {"main memory", "matrix engine, bf16"} < set(texts(dom[dom.index(name) :]))


def test_the_script_rounds_to_the_prefix_that_the_page_has(
    table: pd.DataFrame, facts: reports.Facts, drawn: Callable[..., tuple[str, str]]
) -> None:
    page = reports.compare(table.assign(footprint_bytes=999.6e6), facts=facts).html
    dom, _ = drawn(page)
    name = 'id="table-predictions"'
    cells = texts(dom[dom.index(name) :])
    assert "1 GB" in cells
    assert cells == texts(page[page.index(name) :])


def looks(dom: str, name: str) -> dict[str, tuple[str, str]]:
    """Return stroke and dashes of what a chart's legend lists, by label."""
    start = dom.index(f'data-figure="{name}"')
    part = dom[start : dom.index("</figure>", start)]
    symbols = re.findall(r'role-legend-symbol".*?stroke="(#\w+)".*?stroke-dasharray="([\d,]+)"', part)
    labels = re.findall(r'role-legend-label".*?>([^<>]+)</text>', part)
    return dict(zip(labels, symbols, strict=True))


#: Selects the second device once the charts of the first are drawn.
SECOND = """<script>setTimeout(() => {
  const select = document.querySelector("select[data-pick]");
  select.selectedIndex = 1;
  select.dispatchEvent(new Event("change"));
}, 10000);</script>"""


def test_layer_has_the_same_colour_and_dashes_in_every_chart(
    table_of: Callable[..., pd.DataFrame], facts: reports.Facts, drawn: Callable[..., tuple[str, str]]
) -> None:
    """Also where other layers have no line, as on a device that lacks their number format."""
    names = tuple(f"layer-{i}" for i in range(9))
    table = table_of(layers=names)
    table.loc[table["layer"] == names[0], "matrix_flops"] = 0.0
    table = table[(table["layer"] != names[1]) | (table["device"] == "maker/one")]
    page = reports.compare(table, facts=facts)
    first, _ = drawn(page.html)
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.html)
    body, _, end = text.rpartition("</body>")
    second, _ = drawn(f"{body}{SECOND}</body>{end}")
    every = looks(first, "time")
    assert list(every) == [f"{name}[bf16]" for name in names]
    assert len(set(every.values())) == len(names)
    for dom, missing in ((first, []), (second, [names[1]])):
        for chart in ("time", "traffic", "depth", "memory"):
            left = {k: v for k, v in every.items() if k.partition("[")[0] not in missing}
            assert looks(dom, chart) == left, chart
        for chart in ("roofline", "flops"):
            left = {k: v for k, v in every.items() if k.partition("[")[0] not in [names[0], *missing]}
            assert looks(dom, chart) == left, chart


def test_choice_in_the_address_is_shown(page: reports.Page, drawn: Callable[..., tuple[str, str]]) -> None:
    dom, _ = drawn(page.html, {"where": "maker/two"})
    figure = next(f for s in page.sections for f in s.figures if f.name == "time")
    findings = re.findall(r'<h3 class="finding"[^>]*>(.*?)</h3>', dom, re.DOTALL)
    assert figure.say({"where": "maker/two"}) in findings
    assert figure.say({"where": "maker/one"}) not in findings
    cells = texts(dom[dom.index('id="table-predictions"') :])
    assert "16.4 ms" in cells  # chain on the second device at 8,192
    assert "8.19 ms" not in cells


#: Follows each link of the contents and notes the headings that something then covers.
FOLLOWER = """<script>setTimeout(() => {
  document.documentElement.style.scrollBehavior = "auto";
  const covered = [...document.querySelectorAll("nav a")].filter((link) => {
    link.click();
    const heading = document.querySelector(`${link.hash} h2`);
    const { x, y } = heading.getBoundingClientRect();
    return document.elementFromPoint(x + 5, y + 3) !== heading;
  });
  document.documentElement.dataset.covered = covered.map((link) => link.hash).join(" ");
}, 10000);</script>"""


@pytest.mark.parametrize("width", [500, 1200])
def test_link_of_the_contents_leaves_its_heading_visible(
    frames: reports.Frames, drawn: Callable[..., tuple[str, str]], width: int
) -> None:
    """On a phone the choices take three rows at the top."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", reports.story(frames).html)
    body, _, end = text.rpartition("</body>")
    dom, _ = drawn(f"{body}{FOLLOWER}</body>{end}", width=width)
    assert attribute(dom, "data-covered") == ""


def test_hostile_names_do_not_run(hostile_page: reports.Page, drawn: Callable[..., tuple[str, str]]) -> None:
    dom, log = drawn(hostile_page.html)
    assert attribute(dom, "data-pwned") is None
    assert attribute(dom, "data-drawn") == str(sum(len(s.figures) for s in hostile_page.sections))
    assert "Content Security Policy" not in log


def test_export_has_every_row_and_no_formulas(
    hostile_page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    """The test clicks on export, with the page's policy removed so that it can listen."""
    listen = (
        "<script>URL.createObjectURL = blob => { blob.text().then(text => "
        "{ document.documentElement.dataset.csv = text; }); return 'about:blank'; };"
        "HTMLAnchorElement.prototype.click = () => {};"
        "document.querySelector('[data-table=predictions] .csv').click();</script>"
    )
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", hostile_page.html)
    dom, _ = drawn(text.replace("</body>", f"{listen}</body>"))
    exported = attribute(dom, "data-csv")
    assert exported is not None
    rows = list(csv.DictReader(exported.lstrip("\ufeff").splitlines()))
    frame = next(t for s in hostile_page.sections for t in s.tables if t.name == "predictions").frame
    assert len(rows) == len(frame)
    assert [float(row["seconds"]) for row in rows] == pytest.approx(frame["seconds"].tolist(), rel=1e-6)
    assert {row["constants_from"] for row in rows} == {"'=HYPERLINK('evil')"}
    assert rows[0]["device"] == frame["device"].iloc[0]


def test_charts_of_the_story_draw(frames: reports.Frames, drawn: Callable[..., tuple[str, str]]) -> None:
    page = reports.story(frames)
    dom, log = drawn(page.html, {"where": "P100 · fp32"})
    assert attribute(dom, "data-drawn") == str(sum(len(section.figures) for section in page.sections))
    assert "could not be drawn" not in dom
    assert "LSTM · fp32" in dom
    assert "Uncaught" not in log
