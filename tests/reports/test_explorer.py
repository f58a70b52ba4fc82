"""The explorer: the browser computes what Python predicts, for any setting of any layer."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import random
import re
import shlex
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

import costmodel as cm
from costmodel import explore, models, reports
from costmodel.cli import run
from costmodel.layers import get
from costmodel.reports import words

#: Relative tolerance.
CLOSE = 1e-9
#: What the browser computes besides every count.
TIMES = ("seconds", "lower_s", "serial_s")
DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8")

#: Sets one address fragment after another, as a reader who edits the address would.
DRIVER = """<script>(async () => {
  const settled = () => new Promise((done) => addEventListener("explored", done, { once: true }));
  const field = document.getElementById("answer");
  if (!field.value) await settled();
  const found = [];
  for (const fragment of %s) {
    location.hash = fragment;
    await settled();
    found.push(field.value);
  }
  document.documentElement.dataset.found = JSON.stringify(found);
})();</script>"""

Explored = Callable[[reports.Page, list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture
def explored(drawn: Callable[..., tuple[str, str]]) -> Explored:
    """Return a function that gives the page's answers to settings, from one opening of it."""

    def answers(page: reports.Page, settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # The page's policy allows only its own scripts, so it is removed for the driver.
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.html)
        fragments = json.dumps([urlencode(setting) for setting in settings])
        body, _, end = text.rpartition("</body>")
        dom, log = drawn(f"{body}{DRIVER % fragments}</body>{end}", seconds=600)
        assert "Uncaught" not in log
        found = re.search(r'data-found="([^"]*)"', dom)
        assert found, log
        return [json.loads(answer) for answer in json.loads(html.unescape(found.group(1)))]

    return answers


