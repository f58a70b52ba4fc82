"""Crossovers of linear and quadratic layers against published ones, and more arithmetic in less time."""

import itertools

import numpy as np
import pytest

from costmodel import evaluate, predict
from costmodel.layers import get
from costmodel.validation import crossovers, more_work


def ratio(device, rung, framework):
    low, high = crossovers.PUBLISHED[device]
    return crossovers.crossover(device, rung=rung, framework=framework) / ((low + high) / 2)


def test_crossover_on_b200_is_that_of_the_rows_it_was_fitted_on():
    """claims §3.7: B200 near 9K; the shared table's rows of sglang 0.5.14 cross later, near 10.7K.

    Its chunked net takes 0.596 ms for 8,192 tokens and 2.293 for 32,768, its attention 0.717 for 10,240 and
    1.701 for 16,384 (4 key heads): power laws through these points meet there. It has no rows of H200.
    """
    net = np.log(2.293 / 0.596) / np.log(32768 / 8192)
    attention = np.log(1.701 / 0.717) / np.log(16384 / 10240)
    meet = ((0.596 / 8192**net) / (0.717 / 10240**attention)) ** (1 / (attention - net))
    assert meet == pytest.approx(10_700, rel=0.02)
    assert crossovers.crossover("nvidia/b200-sxm", rung="calibrated", framework="sglang") == pytest.approx(
        meet, rel=0.06
    )
    assert 1 < ratio("nvidia/b200-sxm", "calibrated", "sglang") < 1.2


def test_crossover_on_h200_with_constants_of_a_relative_is_the_published_one():
    """5 to 6K, rounded to a thousand. H200's own rows are of FlashInfer's kernel, B200's of sglang's."""
    low, high = crossovers.PUBLISHED["nvidia/h200-sxm"]
    for rung in ("kernel", None):
        assert (
            low <= round(crossovers.crossover("nvidia/h200-sxm", rung=rung, framework="sglang"), -3) <= high
        )


def test_crossover_on_h100_is_the_published_one_though_nothing_was_fitted():
    """claims §3.7: 8K, where attention takes 1.084 ms and the delta net 1.002."""
    assert ratio("nvidia/h100-sxm", "kernel", "sglang") == pytest.approx(1, abs=0.1)
    sizes = {"batch": 1, "seq": 8192, "head_dim": 128, "heads": 32, "kv_heads": 8}
    attention = predict(
        get("tiled-attention")(causal=True), "nvidia/h100-sxm", framework="sglang", **sizes
    ).seconds
    assert attention == pytest.approx(1.084e-3, rel=0.12)


def test_crossover_is_the_length_at_which_the_order_changes(monkeypatch):
    """n² and 1000·n cross at 1000, to the width of the grid; NaN beyond the grid."""

    class Fixed:
        def __init__(self, seconds):
            self.seconds = seconds

    def fixed(factor):
        def times(layer, device, sizes, **kwargs):
            linear = layer.name == "gated-delta-net"
            return Fixed(factor * sizes["seq"] if linear else sizes["seq"] ** 2)

        return times

    monkeypatch.setattr(crossovers, "predict", fixed(1000.0))
    assert crossovers.crossover("any") == pytest.approx(1000, rel=0.01)
    monkeypatch.setattr(crossovers, "predict", fixed(1e9))
    assert np.isnan(crossovers.crossover("any"))
    monkeypatch.setattr(crossovers, "predict", fixed(1e-9))
    assert crossovers.crossover("any") == 128


@pytest.mark.parametrize(
    ("kind", "device"),
    [
        *itertools.product(
            ("tiled-attention", "dense-attention"),
            ("nvidia/v100-sxm2-16gb", "nvidia/a100-sxm-80gb", "nvidia/h200-sxm"),
        ),
        # Without tensor cores the products take as long as the chain if scores are written, so tiled alone.
        ("tiled-attention", "nvidia/p100-sxm2-16gb"),
    ],
)
def test_more_arithmetic_in_less_time(device, kind):
    """S8: d = 768, n = 4096, one sequence: 7.1e10 FLOP of attention against 9.7e9 of Elman's recurrence."""
    n, d = 4096, 768
    dtype = "fp16"
    attention = get(kind)(projections=True, dtype=dtype)
    sizes = {"batch": 1, "seq": n, "heads": 12, "head_dim": 64}
    elman = {"batch": 1, "seq": n, "hidden": d}
    work = evaluate(attention, **sizes)["matrix_flops"], evaluate(get("rnn")(), **elman)["matrix_flops"]
    assert work == (8 * n * d * d + 4 * n * n * d, 4 * n * d * d)
    assert work[0] > 7 * work[1]
    times = [
        predict(attention, device, **sizes).seconds,
        predict(get("rnn")(dtype=dtype), device, **elman).seconds,
    ]
    assert times[0] < times[1]


def test_more_arithmetic_in_less_time_can_be_measured():
    """The times themselves depend on the machine that runs the test, and are not compared."""
    pytest.importorskip("torch")
    found = more_work.compare(seq=64, width=32, heads=2, budget_s=0.05)
    assert found.attention_flops > found.recurrence_flops > 4 * 64 * 32 * 32
    assert found.attention_s > 0 < found.recurrence_s
