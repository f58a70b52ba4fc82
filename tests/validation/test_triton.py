"""The hand-written attention, on a GPU, or on the CPU where Triton's interpreter is switched on."""

import os

import pytest

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")
pytest.importorskip("triton", reason="needs Triton: pip install triton")

from costmodel.validation.bench_attention import exact_attention  # noqa: E402
from costmodel.validation.triton_attention import attention  # noqa: E402


@pytest.fixture
def device():
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    return pytest.skip("needs an NVIDIA GPU, or: TRITON_INTERPRET=1 pytest tests/validation/test_triton.py")


@pytest.mark.parametrize("tile", [(16, 32), (32, 16)])
@pytest.mark.parametrize(("schedule", "causal"), [("fa2", False), ("fa2", True), ("fa1", False)])
@pytest.mark.parametrize("seq", [64, 100])
def test_attention_by_hand_is_attention(schedule, causal, tile, seq, device):
    q, k, v = (torch.randn(1, 2, seq, 32, device=device) for _ in range(3))
    got = attention(q, k, v, schedule=schedule, tile=tile, causal=causal, precision="ieee")
    want = exact_attention(torch, q.double(), k.double(), v.double(), causal=causal)
    assert float((got.double() - want).norm() / want.norm()) < 1e-5