def ran(text: str, script: str, drawn: Callable[..., tuple[str, str]]) -> Any:
    """Return what a script stores as found, run on a page whose policy is removed for it."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    body, _, end = text.rpartition("</body>")
    dom, _ = drawn(f"{body}{script}</body>{end}", seconds=60)
    match = re.search(r'data-found="([^"]*)"', dom)
    assert match
    return json.loads(html.unescape(match.group(1)))


def close(found: float | None, expected: float) -> bool:
    return found == pytest.approx(expected, rel=CLOSE, abs=0.0)


def agree(found: dict[str, Any], prediction: cm.Prediction) -> None:
    """Compare one layer's numbers in the browser with Python's."""
    for name in TIMES:
        assert close(found[name], getattr(prediction, name)), name
    for name, value in prediction.counts.items():
        assert close(found[name], value), name
    assert found["bound"] == prediction.bound
    # Without dependent steps in a kernel the depth only counts layers, and nothing waits for steps.
    waits = any(phase.steps != 0 for phase in prediction.layer.cost.phases)
    steps = prediction.depth if waits else 0
    device = prediction.device
    assert close(found["waiting_s"], steps * device.step_s + prediction.launches * device.launch_s)


# -- any setting -----------------------------------------------------------------------------------


def setting(chance: random.Random) -> dict[str, Any]:
    """Return random sizes and options and, sometimes, a device with changed figures."""
    heads = chance.choice((1, 2, 3, 8, 12, 16, 40))
    said: dict[str, Any] = {
        "device": chance.choice(cm.hardware.available()),
        "dtype": chance.choice(DTYPES),
        "direction": chance.choice(("fwd", "fwd+bwd")),
        "causal": chance.choice(("true", "false")),
        "schedule": chance.choice(("fa1", "fa2")),
        "tile": chance.choice(("auto", "free")),
        "batch": round(2 ** chance.uniform(0, 10)),
        "seq": round(2 ** chance.uniform(0, 20)),
        "heads": heads,
        "width": heads * chance.choice((1, 7, 32, 64, 100, 128, 256)),
    }
    if said["tile"] == "free":
        said |= {name: chance.randint(1, 300) for name in ("tile_rows", "tile_cols")}
    if chance.random() < 0.3:
        said |= {"num_layers": chance.randint(1, 100)}
    if chance.random() < 0.3:
        said |= {"seq_kv": round(2 ** chance.uniform(0, 20))}
    if chance.random() < 0.3:
        said |= {"kv_heads": chance.choice((1, 2, 3, 4))}
    if chance.random() < 0.4:
        said |= {"set-hbm": chance.uniform(100, 9000), "set-peak": chance.uniform(10, 3000)}
    if chance.random() < 0.4:
        said |= {"set-l2": chance.uniform(1, 200), "set-shared": chance.uniform(20, 500)}
    if chance.random() < 0.3:
        said |= {"set-step": chance.uniform(0.1, 20), "set-launch": chance.uniform(0.5, 20)}
    return said


UNITS = {"hbm": "GB/s", "peak": "TFLOP/s", "l2": "MB", "shared": "kB", "step": "us", "launch": "us"}


def machine(said: dict[str, Any]) -> cm.hardware.Device:
    changes = {
        name: f"{said[f'set-{name}']!r} {unit}" for name, unit in UNITS.items() if f"set-{name}" in said
    }
    if "peak" in changes:
        changes[said["dtype"]] = changes.pop("peak")
    device = cm.hardware.load(said["device"])
    return device.replace(**changes) if changes else device


def asked(kind: str, said: dict[str, Any]) -> tuple[cm.layers.Layer, dict[str, Any]]:
    """Return the layer and the sizes that a setting means, as a user of Python would write them."""
    options = {"dtype": said["dtype"], "direction": said["direction"]}
    if kind == "lstm":
        sizes = {
            "hidden": said["width"],
            **({"num_layers": said["num_layers"]} if "num_layers" in said else {}),
        }
    else:
        options |= {"causal": said["causal"] == "true", "projections": True}
        sizes = {"heads": said["heads"], "head_dim": said["width"] // said["heads"]}
        sizes |= {name: said[name] for name in ("seq_kv", "kv_heads") if name in said}
    if kind == "tiled-attention":
        tile = (said["tile_rows"], said["tile_cols"]) if said["tile"] == "free" else None
        options |= {"schedule": said["schedule"], "tile": tile}
    return get(kind)(**options), {"batch": said["batch"], "seq": said["seq"], **sizes}


def predicted(
    layer: cm.layers.Layer, sizes: dict[str, Any], device: cm.hardware.Device
) -> cm.Prediction | None:
    """Return Python's prediction, or None where it refuses."""
    try:
        return cm.predict(layer, device, sizes, rung="bound")
    except cm.CostmodelError:
        return None


@pytest.fixture(scope="module")
def page() -> reports.Page:
    return explore.page()


def test_random_settings_give_the_numbers_of_python(page: reports.Page, explored: Explored) -> None:
    chance = random.Random(20260721)
    settings = [setting(chance) for _ in range(40)]
    compared = refused = 0
    for said, answer in zip(settings, explored(page, settings), strict=True):
        for kind in ("lstm", "dense-attention", "tiled-attention"):
            prediction = predicted(*asked(kind, said), machine(said))
            assert (prediction is None) == (kind not in answer["layers"]), (said, answer["problems"])
            if prediction is None:
                assert answer["problems"], said
                refused += 1
            else:
                agree(answer["layers"][kind], prediction)
                compared += 1
    assert compared > 40
    assert refused > 5


