"""Claims of the background articles that need a device: predicted times against printed measurements.

Each test names its claim in the project's list of testable claims (claims.md §1 and §3.7); the other halves,
on the layers' expressions alone, are in `test_claims`. Tolerances are a claim's, not the model's accuracy.
"""

import numpy as np
import pytest

import costmodel as cm

V100 = "nvidia/v100-sxm2-16gb"


def ratio(first: float, second: float) -> float:
    return float(second / first)


def test_s1_twice_the_tokens_take_twice_the_time():
    """DeepBench, V100, fp32, GRU of 2816, 32 sequences: 750 tokens 113.225 ms, 1500 223.343: × 1.973."""
    gru = cm.GRU(dtype="fp32", recurrent_only=True)
    times = cm.predict(gru, V100, framework="cudnn", batch=32, hidden=2816, seq=[750, 1500]).seconds
    assert times == pytest.approx([113.225e-3, 223.343e-3], rel=0.2)
    assert ratio(*times) == pytest.approx(1.973, rel=0.03)


@pytest.mark.parametrize(("name", "dtype"), [(V100, "fp16"), ("nvidia/h200-sxm", "bf16")])
def test_s3_more_hardware_does_not_shorten_the_chain(name, dtype):
    """Eight times the units, rates and bandwidth: attention takes a fraction, a recurrence its n steps."""
    device = cm.hardware.load(name)
    rates = {"fp32": f"{8 * device.peak('fp32')} FLOP/s", dtype: f"{8 * device.peak(dtype)} FLOP/s"}
    larger = device.replace(
        hbm=f"{8 * device.hbm_bandwidth / 1e12} TB/s", units=f"{8 * device.units:.0f}", **rates
    )
    lengths = np.array([2048, 4096, 8192])
    lstm, flash = cm.LSTM(dtype=dtype), cm.TiledAttention(dtype=dtype)
    for layer, sizes, least, most in (
        (lstm, {"hidden": 512}, 0.7, 1.0),
        (flash, {"heads": 16, "head_dim": 64}, 1 / 8, 1 / 4),
    ):
        now, then = (
            cm.predict(layer, where, rung="kernel", batch=16, seq=lengths, **sizes)
            for where in (device, larger)
        )
        gains = then.seconds / now.seconds
        assert (least <= gains).all(), layer.label
        assert (gains <= most).all(), layer.label
        if layer is lstm:
            # contract.md: a dependent step's latency is of the spec, and assumed where it has none.
            assert (then.seconds >= lengths * device.step_s).all()
            assert set(then.bound) == {"depth"}


def test_s5_attention_is_faster_where_sentences_are_shorter_than_the_model_is_wide():
    """n = 64 tokens, d = 1024 (the big Transformer's), in time and not
    in FLOPs: attention against an LSTM layer.
    """
    sizes = {"batch": 32, "seq": 64}
    attention = cm.DenseAttention(dtype="fp32", projections=True)
    for name in ("nvidia/k80", "nvidia/m40", "nvidia/p100-sxm2-16gb", V100):
        lstm = cm.predict(cm.LSTM(dtype="fp32"), name, hidden=1024, **sizes).seconds
        assert cm.predict(attention, name, heads=16, head_dim=64, **sizes).seconds < lstm, name


def test_s10_eight_times_the_batch_costs_little():
    """DeepBench, V100, fp16 on tensor cores, LSTM of 1024: a step 49.4 µs for 16 sequences, 65.1 for 128."""
    lstm = cm.LSTM(dtype="fp16", recurrent_only=True)
    p = cm.predict(lstm, V100, framework="cudnn", batch=[16, 128], hidden=1024, seq=25)
    assert (p.depth == 25).all()
    assert p.seconds / 25 == pytest.approx([49.4e-6, 65.1e-6], rel=0.25)
    assert 1 <= ratio(*p.seconds) < 1.6  # measured × 1.32, for eight times the work


def test_s14_twice_the_tokens_take_four_times_the_time():
    """FlashAttention Table 18 (A100-40GB, 16 × 8 heads of 64): 8192 → 16384 × 3.996, → 32768 × 15.98."""
    flash = cm.TiledAttention(dtype="fp16", schedule="fa1")
    lengths = [8192, 16384, 32768]
    times = cm.predict(flash, "nvidia/a100-sxm-40gb", batch=16, heads=8, head_dim=64, seq=lengths).seconds
    assert times[1:] / times[0] == pytest.approx([3.996, 15.98], rel=0.02)


def test_3_7_an_lstm_is_slower_by_the_latency_of_its_steps():
    """FlashRNN's setting on an H100 (batch 16, 1024 tokens, width 768): nn.LSTM has 6 times causal
    attention's FLOPs and takes 2.01 ms, 1.96 µs a step, against 0.13: 15.5 times as long.
    """
    sizes = {"batch": 16, "seq": 1024}
    lstm = cm.predict(cm.LSTM(dtype="fp16"), "nvidia/h100-sxm", hidden=768, **sizes)
    flash = cm.predict(
        cm.TiledAttention(dtype="bf16", causal=True), "nvidia/h100-sxm", heads=12, head_dim=64, **sizes
    )
    assert ratio(flash.matrix_flops, lstm.matrix_flops) == pytest.approx(6, rel=0.01)
    assert ratio(flash.seconds, lstm.seconds) == pytest.approx(15.5, rel=0.3)
    assert lstm.bound == "depth"
    assert lstm.seconds / 1024 == pytest.approx(1.96e-6, rel=0.3)
