"""The page of a whole model: its findings counted by hand, its charts, hostile names, and in a browser."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Callable

import pandas as pd
import pytest
import vl_convert

from costmodel import model_story, models, reports
from costmodel.reports import elasticity, generation, layouts, recompute, whatif, words
from costmodel.reports.figure import Figure, at_first, choose

TINY = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "vocab_size": 1000,
}
FIGURES = [
    "parts",
    "limits",
    "growth",
    "holding",
    "generation",
    "recompute",
    "whatif",
    "elasticity",
    "layouts",
]
HOSTILE = (
    "</script><script>document.documentElement.dataset.pwned='1'</script>",
    '"><img src=x onerror="document.documentElement.dataset.pwned=\'2\'">',
    "'; document.documentElement.dataset.pwned='3'; //",
    "=HYPERLINK('evil')",
)


@pytest.fixture(scope="module")
def tables() -> reports.ModelFrames:
    return model_story.story(
        models.from_config(TINY, name="tiny"),
        ["nvidia/a100-sxm-80gb", "nvidia/h200-sxm"],
        batch=2,
        seq=512,
        rung="bound",
        clusters=(2, 4),
        others=(),
    )


def by_device(tables: reports.ModelFrames) -> dict[str, pd.DataFrame]:
    """Return the tables that have rows for each device, by name."""
    found = {field.name: getattr(tables, field.name) for field in dataclasses.fields(tables)}
    return {name: frame for name, frame in found.items() if isinstance(frame, pd.DataFrame)}


@pytest.fixture(scope="module")
def model_page(tables: reports.ModelFrames) -> reports.Page:
    return reports.model(tables, command="costmodel model tiny --report tiny.html")


@pytest.fixture(scope="module")
def hostile(tables: reports.ModelFrames) -> reports.Page:
    """Return the page with hostile text in every name that comes from a user's file."""
    names = {"a100-sxm-80gb": HOSTILE[0], "h200-sxm": HOSTILE[1]}
    renamed = {name: frame.replace({"where": names}) for name, frame in by_device(tables).items()}
    renamed["kernels"] = renamed["kernels"].replace({"part": {"attention": HOSTILE[2]}})
    renamed["lengths"] = renamed["lengths"].replace({"part": {"attention": HOSTILE[0]}})
    renamed["changes"] = renamed["changes"].assign(constants_from=HOSTILE[3])
    found = dataclasses.replace(
        tables, name=HOSTILE[0], notes=((HOSTILE[1], HOSTILE[0]),), refused=(HOSTILE[0],), **renamed
    )
    return reports.model(found, command=HOSTILE[0])


def figures(page: reports.Page) -> dict[str, Figure]:
    return {figure.name: figure for section in page.sections for figure in section.figures}


def said(page: reports.Page, name: str, **chosen: str) -> str:
    return figures(page)[name].say(at_first(page.picks) | chosen)


# -- charts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model_page", "hostile"])
def test_every_chart_compiles_and_says_its_finding(kind: str, request: pytest.FixtureRequest) -> None:
    page: reports.Page = request.getfixturevalue(kind)
    assert list(figures(page)) == FIGURES
    for figure in figures(page).values():
        rows = choose(figure.frame, at_first(page.picks))
        spec = figure.chart(rows).to_dict()
        vega = vl_convert.vegalite_to_vega(json.dumps(spec))
        assert vega["marks"], figure.name
        assert len(vega.get("legends", [])) <= 1, figure.name
        assert spec["title"]["text"] == figure.finding(rows)
        assert spec["description"] == figure.about
        assert 0 < len(figure.frame) <= 5000


def test_every_choice_has_a_finding(model_page: reports.Page) -> None:
    for figure in figures(model_page).values():
        found = figure.findings(model_page.picks)
        assert found
        assert not [text for text in found.values() if "nan" in text or "No data for this choice" in text]