def test_commands_on_the_page_print_the_same_numbers(
    page: reports.Page, explored: Explored, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(11)
    settings = [setting(chance) for _ in range(6)]
    compared = 0
    for answer in explored(page, settings):
        for line, name in zip(answer["commands"], answer["layers"], strict=True):
            words = shlex.split(line)
            assert words[0] == "costmodel"
            assert run([*words[1:], "--json"]) == 0, line
            printed = json.loads(capsys.readouterr().out)
            for key in (*TIMES, "hbm_bytes", "matrix_flops", "footprint_bytes"):
                assert close(answer["layers"][name][key], printed[key]), (line, key)
            compared += 1
    assert compared > 4


def test_crossovers_are_those_of_python(page: reports.Page, explored: Explored) -> None:
    settings = [
        {"batch": batch, "width": width, "device": device, "direction": direction}
        for batch, width in ((1, 512), (8, 1024), (64, 4096))
        for device in ("nvidia/h200-sxm", "google/tpu-v5e")
        for direction in ("fwd", "fwd+bwd")
    ]
    found = 0
    for said, answer in zip(settings, explored(page, settings), strict=True):
        for pair in answer["crossing"]:
            first, second = (
                get(pair[key])(
                    direction=said["direction"], **({} if pair[key] == "lstm" else {"projections": True})
                )
                for key in ("first", "second")
            )
            sizes = {"batch": said["batch"], "heads": 16, "head_dim": said["width"] // 16}
            sizes |= {"hidden": said["width"]} if "lstm" in (pair["first"], pair["second"]) else {}
            expected = cm.crossover(
                first, second, said["device"], over="seq", rung="bound", limit=2**20, **sizes
            )
            assert tuple(pair["sizes"]) == expected.sizes, (said, pair)
            order = {-1: pair["first"], 0: "neither", 1: pair["second"]}
            assert tuple(order[sign] for sign in pair["orders"]) == expected.cheaper
            found += len(expected.sizes)
    assert found > 10


# -- what it says where there is no number ------------------------------------------------------------


def test_invalid_settings_are_reported(page: reports.Page, explored: Explored) -> None:
    cases = {
        "no fp8 rate; it has": {"device": "nvidia/p100-sxm2-16gb", "dtype": "fp8"},
        "head_dim would be 62.5": {"heads": 16, "width": 1000},
        "multiple of kv_heads": {"heads": 16, "kv_heads": 3},
        "needs seq_kv of at least seq": {"causal": "true", "seq": 4096, "seq_kv": 100},
        "wanted a whole number from 1": {"batch": "2.5"},
        "sequence length [tokens]: wanted": {"seq": "-3"},
        "Memory bandwidth [GB/s]: wanted 1 to 100,000, got -5": {"set-hbm": "-5"},
        "Memory bandwidth [GB/s]: wanted 1 to 100,000, got 0.5": {"set-hbm": "0.5"},
        "Memory bandwidth [GB/s]: wanted 1 to 17,200, got 20000": {
            "device": "amd/mi300x",
            "set-hbm": "20000",
        },
        "Peak of the number format [TFLOP/s]: wanted 0.001 to 300,000, got 1e9": {"set-peak": "1e9"},
        "L2 cache of 4 GB: wanted at most the memory's 500 MB": {"set-l2": "4000", "set-hbm_capacity": "0.5"},
    }
    for wanted, answer in zip(cases, explored(page, list(cases.values())), strict=True):
        assert wanted in " ".join(answer["problems"])


@pytest.mark.parametrize("name", ["nvidia/h200-sxm", "amd/mi300x", "google/tpu-v5e", "nvidia/t4"])
def test_limits_of_figures_are_those_of_device_set(page: reports.Page, name: str) -> None:
    """For each figure alone; the test above has figures that do not go together."""
    device = cm.hardware.load(name)
    assert page.live
    limits = next(one["limits"] for one in page.live.data["devices"] if one["name"] == name)
    figures = page.live.data["figures"]
    assert set(limits) == {figure["name"] for figure in figures}
    for figure in figures:
        name, unit = "bf16" if figure["name"] == "peak" else figure["name"], figure["unit"]
        low, high = (limit / figure["scale"] for limit in limits[figure["name"]])
        ends = [(low * 1.001, low * 0.99), (high * 0.999, high * 1.01)]
        # Capacity and L2 limit each other, so one end of each is tested.
        for inside, outside in {"hbm_capacity": ends[1:], "l2": ends[:1]}.get(name, ends):
            device.replace(**{name: f"{inside!r} {unit}"})
            with pytest.raises(cm.CostmodelError, match="cannot change"):
                device.replace(**{name: f"{outside!r} {unit}"})


def test_invalid_address_shows_the_first_view(page: reports.Page, explored: Explored) -> None:
    plain, odd = explored(
        page, [{"seq": 4097}, {"seq": 4097, "device": "no/such", "x": "<script>", "dtype": "fp3"}]
    )
    assert odd == plain


def test_unknown_device_in_the_address_is_reported(
    page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    dom, _ = drawn(page.html, {"device": "foo", "seq": "8192"})
    said = "Device foo in the address is not on this page; showing NVIDIA H200 SXM 141 GB"
    assert f"<li>{said}.</li>" in dom
    assert re.search(rf'<p class="status wrong"[^>]*>{said}</p>', dom)
    assert 'class="share" href="#seq=8192"' in dom


#: Sets the batch to 0 and back, and records what the page says each time.
SPOILER = """<script>(async () => {
  const settled = () => new Promise((done) => addEventListener("explored", done, { once: true }));
  if (!document.getElementById("answer").value) await settled();
  const field = document.querySelector("[data-state=batch]");
  const found = [];
  for (const value of ["0", "8"]) {
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    await settled();
    found.push({
      lead: document.querySelector("#findings .lead").textContent,
      shown: Number(getComputedStyle(document.querySelector("main")).opacity),
    });
  }
  document.documentElement.dataset.found = JSON.stringify(found);
})();</script>"""


def test_outdated_results_are_marked(page: reports.Page, drawn: Callable[..., tuple[str, str]]) -> None:
    wrong, right = ran(page.html, SPOILER, drawn)
    assert wrong["lead"].startswith("Not computed: batch [sequences]: wanted a whole number from 1")
    assert wrong["lead"].endswith("shown belong to earlier settings.")
    assert right["lead"].startswith("On NVIDIA H200 SXM 141 GB; ")
    assert wrong["shown"] < 0.5 < right["shown"] == 1


#: Opens every chart's menu on a page as narrow as a phone's and measures what would be cut off.
RULER = """<script>setTimeout(() => {
  const right = (element) => element.getBoundingClientRect().right;
  const beyond = (inner, plot) => right(inner) - right(plot);
  const found = [...document.querySelectorAll(".plot")].map((plot) => {
    plot.querySelector("details").open = true;
    const labels = [...plot.querySelectorAll(".role-axis-label text")];
    const marks = plot.querySelector("svg").getBoundingClientRect();
    return {
      labels: Math.max(...labels.map((label) => beyond(label, plot))),
      menu: beyond(plot.querySelector(".vega-actions"), plot),
      over: marks.bottom - plot.querySelector("summary").getBoundingClientRect().top,
    };
  });
  document.documentElement.dataset.found = JSON.stringify(found);
}, 10000);</script>"""


def test_nothing_is_cut_off_on_a_narrow_page(
    page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    narrow = (
        ".bench { display: block !important; width: 390px; } .vega-actions { animation: none !important; }"
    )
    text = page.html.replace("</head>", f"<style>{narrow}</style></head>", 1)
    found = ran(text, RULER, drawn)
    assert len(found) == 4
    assert max(plot["labels"] for plot in found) <= 0.5
    assert max(plot["menu"] for plot in found) <= 0.5
    assert max(plot["over"] for plot in found) <= 0.5, "a menu covers the legend beside it"


# -- as a reader uses it -------------------------------------------------------------------------------

#: Moves the slider of the length to its end, and reads the page.
READER = """<script>(async () => {
  const settled = () => new Promise((done) => addEventListener("explored", done, { once: true }));
  const field = document.getElementById("answer");
  if (!field.value) await settled();
  const slider = document.querySelector("[data-slider=seq]");
  slider.value = slider.max;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  await settled();
  const found = { address: location.hash, share: document.querySelector(".share").getAttribute("href"),
    number: document.querySelector("[data-state=seq]").value, said: slider.getAttribute("aria-valuetext"),
    findings: [...document.querySelectorAll("#findings li")].map((item) => item.textContent),
    plots: [...document.querySelectorAll(".plot [role=img]")].map((one) => one.getAttribute("aria-label")) };
  document.documentElement.dataset.found = JSON.stringify(found);
})();</script>"""


#: Exports the first table once it is there, and records the file's text.
EXPORT = """<script>(async () => {
  if (!document.getElementById("answer").value) {
    await new Promise((done) => addEventListener("explored", done, { once: true }));
  }
  URL.createObjectURL = (blob) => {
    blob.text().then((text) => { document.documentElement.dataset.csv = text; });
    return "about:blank";
  };
  HTMLAnchorElement.prototype.click = () => {};
  document.querySelector("[data-table=now] .csv").click();
})();</script>"""


#: Sets one address fragment after another, and records the sentences of each.
SAYER = """<script>(async () => {
  const settled = () => new Promise((done) => addEventListener("explored", done, { once: true }));
  if (!document.getElementById("answer").value) await settled();
  const found = [];
  for (const fragment of %s) {
    location.hash = fragment;
    await settled();
    const rings = document.querySelectorAll('[data-figure="time"] [class*="ink_cross_label"] text');
    found.push({
      said: [...document.querySelectorAll("#findings li")].map((item) => item.textContent).join(" "),
      numbers: [...rings].filter((text) => text.textContent).length,
    });
  }
  document.documentElement.dataset.found = JSON.stringify(found);
})();</script>"""


def test_many_crossovers_are_summarised_in_one_sentence(drawn: Callable[..., tuple[str, str]]) -> None:
    """A list of 34 sizes would fill the screen, and their numbers on the chart would overlap."""
    page = explore.page([get("collective")(), get("ulysses")()], ["nvidia/h200-sxm"])
    few, many = ran(page.html, SAYER % '["along=seq", "along=devices"]', drawn)
    assert re.search(r"the fastest layer changes at [\d,]+ tokens\.", few["said"])
    assert few["numbers"] == 1
    assert re.search(
        r"the fastest layer changes \d\d times between devices = \d+ and devices = [\d,]+\.", many["said"]
    )
    assert many["numbers"] == 0


def test_numbers_of_near_crossovers_do_not_overlap(
    page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    """At 64,057 and 65,536 tokens: two rings with one number."""
    fragment = "device=cpu/epyc-9654&dtype=fp32&seq=65536&batch=64&width=32768"
    (found,) = ran(page.html, SAYER % f'["{fragment}"]', drawn)
    said = "1.01 times as long as lstm; the fastest layer changes at 64,057 tokens and 65,536 tokens"
    assert said in found["said"]
    assert found["numbers"] == 1


def test_sentences_for_one_token_are_in_the_singular(
    page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    (found,) = ran(page.html, SAYER % '["seq=1&set-step=1000"]', drawn)
    assert "At 1 token, " in found["said"]
    assert "its 1 dependent step and its launches" in found["said"]


def test_fastest_layer_varies_where_one_layer_refuses_sizes(drawn: Callable[..., tuple[str, str]]) -> None:
    """Such a pair has no crossovers: with 1 or 2 devices expert-parallel is faster, with 8 megatron."""
    page = explore.page([get("megatron")(), get("expert-parallel")()], ["nvidia/h200-sxm"])
    (found,) = ran(page.html, SAYER % '["along=devices"]', drawn)
    assert "the fastest layer is not the same along the whole range" in found["said"]


def test_slider_changes_the_view_and_the_address(
    page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    found = ran(page.html, READER, drawn)
    assert found["address"] == found["share"] == "#seq=1048576"
    assert (found["number"], found["said"]) == ("1048576", "1,048,576")
    lstm = cm.predict(get("lstm")(), "nvidia/h200-sxm", rung="bound", batch=8, seq=2**20, hidden=1024)
    attention = {"batch": 8, "seq": 2**20, "heads": 16, "head_dim": 64}
    times = [f"lstm takes {words.seconds(lstm.seconds)}"]
    for name, joint in (("tiled-attention", ", "), ("dense-attention", " and ")):
        layer = get(name)(projections=True)  # type: ignore[call-arg]
        other = cm.predict(layer, "nvidia/h200-sxm", rung="bound", **attention)
        times.append(f"{joint}{name} {words.seconds(other.seconds)}")
    assert any("".join(times) in text for text in found["findings"])
    (share,) = (text for text in found["findings"] if text.startswith("Share of peak"))
    assert "lstm 100 % (limited by matrix engine, bf16)" in share
    assert re.search(r"dense-attention \d+ % \(limited by main memory\)", share)
    assert all(label.startswith("Chart. ") and len(label) > 100 for label in found["plots"])


#: Moves the slider of the batch and starts over. Where a reader clicks, a browser's own reset comes after the
#: round (where a script does, before it): so the page has to do all of it, and the browser nothing.
OVER = """<script>(async () => {
  const settled = () => new Promise((done) => addEventListener("explored", done, { once: true }));
  const answer = document.getElementById("answer");
  if (!answer.value) await settled();
  const slider = document.querySelector("[data-slider=batch]");
  const first = slider.value;
  slider.value = slider.max;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  await settled();
  const moved = slider.value;
  const left = slider.form.dispatchEvent(new Event("reset", { bubbles: true, cancelable: true }));
  await settled();
  const found = { first, moved, left, now: slider.value, batch: document.getElementById("size-batch").value,
    address: location.hash, answered: answer.value !== "" };
  document.documentElement.dataset.found = JSON.stringify(found);
})();</script>"""


#: Sets a length and follows a link of the page.
FOLLOWER = """<script>(async () => {
  const settled = () => new Promise((done) => addEventListener("explored", done, { once: true }));
  if (!document.getElementById("answer").value) await settled();
  const field = document.querySelector("[data-state=seq]");
  field.value = 777;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  await settled();
  document.querySelector("nav a[href='#memory']").click();
  await new Promise((done) => setTimeout(done, 1000));
  const found = { seq: field.value, address: location.hash, at: document.activeElement.id };
  document.documentElement.dataset.found = JSON.stringify(found);
})();</script>"""


def test_link_of_the_page_keeps_the_settings(
    page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    assert ran(page.html, FOLLOWER, drawn) == {"seq": "777", "address": "#seq=777", "at": "memory"}


def test_reset_restores_every_setting(page: reports.Page, drawn: Callable[..., tuple[str, str]]) -> None:
    found = ran(page.html, OVER, drawn)
    assert found["moved"] != found["first"] == found["now"]
    assert (found["batch"], found["address"], found["answered"]) == ("8", "", True)
    assert not found["left"], "the browser would reset the form once more"


def test_page_draws_under_its_own_policy(page: reports.Page, drawn: Callable[..., tuple[str, str]]) -> None:
    dom, log = drawn(page.html, {"seq": "8192", "device": "amd/mi300x"})
    assert re.search(r"<html[^>]*data-drawn=\"4\"", dom)
    assert "could not be drawn" not in dom
    assert "Content Security Policy" not in log
    assert "Uncaught" not in log
    assert "AMD Instinct MI300X" in dom


def test_chart_without_rows_says_so(page: reports.Page, drawn: Callable[..., tuple[str, str]]) -> None:
    dom, log = drawn(page.html, {"device": "google/tpu-v5e", "dtype": "fp8"})
    assert dom.count("No data to draw.") == 4
    assert "Google TPU v5e has no fp8 rate" in dom
    assert "Expected length" not in log  # of a picture of no height


def test_exported_table_has_the_sizes_of_every_layer(
    page: reports.Page, drawn: Callable[..., tuple[str, str]]
) -> None:
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.html)
    body, _, end = text.rpartition("</body>")
    dom, _ = drawn(f"{body}{EXPORT}</body>{end}")
    match = re.search(r'data-csv="([^"]*)"', dom)
    assert match
    rows = list(csv.DictReader(html.unescape(match.group(1)).lstrip("\ufeff").splitlines()))
    sizes = {row["label"]: {name for name in ("hidden", "heads", "head_dim") if row[name]} for row in rows}
    assert sizes == {
        "lstm": {"hidden"},
        "dense-attention": {"heads", "head_dim"},
        "tiled-attention": {"heads", "head_dim"},
    }


def test_page_of_given_layers_device_and_sizes_agrees_with_python(explored: Explored) -> None:
    layers = [get("gru")(dtype="fp32"), get("matmul")(dtype="fp32"), get("mamba")(dtype="fp32")]
    page = explore.page(layers, ["nvidia/v100-sxm2-16gb"], {"hidden": 300, "m": 64}, title="Mine")
    (answer,) = explored(page, [{"seq": 100}])
    device = "nvidia/v100-sxm2-16gb"
    sizes = {
        "gru": {"batch": 8, "seq": 100, "hidden": 300},
        "matmul": {"m": 64, "n": 4096, "k": 4096, "batch": 8},
    }
    sizes["mamba"] = {"batch": 8, "seq": 100, "d_model": 1024, "hidden": 300, "k": 4096}
    for layer in layers:
        agree(answer["layers"][layer.name], cm.predict(layer, device, sizes[layer.name], rung="bound"))
    assert page.title == "Mine"


def test_parallel_layers_start_with_valid_sizes(explored: Explored) -> None:
    """The number of devices has to divide the experts."""
    (answer,) = explored(explore.page([get("expert-parallel")(), get("ring-attention")()]), [{"seq": 8192}])
    assert answer["problems"] == []
    assert len(answer["layers"]) == 2


def test_layer_that_a_device_cannot_run_has_no_time_there(explored: Explored) -> None:
    """Switch all-reduce where the switch cannot add: refused as by `predict`, at every rung."""
    switch = get("collective")(algorithm="switch")  # type: ignore[call-arg]
    page = explore.page([switch, get("matmul")()], sizes={"m": 64})
    devices = ("nvidia/h200-sxm", "nvidia/a100-sxm-80gb", "nvidia/b200-sxm")
    adding, plain, again = explored(page, [{"device": device} for device in devices])
    assert list(adding["layers"]) == list(again["layers"]) == ["collective", "matmul"]
    assert list(plain["layers"]) == ["matmul"]
    refusal = "nvidia/a100-sxm-80gb has no switch that adds; take algorithm auto or custom"
    assert plain["problems"] == [refusal]
    assert "collective" not in " ".join(plain["commands"])
    with pytest.raises(cm.CostmodelError, match=refusal):
        explore.page([switch], ["nvidia/a100-sxm-80gb"])


def test_layer_with_nothing_to_do_is_in_no_ratio(drawn: Callable[..., tuple[str, str]]) -> None:
    """A single device exchanges nothing: no other layer takes infinitely longer."""
    page = explore.page([get("collective")(), get("ulysses")()], ["nvidia/h200-sxm"])
    dom, _ = drawn(page.html, {"devices": "1"})
    assert "(collective has nothing to do)" in dom
    said = re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    assert not re.search(r"∞|NaN|Infinity", said)


def test_whole_model_is_explored_like_a_layer(explored: Explored) -> None:
    model = models.load("llama-2-7b").prefill()
    page = explore.page([model], ["nvidia/h200-sxm", "nvidia/l40s"])
    settings = [{"batch": 3, "seq": 2000}, {"batch": 1, "seq": 77, "device": "nvidia/l40s"}]
    for said, answer in zip(settings, explored(page, settings), strict=True):
        device = said.get("device", "nvidia/h200-sxm")
        sizes = {"batch": said["batch"], "seq": said["seq"]}
        agree(answer["layers"][model.name], cm.predict(model, device, sizes, rung="bound"))
        assert answer["commands"] == []


def test_invalid_arguments_of_a_page_are_refused() -> None:
    lstm = get("lstm")()
    with pytest.raises(cm.CostmodelError, match="is given twice"):
        explore.page([lstm, lstm])
    with pytest.raises(cm.CostmodelError, match="at least one layer"):
        explore.page([])
    with pytest.raises(cm.CostmodelError, match="unknown size 'heads' of lstm"):
        explore.page([lstm], sizes={"heads": 3})
    with pytest.raises(cm.CostmodelError, match="has no bf16 rate; it has fp64, fp32, fp16"):
        explore.page([lstm], ["nvidia/v100-sxm2-16gb"])
    with pytest.raises(cm.CostmodelError, match="size batch: wanted a whole number"):
        explore.page([lstm], sizes={"batch": 2.5})


# -- for every reader ----------------------------------------------------------------------------------


def test_page_is_small_and_loads_nothing(page: reports.Page) -> None:
    assert len(page.html.encode()) < 3_000_000
    markup = re.sub(r"<script.*?</script>", "", page.html, flags=re.DOTALL)
    assert not re.search(r"""(src|srcset|action)=|url\(|@import|href="(?!#)""", markup)


def test_every_field_has_a_label_for_screen_readers(page: reports.Page) -> None:
    form = re.search(r"<form.*?</form>", page.html, re.DOTALL)
    assert form
    labels = set(re.findall(r'<label for="([^"]+)"', form.group()))
    for field in re.findall(r"<(?:input|select)[^>]*>", form.group()):
        identity = re.search(r' id="([^"]+)"', field)
        inside = re.search(rf"<label[^>]*>(?:(?!</label>).)*{re.escape(field)}", form.group(), re.DOTALL)
        assert inside or "aria-label=" in field or (identity and identity.group(1) in labels), field


HOSTILE = (
    "</script><script>document.documentElement.dataset.pwned='1'</script>",
    '"><img src=x onerror="document.documentElement.dataset.pwned=\'2\'">',
    "<!--<script>",
)


def test_hostile_names_stay_text(
    drawn: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = reports.explorer

    def spoiled(explored: reports.Explorer, **given: Any) -> reports.Page:
        layers = [
            layer | {"name": name, "options": [f"{HOSTILE[1]}={HOSTILE[0]}"]}
            for layer, name in zip(explored.layers, HOSTILE, strict=True)
        ]
        devices = [
            device | {"name": name, "title": name, "vendor": name}
            for device, name in zip(explored.devices, HOSTILE, strict=True)
        ]
        controls = [control | {"meaning": HOSTILE[1]} for control in explored.controls]
        made.append(
            real(dataclasses.replace(explored, layers=layers, devices=devices, controls=controls), **given)
        )
        return made[-1]

    monkeypatch.setattr(reports, "explorer", spoiled)
    explore.page(
        devices=["nvidia/h200-sxm", "amd/mi300x", "google/tpu-v5e"], title=HOSTILE[0], command=HOSTILE[1]
    )
    dom, log = drawn(made[0].html, {"seq": HOSTILE[0], "device": HOSTILE[1], "set-hbm": HOSTILE[1]})
    again, _ = drawn(made[0].html, {"device": HOSTILE[2], "seq": "77"})
    for page in (dom, again):
        assert "data-pwned" not in page.split("<head>")[0]
        assert "<img" not in page
    assert "Content Security Policy" not in log
    assert re.search(r"<html[^>]*data-drawn=\"4\"", again)
    assert html.escape(HOSTILE[0], quote=False) in again
