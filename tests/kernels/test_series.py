"""The terms of a prediction account for all of its time, for every measured operation and device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware, kernels
from costmodel.validation.cells import arguments, cells, rows_of, usable

#: About as many rows of each section are tried, evenly spaced in the table's order.
ROWS = 60
GPUS = [name for name in calibration.calibrated_devices() if not name.startswith("cpu/")]


@pytest.fixture(scope="module")
def measured(shared: Path) -> dict[str, pd.DataFrame]:
    """Return all measured rows that a kernel model knows, by device."""
    rows = usable(rows_of(sorted((shared / "measurements").glob("*.parquet")))[0])
    return {hardware.load(str(label)).name: part for label, part in rows.groupby("gpu")}


@pytest.mark.parametrize("name", GPUS)
def test_the_sum_of_all_terms_is_at_least_the_time(measured: dict[str, pd.DataFrame], name: str) -> None:
    if name not in measured:
        pytest.skip("no row of the shared tables is of this device (its constants are of published ones)")
    device, sections = hardware.load(name), {s.cell: s for s in calibration.load(name)}
    known = [
        (sections[cell.key], part) for cell, part in cells(measured[name], device) if cell.key in sections
    ]
    assert known
    for section, part in known:
        rows = part.iloc[:: max(1, len(part) // ROWS)]
        model = kernels.model(section.kernel)
        estimate = model.seconds(device, section.constants, **arguments(rows, device))
        series = sum(np.asarray(term) for term in estimate.terms.values())
        assert (series > estimate.seconds * (1 - 1e-9)).all(), section.cell
