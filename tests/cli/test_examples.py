"""Every command's help has an example, and it runs as written."""

import re
import shlex
import shutil

import pandas as pd
import pytest

import costmodel as cm
from costmodel.cli.app import COMMANDS

NAMES = [name for name, _, _ in COMMANDS]


def example(text: str) -> list[str]:
    (found,) = re.findall(r"Example:\s+costmodel (.+)", text)
    return shlex.split(found)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Return a folder with the files that examples speak of."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(cm.hardware.loader.FOLDER / "nvidia" / "t4.yaml", folder / "t4.yaml")
    row = {"gpu": "h200-sxm", "op": "gemm", "dtype": "bf16", "m": 64, "n": 64, "k": 64, "latency_s": 5e-6}
    pd.DataFrame([row]).to_csv(folder / "measured.csv", index=False)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_the_help_runs(costmodel, monkeypatch, desk, name):
    help_text = costmodel(name, "--help")
    assert help_text.status == 0
    monkeypatch.chdir(desk)
    ended = costmodel(*example(help_text.out))
    assert (ended.status, ended.err) == (0, "")


def test_help_lists_every_command_of_the_contract(costmodel):
    text = costmodel().out
    for name in (
        "devices",
        "layers",
        "show",
        "predict",
        "sweep",
        "crossover",
        "score",
        "report",
        "validate",
        "check",
    ):
        assert re.search(rf"^  {name} ", text, re.MULTILINE), name
