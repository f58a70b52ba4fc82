"""Fixtures that every test may use."""

from pathlib import Path

import pytest
from hypothesis import settings

# These machines are noisy: how long an example takes says nothing.
settings.register_profile("costmodel", deadline=None)
settings.load_profile("costmodel")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference and measurement tables beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the tables of ../shared, which are not beside this checkout")
    return folder
