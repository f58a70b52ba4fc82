"""What would change a time: slopes against small steps, what-ifs against the predictions they are."""

import dataclasses
import math

import pytest

import costmodel as cm
from costmodel.errors import SizeError, UnavailableError
from costmodel.explain import elasticities, what_if
from costmodel.models import load

H200 = "nvidia/h200-sxm"
CASES = [
    (cm.Matmul(), {"m": 64, "n": 4096, "k": 8192}),
    (cm.Matmul(), {"m": 8192, "n": 4096, "k": 8192}),
    (cm.LSTM(), {"batch": 2, "seq": 500, "hidden": 640, "num_layers": 2}),
    (cm.DenseAttention(direction="fwd+bwd"), {"batch": 1, "seq": 3000, "heads": 8, "head_dim": 64}),
    (cm.TransformerBlock(), {"batch": 3, "seq": 1500, "d_model": 1024, "heads": 16}),
    # What is sent beside a kernel counts where it is longer, by that alone.
    (
        cm.layers.get("ring-attention")(),
        {"batch": 1, "seq": 65536, "heads": 32, "head_dim": 128, "devices": 8},
    ),
    (
        cm.layers.get("ring-attention")(),
        {"batch": 1, "seq": 16384, "heads": 32, "head_dim": 128, "devices": 8},
    ),
    (
        cm.layers.get("dist-flash-attention")(),
        {"batch": 1, "seq": 8192, "heads": 8, "head_dim": 128, "devices": 8},
    ),
]


@pytest.mark.parametrize(("layer", "sizes"), CASES, ids=lambda value: getattr(value, "label", ""))
def test_slopes_to_rates_are_what_a_faster_rate_gives(layer, sizes):
    """One part in a million more of a rate; all rates together are the whole time."""
    found = elasticities(cm.predict(layer, H200, rung="bound", **sizes))
    rates = {name: slope for name, slope in found.items() if name in ("hbm", "link") or ":" in name}
    assert sum(rates.values()) == pytest.approx(-1, rel=1e-12)
    device = cm.hardware.load(H200)
    before = cm.predict(layer, device, rung="bound", **sizes).seconds
    more = device.replace(hbm=f"{device.hbm_bandwidth * (1 + 1e-6):.12g} B/s")
    slope = (cm.predict(layer, more, rung="bound", **sizes).seconds / before - 1) / 1e-6
    assert found.get("hbm", 0.0) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("batch", [1, 512])
def test_slopes_of_many_draws_are_those_of_the_formula(batch):
    """Rows touched are r = V·(1 − qᵗ), q = 1 − 1/V (Cardenas 1975): of millions of tokens soon told."""
    words, tokens, row = 32000, 4096 * batch, 2 * 4096
    found = elasticities(
        cm.predict(cm.Embedding(), H200, rung="bound", batch=batch, seq=4096, vocab=words, d_model=4096)
    )
    missed = math.exp(tokens * math.log1p(-1 / words))
    moved = 8 * tokens + row * (tokens + words * (1 - missed))
    by_token = 8 + row * (1 - words * missed * math.log1p(-1 / words))
    by_word = row * (1 - missed - tokens * missed / (words - 1))
    assert found["batch"] == pytest.approx(tokens * by_token / moved, rel=1e-9)
    assert found["vocab"] == pytest.approx(words * by_word / moved, rel=1e-9)


@pytest.mark.parametrize(("layer", "sizes"), CASES, ids=lambda value: getattr(value, "label", ""))
def test_slopes_to_sizes_are_what_one_more_gives(layer, sizes):
    """One more of a size, and one less: sizes that follow from it (d_ff, seq_kv, input) go along."""
    found = elasticities(cm.predict(layer, H200, rung="bound", **sizes))
    for name in sizes:
        # A sequence is cut into whole parts, one for each device, and those into tiles.
        step = 128 * sizes["devices"] if "devices" in sizes else 1
        if sizes[name] <= 2 * step or name in ("heads", "d_model", "devices"):
            continue
        low, high = (
            cm.predict(layer, H200, rung="bound", **{**sizes, name: sizes[name] + change}).seconds
            for change in (-step, step)
        )
        mean = cm.predict(layer, H200, rung="bound", **sizes).seconds
        slope = (high - low) / (2 * step) * sizes[name] / mean
        assert found[name] == pytest.approx(slope, rel=2e-3), name


