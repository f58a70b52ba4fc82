"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Without a GPU, Triton's kernels are interpreted. Triton reads this when it is imported, which torch may do.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Machines are noisy, so the time of an example is not limited.
settings.register_profile("costmodel", deadline=None)
settings.load_profile("costmodel")


#: Longest name of a parameter; longer ones are replaced by a number.
LONGEST_ID = 80


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name layers by their label and mappings by their items; pytest writes ``layer0`` and ``options0``."""
    if isinstance(val, dict):
        text = ",".join(f"{key}={value}" for key, value in val.items()) or "{}"
        # An address would differ from run to run, and between parallel workers.
        return text if len(text) <= LONGEST_ID and " at 0x" not in text else None
    label = getattr(val, "label", None)
    return label if isinstance(label, str) else None


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
