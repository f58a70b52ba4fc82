"""The intervals of shipped constants and of predictions with them."""

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware
from costmodel.validation.calibrate_intervals import with_intervals, with_spreads

L40S = "nvidia/l40s"


def test_shipped_intervals_are_those_of_refits_of_the_shipped_constants(shared):
    shipped = calibration.read(calibration.path_of(L40S), L40S)
    bare = shipped.model_copy(
        update={"sections": tuple(s.model_copy(update={"intervals": {}}) for s in shipped.sections)}
    )
    rows = pd.read_parquet(shared / "measurements" / "scan.parquet")
    found = with_intervals(bare, rows[rows["gpu"] == "l40s"], hardware.load(L40S))
    assert {section.cell for section in found.sections if section.intervals} == {
        section.cell for section in shipped.sections if section.kernel in ("conv", "delta", "state_update")
    }
    for section, before in zip(found.sections, shipped.sections, strict=True):
        assert section.constants == before.constants
        for name, ends in section.intervals.items():
            assert ends == pytest.approx(before.intervals[name], rel=0.02)


def test_constant_hidden_by_memory_has_a_wide_interval():
    """L40S's memory is slower than the loads its units keep in flight: rows do not determine `unit_bytes`."""
    (section,) = (
        s for s in calibration.load(L40S) if s.op == "causal_conv1d_prefill" and s.framework == "vllm"
    )
    width = {name: np.ptp(np.log(ends)) for name, ends in section.intervals.items()}
    assert width["unit_bytes"] > 1
    assert width["bandwidth_share"] < 0.02


@pytest.mark.parametrize("table", ["gemm", "scan", "memops"])
def test_shipped_intervals_of_predictions_are_those_of_the_held_out_rows(shared, table):
    """With today's kernel models: whoever changes one has to write the intervals again."""
    rows = pd.read_parquet(shared / "measurements" / f"{table}.parquet")
    for label in ("l40s", "mi210"):
        device = hardware.load(label)
        shipped = calibration.read(calibration.path_of(device.name), device.name)
        again = with_spreads(shipped, rows[rows["gpu"] == label], device)
        for before, after in zip(shipped.sections, again.sections, strict=True):
            assert [regime.rows for regime in before.spread] == [regime.rows for regime in after.spread]
            for there, here in zip(before.spread, after.spread, strict=True):
                assert there.q == pytest.approx(here.q, rel=2e-3), before.cell
