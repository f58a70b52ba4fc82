"""Predictions of mixtures' experts against posted times, and the posted rows that constants are fitted on."""

from __future__ import annotations

import pandas as pd
import pytest

from costmodel.kernels import experts
from costmodel.validation import fit_experts
from costmodel.validation.heldout import kept_aside
from costmodel.validation.posted_experts import FITTED, FOLDER, SERIES, judged, predicted

TABLES = [pd.read_csv(FOLDER / "experts.csv"), pd.read_csv(FITTED)]


@pytest.fixture(scope="module")
def found():
    return judged()


@pytest.mark.parametrize("told", TABLES, ids=["judged", "fitted"])
def test_rows_are_as_posted_of_open_devices_and_by_the_stated_rule(told):
    sources = pd.read_csv(FOLDER / "sources.csv").set_index("source")
    assert set(told["source"]) <= set(sources.index)
    assert (sources.loc[told["source"].unique(), "licence"] == "Apache-2.0").all()
    posted = told["posted"].str.removesuffix(" ms").astype(float) * 1e-3
    assert told["latency_s"].to_numpy() == pytest.approx(posted.to_numpy(), rel=1e-9)
    assert not kept_aside(told).any()
    assert set(told["tokens"]) <= {1, 4, 16, 64, 256, 1024, 2048, 3072, 4096, 16384}
    assert not told.duplicated([*SERIES, "tokens"]).any()
    # Whose share of a power law's choices a device has is not posted.
    assert (told["expert"] == 1)[told["loads"] != "balanced"].all()
    assert ((told["tensor"] == 1) | (told["expert"] == 1)).all()


def test_no_row_is_both_fitted_on_and_judged():
    told, fitted = TABLES
    assert not set(fitted["d_model"]) & set(told["d_model"][told["gpu"] != "b300-sxm"])
    assert not (fitted["gpu"] == "b300-sxm").any()


def test_no_lower_bound_is_above_a_posted_time(found):
    for rows in (found, predicted(TABLES[1])):
        assert rows["lower_s"].notna().all()
        assert not (rows["lower_s"] > rows["latency_s"]).any()


def test_experts_of_other_models_are_near_those_posted(found):
    """A library's batched product was 31 % off on the 85 of these rows that it could predict."""
    assert len(found) == 130
    assert found["error"].abs().mean() < 12
    assert found["error"].abs().median() < 8
    for _, rows in found.groupby("gpu"):
        assert rows["error"].abs().median() < 12


def test_the_share_of_measured_over_predicted_times_is_that_of_the_intervals(found):
    ratio = found["latency_s"] / found["seconds"]
    rows, quantiles = experts.RESIDUALS
    assert rows == len(found)
    assert ratio.quantile([0.025, 0.1, 0.9, 0.975]).to_numpy() == pytest.approx(quantiles, abs=0.01)


def test_shipped_constants_are_what_the_rows_fit_to():
    shipped = {"defaults": {name: experts.CONSTANTS[name].default for name in experts.FITTED}}
    shipped |= experts.OF_FAMILY
    assert fit_experts.by_architecture() == {
        name: pytest.approx(constants, rel=0.03) for name, constants in shipped.items()
    }
