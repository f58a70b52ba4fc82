"""The stopwatch: warm-up, samples and budgets, on calls whose times are known."""

from dataclasses import replace

import pytest

from costmodel.validation import timing
from costmodel.validation.torch_env import math_mode

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")


class Script:
    """A stopwatch that returns given times and counts the calls."""

    kind = "cpu"
    flush_bytes = 64

    def __init__(self, times):
        self.times = iter(times)
        self.calls = []
        self.timed = []

    def seconds(self, call, calls):
        self.calls.append(calls)
        self.timed.append(call)
        return next(self.times)

    def flusher(self):
        return lambda: self.calls.append("flush")


def test_warm_up_ends_when_three_calls_agree():
    seconds, calls, stable = timing.warm_up(Script([9.0, 3.0, 1.0, 1.02, 1.01, 1.0]), lambda: None, 60.0)
    assert (seconds, calls, stable) == (1.01, 5, True)


def test_warm_up_ends_with_its_budget():
    seconds, calls, stable = timing.warm_up(Script([9.0]), lambda: None, 0.0)
    assert (seconds, calls, stable) == (9.0, 1, False)


def test_median_and_quartiles_are_of_single_calls():
    watch = Script([1e-6] * 3 + [4e-6, 2e-6, 3e-6] + [2.5e-6] * timing.MAX_SAMPLES)
    got = timing.measure_warm(watch, lambda: None, 30.0, per_call=2)
    assert got.samples == timing.MAX_SAMPLES
    assert got.median_s == pytest.approx(1.25e-6)  # two kernels in each call
    assert got.min_s == pytest.approx(1e-6)
    # A call of a microsecond is repeated, so that the clock's resolution does not show.
    assert got.calls == timing.MAX_CALLS
    assert watch.calls[3] == timing.MAX_CALLS


def test_long_call_is_sampled_as_few_times_as_allowed():
    got = timing.measure_warm(Script([0.4] * 100), lambda: None, 0.0)
    assert got.samples == timing.MIN_SAMPLES
    assert got.calls == 1
    # One that takes seconds is sampled once.
    assert timing.measure_warm(Script([5.0] * 100), lambda: None, 0.0).samples == 1


@pytest.mark.parametrize(
    ("once", "budget", "calls"),
    [
        (1e-5, 0.02, 100),  # a millisecond outlasts the clock's resolution
        (1e-4, 1e-3, 2),  # three calls warm up, and three samples of two follow
    ],
)
def test_samples_outlast_the_clocks_resolution_and_end_within_the_budget(monkeypatch, once, budget, calls):
    class Clock(Script):
        now = 0.0

        def seconds(self, call, calls):
            self.now += calls * once
            return super().seconds(call, calls)

    watch = Clock([once] * 200)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: watch.now)
    got = timing.measure_warm(watch, lambda: None, budget)
    assert got.calls == calls
    assert timing.MIN_SAMPLES <= got.samples < timing.MAX_SAMPLES
    assert 0.85 * budget < watch.now <= budget


def test_differences_are_of_pairs_without_disturbed_ones():
    warm = [0.1, 0.3]
    # The second pair's short call was interrupted: its difference is below zero.
    watch = Script([*warm, 0.1, 0.3, 0.9, 0.3, 0.1, 0.5])
    got = timing.measure_difference(watch, lambda: None, lambda: None, 0.0, apart=2)
    assert got.samples == 2
    assert got.min_s == pytest.approx(0.1)
    assert got.median_s == pytest.approx(0.15)


def test_difference_that_was_always_disturbed_is_none():
    watch = Script([0.1, 0.1] + [0.2, 0.1] * timing.MIN_SAMPLES)
    assert timing.measure_difference(watch, lambda: None, lambda: None, 0.0, apart=2) is None


def test_cold_calls_flush_first_and_rotate_operands():
    watch, seen = Script([1.0] * timing.MAX_SAMPLES), []
    operands = [lambda n=n: seen.append(n) for n in range(2)]
    got = timing.measure_cold(watch, operands, 0.0)
    assert seen == [0, 1]  # each once, before anything is timed
    assert watch.calls == ["flush", 1] * got.samples
    first, second = operands
    assert watch.timed == [first, second, first]


def test_cpu_stopwatch_makes_as_many_calls_as_asked():
    count = []
    assert timing.Stopwatch("cpu", 64).seconds(lambda: count.append(1), 7) > 0
    assert len(count) == 7


def test_flush_touches_more_than_the_cache(here):
    assert timing.stopwatch("cpu", here.cache_at_most).flush_bytes >= 2 * here.cache_bytes
    for size in (2**12, 2**20):
        scratch = timing.Stopwatch("cpu", size).flusher()()
        assert scratch.nbytes == size
    unknown = replace(here, cache_bytes=0)
    assert timing.stopwatch("cpu", unknown.cache_at_most).flush_bytes >= 2**26


@pytest.mark.parametrize("dtype", ["fp32", "tf32"])
def test_tf32_is_on_only_for_dtype_tf32(dtype):
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with math_mode(dtype):
        assert torch.backends.cuda.matmul.allow_tf32 is (dtype == "tf32")
        assert torch.backends.cudnn.allow_tf32 is (dtype == "tf32")
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_graph_replays_on_cuda(cuda):
    x = torch.ones(8, device="cuda")
    with torch.inference_mode():
        replay = timing.captured(lambda: x.add_(1.0), torch.inference_mode())
    torch.cuda.synchronize()
    before = float(x[0])
    replay()
    torch.cuda.synchronize()
    assert float(x[0]) == before + timing.GRAPH_CALLS
    assert timing.measure_warm(timing.stopwatch(cuda.kind, cuda.cache_at_most), replay, 0.05).median_s > 0
