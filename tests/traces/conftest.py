"""Traces are made by a module beside the tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip(
        "torch", reason="a trace is recorded by torch, the extra costmodel[validation]"
    )