def test_what_if_is_the_prediction_with_that_one_thing_changed():
    layer, sizes = cm.Matmul(dtype="bf16"), {"m": 64, "n": 8192, "k": 8192}
    p = cm.predict(layer, H200, rung="bound", **sizes)
    found = what_if(p, ["nvidia/b200-sxm"]).set_index("change")
    assert found.loc["hbm times 2", "speedup"] == pytest.approx(2, rel=1e-9)
    assert found.loc["bf16 times 2", "speedup"] == pytest.approx(1)
    fp8 = cm.predict(cm.Matmul(dtype="fp8"), H200, rung="bound", **sizes)
    assert found.loc["in fp8", "seconds"] == fp8.seconds
    b200 = cm.predict(layer, "nvidia/b200-sxm", rung="bound", **sizes)
    assert found.loc["on nvidia/b200-sxm", "seconds"] == b200.seconds
    assert found["speedup"].is_monotonic_decreasing


def test_memory_twice_as_fast_is_tried_where_it_outruns_the_stated_cache():
    """H100 states an L2 of 5.5 TB/s, below twice the memory's 3.35: what all that memory limits asks."""
    device = cm.hardware.load("nvidia/h100-sxm")
    assert device.hbm_bandwidth < device.l2_bandwidth < 2 * device.hbm_bandwidth
    sizes = {"batch": 16, "heads": 64, "kv_heads": 8, "seq_kv": 131072, "head_dim": 128}
    p = cm.predict(cm.DecodeAttention(), device, rung="bound", **sizes)
    assert p.bound == "hbm"
    assert what_if(p).set_index("change").loc["hbm times 2", "speedup"] == pytest.approx(2)


def test_a_choice_that_changes_nothing_at_these_sizes_is_not_listed():
    """A wavefront goes through several layers; of one it is the same steps."""
    sizes = {"batch": 8, "seq": 512, "hidden": 1024}
    for rung in ("bound", "kernel"):
        one, two = (
            what_if(cm.predict(cm.LSTM(dtype="bf16"), H200, rung=rung, num_layers=layers, **sizes))
            for layers in (1, 2)
        )
        assert "wavefront = True" not in set(one["change"])
        assert "wavefront = True" in set(two["change"])
        assert "hbm times 2" in set(one["change"])  # of a figure it is an answer that it changes nothing


def test_one_other_device_needs_no_list():
    p = cm.predict(cm.Matmul(), H200, rung="bound", m=64, n=64, k=64)
    assert what_if(p, "b200-sxm").equals(what_if(p, ["b200-sxm"]))


def test_a_longer_tile_reads_keys_and_values_half_as_often():
    """Where memory limits: K and V once per row block (FlashAttention-2), Q and O once."""
    sizes = {"batch": 4, "heads": 8, "seq": 4096, "head_dim": 64}
    slow = cm.hardware.load(H200).replace(hbm="50 GB/s")
    for rung, layer in (("bound", cm.TiledAttention()), ("kernel", cm.TiledAttention(tile=(16, 16)))):
        asked = cm.predict(layer, slow, rung=rung, state="cold", **sizes)
        found = what_if(asked).set_index("kind").loc["choice"]
        rows, cols = (int(n) for n in found.change.rpartition(", ")[2].split(" × "))
        longer = cm.predict(cm.TiledAttention(tile=(rows, cols)), slow, rung=rung, state="cold", **sizes)
        assert found.seconds == float(longer.seconds)
        if rung == "kernel":
            assert (rows, cols) == (32, 16)
            assert found.speedup > 1.1
    # A library's own tile is not the layer's to choose.
    assert "choice" not in set(what_if(cm.predict(cm.TiledAttention(), H200, **sizes)).kind)


