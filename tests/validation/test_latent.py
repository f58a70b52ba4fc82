"""Latent attention: posted modules of DeepSeek-V3, V3.2 and GLM-5, and FlashMLA's kernels."""

from __future__ import annotations

import pandas as pd
import pytest

from costmodel.layers import get
from costmodel.models._eager import EagerIndexer, EagerRotation
from costmodel.predict import predict
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
    scale = pd.Series(unit).map({"ms": 1e-3, "s": 1.0}).to_numpy()
    assert ALL["latency_s"].to_numpy() == pytest.approx(value.astype(float) * scale, rel=1e-5)
    assert set(ALL["source"]) <= set(pd.read_csv(posted.FOLDER / "sources.csv")["source"])


def test_the_shape_decides_which_rows_are_fitted_on():
    """And the device: nothing is fitted on B300, GB300 and H20."""
    elsewhere = ["b300-sxm", "gb300", "h20"]
    assert not held_out(FITTED).any()
    assert not FITTED["gpu"].isin(elsewhere).any()
    modules = ~JUDGED["gpu"].isin(elsewhere) & (JUDGED["op"] != latent.SPARSE)
    assert held_out(JUDGED[modules]).all()
    assert not {f"nvidia/{gpu}" for gpu in ALL["gpu"]} & NEVER_FITTED


def test_no_lower_bound_is_above_a_posted_time(judged, fitted):
    for rows in (judged, fitted):
        assert not (rows["lower_s"] > rows["latency_s"]).any()


@pytest.mark.parametrize("device", ["a100-sxm-80gb", "b200-sxm", "b300-sxm", "gb300", "h200-sxm", "h20"])
@pytest.mark.parametrize("sparse", [False, True])
def test_modules_are_near_those_posted(judged, device, sparse):
    chosen = judged["model"].isin(["deepseek-v3.2", "glm-5"]) == sparse
    error = judged.loc[(judged["gpu"] == device) & chosen, "error"].abs()
    if sparse and device in ("a100-sxm-80gb", "h20"):
        assert error.empty
        return
    assert error.median() < 12
    assert error.mean() < 15
    assert (error > 30).sum() <= 2


def test_attention_over_many_keys_is_near_that_posted(judged):
    """Where attention is most of the time: 2^22 keys and more."""
    dense = judged[judged["model"] == "deepseek-v3"]
    long = dense[(dense["batch"] * dense["seq_kv"] >= 2**22) & (dense["op"] == latent.DECODE)]
    assert len(long) >= 4
    assert long["error"].abs().max() < 16


def test_time_beside_the_kernels_is_the_median_of_fitted_rows(fitted):
    """Of few heads, many tokens and short caches, where nothing else is long."""
    tokens = fitted["batch"] * fitted["seq_q"]
    few = (tokens >= 256) & (fitted["heads_q"] <= 16) & (fitted["batch"] * fitted["seq_kv"] < 3e5)
    few &= fitted["model"] == "deepseek-v3"
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
        assert latent.module("deepseek-v3", op, heads, "bf16", "bf16").parameters() == weights + gains


def test_modules_of_sparse_attention_have_an_indexer():
    """GLM-5's: queries 2048 → 32 heads of 128, and 6144 → a key of 128 and 32 weights; a norm with a bias."""
    heads, gains = 16, 2048 + 512 + 2 * 128
    weights = 6144 * (2048 + 576) + heads * (2048 * 256 + 512 * (192 + 256) + 256 * 6144)
    indexer = 2048 * 32 * 128 + 6144 * (128 + 32)
    found = latent.module("glm-5", latent.DECODE, heads, "bf16", "fp8").parameters()
    assert found == weights + indexer + gains


def test_around_the_indexer_are_25_kernels_more_than_in_a_compiled_model():
    """Rotation 14, two ``cat``, rounding, three products, two conversions, a write, the list's two."""
    launched = sum(phase.repeats for phase in EagerIndexer().forward())
    assert launched == 14 + 2 + 1 + 3 + 2 + 1 + 2


#: Published of FlashMLA over lists of 2,048 positions, 128 heads: TFLOP/s at most, of devices like these (its
#: README: H800 and B200), and about 25 ms for 4,096 tokens on H20 (aiconfigurator#383).
PUBLISHED = {"h200-sxm": 640, "b200-sxm": 1450, "h20": 2 * 4096 * 128 * 2048 * (2 * 512 + 64) / 25e-3 / 1e12}


@pytest.mark.parametrize("device", PUBLISHED)
def test_whole_prompts_come_near_the_published_rates(device):
    sizes = {"batch": 1, "seq": 4096, "heads": 128, "kv_heads": 1, "head_dim": 576, "value_dim": 512}
    found = predict(get("top-k-attention")(dtype="bf16", latent=True), device, sizes, top_k=2048)
    rate = 2 * 4096 * 128 * 2048 * (576 + 512) / found.seconds / 1e12
    assert 0.85 * PUBLISHED[device] < rate < 1.02 * PUBLISHED[device]
