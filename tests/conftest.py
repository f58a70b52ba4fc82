"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Triton asks once in a process, when it is first imported, whether kernels are interpreted: so it is said
# before anything imports it, as torch may, and where there is no GPU to run them.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# These machines are noisy: how long an example takes says nothing.
settings.register_profile("costmodel", deadline=None)
settings.load_profile("costmodel")


@pytest.fixture
def llama() -> dict[str, object]:
    """Return the configuration of a small model."""
    return {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 100,
    }


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference and measurement tables beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the tables of ../shared, which are not beside this checkout")
    return folder
