"""The hand-written Triton attention, on a GPU if there is one, otherwise in Triton's interpreter."""

import pytest

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

from costmodel.validation.bench_attention import exact_attention  # noqa: E402

pytest.importorskip("triton", reason="needs Triton: pip install triton")

from costmodel.validation import triton_arithmetic, triton_barrier  # noqa: E402
from costmodel.validation.triton_attention import attention  # noqa: E402


def error(schedule, tile, causal, *, heads=2, kv_heads=2, seq=64, width=32, dtype=torch.float32):
    """Return the relative error against the definition softmax(QKᵀ/√d)V in float64."""
    draw = torch.Generator(device=DEVICE).manual_seed(3)
    q, k, v = (
        torch.randn(2, count, seq, width, device=DEVICE, generator=draw).to(dtype)
        for count in (heads, kv_heads, kv_heads)
    )
    got = attention(q, k, v, schedule=schedule, tile=tile, causal=causal, precision="ieee")
    want = exact_attention(torch, q.double(), k.double(), v.double(), causal=causal)
    return float((got.double() - want).norm() / want.norm())


@pytest.mark.parametrize("tile", [(16, 16), (16, 64), (32, 16), (64, 32)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_every_tile_agrees_with_float64(schedule, causal, tile):
    assert error(schedule, tile, causal) < 1e-5


@pytest.mark.parametrize("seq", [1, 17, 63, 100])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_lengths_that_fill_no_tile_agree_with_float64(schedule, causal, seq):
    assert error(schedule, (16, 32), causal, seq=seq) < 1e-5


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_grouped_heads_agree_with_float64(schedule, kv_heads):
    assert error(schedule, (16, 16), True, heads=4, kv_heads=kv_heads, seq=40) < 1e-5


@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_fp16_is_within_2e_3_of_float64(schedule):
    # FA-1 keeps O in memory and so rounds it in every iteration, as in its paper.
    assert error(schedule, (32, 32), False, seq=100, dtype=torch.float16) < 2e-3


@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU: Triton's interpreter has no bf16 products")
@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_bf16_is_within_2e_2_of_float64(schedule):
    assert error(schedule, (32, 32), False, seq=100, dtype=torch.bfloat16) < 2e-2


def test_chain_of_barriers_ends_with_every_block_having_arrived():
    """Interpreted blocks run one after another, so only a single one may wait for all."""
    blocks = torch.cuda.get_device_properties(0).multi_processor_count if DEVICE == "cuda" else 1
    counter = torch.full((1,), 99, dtype=torch.int32, device=DEVICE)
    triton_barrier.chain(counter, blocks, 50)()
    assert int(counter) == 50 * blocks


def test_multiply_adds_are_all_computed():
    """Four chains of a ← a·x + x from x, 2x, x² and 0, summed."""
    values = torch.linspace(0.1, 0.9, triton_arithmetic.BLOCK, device=DEVICE)
    results = torch.empty_like(values)
    triton_arithmetic.multiply_adds(values, results, 7)()
    wanted = torch.zeros_like(values)
    for begin in (values, 2 * values, values**2, 0 * values):
        chain = begin
        for _ in range(7):
            chain = chain * values + values
        wanted += chain
    assert torch.allclose(results, wanted, rtol=1e-5)
    assert triton_arithmetic.STEP_FLOPS == 2 * 4
