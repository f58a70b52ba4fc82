"""A sound spec to break, one line at a time."""

from pathlib import Path

import pytest

from costmodel.hardware.loader import FOLDER


@pytest.fixture
def sound() -> str:
    return (FOLDER / "nvidia" / "h100-sxm.yaml").read_text(encoding="utf-8")


@pytest.fixture
def write(tmp_path: Path):
    def to_file(text: str) -> Path:
        path = tmp_path / "spec.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file