def test_a_recurrence_is_not_helped_by_more_of_the_device():
    p = cm.predict(cm.LSTM(dtype="bf16"), H200, batch=1, seq=4096, hidden=1024)
    figures = what_if(p).query("kind == 'figure'")
    assert len(figures) >= 4
    assert (figures["speedup"] < 1.1).all()


def test_a_cold_prediction_is_compared_with_cold_ones():
    p = cm.predict(cm.Matmul(), "nvidia/a100-sxm-80gb", state="cold", m=16, n=4096, k=4096)
    found = what_if(p, ["nvidia/h200-sxm"]).set_index("change")
    other = cm.predict(cm.Matmul(), "nvidia/h200-sxm", state="cold", m=16, n=4096, k=4096)
    assert found.loc["on nvidia/h200-sxm", "seconds"] == other.seconds


@pytest.mark.parametrize(
    "asked",
    [{"rung": "kernel"}, {"framework": "trtllm"}, {"harness": "eager-events"}, {"rung": "calibrated"}],
)
def test_what_was_asked_of_the_prediction_is_asked_of_what_ifs(asked):
    """A device as it is, given again, is the prediction again; and a changed one is asked the same."""
    layer, sizes = cm.Matmul(dtype="bf16"), {"m": 8, "n": 4096, "k": 4096}
    device = cm.hardware.load("nvidia/a100-sxm-80gb")
    p = cm.predict(layer, device, sizes, **asked)
    found = what_if(p, [device]).set_index("change")
    assert found.loc[f"on {device.name}", "seconds"] == p.seconds
    faster = device.replace(hbm=f"{2 * device.hbm_bandwidth:.10g} B/s")
    kept = {name: value for name, value in asked.items() if value != "calibrated"}
    assert found.loc["hbm times 2", "seconds"] == cm.predict(layer, faster, sizes, **kept).seconds


def test_a_format_with_other_constants_is_marked_and_comes_last():
    """T5's matrix products on MI300X: bf16 has a relative's constants, fp8 has none."""
    p = cm.predict(load("t5-base").decode(), "amd/mi300x", batch=1, seq=64, seq_kv=64)
    found = what_if(p)
    narrower = found[found["kind"] == "format"]
    same = (narrower["constants_from"] == p.constants_from).to_numpy()
    assert len(narrower)
    assert not narrower["alike"][~same].any()
    assert found["alike"].tolist() == sorted(found["alike"], reverse=True)
    at_bound = cm.predict(cm.Matmul(), H200, rung="bound", m=64, n=64, k=64)
    assert what_if(at_bound)["alike"].all()


def test_a_format_that_the_device_has_not_is_not_tried():
    p = cm.predict(cm.Matmul(dtype="bf16"), "nvidia/a100-sxm-80gb", m=64, n=64, k=64)
    assert not what_if(p)["change"].str.contains("fp8").any()


def test_a_whole_model_is_explained_as_a_layer_is():
    p = cm.predict(load("gpt2").decode(), H200, rung="bound", batch=1, seq_kv=512)
    assert elasticities(p)["hbm"] == pytest.approx(-1, abs=0.01)
    assert what_if(p).set_index("change").loc["in fp8", "speedup"] == pytest.approx(2, rel=0.05)


def test_a_device_that_was_asked_for_is_not_passed_over():
    p = cm.predict(cm.Matmul(dtype="bf16"), H200, rung="bound", m=64, n=64, k=64)
    with pytest.raises(UnavailableError, match=r"v100.*bf16"):
        what_if(p, ["a100-sxm-80gb", "v100-sxm2-16gb"])


