"""README: its code prints the output shown, its commands run, its links lead somewhere."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

import costmodel as cm
from costmodel.cli import run

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
#: A block of Python, and the block of output after it if there is one.
EXAMPLES = re.findall(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", TEXT, re.DOTALL)
COMMANDS = [
    line.removeprefix("$ costmodel ")
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ costmodel ")
]


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_code_prints_the_output_shown(code, output):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"cm": cm})  # later blocks go on from the first
    assert printed.getvalue() == output


def test_first_example_is_short_and_has_output():
    code, output = EXAMPLES[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    assert output


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def test_the_commands_run_in_their_order(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    assert COMMANDS
    for command in COMMANDS:
        assert run(shlex.split(command)) == 0, capsys.readouterr().err


def test_example_in_the_packages_docstring_holds():
    lines = [line.removeprefix(">>> ") for line in (cm.__doc__ or "").splitlines() if line.startswith(">>> ")]
    names: dict[str, object] = {}
    exec("\n".join(lines[:-1]), names)
    assert repr(eval(lines[-1], names)) == (cm.__doc__ or "").rstrip().splitlines()[-1]


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_the_accuracy_it_states_is_that_of_the_table():
    (stated,) = re.findall(r"(\d+ of [\d,]+)\s+of these (\([\d.]+ %\))", TEXT)
    assert " ".join(stated) in (ROOT / "validation" / "ACCURACY.md").read_text(encoding="utf-8")


def test_number_of_posted_devices_is_that_of_the_table():
    (stated,) = re.findall(r"posted of (\d+) devices", TEXT)
    posted = (ROOT / "validation" / "POSTED.md").read_text(encoding="utf-8")
    devices = set(re.findall(r"^\| ([a-z0-9-]*\d[a-z0-9-]*) \|", posted, re.MULTILINE))
    assert len(devices) == int(stated)
