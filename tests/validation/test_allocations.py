"""Memory that a call takes from torch's allocator, on calls whose blocks are known."""

import pytest

from costmodel.validation.allocations import prepare_watched, watched
from costmodel.validation.case import case

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")


def test_watched_gives_memory_kept_and_peak_memory():
    def call():
        one = torch.empty(1000, dtype=torch.float32)
        two = torch.empty(3000, dtype=torch.float32)
        del two
        return one

    result, stayed, most = watched("cpu", call)
    assert result.numel() == 1000
    assert (stayed, most) == (4000, 16000)


def test_memory_allocated_before_the_call_does_not_count():
    there = [torch.empty(5000)]
    _, stayed, most = watched("cpu", there.clear)
    assert (stayed, most) == (0, 0)


@pytest.mark.parametrize(
    ("name", "sizes", "direction", "elements"),
    [
        ("matmul", {"m": 64, "n": 32, "k": 128}, "fwd", 64 * 128 + 128 * 32 + 64 * 32),
        ("copy", {"m": 64, "n": 32}, "fwd", 2 * 64 * 32),
        ("add", {"m": 64, "n": 32}, "fwd", 3 * 64 * 32),
        # x, y and the gradient of y are operands; the gradient of x is the result.
        ("softmax", {"m": 64, "n": 32}, "bwd", 4 * 64 * 32),
    ],
)
def test_peak_is_operands_and_results(name, sizes, direction, elements):
    one = case(name, sizes, direction=direction)
    _, peak = prepare_watched(one, "cpu")
    assert peak == pytest.approx(4 * elements, abs=64)  # blocks are rounded up


def test_dense_attention_holds_the_scores_and_tiled_does_not():
    """At least two n × n tables against none."""
    sizes = {"batch": 1, "heads": 2, "seq": 512, "head_dim": 32}
    scores = 4 * 2 * 512 * 512
    dense, tiled = (
        prepare_watched(case(name, sizes, options={"causal": False}), "cpu")[1]
        for name in ("sdpa-math", "sdpa-flash")
    )
    assert dense >= 2 * scores
    assert tiled < scores