# -- findings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["prefill", "decode", "training"])
def test_finding_on_parts_states_the_largest_share(
    tables: reports.ModelFrames, model_page: reports.Page, use: str
) -> None:
    rows = tables.kernels[(tables.kernels["where"] == "h200-sxm") & (tables.kernels["use"] == use)]
    parts: dict[str, float] = {}
    for part, seconds in zip(rows["part"], rows["seconds"], strict=True):
        parts[part] = parts.get(part, 0.0) + seconds
    most = max(parts, key=lambda name: parts[name])
    share = 100 * parts[most] / sum(parts.values())
    text = said(model_page, "parts", where="h200-sxm", use=use)
    assert text.startswith(f"{share:.0f} % of ")
    assert f"goes into {most}" in text.replace("“", "").replace("”", "")


def test_parts_and_limits_add_up_to_the_whole_time(
    tables: reports.ModelFrames, model_page: reports.Page
) -> None:
    answers = tables.answers.set_index(["where", "use"])["seconds"]
    drawn = figures(model_page)["parts"].frame.groupby(["where", "use"])[["seconds", "share"]].sum()
    for key, row in drawn.iterrows():
        assert row["seconds"] == pytest.approx(answers[key])
        assert row["share"] == pytest.approx(1)
    limits = figures(model_page)["limits"].frame
    assert limits.groupby("row")["share"].sum().tolist() == pytest.approx([1.0] * 6)
    assert limits["row"].nunique() == 6


def test_growth_chart_adds_up_to_the_whole_time(
    tables: reports.ModelFrames, model_page: reports.Page
) -> None:
    drawn = figures(model_page)["growth"].frame
    keys = ["where", "use", "seq"]
    wanted = tables.lengths.groupby(keys)["seconds"].sum()
    assert drawn.groupby(keys)["seconds"].sum().to_numpy() == pytest.approx(wanted.to_numpy())
    assert drawn.groupby(keys)["whole"].first().to_numpy() == pytest.approx(wanted.to_numpy())
    assert drawn.groupby("use")["label"].nunique().max() <= 6
    times = wanted["a100-sxm-80gb", "prefill"]
    text = said(model_page, "growth")
    assert text.startswith(f"131,072 tokens take {times.iloc[-1] / times.iloc[0]:,.0f} times as long as 128")


def test_finding_on_memory_states_the_longest_that_fits(
    tables: reports.ModelFrames, model_page: reports.Page
) -> None:
    longest = tables.answers.set_index(["where", "use"])["longest_seq"]
    for use in ("prefill", "decode", "training"):
        text = said(model_page, "holding", use=use)
        assert text.startswith(f"Up to {longest['a100-sxm-80gb', use]:,.0f} tokens fit into 73.6 GB")


def test_finding_on_generation_states_first_token_next_tokens_and_rate(
    tables: reports.ModelFrames, model_page: reports.Page
) -> None:
    rows = tables.tokens[tables.tokens["where"] == "h200-sxm"].set_index("made")
    whole, first = rows["elapsed_s"][128], rows["first_s"][128]
    text = said(model_page, "generation", where="h200-sxm")
    asked = "128 tokens after a prompt of 512 tokens in each of 2 sequences"
    assert text.startswith(f"{asked} take {words.seconds(whole)}: ")
    assert f"{words.seconds(first)} to the first, then {words.seconds(rows['step_s'][2])}" in text
    rate = float(re.findall(r"([\d,]+) tokens per second", text)[0].replace(",", ""))
    assert rate == pytest.approx(2 * 128 / whole, rel=6e-3)
    drawn = figures(model_page)["generation"].frame
    at = drawn[(drawn["where"] == "h200-sxm") & (drawn["made"] == 64)].set_index("label")["seconds"]
    assert at["total so far"] == pytest.approx(at["prompt and first token"] + at["later tokens"])
    short = tables.tokens.assign(lacks_bytes=3e9)
    assert "; the device lacks 3 GB of memory" in generation.finding(generation.rows(short))


def test_model_that_generates_nothing_has_no_generation_chart(tables: reports.ModelFrames) -> None:
    page = reports.model(dataclasses.replace(tables, tokens=tables.tokens.head(0)), command="x")
    assert "generation" not in figures(page)
    assert "generation" not in [section.name for section in page.sections]


