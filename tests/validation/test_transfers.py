"""Intervals of carried constants hold what they promise on devices that they were not taken from."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel import hardware, spreads
from costmodel.validation import accuracy, transfers

PLAIN = {80: 1.0, 95: 1.0}


def drawn(rng, devices, rows, between, within):
    """Return normal log-ratios of each device around a shift of its own, which is normal too."""
    return {f"gpu{i}": rng.normal(0.0, between) + rng.normal(0.0, within, rows) for i in range(devices)}


def test_ends_are_the_quantiles_of_normal_rows():
    found = transfers.ends([{"a": np.random.default_rng(1).normal(0.0, 0.1, 100_000)}], PLAIN)
    assert found == pytest.approx([-0.196, -0.1282, 0.1282, 0.196], abs=0.002)


def test_devices_count_equally_however_many_rows_they_have():
    few, many = np.linspace(-0.2, 0.0, 50), np.linspace(0.0, 0.2, 50)
    once = transfers.ends([{"a": few, "b": many}], PLAIN)
    often = transfers.ends([{"a": few, "b": np.repeat(many, 40)}], PLAIN)
    assert often == pytest.approx(once, abs=0.005)


def test_devices_that_do_not_differ_need_no_stretch():
    groups = [drawn(np.random.default_rng(2), 6, 2000, 0.0, 0.1)]
    assert transfers.stretch(groups) == pytest.approx({80: 1.0, 95: 1.0}, abs=0.03)


def test_intervals_are_stretched_until_a_new_device_is_covered():
    """Of new devices from the same population 80 and 95 % of the rows are inside."""
    rng = np.random.default_rng(3)
    groups = [drawn(rng, 10, 100, 0.15, 0.1) for _ in range(40)]
    factors = transfers.stretch(groups)
    assert min(factors.values()) > 1.05
    new = [drawn(rng, 10, 100, 0.15, 0.1).values() for _ in groups]
    for level in (80, 95):
        inside, plain = (
            np.mean(
                [
                    transfers.within(found, ends, level)
                    for devices, others in zip(groups, new, strict=True)
                    for ends in [transfers.ends([devices], by)]
                    for found in others
                ]
            )
            for by in (factors, PLAIN)
        )
        assert inside == pytest.approx(level, abs=3)
        assert plain < inside - 1


@given(st.floats(1.0, 3.0), st.floats(1.0, 3.0), st.integers(0, 50))
def test_ends_are_in_order_and_widen_with_the_stretch(by_80, by_95, seed):
    devices = drawn(np.random.default_rng(seed), 3, 40, 0.1, 0.1)
    plain, wide = transfers.ends([devices], PLAIN), transfers.ends([devices], {80: by_80, 95: by_95})
    assert (np.diff(wide) >= 0).all()
    assert (wide[:2] <= plain[:2]).all()
    assert (wide[2:] >= plain[2:]).all()


def test_two_devices_are_too_few_for_a_stretch():
    groups = [drawn(np.random.default_rng(4), 2, 100, 0.5, 0.01)]
    assert transfers.stretch(groups) == PLAIN


def test_group_of_a_single_device_is_not_judged():
    rng = np.random.default_rng(5)
    groups = {
        ("gemm", "foreign"): drawn(rng, 1, 30, 0.1, 0.1),
        ("conv", "sibling"): drawn(rng, 2, 30, 0.1, 0.1),
    }
    assert set(transfers.left_out(groups)["kernel"]) == {"conv"}


def test_interval_of_a_device_left_out_does_not_use_its_rows():
    """A device far off widens the others' intervals and leaves its own unchanged."""
    groups = {("gemm", "generation"): drawn(np.random.default_rng(6), 5, 50, 0.1, 0.1)}
    shifted = {("gemm", "generation"): {**groups["gemm", "generation"]}}
    shifted["gemm", "generation"]["gpu0"] = groups["gemm", "generation"]["gpu0"] + 3.0
    before, after = (transfers.left_out(g).set_index("gpu")["width_80"] for g in (groups, shifted))
    assert after["gpu0"] == before["gpu0"]
    assert (after.drop("gpu0") > before.drop("gpu0")).all()


@pytest.fixture(scope="module")
def carried(shared):
    rows = accuracy.held_out_rows(shared / "measurements")
    return accuracy.carried_ratios(accuracy.scored_rows(rows, rung="kernel"))


def test_intervals_across_generations_cover_what_they_promise(carried):
    """Within 5 points on average of kernel models and devices left out."""
    found = transfers.left_out(carried)
    found = found[found["relation"] == "generation"]
    assert len(found) > 20
    assert found["covered_80"].mean() == pytest.approx(80, abs=5)
    assert found["covered_95"].mean() == pytest.approx(95, abs=5)


def test_shipped_ends_are_those_of_the_measured_rows(carried):
    for kernel, relations in transfers.table(carried).items():
        for relation, told in relations.items():
            (shipped,) = spreads.transfer(kernel, relation)
            assert shipped.q == pytest.approx(told["q"], rel=1e-3)
            assert shipped.rows == told["rows"]


def test_ratios_are_of_rows_predicted_with_another_devices_constants():
    rows = pd.DataFrame(
        {
            "gpu": ["h200-sxm", "h100-sxm"],
            "op": "gemm",
            "constants_from": ["nvidia/b200-sxm", "none"],
            "seconds": [1.0, 1.0],
            "latency_s": [2.0, 2.0],
            "reason": "",
        }
    )
    ((key, found),) = transfers.ratios(rows).items()
    relation = hardware.relatives(hardware.load("nvidia/h200-sxm"), ["nvidia/b200-sxm"])
    assert key == ("gemm", next(iter(relation))[1])
    assert found["h200-sxm"] == pytest.approx([np.log(2)])


def test_relation_without_rows_of_a_model_has_the_interval_of_all_models():
    """All kernel models count the same, however many devices and rows each has."""
    one, other = {"a": np.full(10, -0.5)}, {"a": np.full(500, 0.5), "b": np.full(500, 0.5)}
    told = transfers.table({("gemm", "sibling"): one, ("stream", "sibling"): other})
    assert told["any"]["sibling"]["q"] == pytest.approx(np.exp([-0.5, -0.5, 0.5, 0.5]), rel=1e-3)
    assert (told["any"]["sibling"]["devices"], told["any"]["sibling"]["rows"]) == (2, 1010)
