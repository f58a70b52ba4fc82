"""The tables of a whole model's report add up to what `predict` says, and leave nothing out."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel import hardware, model_story, models, predict, reports
from costmodel.errors import SizeError, UnavailableError
from costmodel.explain import elasticities

TINY = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "vocab_size": 1000,
}
DEVICES = ("nvidia/a100-sxm-80gb", "nvidia/h200-sxm")
BATCH, SEQ = 2, 300
USES = ["prefill", "decode", "training"]


@pytest.fixture(scope="module")
def model() -> models.Architecture:
    return models.from_config(TINY, name="tiny")


@pytest.fixture(scope="module")
def frames(model: models.Architecture) -> reports.ModelFrames:
    return model_story.story(
        model, DEVICES, batch=BATCH, seq=SEQ, clusters=(2, 4), others=("nvidia/b200-sxm",)
    )


def predicted(model: models.Architecture, device: str, use: str, seq: float = SEQ) -> object:
    whole = getattr(model, use)()
    sizes = {"batch": BATCH, "seq": seq, "seq_kv": seq}
    return predict(whole, device, {name: sizes[name] for name in whole.required})


def test_answers_are_what_predict_says(model, frames):
    assert len(frames.answers) == len(DEVICES) * len(USES)
    for row in frames.answers.to_dict("records"):
        wanted = predicted(model, row["device"], row["use"])
        assert row["where"] == row["device"].partition("/")[2]
        assert row["seconds"] == pytest.approx(wanted.seconds, rel=1e-12)
        assert (row["bound"], row["rung"]) == (wanted.bound, wanted.rung)
        assert row["lower_s"] <= row["seconds"]
        peak = hardware.load(row["device"]).peak("bf16")
        assert row["utilisation"] == pytest.approx(wanted.matrix_flops / wanted.seconds / peak)


def test_kernels_and_lengths_add_up_to_the_time(frames):
    answers = frames.answers.set_index(["where", "use"])["seconds"]
    for key, seconds in frames.kernels.groupby(["where", "use"])["seconds"].sum().items():
        assert seconds == pytest.approx(answers[key], rel=1e-9)
    at = frames.lengths[frames.lengths["seq"] == SEQ]
    for key, seconds in at.groupby(["where", "use"])["seconds"].sum().items():
        assert seconds == pytest.approx(answers[key], rel=1e-9)


def test_lengths_are_what_predict_says_at_each(model, frames):
    lengths = sorted(set(frames.lengths["seq"]))
    assert {128.0, float(SEQ), 131072.0} <= set(lengths)
    for seq in (lengths[0], lengths[-1]):
        rows = frames.lengths[(frames.lengths["seq"] == seq) & (frames.lengths["where"] == "h200-sxm")]
        for use, seconds in rows.groupby("use")["seconds"].sum().items():
            assert seconds == pytest.approx(predicted(model, DEVICES[1], use, seq).seconds, rel=1e-9)


def test_generation_is_the_sum_of_its_predictions(model, frames):
    """The prompt's prediction, and one for each further token with a cache of 301, 302, … positions."""
    rows = frames.tokens[frames.tokens["where"] == "h200-sxm"].set_index("made")
    assert rows.index.tolist() == [1, 2, 4, 8, 16, 32, 64, 128]
    first = predicted(model, DEVICES[1], "prefill").seconds
    steps = [predicted(model, DEVICES[1], "decode", SEQ + i).seconds for i in range(1, 128)]
    for made, row in rows.iterrows():
        assert row["elapsed_s"] == pytest.approx(first + sum(steps[: made - 1]), rel=1e-9)
        assert row["lower_s"] <= row["elapsed_s"]
    even = rows["even"].iloc[0]
    whole = first + np.cumsum([0, *steps])
    assert even == np.flatnonzero(whole > 2 * first)[0] + 1
    assert rows["lacks_bytes"].max() == 0


def test_kernels_are_of_every_part_of_the_model(model, frames):
    for use in USES:
        whole = getattr(model, use)()
        wanted = {part.name for part in (*whole.parts, *whole.updates)}
        assert set(frames.kernels[frames.kernels["use"] == use]["part"]) == wanted


def test_kinds_of_memory_add_up_to_the_answers(frames):
    at = frames.memory[(frames.memory["seq"] == SEQ) & (frames.memory["recompute"] == "none")]
    answers = frames.answers.set_index(["where", "use"])
    for key, held in at.groupby(["where", "use"])["bytes"].sum().items():
        assert held == pytest.approx(answers.loc[key, "memory_bytes"], rel=1e-12)
    room = frames.memory.groupby("where")["room_bytes"].first()
    capacity = frames.answers.groupby("where")["hbm_capacity_bytes"].first()
    np.testing.assert_allclose(room, (1 - frames.margin) * capacity)
    training = frames.memory[frames.memory["use"] == "training"]
    assert set(training["recompute"]) == {"none", "selective", "full"}


def test_what_ifs_on_other_devices_are_predictions(model, frames):
    decode = frames.changes[
        (frames.changes["use"] == "decode") & (frames.changes["where"] == "a100-sxm-80gb")
    ]
    by_change = decode.set_index("change")["seconds"]
    assert by_change["on nvidia/h200-sxm"] == pytest.approx(predicted(model, DEVICES[1], "decode").seconds)
    assert {"on nvidia/b200-sxm", "hbm times 2", "bf16 times 2"} <= set(by_change.index)
    assert "on nvidia/a100-sxm-80gb" not in by_change