def test_memory_bars_add_up_to_the_table(tables: reports.ModelFrames, model_page: reports.Page) -> None:
    bars = figures(model_page)["recompute"].frame
    at = tables.memory[tables.memory["seq"] == 512]
    states = ["prefill", "decode", *(f"training, {kept}" for kept in recompute.AGAIN.values())]
    assert list(dict.fromkeys(bars["state"])) == states
    assert bars["bytes"].sum() == pytest.approx(at["bytes"].sum())
    assert "lacks" not in said(model_page, "recompute")
    small = recompute.finding(bars.assign(room_bytes=1.0))
    assert "; decode lacks " in small
    assert "; training, full recomputation, lacks " in small


def test_finding_on_changes_states_the_best_figure(
    tables: reports.ModelFrames, model_page: reports.Page
) -> None:
    rows = tables.changes[(tables.changes["where"] == "a100-sxm-80gb") & (tables.changes["use"] == "decode")]
    best = rows[rows["kind"] == "figure"].sort_values("speedup").iloc[-1]
    assert best["change"] == "hbm times 2"
    text = said(model_page, "whatif", use="decode")
    assert text.startswith(f"Memory bandwidth × 2: {best['speedup']:.2g} times as fast")


def test_format_with_other_constants_is_a_kind_of_its_own(tables: reports.ModelFrames) -> None:
    found = whatif.rows(tables.changes.assign(alike=tables.changes["kind"] != "format"))
    narrower = found["change"].str.startswith("in fp8")
    assert set(found[narrower]["kind"]) == {"narrower format, other constants"}
    alike = whatif.rows(tables.changes.assign(alike=True))
    assert set(alike[narrower]["kind"]) == {"narrower format"}
    first = found[(found["where"] == "h200-sxm") & (found["use"] == "decode")]
    assert "fp8" not in whatif.finding(first)


def test_finding_on_layouts_states_the_fastest(tables: reports.ModelFrames, model_page: reports.Page) -> None:
    rows = tables.layouts[
        (tables.layouts["where"] == "h200-sxm") & (tables.layouts["cluster"] == "4 devices")
    ]
    best = rows.sort_values("seconds").iloc[0]
    text = said(model_page, "layouts", where="h200-sxm", cluster="4 devices")
    assert text.startswith(f"Fastest of {best['found']:,} layouts on 4 devices: {best['layout']}, ")
    drawn = figures(model_page)["layouts"].frame
    steps = drawn.groupby(["where", "cluster", "rank"])["seconds"].sum()
    assert steps.to_numpy() == pytest.approx(
        tables.layouts.sort_values(["where", "cluster", "rank"])["seconds"].to_numpy()
    )


def test_bars_of_layouts_include_the_exchange_of_experts(tables: reports.ModelFrames) -> None:
    """Every part of a step is drawn, including those that only mixtures of experts have."""
    parts = [name for name in tables.layouts if str(name).endswith("_s")]
    assert set(parts) == set(layouts.PARTS)
    travelling = layouts.rows(tables.layouts.assign(experts_s=1.0))
    assert (travelling["part"] == "token exchange with experts").sum() == len(tables.layouts)


# -- the page ----------------------------------------------------------------------------------


def test_page_states_what_was_asked_and_its_command(model_page: reports.Page) -> None:
    assert "2 sequences of 512 tokens on a100-sxm-80gb and h200-sxm" in model_page.asked[0]
    assert html.escape(model_page.command) in model_page.html
    assert len(model_page.findings) == 8
    assert len(model_page.html.encode()) < 3_000_000
    assert [section.name for section in model_page.sections][-1] == "sources"
    assert not re.findall(r'(?:src|href)="(?!#)', model_page.html.partition("<script")[0])


def test_heading_names_the_formats_computed_and_stored_in(tables: reports.ModelFrames) -> None:
    assert reports.model(tables, command="x").title.startswith("tiny in bf16: ")
    stored = models.from_config(TINY, name="tiny").storing("int4")
    asked = model_story.story(stored, ["h200-sxm"], dtype="FP16", rung="bound", clusters=(), others=())
    assert asked.name == "tiny in fp16, weights in int4"


