"""Tables on terminals: numbers are never broken over lines."""

import os
import sys

import pytest

from costmodel.cli import output
from costmodel.cli.catalogue import show_devices

HEADERS = ["device", *(f"rate {i} TFLOP/s" for i in range(8))]
ROWS = [["nvidia/rtx-pro-6000-server", *("1234.5" for _ in range(8))]]


class Terminal:
    """Standard output that claims to be a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [40, 80, 120, 300])
def test_numbers_are_whole_however_narrow_the_terminal(columns, monkeypatch):
    monkeypatch.setattr(output.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 40)))
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    output.print_table(HEADERS, ROWS)
    assert terminal.text.count("1234.5") == 8
    assert "nvidia/rtx-pro-6000-server" in terminal.text
    assert ("─" in terminal.text) == (columns == 300)


def test_table_of_devices_fits_on_80_columns(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # devices measured here may have longer names
    monkeypatch.setattr(output.shutil, "get_terminal_size", lambda: os.terminal_size((80, 40)))
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    show_devices()
    units, header, *rows = terminal.text.splitlines()
    assert max(map(len, [units, header, *rows])) <= 80
    assert " ".join(header.split()) == "device fp32 tf32 bf16 fp16 fp8 int8 hbm ridge best rung"
    h200 = "nvidia/h200-sxm 66.9 495 989 989 1979 1979 4800 206 calibrated"
    assert h200 in [" ".join(row.split()) for row in rows]


def test_words_are_aligned_left_and_numbers_right(capsys):
    rows = [["a", "1 ms", "hbm", "-2 %"], ["bcd", "20 ms", "matrix:bf16", "–"]]
    output.print_table(["what", "time", "limited by", "off"], rows)
    assert capsys.readouterr().out.splitlines() == [
        "what   time  limited by    off",
        "a      1 ms  hbm          -2 %",
        "bcd   20 ms  matrix:bf16     –",
    ]


@pytest.mark.parametrize(("value", "said"), [(16596.7, "16,597"), (183.94, "183.9"), (0.0512, "0.0512")])
def test_rates_have_four_significant_digits_and_thousands_separators(value, said):
    assert output.rate(value) == said


def test_long_lines_are_folded_between_words_only_on_a_terminal(monkeypatch, capsys):
    line = "    options  " + " ".join(f"option-{i}=value" for i in range(12))
    output.print_folded(line, 13)
    assert capsys.readouterr().out == line + "\n"
    monkeypatch.setattr(output.shutil, "get_terminal_size", lambda: os.terminal_size((80, 40)))
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    output.print_folded(line, 13)
    first, *others = terminal.text.splitlines()
    assert max(map(len, [first, *others])) <= 80
    assert all(other.startswith(" " * 13 + "option-") for other in others)
    assert " ".join(terminal.text.split()) == " ".join(line.split())
