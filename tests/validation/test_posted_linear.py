"""Predictions of linear attention against posted times, and the rows that two constants are fitted on."""

from __future__ import annotations

import pandas as pd
import pytest

from costmodel import evaluate
from costmodel.kernels import scan
from costmodel.layers.gated_linear import RetNet
from costmodel.validation.heldout import kept_aside
from costmodel.validation.posted_linear import FITTED, FOLDER, judged, predicted

TABLES = [pd.read_csv(FOLDER / "linear.csv"), pd.read_csv(FITTED)]
UNITS = {"ms": 1e-3, "us": 1e-6}
#: Sequences, tokens, heads and width of a head.
LONG = {"batch": 4, "seq": 4096, "heads": 64, "head_dim": 128, "value_dim": 128}


@pytest.fixture(scope="module")
def found():
    return judged()


@pytest.mark.parametrize("told", TABLES, ids=["judged", "fitted"])
def test_rows_are_as_posted(told):
    assert set(told["source"]) <= set(pd.read_csv(FOLDER / "sources.csv")["source"])
    for row in told.itertuples():
        value, unit = row.posted.split(" ")
        tokens = row.batch * row.seq
        posted = float(value) * UNITS[unit] if unit in UNITS else tokens / float(value)
        assert row.latency_s == pytest.approx(posted, rel=1e-5)
    shapes = told[["batch", "seq", "heads_q"]].apply(tuple, axis=1)
    assert not set(shapes) & {(4, 2048, 16), (8, 1024, 8)}


def test_nothing_is_fitted_on_devices_kept_aside():
    assert not kept_aside(TABLES[1]).any()
    assert kept_aside(TABLES[0]).any()


def test_no_lower_bound_is_above_a_posted_time(found):
    for rows in (found, predicted(TABLES[1])):
        assert rows["lower_s"].notna().all()
        assert not (rows["lower_s"] > rows["latency_s"]).any()


def test_the_fitted_rows_are_met():
    error = predicted(TABLES[1])["error"].abs()
    assert error.mean() < 6
    assert error.max() < 18


@pytest.mark.parametrize(("op", "most"), [("linear_attention", 12), ("retention", 18)])
def test_another_device_is_predicted_without_a_fit(found, op, most):
    """H100: bandwidth limits it there, and not what a unit keeps under way."""
    error = found.loc[(found["gpu"] == "h100-sxm") & (found["op"] == op), "error"].abs()
    assert len(error) == 8
    assert error.mean() < most


def test_one_fused_kernel_of_mamba_2_is_predicted(found):
    error = found.loc[found["framework"] == "fused", "error"].abs()
    assert len(error) == 3
    assert error.max() < 12


def test_mamba_ssms_kernels_are_predicted_by_what_they_hand_on(found):
    """No constant was fitted for them: counted as one kernel, they were half as long as posted."""
    error = found.loc[(found["op"] == "mamba_2") & (found["framework"] == "mamba_ssm"), "error"].abs()
    assert len(error) == 3
    assert error.max() < 20


@pytest.mark.parametrize(("gpu", "most"), [("h200-sxm", 8), ("b200-sxm", 9)])
def test_updates_of_mamba_2_take_the_constants_of_gated_delta_nets(found, gpu, most):
    """Two posted times of H200 aside, which are longer than that of more states."""
    rows = found[(found["gpu"] == gpu) & (found["op"] == "mamba_2_update")]
    plain = rows[~((rows["gpu"] == "h200-sxm") & rows["batch"].isin([256, 1024]))]
    assert len(plain) >= 5
    assert plain["error"].abs().mean() < most


def test_states_in_16_bits_take_half_as_long_where_memory_limits(found):
    rows = found[(found["op"] == "mamba_2_update_fp16") & (found["batch"] >= 32)]
    assert len(rows) == 3
    assert rows["error"].abs().max() < 12


@pytest.mark.parametrize(("gpu", "rows"), [("b200-sxm", 14), ("gb200", 8)])
def test_flashinfers_delta_nets_are_predicted(found, gpu, rows):
    """By the constants of B200's table; GB200 by B200's."""
    error = found.loc[(found["gpu"] == gpu) & (found["framework"] == "flashinfer"), "error"].abs()
    assert len(error) == rows
    assert error.mean() < 6
    assert error.max() < 12


@pytest.mark.parametrize(
    ("op", "direction", "most"),
    [
        ("gated_delta", "fwd", 25),
        ("gated_delta", "fwd+bwd", 10),
        ("kimi_delta", "fwd", 16),
        ("kimi_delta", "fwd+bwd", 26),
    ],
)
def test_delta_nets_of_triton_are_predicted_by_constants_of_the_forward_pass(found, op, direction, most):
    """Nothing was fitted on a backward pass, nor on decays of channels."""
    error = found.loc[
        (found["op"] == op)
        & (found["direction"] == direction)
        & (found["framework"] == "fla")
        & (found["gpu"] == "b200-sxm"),
        "error",
    ].abs()
    assert len(error) == 4
    assert error.mean() < most


@pytest.mark.parametrize(("gpu", "op", "rows"), [("h20", "kimi_delta", 2), ("h200-sxm", "gla", 5)])
def test_decays_of_channels_are_predicted_on_hopper(found, gpu, op, rows):
    """H20 by B200's constants of one decay for a head; H200 at a locked clock, by B200's of none."""
    error = found.loc[(found["gpu"] == gpu) & (found["op"] == op), "error"].abs()
    assert len(error) == rows
    assert error.max() < 16


def test_gated_linear_attention_takes_the_exponentials_of_its_secondary_chunks(found):
    """Without them the first post's forward pass was −42 %; the second post's takes twice as long."""
    rows = found[(found["op"] == "gla") & (found["source"] == "helion/fla-benchmarks")]
    error = rows.groupby("direction")["error"].mean()
    assert -25 < error["fwd"] < 0
    assert -35 < error["fwd+bwd"] < 0


def test_units_keep_as_much_under_way_as_the_forward_pass_shows():
    """By hand: 16 bits of K and V, of the states, of Q, K, V and the states again, and of O, in 0.579 ms."""
    tables = 2 * 4 * 4096 * 64 * 128
    states = 2 * 4 * 64 * (4096 // 64) * 128 * 128
    moved = (2 * tables + states) + (3 * tables + states + tables)
    counted = evaluate(RetNet(), **LONG)
    assert counted["hbm_bytes"] + counted["l2_bytes"] == moved
    cycles = 0.579e-3 * 1.965e9
    assert moved / cycles / 148 == pytest.approx(scan.CONSTANTS["unit_bytes"].default, rel=0.05)