def test_requested_use_is_shown_first(tables: reports.ModelFrames) -> None:
    page = reports.model(tables, first="training", command="x")
    assert at_first(page.picks)["use"] == "training"


def test_single_device_is_no_choice(tables: reports.ModelFrames) -> None:
    one = {name: frame[frame["where"] == "h200-sxm"] for name, frame in by_device(tables).items()}
    page = reports.model(dataclasses.replace(tables, **one), command="x")
    assert [pick.column for pick in page.picks] == ["use", "cluster"]
    assert list(dict.fromkeys(figures(page)["limits"].frame["row"])) == ["prefill", "decode", "training"]


def test_page_says_what_is_not_planned_and_why(tables: reports.ModelFrames) -> None:
    none = dataclasses.replace(tables, layouts=tables.layouts.head(0), refused=("no stack",))
    page = reports.model(none, command="x")
    assert "layouts" not in figures(page)
    section = next(section for section in page.sections if section.name == "training")
    assert section.text == ("Not planned: no stack.",)


def test_tables_have_every_row_of_the_frames(tables: reports.ModelFrames, model_page: reports.Page) -> None:
    found = {table.name: table for section in model_page.sections for table in section.tables}
    assert found["answers"].frame["seconds"].tolist() == tables.answers["seconds"].tolist()
    assert len(found["kernels"].frame) == len(tables.kernels)
    assert set(found["room"].frame["fits"]) == {"yes"}
    assert {"whatifs", "elasticities", "layouts", "lengths", "tokens", "rooflines", "figures"} <= set(found)
    assert {"rung", "constants_from"} <= {column.name for column in found["layouts"].columns}
    assert found["layouts"].frame["rung"].notna().all()


def test_hostile_names_stay_text(hostile: reports.Page) -> None:
    markup = re.sub(r"<script[^>]*>.*?</script>", "", hostile.html, flags=re.DOTALL)
    assert "<img" not in markup
    assert "dataset.pwned" in markup  # present as text
    assert len(re.findall(r"<script", hostile.html)) == 3 + _in_library(hostile.html)
    assert hostile.html.count("</script><script>document") == 0


def _in_library(text: str) -> int:
    """Return how often the charts' library itself contains the tag."""
    return sum(script.count("<script") for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL))


# -- in a browser ------------------------------------------------------------------------------


@pytest.mark.usefixtures("browser")
def test_every_chart_draws_and_follows_the_choice(
    model_page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    chosen = {"where": "h200-sxm", "use": "decode", "cluster": "4 devices"}
    dom, log = drawn(model_page.html, chosen)
    assert f'data-drawn="{len(FIGURES)}"' in dom
    assert "could not be drawn" not in dom
    assert "Content Security Policy" not in log
    assert "Uncaught" not in log
    findings = [html.unescape(text) for text in re.findall(r'<h3 class="finding"[^>]*>(.*?)</h3>', dom)]
    assert findings == [said(model_page, name, **chosen) for name in FIGURES]
    # A legend lists what is drawn: decoding holds weights and no gradients.
    start = dom.index('data-figure="holding"')
    legend = re.findall(r'role-legend-label".*?>([^<>]+)</text>', dom[start : dom.index("</figure>", start)])
    assert "weights" in legend
    assert "gradients" not in legend


@pytest.mark.usefixtures("browser")
def test_hostile_names_do_not_run(hostile: reports.Page, drawn: Callable[..., tuple[str, str]]) -> None:
    dom, log = drawn(hostile.html)
    assert "data-pwned" not in dom
    assert f'data-drawn="{len(FIGURES)}"' in dom
    assert "Content Security Policy" not in log


def test_ten_per_cent_more_of_a_rate_saves_at_most_9_1_per_cent():
    """If all of the time follows one rate, 1 / 1.1 of it is left: 9.1 % less, not 10."""
    slopes = pd.DataFrame({"of": ["hbm", "seq"], "kind": ["rate", "size"], "elasticity": [-1.0, 2.0]})
    found = elasticity.finding(elasticity.rows(slopes))
    assert "saves about 9.1 %" in found
    assert "costs about 21.0 %" in found
