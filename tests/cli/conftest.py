"""The command line, called in this process."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from costmodel.cli import run


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@pytest.fixture
def costmodel(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command given as words."""

    def call(*words: str) -> Ended:
        capsys.readouterr()
        status = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return Ended(status, out, err)

    return call
