"""Clock ticks of replayed graphs against rounding, and against measured times."""

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.kernels import gemm
from costmodel.kernels._replay import SCANS, TICKS, ticked
from costmodel.validation import cells

B200, H200 = hardware.load("nvidia/b200-sxm"), hardware.load("nvidia/h200-sxm")
TICK = {"tick_s": 2.048e-6, "phase_s": 3e-7}


def test_without_a_tick_times_are_unchanged():
    seconds = np.geomspace(1e-6, 1e-2, 50)
    assert (ticked(B200, {**TICK, "tick_s": 0.0}, seconds) == seconds).all()


def test_tick_constants_have_no_effect_on_architectures_without_ticks():
    seconds = np.geomspace(1e-6, 1e-2, 50)
    assert (ticked(H200, TICK, seconds) == seconds).all()


def test_short_times_move_towards_whole_ticks_and_long_ones_do_not():
    seconds = np.arange(2e-6, 9e-6, 1e-7)
    whole = TICK["phase_s"] + TICK["tick_s"] * np.round((seconds - TICK["phase_s"]) / TICK["tick_s"])
    assert np.abs(ticked(B200, TICK, seconds) - whole).mean() < 0.3 * np.abs(seconds - whole).mean()
    late = 1e-3 + seconds
    assert ticked(B200, TICK, late) == pytest.approx(late, rel=1e-9)


def test_only_the_end_of_a_replay_of_several_calls_is_on_a_tick():
    seconds, calls = np.arange(1e-6, 3e-6, 1e-8), 5.0
    assert calls * ticked(B200, TICK, seconds, calls) == pytest.approx(ticked(B200, TICK, calls * seconds))


def test_ticked_times_grow_strictly_with_the_time():
    assert (np.diff(ticked(B200, TICK, np.linspace(2e-6, 1e-4, 20001))) > 0).all()


def test_only_measured_replays_on_blackwell_last_whole_ticks(shared):
    """Rayleigh's test: the mean resultant of phases is 1 if all are whole ticks apart, 1/√n by chance."""
    rows = pd.read_parquet(shared / "measurements" / "attention.parquet")
    rows = rows[rows["latency_s"] < 2e-5]
    found = {}
    for cell, part in rows.groupby(["gpu", "framework"]):
        turns = part["latency_s"].to_numpy(dtype=float) / TICK["tick_s"]
        found[cell] = np.abs(np.exp(2j * np.pi * turns).mean())
    blackwell = [value for (gpu, _), value in found.items() if gpu == "b200-sxm"]
    assert min(blackwell) > 0.7
    assert max(value for (gpu, _), value in found.items() if gpu != "b200-sxm") < 0.4


def test_measured_replays_of_products_hold_as_many_calls_as_assumed(shared):
    """Of one to twelve calls, the number whose phases agree best is that over which the collectors rotate."""
    rows = pd.read_parquet(shared / "measurements" / "gemm.parquet")
    rows = rows[(rows["gpu"] == "b200-sxm") & (rows["latency_s"] < 8e-6)]
    for (op, framework), part in rows.groupby(["op", rows["framework"].str.split().str[0]]):
        rotation = cells.arguments(part, B200)["rotation"]
        assert _calls_whose_phases_are_most_alike(part) == gemm.REPLAYED[rotation], (op, framework)


def test_measured_replays_of_scans_hold_ten_calls(shared):
    rows = pd.read_parquet(shared / "measurements" / "scan.parquet")
    rows = rows[(rows["gpu"] == "b200-sxm") & (rows["latency_s"] < 6e-6)]
    for cell, part in rows.groupby(["op", rows["framework"].str.split().str[0]]):
        assert _calls_whose_phases_are_most_alike(part) == SCANS, cell


def _calls_whose_phases_are_most_alike(rows):
    """Return the number of calls per replay, from one to twelve, whose phases within a tick agree best."""
    calls = np.arange(1, 13)
    turns = np.outer(calls, rows["latency_s"].to_numpy(dtype=float)) / TICKS["blackwell"]
    alike = np.abs(np.exp(2j * np.pi * turns).mean(axis=1))
    assert alike.max() > 0.6
    return calls[alike.argmax()]
