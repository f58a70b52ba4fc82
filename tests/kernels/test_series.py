"""What of a time is in no term: none of it, of any operation that was measured, on any device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware, kernels
from costmodel.calibration import Section
from costmodel.measured import framework
from costmodel.validation.cells import arguments, rows_of

#: Rows of each section, evenly spaced in the table's order.
ROWS = 60
GPUS = [name for name in calibration.calibrated_devices() if not name.startswith("cpu/")]


@pytest.fixture(scope="module")
def measured(shared: Path) -> pd.DataFrame:
    """Return all measured rows that a kernel model knows, with the device's and the framework's name."""
    rows, _ = rows_of(sorted((shared / "measurements").glob("*.parquet")))
    device = rows["gpu"].map({label: hardware.load(label).name for label in rows["gpu"].unique()})
    whose = rows["framework"].map(lambda text: framework(text)[0])
    return rows.assign(device=device, whose=whose)


def _of(rows: pd.DataFrame, device: str, section: Section) -> pd.DataFrame:
    told = {"device": device, "op": section.op, "dtype": section.dtype, "whose": section.framework}
    mine = rows[np.logical_and.reduce([rows[column] == value for column, value in told.items()])]
    return mine.iloc[:: max(1, len(mine) // ROWS)]


@pytest.mark.parametrize("name", GPUS)
def test_all_limits_one_after_the_other_take_no_less_than_the_time(measured: pd.DataFrame, name: str) -> None:
    device, found = hardware.load(name), 0
    for section in calibration.load(name):
        rows = _of(measured, name, section)
        if rows.empty:
            continue
        model = kernels.model(section.kernel)
        estimate = model.seconds(device, section.constants, **arguments(rows, device))
        series = sum(np.asarray(term) for term in estimate.terms.values())
        assert (series > estimate.seconds * (1 - 1e-9)).all(), section.cell
        found += len(rows)
    if not found:
        pytest.skip("no row of the shared tables is of this device (its constants are of published ones)")
