"""What every kernel model's description promises to those that fit, carry and report its constants."""

import pytest

from costmodel import kernels

#: Names under which a model says what its constants are (`costmodel.kernels.group`).
GROUPS = ("HARNESS", "CLOCKED", "MADE", "OPERATION", "PEAK_SHARES", "EVERY_FORMAT", "FEEDS")


@pytest.mark.parametrize("name", kernels.available())
def test_constants_begin_inside_their_ranges_and_say_what_they_are(name):
    described = kernels.model(name).CONSTANTS
    for constant in described.values():
        assert constant.low <= constant.default <= constant.high
        assert constant.low < constant.high, "a range that a fit can move in"
        assert constant.unit
        assert constant.meaning
    for group in GROUPS:
        assert set(kernels.group(name, group)) <= set(described), group
