"""Numbers, sizes and lists in words."""

from __future__ import annotations

import pytest

from costmodel.reports import words


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (words.seconds, 0.00032, "320 µs"),
        (words.seconds, 0.0009997, "1 ms"),
        (words.seconds, 999.6, "1,000 s"),
        (words.seconds, 5400.0, "5,400 s"),
        (words.size, 1.41e11, "141 GB"),
        (words.flop, 2e12, "2 TFLOP"),
        (words.whole, 131072.0, "131,072"),
        (words.share, 0.376, "38 %"),
        (words.share, 0.0042, "0.42 %"),
        (words.times, 3.21, "3.2 times"),
        (words.times, 1.0115, "1.01 times"),
        (words.times, 1534.2, "1,534 times"),
        (words.steps, 1.0, "1 step"),
        (words.steps, 786432.0, "786,432 steps"),
        (words.rounded, 8190.7, "about 8,200"),
        (words.rounded, 8191.0, "8,191"),
    ],
)
def test_numbers_are_written_with_units(write: object, value: float, text: str) -> None:
    assert callable(write)
    assert write(value) == text


def test_sizes_and_ranges_are_written_with_their_names() -> None:
    assert words.at("seq", 8192.0) == "8,192 tokens"
    assert words.at("seq", 1.0) == "1 token"
    assert words.at("hidden", 512.0) == "hidden = 512"
    assert words.span("seq", 129.0, 98817.0) == "129 to 98,817 tokens"
    assert words.span("m", 388.4, 2431.7) == "m = about 390 to about 2,400"
    assert words.span("m", 16.0, 16.0) == "m = 16"


def test_verbs_agree_in_number() -> None:
    assert words.verb(["a"], "waits for") == "waits for"
    assert words.verb(["a", "b"], "waits for") == "wait for"
    assert words.verb(["a", "b"], "takes") == "take"


def test_lists_have_commas_and_and() -> None:
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b"]) == "a and b"
    assert words.listed(["a", "b", "c"]) == "a, b and c"


def test_origins_of_constants_are_written_out() -> None:
    assert words.origins("self, nvidia/v100") == "the device itself and nvidia/v100"
    assert words.origins("none, self") == "the device itself, the rest from the datasheet"
    assert words.origins("none") == "the datasheet alone"
