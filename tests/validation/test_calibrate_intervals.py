"""Intervals of the constants that are shipped."""

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware
from costmodel.validation.calibrate_intervals import with_intervals, with_open_ends

L40S = "nvidia/l40s"


def test_shipped_intervals_are_of_the_shipped_constants(shared):
    shipped = calibration.read(calibration.path_of(L40S), L40S)
    bare = shipped.model_copy(
        update={"sections": tuple(s.model_copy(update={"intervals": {}}) for s in shipped.sections)}
    )
    rows = pd.read_parquet(shared / "measurements" / "scan.parquet")
    found = with_intervals(bare, rows[rows["gpu"] == "l40s"], hardware.load(L40S))
    assert {section.cell for section in found.sections if section.intervals} == {
        section.cell for section in shipped.sections if section.kernel in ("conv", "delta")
    }
    for section, before in zip(found.sections, shipped.sections, strict=True):
        assert section.constants == before.constants
        for name, ends in section.intervals.items():
            assert ends == pytest.approx(before.intervals[name], rel=0.02)


def test_what_memory_hides_is_told_to_be_unknown():
    """L40S's memory is slower than the loads its units keep in flight, so that rows tell nothing of those."""
    (section,) = (
        s for s in calibration.load(L40S) if s.op == "causal_conv1d_prefill" and s.framework == "vllm"
    )
    width = {name: np.ptp(np.log(ends)) for name, ends in section.intervals.items()}
    assert width["unit_bytes"] > 1
    assert width["bandwidth_share"] < 0.02


@pytest.mark.parametrize("device", calibration.calibrated_devices())
def test_shipped_intervals_of_predictions_are_as_wide_as_a_fit_of_today_gives_them(device):
    shipped = calibration.read(calibration.path_of(device), device)
    assert with_open_ends(shipped) == shipped
