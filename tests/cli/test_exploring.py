"""``explore``: what it writes, and what it refuses."""

import json
import re

import pytest

pytest.importorskip("vl_convert", reason="a page needs the extra costmodel[report]")

REFUSED = {
    "a page that is no page": (("-o", "x.pdf"), ".html"),
    "a range": (("lstm", "-o", "x.html", "-D", "seq=1..10"), "wanted one start value"),
    "an unknown layer": (("lstn", "-o", "x.html"), "unknown layer", "'lstm'"),
    "an unknown device": (("lstm", "-m", "h20-sxm", "-o", "x.html"), "unknown device", "h200-sxm"),
    "a size of no layer": (("lstm", "-o", "x.html", "-D", "heads=3"), "unknown size 'heads' of lstm"),
    "a layer twice": (("lstm", "lstm", "-o", "x.html"), "is given twice"),
    "changes of no device": (("lstm", "--device-set", "hbm=6 TB/s", "-o", "x.html"), "give at least one"),
    "options of no layer": (("--set", "causal=true", "-o", "x.html"), "give at least one"),
    "a format that the device lacks": (
        ("lstm[bf16]", "-m", "v100-sxm2-16gb", "-o", "x.html"),
        "v100-sxm2-16gb has no bf16 rate; it has fp64, fp32, fp16",
    ),
    "a format that is set and that the device lacks": (
        ("lstm", "gru", "-m", "v100-sxm2-16gb", "--set", "dtype=fp8", "-o", "x.html"),
        "has no fp8 rate",
    ),
    "formats that no one device has": (
        ("lstm[tf32]", "gru[fp16]", "-m", "tpu-v5e", "v100-sxm2-16gb", "-o", "x.html"),
        "no tf32 rate",
    ),
    "no output": (("lstm",), "--output"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_clear_line(costmodel, monkeypatch, tmp_path, case):
    monkeypatch.chdir(tmp_path)
    words, *fragments = REFUSED[case]
    ended = costmodel("explore", *words)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    for fragment in fragments:
        assert fragment in ended.err
    assert list(tmp_path.iterdir()) == []


def live(path):
    """Return the data that a page's script computes from."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.findall(r'<script type="application/json" id="store">(.*?)</script>', text)[0])[
        "live"
    ]


@pytest.mark.parametrize(
    ("words", "device", "dtype"),
    [
        (("lstm", "-m", "v100-sxm2-16gb"), "nvidia/v100-sxm2-16gb", "fp16"),
        (("lstm", "-m", "p4"), "nvidia/p4", "fp32"),
        (("-m", "v100-sxm2-16gb"), "nvidia/v100-sxm2-16gb", "fp16"),
        (("norm", "-m", "v100-sxm2-16gb"), "nvidia/v100-sxm2-16gb", "bf16"),
        (("lstm[bf16]", "-m", "v100-sxm2-16gb", "t4", "a100-sxm-80gb"), "nvidia/a100-sxm-80gb", "bf16"),
        (("lstm", "-m", "a100-sxm-80gb", "h200-sxm"), "nvidia/h200-sxm", "bf16"),
    ],
)
def test_page_opens_with_a_format_that_its_device_has(costmodel, monkeypatch, tmp_path, words, device, dtype):
    monkeypatch.chdir(tmp_path)
    assert costmodel("explore", *words, "-o", "page.html").status == 0
    store = live(tmp_path / "page.html")
    formats = next(choice for choice in store["choices"] if choice["name"] == "dtype")
    assert (store["devices"][store["first"]]["name"], formats["first"]) == (device, dtype)


def test_page_offers_only_formats_that_a_device_has(costmodel, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert costmodel("explore", "lstm", "-m", "v100-sxm2-16gb", "-o", "page.html").status == 0
    formats = next(choice for choice in live(tmp_path / "page.html")["choices"] if choice["name"] == "dtype")
    assert formats["values"] == ["fp32", "fp16"]


def test_page_has_the_layers_devices_sizes_and_title_asked_for(costmodel, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ("gru[bias=false]", "scan", "-m", "t4", "mi300x", "-D", "hidden=96", "--title", "A <b>title</b>")
    assert costmodel("explore", *words, "-o", "page.html").status == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    store = live(tmp_path / "page.html")
    assert [layer["kind"] for layer in store["layers"]] == ["gru", "scan"]
    assert store["layers"][0]["options"] == ["bias=false"]
    assert [device["name"] for device in store["devices"]] == ["nvidia/t4", "amd/mi300x"]
    assert next(c for c in store["controls"] if c["name"] == "hidden")["value"] == 96
    assert "<title>A &lt;b&gt;title&lt;/b&gt;</title>" in text
    again = costmodel("explore", "lstm", "-m", "t4", "-o", "page.html")
    assert (again.status, "it exists" in again.err) == (2, True)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
