"""``costmodel model --report``: the page of a whole model."""

import json
import sys

import pytest

ASKED = ("-m", "h200-sxm", "a100-sxm-80gb", "-D", "seq=64", "--rung", "bound")


@pytest.fixture
def config(tmp_path, llama):
    """Return the path of a small configuration whose name is hostile."""
    path = tmp_path / "<img src=x>.json"
    path.write_text(json.dumps(llama), encoding="utf-8")
    return path


def test_page_is_written_and_not_overwritten(costmodel, config, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    words = ["model", config, *ASKED, "--use", "decode", "--report", page]
    monkeypatch.setattr(sys, "argv", ["costmodel", *map(str, words)])
    ended = costmodel(*words)
    assert ended.status == 0, ended.err
    assert ended.out == ""
    text = page.read_text(encoding="utf-8")
    assert "where its time goes, and what would help" in text
    assert "costmodel model" in text
    assert "<img" not in text.partition("<script")[0]
    assert "<option selected>decode</option>" in text
    assert "a100-sxm-80gb and h200-sxm" in text or "h200-sxm and a100-sxm-80gb" in text
    again = costmodel(*words)
    assert again.status == 2
    assert "exists" in again.err
    assert page.read_text(encoding="utf-8") == text


def test_with_json_the_page_is_written_and_its_answers_are_printed(costmodel, config, tmp_path):
    """As for every other file, `--json` prints one object."""
    page = tmp_path / "page.html"
    ended = costmodel("model", config, *ASKED, "--report", page, "--json")
    assert ended.status == 0, ended.err
    assert page.exists()
    answer = json.loads(ended.out)
    assert answer["file"] == str(page)
    assert answer["shapes"] == {"batch": 1, "seq": 64}
    assert [(row["where"], row["use"]) for row in answer["answers"]] == [
        (device, use) for device in ("h200-sxm", "a100-sxm-80gb") for use in ("prefill", "decode", "training")
    ]
    assert all(row["seconds"] >= row["lower_s"] > 0 for row in answer["answers"])


def test_generation_is_on_the_page(costmodel, config, tmp_path):
    page = tmp_path / "page.html"
    words = ["model", config, *ASKED, "--use", "generation", "--new", "20", "--report", page]
    ended = costmodel(*words)
    assert ended.status == 0, ended.err
    assert "20 tokens after a prompt of 64 tokens take " in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gpt2", "-m", "h200-sxm", "-D", "seq=8", "--report", "page.txt"], "ends in .html"),
        (["gpt2", "-D", "seq=8", "--report", "page.html"], "needs a device"),
        (["gpt2", "-m", "h200-sxm", "--report", "page.html"], "seq"),
        (["gpt2", "-m", "h200-sxm", "-D", "seq=8", "seq_kv=9", "--report", "page.html"], "one length"),
        (["gpt2", "-m", "h200-sxm", "-D", "seq=8", "heads=2", "--report", "page.html"], "batch"),
        (["gpt2", "-m", "h200-sxm", "-D", "seq=1,2", "--report", "page.html"], "one value"),
        (["gpt2", "-m", "h200-sxm", "-D", "seq=8", "--state", "cold", "--report", "page.html"], "--state"),
        (["gpt2", "-m", "v100-sxm2-16gb", "-D", "seq=8", "--report", "page.html"], "no bf16"),
        (["gpt2", "-m", "h200-sxm", "a100-sxm-80gb", "-D", "seq=8"], "wanted one device, got 2"),
        (["-m", "h200-sxm", "--report", "page.html"], "wanted a model"),
        (["h200-sxm"], "wanted a model"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(costmodel, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    ended = costmodel("model", *words)
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert expected in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_a_device_does_not_compute_in_may_still_be_stored(costmodel, config, tmp_path):
    """The page is refused as the answer without a page is."""
    page = tmp_path / "page.html"
    words = ("model", config, *ASKED, "--dtype", "fp8", "--use", "training")
    ended = costmodel(*words, "--report", page)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "nvidia/a100-sxm-80gb has no fp8 rate" in ended.err
    assert "; --weights fp8 stores weights in fp8 and computes in bf16\n" in ended.err
    assert not page.exists()