def test_slopes_are_the_elasticities(model, frames):
    rows = frames.slopes[(frames.slopes["use"] == "prefill") & (frames.slopes["where"] == "h200-sxm")]
    found = dict(zip(rows["of"], rows["elasticity"], strict=True))
    assert found == pytest.approx(elasticities(predicted(model, DEVICES[1], "prefill")))
    rates = frames.slopes[frames.slopes["kind"] == "rate"]
    np.testing.assert_allclose(rates.groupby(["where", "use"])["elasticity"].sum(), -1.0)


def test_layouts_are_ranked_and_fit(frames):
    assert set(frames.layouts["cluster"]) == {"2 devices", "4 devices"}
    for (_, cluster), rows in frames.layouts.groupby(["where", "cluster"]):
        assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
        assert rows["seconds"].is_monotonic_increasing
        devices = rows["tensor"] * rows["pipeline"] * rows["data"]
        assert set(devices) == {int(cluster.split()[0])}
        # The batch is that of each device.
        tokens = BATCH * devices.iloc[0] * SEQ
        np.testing.assert_allclose(rows["tokens_per_second"], tokens / rows["seconds"])
    assert (frames.layouts["memory_bytes"] <= (1 - frames.margin) * 141e9).all()


def test_facts_have_every_device_that_is_named(frames):
    assert {*DEVICES, "nvidia/b200-sxm"} <= set(frames.facts.devices["device"])
    assert "swiglu" in set(frames.facts.layers["layer"])


# -- models that lack something ----------------------------------------------------------------


def small(name: str, **options: object) -> reports.ModelFrames:
    return model_story.story(
        models.load(name), ["nvidia/h200-sxm"], seq=64, rung="bound", clusters=(2,), others=(), **options
    )


def test_a_model_that_generates_nothing_has_no_decoding():
    frames = small("bert-base")
    assert list(frames.uses) == ["prefill", "training"]
    assert set(frames.answers["use"]) == {"prefill", "training"}
    assert frames.tokens.empty


def test_a_model_that_is_no_stack_is_not_planned_and_says_so():
    frames = small("gnmt")
    assert frames.layouts.empty
    assert frames.refused == (
        "gnmt: it is not known how devices share its layers, so there is no plan for it",
    )


def test_devices_without_the_format_are_not_tried_in_place_of_one_that_has_it():
    """An A100 has no FP8."""
    found = model_story.story(
        models.load("gpt2"), ["nvidia/h200-sxm"], seq=64, dtype="fp8", rung="bound", clusters=(2,),
        others=("nvidia/a100-sxm-80gb", "nvidia/b200-sxm"),
    )  # fmt: skip
    tried = found.changes.loc[found.changes["kind"] == "device", "change"]
    assert set(tried) == {"on nvidia/b200-sxm"}
    assert "nvidia/a100-sxm-80gb" not in set(found.facts.devices["device"])


def test_a_model_without_attention_is_planned_and_has_no_longest_sequence():
    frames = small("mamba-130m")
    assert set(frames.layouts["cluster"]) == {"2 devices"}
    decode = frames.answers.set_index("use").loc["decode"]
    assert np.isnan(decode["longest_seq"])  # any length fits
    assert frames.tokens["step_s"].iloc[1:].nunique() == 1  # nothing grows


def test_encoder_and_decoder_are_given_the_same_length():
    frames = small("t5-small")
    whole = models.load("t5-small").prefill()
    wanted = predict(whole, "nvidia/h200-sxm", rung="bound", batch=1, seq=64, seq_kv=64)
    assert frames.answers.set_index("use").loc["prefill", "seconds"] == pytest.approx(wanted.seconds)


def test_a_step_too_large_for_the_devices_is_refused_with_the_reason():
    found = model_story.story(
        models.load("llama-2-70b"),
        ["nvidia/t4"],
        seq=64,
        dtype="fp16",
        rung="bound",
        clusters=(1,),
        others=(),
    )
    assert found.layouts.empty
    assert found.refused[0].startswith("one device of t4: nothing fits")


def test_a_generation_that_outgrows_the_memory_says_how_much_is_lacking():
    """By hand: keys and values of 2 · 32 · 4096 numbers a token and sequence, and weights; 92 % of 141 GB."""
    found = small("llama-2-7b", batch=64, new=4096)
    held = 2 * (6.74e9 + 64 * (64 + 4096) * 2 * 32 * 4096)
    assert found.tokens["lacks_bytes"].iloc[0] == pytest.approx(held - 0.92 * 141e9, rel=0.02)


@pytest.mark.parametrize("size", [{"seq": 0}, {"new": 0}, {"seq": 2.5}, {"batch": -1}])
def test_sizes_must_be_whole_numbers_of_at_least_1(model, size):
    with pytest.raises(SizeError):
        model_story.story(model, DEVICES, **size)


def test_format_that_a_device_lacks_is_refused(model):
    with pytest.raises(UnavailableError, match="no bf16"):
        model_story.story(model, ["nvidia/v100-sxm2-16gb"], seq=8)


def test_note_says_that_training_keeps_weights_in_the_computing_format(model):
    stored = model_story.story(model.storing("int8"), DEVICES[:1], batch=BATCH, seq=SEQ)
    assert ("Training", "Training keeps weights in bf16, whatever serving stores them in.") in stored.notes
    assert "Training" not in dict(model_story.story(model, DEVICES[:1], batch=BATCH, seq=SEQ).notes)
