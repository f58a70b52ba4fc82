"""What fitting, carrying and reporting rely on in every kernel model's list of constants."""

import pytest

from costmodel import kernels

#: Names of the groups into which a model sorts its constants (`costmodel.kernels.group`).
GROUPS = (
    "HARNESS", "CLOCKED", "MADE", "OPERATION", "PEAK_SHARES", "EVERY_FORMAT", "FEEDS", "RATES", "STARTS",
)  # fmt: skip


@pytest.mark.parametrize("name", kernels.available())
def test_constants_start_inside_their_ranges_and_have_unit_and_meaning(name):
    described = kernels.model(name).CONSTANTS
    for constant in described.values():
        assert constant.low <= constant.default <= constant.high
        assert constant.low < constant.high, "a range that a fit can move in"
        assert constant.unit
        assert constant.meaning
    for group in GROUPS:
        assert set(kernels.group(name, group)) <= set(described), group
