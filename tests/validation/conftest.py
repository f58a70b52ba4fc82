"""What the tests of measuring share: the machine, and cases that take microseconds."""

import pytest

from costmodel.validation.case import case
from costmodel.validation.torch_env import machine


@pytest.fixture(scope="session")
def here():
    """Return the CPU in front of us."""
    return machine("cpu")


@pytest.fixture
def tiny():
    """Return three cases of different kinds."""
    return [
        case("matmul", {"m": 8, "n": 16, "k": 24}),
        case("softmax", {"m": 4, "n": 32}),
        case("sdpa-flash", {"batch": 1, "heads": 2, "seq": 16, "head_dim": 8}, options={"causal": True}),
    ]


@pytest.fixture
def cuda():
    """Skip where no GPU is, naming the command that would have run the test."""
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("needs an NVIDIA GPU; there: pytest tests/validation -k on_cuda")
    return machine("cuda")
