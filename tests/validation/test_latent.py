"""Latent attention: posted modules of DeepSeek-V3, and FlashMLA's kernel on H20."""

from __future__ import annotations

import pandas as pd
import pytest

from costmodel.models._eager import EagerRotation
from costmodel.validation import latent, posted
from costmodel.validation.heldout import NEVER_FITTED, held_out

JUDGED, FITTED = (pd.read_csv(posted.FOLDER / f"{name}.csv") for name in ("latent", "latent_fitted"))
ALL = pd.concat([JUDGED, FITTED], ignore_index=True)


@pytest.fixture(scope="module")
def judged():
    return posted.modules()


@pytest.fixture(scope="module")
def fitted():
    return latent.predicted(FITTED)


def test_times_follow_from_the_text_of_the_posts():
    value, unit = ALL["posted"].str.split(" ", expand=True).T.to_numpy()
    assert set(unit) == {"ms"}
    assert ALL["latency_s"].to_numpy() == pytest.approx(value.astype(float) * 1e-3, rel=1e-5)
    assert set(ALL["source"]) <= set(pd.read_csv(posted.FOLDER / "sources.csv")["source"])


def test_the_shape_decides_which_rows_are_fitted_on():
    """And the device: nothing is fitted on B300, GB300 and H20."""
    elsewhere = ["b300-sxm", "gb300", "h20"]
    assert not held_out(FITTED).any()
    assert not FITTED["gpu"].isin(elsewhere).any()
    assert held_out(JUDGED[~JUDGED["gpu"].isin(elsewhere)]).all()
    assert not {f"nvidia/{gpu}" for gpu in ALL["gpu"]} & NEVER_FITTED


def test_no_lower_bound_is_above_a_posted_time(judged, fitted):
    for rows in (judged, fitted):
        assert not (rows["lower_s"] > rows["latency_s"]).any()


@pytest.mark.parametrize("device", ["a100-sxm-80gb", "b200-sxm", "b300-sxm", "gb300", "h200-sxm", "h20"])
def test_modules_are_near_those_posted(judged, device):
    error = judged.loc[judged["gpu"] == device, "error"].abs()
    assert error.median() < 12
    assert error.mean() < 15
    assert (error > 30).sum() <= 2


def test_attention_over_many_keys_is_near_that_posted(judged):
    """Where attention is most of the time: 2^22 keys and more."""
    long = judged[(judged["batch"] * judged["seq_kv"] >= 2**22) & (judged["op"] == latent.DECODE)]
    assert len(long) >= 4
    assert long["error"].abs().max() < 16


def test_time_beside_the_kernels_is_the_median_of_fitted_rows(fitted):
    """Of few heads, many tokens and short caches, where nothing else is long."""
    tokens = fitted["batch"] * fitted["seq_q"]
    few = (tokens >= 256) & (fitted["heads_q"] <= 16) & (fitted["batch"] * fitted["seq_kv"] < 3e5)
    beside = (fitted["latency_s"] - fitted["seconds"]) / tokens + latent.TOKEN_S
    assert few.sum() > 20
    assert beside[few].median() == pytest.approx(latent.TOKEN_S, rel=0.15)


def test_the_eager_rotation_has_fourteen_kernels_and_the_write_to_the_cache():
    """Look-up, two repetitions; for queries and keys a sign, a stack, two products, a sum; the copy back."""
    rotation, write = 1 + 2 + 2 * (1 + 1 + 2 + 1) + 1, 1
    launched = [phase.repeats for phase in EagerRotation().forward()]
    assert sum(launched) == rotation + write


def test_modules_have_the_projections_of_the_posted_model():
    """DeepSeek-V3's: 7168 → 1536 + 576, 1536 → 192 per head, 512 × 128 twice per head, and back to 7168."""
    heads, gains = 16, 1536 + 512
    weights = 7168 * (1536 + 576) + heads * (1536 * 192 + 2 * 512 * 128 + 128 * 7168)
    for op in (latent.DECODE, latent.PREFILL):
        assert latent.module(op, heads, "bf16", "bf16").parameters() == weights + gains
