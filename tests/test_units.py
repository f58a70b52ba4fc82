"""Units against pint, and numbers read from text and written as text."""

import math

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel import units
from costmodel.errors import CostmodelError

SI = {
    "bytes": "byte",
    "bytes/s": "byte/s",
    "FLOP/s": "FLOP/s",
    "FLOP": "FLOP",
    "Hz": "Hz",
    "W": "W",
    "s": "s",
}


@pytest.fixture(scope="module")
def registry():
    ureg = pint.UnitRegistry()
    ureg.define("FLOP = [operation]")
    ureg.define("OP = FLOP")
    return ureg


@pytest.mark.parametrize("unit", sorted(units.UNITS))
def test_every_unit_has_pints_scale(registry, unit):
    dimension, scale = units.UNITS[unit]
    # pint knows kB only; vendors write KB for the same.
    theirs = f"k{unit[1:]}" if unit in ("KB", "KB/s") else unit
    assert scale == pytest.approx(registry.Quantity(1.0, theirs).to(SI[dimension]).magnitude, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("4.8 TB/s", "bytes/s", 4.8e12),
        ("4.8TB/s", "bytes/s", 4.8e12),
        ("50 MiB", "bytes", 52428800),
        ("989.4 TFLOP/s", "FLOP/s", 989.4e12),
        ("1979 TOP/s", "FLOP/s", 1979e12),
        ("1_000 B", "bytes", 1000),
        ("1.5e3 W", "W", 1500),
        ("2 µs", "s", 2e-6),
        ("2 us", "s", 2e-6),
        (".5 s", "s", 0.5),
    ],
)
def test_text_with_a_unit_is_parsed(text, dimension, value):
    assert units.parse(text, dimension) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4.8", "without a unit"),
        (4.8, "without a unit"),
        ("4.8 TB", "which is in bytes"),
        ("4.8 tb/s", "unknown unit 'tb/s'"),
        ("fast", "got 'fast'"),
        ("", "got ''"),
        ("1 TB/s/s", "unknown unit"),
        ("1e400 TB/s", "too large"),
        ("nan TB/s", "got 'nan TB/s'"),
        ("1 TB/s\n2 TB/s", "got"),
        (None, "without a unit"),
    ],
)
def test_parse_refuses_in_one_line(text, message):
    with pytest.raises(CostmodelError, match=message) as caught:
        units.parse(text, "bytes/s")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dimension", sorted(SI))
def test_a_refusal_gives_an_example_that_would_do(dimension):
    with pytest.raises(CostmodelError) as caught:
        units.parse("fast", dimension)
    example = str(caught.value).partition("such as '")[2].partition("'")[0]
    assert units.parse(example, dimension) > 0


@given(st.floats(1e-8, 1e20), st.sampled_from(sorted(SI)))
def test_rendered_text_parses_to_the_same_number(value, dimension):
    text = units.render(value, dimension, digits=17).replace(",", "")
    assert math.isclose(units.parse(text, dimension), value, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (4.8e12, "bytes/s", "4.8 TB/s"),
        (0, "s", "0 s"),
        (1.96e-6, "s", "1.96 µs"),
        (80e9, "bytes", "80 GB"),
        (0.5, "bytes", "0.5 B"),
        (1e-10, "s", "0.1 ns"),
        (math.nan, "s", "nan s"),
        (math.inf, "bytes/s", "inf B/s"),
        (0.99996, "s", "1 s"),
        (999.96e9, "bytes", "1 TB"),
        (9999.6, "s", "10,000 s"),
        (1.785e19, "FLOP", "17,850 PFLOP"),
    ],
)
def test_numbers_are_rendered_with_a_unit(value, dimension, text):
    assert units.render(value, dimension) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (1048577.0, "1048577"),
        (2.0**40, "1099511627776"),
        (2.0**53, "9007199254740992"),
        (1e30, "1e+30"),
        (-4.0, "-4"),
        (1048576.5, "1048576.5"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_sizes_have_all_their_digits(value, text):
    assert units.in_full(value) == text


@given(whole=st.integers(-(2**53), 2**53))
def test_no_two_sizes_have_the_same_text(whole):
    assert int(units.in_full(float(whole))) == whole
