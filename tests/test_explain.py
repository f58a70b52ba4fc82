"""Elasticities against finite differences, and what-ifs against predictions of the changed case."""

import dataclasses
import math

import pytest
import sympy as sp

import costmodel as cm
from costmodel.errors import SizeError, UnavailableError
from costmodel.explain import SMOOTH, elasticities, what_if
from costmodel.models import load
from costmodel.symbols import CausalTiles, CeilDiv, CeilLog, CeilLog2, ChunkPairs, Distinct, Factors

H200 = "nvidia/h200-sxm"
CASES = [
    (cm.Matmul(), {"m": 64, "n": 4096, "k": 8192}),
    (cm.Matmul(), {"m": 8192, "n": 4096, "k": 8192}),
    (cm.LSTM(), {"batch": 2, "seq": 500, "hidden": 640, "num_layers": 2}),
    (cm.DenseAttention(direction="fwd+bwd"), {"batch": 1, "seq": 3000, "heads": 8, "head_dim": 64}),
    (cm.TransformerBlock(), {"batch": 3, "seq": 1500, "d_model": 1024, "heads": 16}),
    # Communication beside a kernel counts only where it takes longer, and then alone.
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
def test_elasticities_to_rates_are_finite_differences(layer, sizes):
    """One part in a million more bandwidth; the elasticities to all rates add up to −1."""
    found = elasticities(cm.predict(layer, H200, rung="bound", **sizes))
    rates = {name: slope for name, slope in found.items() if name in ("hbm", "link") or ":" in name}
    assert sum(rates.values()) == pytest.approx(-1, rel=1e-12)
    device = cm.hardware.load(H200)
    before = cm.predict(layer, device, rung="bound", **sizes).seconds
    more = device.replace(hbm=f"{device.hbm_bandwidth * (1 + 1e-6):.12g} B/s")
    slope = (cm.predict(layer, more, rung="bound", **sizes).seconds / before - 1) / 1e-6
    assert found.get("hbm", 0.0) == pytest.approx(slope, abs=1e-5)


def test_smooth_functions_go_through_the_steps():
    """Where nothing is left over: at multiples of a tile, at powers of a base, in tiles of one key."""
    whole = {
        CeilDiv: (96, 8), CeilLog2: (64,), CeilLog: (81, 3), ChunkPairs: (96, 8), CausalTiles: (20, 50, 1),
        Factors: (64, 3), Distinct: (64, 2, 5), sp.ceiling: (7,), sp.floor: (7,),
    }  # fmt: skip
    assert list(whole) == [steps for steps, _ in SMOOTH]
    for steps, between in SMOOTH:
        sizes = [sp.Integer(size) for size in whole[steps]]
        assert float(between(*sizes)) == pytest.approx(float(steps(*sizes))), steps
    # A query's last tile is filled in part: on average by half.
    tiles, keys = (float(f(*map(sp.Integer, (48, 96, 8)))) for f in (CausalTiles, dict(SMOOTH)[CausalTiles]))
    assert tiles - keys == pytest.approx(48 * (8 - 1) / 2 / 8)


@pytest.mark.parametrize("batch", [1, 512])
def test_elasticities_of_an_embedding_are_those_of_the_formula(batch):
    """Rows touched are r = V·(1 − qᵗ), q = 1 − 1/V (Cardenas 1975), differentiated by hand."""
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
def test_elasticities_to_sizes_are_finite_differences(layer, sizes):
    """One more and one less of a size; defaults that follow from it (d_ff, seq_kv, input) change too."""
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
    # The limit "l2" is the cache's bandwidth, which is not what is doubled.
    assert "l2 capacity times 2" in found.index
    fp8 = cm.predict(cm.Matmul(dtype="fp8"), H200, rung="bound", **sizes)
    assert found.loc["in fp8", "seconds"] == fp8.seconds
    b200 = cm.predict(layer, "nvidia/b200-sxm", rung="bound", **sizes)
    assert found.loc["on nvidia/b200-sxm", "seconds"] == b200.seconds
    assert found["speedup"].is_monotonic_decreasing


def test_twice_the_memory_bandwidth_is_tried_even_beyond_that_of_l2():
    """H100 states 5.5 TB/s of L2, less than twice the memory's 3.35: memory-bound work still asks for it."""
    device = cm.hardware.load("nvidia/h100-sxm")
    assert device.hbm_bandwidth < device.l2_bandwidth < 2 * device.hbm_bandwidth
    sizes = {"batch": 16, "heads": 64, "kv_heads": 8, "seq_kv": 131072, "head_dim": 128}
    p = cm.predict(cm.DecodeAttention(), device, rung="bound", **sizes)
    assert p.bound == "hbm"
    assert what_if(p).set_index("change").loc["hbm times 2", "speedup"] == pytest.approx(2)


def test_option_that_changes_nothing_at_these_sizes_is_not_listed():
    """A wavefront runs several layers at once; with one layer the steps are the same."""
    sizes = {"batch": 8, "seq": 512, "hidden": 1024}
    for rung in ("bound", "kernel"):
        one, two = (
            what_if(cm.predict(cm.LSTM(dtype="bf16"), H200, rung=rung, num_layers=layers, **sizes))
            for layers in (1, 2)
        )
        assert "wavefront = True" not in set(one["change"])
        assert "wavefront = True" in set(two["change"])
        assert "hbm times 2" in set(one["change"])  # a figure is listed even if it changes nothing


def test_limits_of_a_device_without_links_are_listed_strongest_first():
    """A desktop CPU is linked to no other; its products wait for arithmetic, its norms for memory."""
    block = cm.TransformerBlock(dtype="fp32")
    p = cm.predict(block, "cpu/i9-13900k", rung="bound", batch=1, seq=64, d_model=1024, heads=16)
    assert p.device.link_bandwidth is None
    slopes = [slope for name, slope in elasticities(p).items() if name == "hbm" or ":" in name]
    assert len(slopes) > 1
    assert slopes == sorted(slopes)
    assert sum(slopes) == pytest.approx(-1)


def test_changes_are_numbered_and_none_leave_an_empty_table(monkeypatch):
    """A chip at the end of what is plausible, or a format that nothing is narrower than."""
    p = cm.predict(cm.Matmul(dtype="fp4"), "b200-sxm", rung="bound", m=64, n=8192, k=8192)
    found = what_if(p)
    assert list(found.index) == list(range(len(found)))
    assert set(found["kind"]) == {"figure"}
    monkeypatch.setattr("costmodel.explain._doubled", lambda device, *names: None)
    none = what_if(p)
    assert none.empty
    assert list(none) == list(found)


def test_one_other_device_needs_no_list():
    p = cm.predict(cm.Matmul(), H200, rung="bound", m=64, n=64, k=64)
    assert what_if(p, "b200-sxm").equals(what_if(p, ["b200-sxm"]))


def test_longer_tile_is_suggested_where_memory_limits():
    """FlashAttention-2 reads K and V once per block of rows, Q and O
    once: half as often with twice the rows.
    """
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
    # A library's kernel has its own tile: no other is suggested.
    assert "choice" not in set(what_if(cm.predict(cm.TiledAttention(), H200, **sizes)).kind)


def test_doubling_any_figure_hardly_speeds_up_a_recurrence():
    p = cm.predict(cm.LSTM(dtype="bf16"), H200, batch=1, seq=4096, hidden=1024)
    figures = what_if(p).query("kind == 'figure'")
    assert len(figures) >= 4
    assert (figures["speedup"] < 1.1).all()


def test_what_ifs_of_a_cold_prediction_are_cold():
    p = cm.predict(cm.Matmul(), "nvidia/a100-sxm-80gb", state="cold", m=16, n=4096, k=4096)
    found = what_if(p, ["nvidia/h200-sxm"]).set_index("change")
    other = cm.predict(cm.Matmul(), "nvidia/h200-sxm", state="cold", m=16, n=4096, k=4096)
    assert found.loc["on nvidia/h200-sxm", "seconds"] == other.seconds


@pytest.mark.parametrize(
    "asked",
    [{"rung": "kernel"}, {"framework": "trtllm"}, {"harness": "eager-events"}, {"rung": "calibrated"}],
)
def test_what_ifs_keep_rung_framework_and_harness(asked):
    """The same device gives the same prediction again; a changed one is predicted with the same options."""
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


def test_format_that_the_device_lacks_is_not_tried():
    p = cm.predict(cm.Matmul(dtype="bf16"), "nvidia/a100-sxm-80gb", m=64, n=64, k=64)
    assert not what_if(p)["change"].str.contains("fp8").any()


def test_a_whole_model_is_explained_as_a_layer_is():
    p = cm.predict(load("gpt2").decode(), H200, rung="bound", batch=1, seq_kv=512)
    assert elasticities(p)["hbm"] == pytest.approx(-1, abs=0.01)
    # FP8 halves the layers' 12 · 12 · 768² weights, not the words' 50,257 · 768 or the cache.
    layers, words, cache = 12 * 12 * 768**2, 50_257 * 768, 12 * 2 * 512 * 768
    wanted = 2 * (layers + words + cache) / (layers + 2 * (words + cache))
    assert what_if(p).set_index("change").loc["in fp8", "speedup"] == pytest.approx(wanted, rel=0.01)


def test_device_that_cannot_run_the_layer_is_refused_by_name():
    p = cm.predict(cm.Matmul(dtype="bf16"), H200, rung="bound", m=64, n=64, k=64)
    with pytest.raises(UnavailableError, match=r"v100.*bf16"):
        what_if(p, ["a100-sxm-80gb", "v100-sxm2-16gb"])


def test_captured_module_has_every_change_but_formats():
    """A module keeps the formats in which it was captured."""
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


def test_only_options_that_keep_the_result_are_tried():
    p = cm.predict(cm.TransformerBlock(attention="dense"), H200, batch=1, seq=4096, d_model=1024, heads=16)
    assert "attention = tiled" in set(what_if(p)["change"])
    causal = dataclasses.replace(cm.TransformerBlock(), causal=True)
    assert (
        not what_if(cm.predict(causal, H200, batch=1, seq=64, d_model=64, heads=1))["change"]
        .str.contains("causal")
        .any()
    )


def test_two_nearly_equal_limits_are_doubled_together():
    """A single row on A100: memory and units take about as long, so doubling either alone hardly helps."""
    p = cm.predict(cm.Matmul(dtype="bf16"), "a100-sxm-80gb", m=1, n=8192, k=8192)
    found = cm.what_if(p).query("kind == 'figure'")
    alone, pair = found[~found["change"].str.contains(" and ")], found[found["change"].str.contains(" and ")]
    assert alone["speedup"].max() < 1.25
    assert len(pair) == 1
    assert "hbm" in pair["change"].item()
    assert 1.5 < pair["speedup"].item() <= 2


def test_no_pair_is_listed_where_one_figure_helps():
    for sizes in ({"m": 8192, "n": 8192, "k": 8192}, {"m": 16, "n": 16384, "k": 16384}):
        p = cm.predict(cm.Matmul(dtype="bf16"), "h200-sxm", sizes)
        assert not cm.what_if(p)["change"].str.contains(" and ").any()


def test_faster_links_are_tried_only_where_something_is_sent():
    decode = {"batch": 16, "seq_kv": 2048}
    alone, shared = (
        cm.what_if(cm.predict(load("llama-2-70b").tensor_parallel(n).decode("fp16"), "h100-sxm", decode))
        for n in (1, 8)
    )
    assert "link times 2" not in set(alone["change"])
    faster = shared.set_index("change").loc["link times 2", "speedup"]
    assert 1 < faster < 1.1  # 64 tokens' sums are short beside weights


@pytest.mark.parametrize("function", [elasticities, what_if])
def test_prediction_of_no_time_is_refused(function):
    alone = cm.predict(cm.layers.get("collective")(), "h200-sxm", m=8, n=8, devices=1)
    assert alone.seconds == 0
    with pytest.raises(SizeError, match="takes no time at these sizes"):
        function(alone)


def test_narrower_weights_and_caches_are_tried_unless_they_are_narrow():
    """Decoding one sequence reads all weights: a quarter of their bytes saves most of the time."""
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