def test_what_refuses_another_format_has_the_other_changes():
    """A module keeps the formats that it was captured in."""
    torch = pytest.importorskip("torch", reason="capturing needs torch: pip install 'costmodel[validation]'")
    model = cm.from_torch(torch.nn.Linear(8, 8), torch.zeros(2, 8), dims={"batch": (0, 0)})
    found = what_if(cm.predict(model, H200, batch=3))
    assert "hbm times 2" in set(found["change"])
    assert "format" not in set(found["kind"])


@pytest.mark.parametrize("function", [elasticities, what_if])
def test_many_shapes_are_refused(function):
    p = cm.predict(cm.Matmul(), H200, m=[1, 2], n=64, k=64)
    with pytest.raises(SizeError, match="single shape"):
        function(p)


def test_choices_are_of_how_and_not_of_what():
    p = cm.predict(cm.TransformerBlock(attention="dense"), H200, batch=1, seq=4096, d_model=1024, heads=16)
    assert "attention = tiled" in set(what_if(p)["change"])
    causal = dataclasses.replace(cm.TransformerBlock(), causal=True)
    assert (
        not what_if(cm.predict(causal, H200, batch=1, seq=64, d_model=64, heads=1))["change"]
        .str.contains("causal")
        .any()
    )


def test_two_limits_near_one_another_are_lifted_together():
    """A single row on A100: memory and units take as long, so that doubling either alone hardly helps."""
    p = cm.predict(cm.Matmul(dtype="bf16"), "a100-sxm-80gb", m=1, n=8192, k=8192)
    found = cm.what_if(p).query("kind == 'figure'")
    alone, pair = found[~found["change"].str.contains(" and ")], found[found["change"].str.contains(" and ")]
    assert alone["speedup"].max() < 1.25
    assert len(pair) == 1
    assert "hbm" in pair["change"].item()
    assert 1.5 < pair["speedup"].item() <= 2


def test_no_pair_is_told_where_one_figure_helps():
    for sizes in ({"m": 8192, "n": 8192, "k": 8192}, {"m": 16, "n": 16384, "k": 16384}):
        p = cm.predict(cm.Matmul(dtype="bf16"), "h200-sxm", sizes)
        assert not cm.what_if(p)["change"].str.contains(" and ").any()


def test_links_are_tried_where_something_is_sent():
    decode = {"batch": 16, "seq_kv": 2048}
    alone, shared = (
        cm.what_if(cm.predict(load("llama-2-70b").tensor_parallel(n).decode("fp16"), "h100-sxm", decode))
        for n in (1, 8)
    )
    assert "link times 2" not in set(alone["change"])
    faster = shared.set_index("change").loc["link times 2", "speedup"]
    assert 1 < faster < 1.1  # 64 tokens' sums are short beside weights


@pytest.mark.parametrize("function", [elasticities, what_if])
def test_what_takes_no_time_is_refused(function):
    alone = cm.predict(cm.layers.get("collective")(), "h200-sxm", m=8, n=8, devices=1)
    assert alone.seconds == 0
    with pytest.raises(SizeError, match="takes no time at these sizes"):
        function(alone)


def test_weights_and_caches_may_be_stored_narrower():
    """A token of one sequence reads all weights: a quarter of the bytes is most of what there is to gain."""
    model = cm.models.load("llama-2-7b").decode()
    found = what_if(cm.predict(model, H200, rung="bound", batch=1, seq_kv=2048)).set_index("change")
    assert 3 < found.loc["weights in int4", "speedup"] < 4
    assert 1.8 < found.loc["weights in int8", "speedup"] < 2
    assert 1 < found.loc["cache in fp8", "speedup"] < 1.1
    stored = cm.models.load("llama-2-7b").storing("int4", cache="fp8").decode()
    again = set(what_if(cm.predict(stored, H200, rung="bound", batch=1, seq_kv=2048))["change"])
    assert not {"weights in int4", "weights in int8", "cache in fp8"} & again
    trained = cm.predict(cm.Matmul(direction="bwd"), H200, rung="bound", m=1, n=64, k=64)
    assert "weights in int4" not in set(what_if(trained)["change"])
