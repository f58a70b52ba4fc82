"""DeepSeek's sparse attention: the indexer that chooses positions, and attention to those.

DeepSeek-V4's too, to a window and to entries that stand for several positions, and its hyper-connections.
"""

import math

import numpy as np
import pytest
import sympy as sp

from costmodel import evaluate, predict
from costmodel.asymptotics import degree
from costmodel.errors import CostmodelError
from costmodel.layers import get
from costmodel.models import from_config, load
from costmodel.models._decoding import LatentCore, SparseLatentCore
from costmodel.symbols import symbol

#: Sequences, positions, heads of the indexer, its width, keys chosen, positions of a key.
INDEXED = [
    (3, 11, 2, 7, 4, 1),
    (2, 9, 4, 3, 16, 1),
    (1, 33, 6, 5, 8, 3),
    (2, 18, 1, 9, 17, 4),
    (2, 3, 4, 5, 6, 7),
]
#: Sequences, query heads, key heads, positions, widths of keys and values, positions chosen, keys of a tile.
CHOSEN = [(3, 6, 2, 11, 8, 5, 4, 2), (2, 4, 1, 9, 3, 7, 16, 4), (1, 5, 5, 40, 17, 2, 8, 3)]


def indexed(point):
    return dict(zip(("batch", "seq", "heads", "head_dim", "top_k", "stride"), point, strict=True))


def chosen(point):
    names = ("batch", "heads", "kv_heads", "seq", "head_dim", "value_dim", "top_k", "block")
    return dict(zip(names, point, strict=True))


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("point", INDEXED)
def test_the_indexers_counts_equal_a_loop_over_pairs(point, decode):
    """Eq. 1 of the report; scores in fp32, places in int32, everything else in 2 bytes."""
    batch, n, heads, width, top, stride = point
    keys = n // stride
    matrix = vector = compared = places = 0
    for t in range(n - 1 if decode else 0, n):
        for _ in range((t + 1) // stride):
            for _ in range(heads):
                matrix += 2 * width
                vector += 3  # ReLU, times the head's weight, sum
            compared += 1
        places += min(keys, top)
    n = 1 if decode else n
    found = evaluate(get("lightning-indexer")(decode=decode), **indexed(point))
    assert found["matrix_flops"] == batch * matrix
    assert found["vector_flops"] == batch * (vector + compared)
    inputs = 2 * (n * heads * width + keys * width) + 4 * n * heads
    assert found["compulsory_bytes"] == batch * (inputs + 4 * places)
    assert found["hbm_bytes"] == batch * (inputs + 2 * 4 * compared + 4 * places)


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("point", CHOSEN)
def test_the_counts_of_attention_to_chosen_positions_equal_a_loop_over_queries(point, latent):
    """A query gathers at most `top_k` keys once for all heads that share them."""
    batch, heads, groups, n, width, values, top, block = point
    row = width if latent else width + values
    pairs = sum(min(t + 1, top) for t in range(n))
    seen = min(n, top)
    tiles = n * math.ceil(seen / block)
    layer = get("top-k-attention")(latent=latent)
    found = evaluate(layer, **chosen(point))
    assert found["matrix_flops"] == 2 * batch * heads * pairs * (width + values)
    assert found["special_flops"] == batch * heads * (pairs + tiles)
    assert found["vector_flops"] == batch * heads * (3 * pairs + values * (tiles + n))
    rows = batch * heads * n
    queries, keys, places = 2 * rows * width, 2 * batch * groups * n * row, 4 * batch * groups * n * seen
    outputs, sums = 2 * rows * values, 4 * rows
    assert found["hbm_bytes"] == queries + keys + places + outputs + sums
    assert found["l2_bytes"] == 2 * batch * groups * n * seen * row
    # The data can choose the same positions again and again; those of the first queries are all read.
    least = 2 * batch * groups * seen * row
    assert found["compulsory_bytes"] == queries + least + places + outputs
    assert found["footprint_bytes"] == queries + keys + places + outputs + sums
    back = evaluate(get("top-k-attention")(latent=latent, direction="bwd"), **chosen(point))
    # Scores again, dQ and dK have the keys' width, dP and dV the values'.
    assert back["matrix_flops"] == 2 * batch * heads * pairs * (3 * width + 2 * values)
    assert back["l2_bytes"] == (2 + 2 * 4) * batch * groups * n * seen * row
    assert back["kept_bytes"] == queries + keys + places + outputs + sums


#: Sequences, heads, positions, width, window, positions of an entry, entries seen.
SPACED = [(3, 6, 11, 8, 3, 2, 4), (2, 4, 40, 5, 7, 4, 3), (1, 5, 9, 3, 16, 4, 1), (2, 3, 3, 4, 2, 5, 6)]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("point", SPACED)
def test_the_counts_of_attention_to_compressed_entries_equal_a_loop_over_queries(point, listed):
    batch, heads, n, width, window, stride, top = point
    seen = top if listed else n
    pairs = sum(min(t, window) + min(t // stride, seen) for t in range(1, n + 1))
    names = ("batch", "heads", "seq", "head_dim", "window", "stride")
    sizes = dict(zip(names, (batch, heads, n, width, window, stride), strict=True)) | {"kv_heads": 1}
    sizes |= {"top_k": top} if listed else {}
    found = evaluate(get("compressed-attention")(listed=listed), **sizes)
    assert found["matrix_flops"] == pytest.approx(4 * batch * heads * pairs * width, rel=1e-12)
    entries = n // stride
    outside = 2 * batch * heads * n * width
    places = 4 * batch * n * min(entries, top) if listed else 0
    keys = 2 * batch * (n + entries) * width
    assert found["hbm_bytes"] == 2 * outside + keys + places + 4 * batch * heads * n
    assert found["l2_bytes"] == pytest.approx(2 * batch * pairs * width, rel=1e-12)
    unread = 2 * batch * (entries - min(entries, top)) * width if listed else 0
    assert found["compulsory_bytes"] == 2 * outside + keys - unread + places
    back = evaluate(get("compressed-attention")(listed=listed, direction="bwd"), **sizes)
    assert back["matrix_flops"] == pytest.approx(10 * batch * heads * pairs * width, rel=1e-12)


def test_compressed_attention_is_linear_if_entries_are_chosen_and_else_quadratic():
    """DeepSeek-V4, §2.3: n·(128 + 512) pairs against n²/256."""
    chosen, every = (
        evaluate(get("compressed-attention")(listed=listed), **CORE_V4, **more)["matrix_flops"]
        for listed, more in ((True, {"stride": 4, "top_k": 512}), (False, {"stride": 128}))
    )
    assert chosen[1] / chosen[0] == pytest.approx(2, rel=1e-2)
    assert every[1] / every[0] == pytest.approx(4, rel=5e-2)


#: DeepSeek-V4-Flash's attention.
CORE_V4 = {"batch": 1, "heads": 64, "kv_heads": 1, "head_dim": 512, "window": 128}
CORE_V4 |= {"seq": np.array([2.0**20, 2.0**21])}


@pytest.mark.parametrize(("outward", "mixes"), [(False, True), (True, True), (True, False)])
def test_torch_counts_the_products_of_a_hyper_connection(outward, mixes):
    """modeling_deepseek_v4.py: the weights of a token, the collapse, and the mixing of its streams.

    modeling_hy_v4.py does not mix them.
    """
    torch = pytest.importorskip("torch")
    counter = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
    batch, n, width, streams = 2, 7, 6, 3
    weights = streams * (1 + outward * (1 + mixes * streams))
    x, made = torch.randn(batch, n, streams, width), torch.randn(weights, streams * width)
    with counter(display=False) as there:
        found = torch.nn.functional.linear(x.flatten(2), made)
        out = (torch.sigmoid(found[..., :streams, None]) * x).sum(2)
        if outward:
            added = torch.sigmoid(found[..., streams : 2 * streams, None]) * out.unsqueeze(2)
            out = added + (found[..., 2 * streams :].unflatten(-1, (streams, streams)) @ x if mixes else x)
    sizes = {"batch": batch, "seq": n, "d_model": width, "streams": streams}
    layer = get("hyper-connection")(outward=outward, mixes=mixes, convention="torch")
    ours = evaluate(layer, **sizes)
    assert ours["matrix_flops"] == there.get_total_flops()
    assert ours["parameters"] == made.numel()
    row = 2 * batch * n * width
    moved = row * (2 * streams + 2) if outward else row * (streams + 1)
    assert ours["compulsory_bytes"] == moved + 2 * made.numel()
    # The weights of a token go through memory; the streams are read once more for each pass.
    passes = (streams + 1) + (2 * streams + 1 if outward else 0)
    between = 2 * batch * n * weights
    assert ours["hbm_bytes"] == row * (streams + passes) + 2 * made.numel() + between


def test_with_as_many_positions_chosen_as_there_are_it_is_causal_attention():
    sizes = {"batch": 2, "heads": 4, "seq": 300, "head_dim": 16, "value_dim": 8}
    for direction in ("fwd", "bwd"):
        causal = evaluate(get("tiled-attention")(causal=True, direction=direction), **sizes, sram=10**5)
        for top in (300, 10**6):
            layer = get("top-k-attention")(direction=direction)
            assert evaluate(layer, **sizes, top_k=top)["matrix_flops"] == causal["matrix_flops"]


@pytest.mark.parametrize("top", [4, 40])
def test_torch_counts_the_same_products(top):
    """The report's equations in torch, with a gather for each query."""
    torch = pytest.importorskip("torch")
    counter = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
    batch, n, heads, width, index_heads, index_width, rank = 2, 23, 6, 12, 3, 5, 8
    q, k = torch.randn(batch, n, index_heads, index_width), torch.randn(batch, n, index_width)
    w = torch.randn(batch, n, 1, index_heads)
    with counter(display=False) as there:
        scores = torch.relu(torch.einsum("bthd,bsd->bths", q, k))
        index = (w @ scores).squeeze(2) + torch.full((n, n), -torch.inf).triu(1)
        places = index.topk(min(top, n), dim=-1).indices
    sizes = {"batch": batch, "seq": n, "heads": index_heads, "head_dim": index_width, "top_k": top}
    ours = evaluate(get("lightning-indexer")(convention="torch"), **sizes)
    assert ours["matrix_flops"] == there.get_total_flops()

    latents, queries = torch.randn(batch, n, width), torch.randn(batch, n, heads, width)
    with counter(display=False) as there:
        own = torch.stack([latents[b][places[b]] for b in range(batch)])
        probabilities = torch.softmax(queries @ own.transpose(-1, -2), dim=-1)
        _ = probabilities @ own[..., :rank]
    layer = get("top-k-attention")(convention="torch", latent=True)
    sizes = {"batch": batch, "seq": n, "heads": heads, "kv_heads": 1, "head_dim": width, "value_dim": rank}
    assert evaluate(layer, **sizes, top_k=top)["matrix_flops"] == there.get_total_flops()


def test_the_core_is_linear_in_the_length_and_the_indexer_quadratic_with_a_smaller_constant():
    """The report, §1: from O(L²) to O(L·k); the indexer stays O(L²), but "requires much less computation"."""
    core, indexer = get("top-k-attention")(latent=True), get("lightning-indexer")()
    assert degree(core.cost.flops["matrix"], "seq") == 1
    assert degree(indexer.cost.flops["matrix"], "seq") == 2
    assert degree(get("lightning-indexer")(decode=True).cost.flops["matrix"], "seq") == 1
    heads, latent, rope = 128, 512, 64  # DeepSeek-V3.2
    long = {"batch": 1, "seq": 2**20}
    dense = evaluate(
        get("tiled-attention")(causal=True), **long, heads=heads, head_dim=192, value_dim=128, sram=1e5
    )
    index = evaluate(indexer, **long, heads=64, head_dim=128)
    assert index["matrix_flops"] / dense["matrix_flops"] == pytest.approx(64 * 128 / (heads * 320), rel=1e-3)
    sizes = {"heads": heads, "kv_heads": 1, "head_dim": latent + rope, "value_dim": latent, "top_k": 2048}
    sparse = evaluate(core, **long, **sizes)
    assert sparse["matrix_flops"] < dense["matrix_flops"] / 50


@pytest.mark.parametrize("device", ["h200-sxm", "mi300x", "xeon-8480plus"])
def test_twice_the_length_takes_twice_the_time_beyond_the_chosen_positions(device):
    sizes = {"batch": 1, "heads": 128, "kv_heads": 1, "head_dim": 576, "value_dim": 512, "top_k": 2048}
    seq = np.array([32768.0, 65536.0])
    for rung in ("bound", "kernel"):
        short, long = predict(
            get("top-k-attention")(latent=True), device, rung=rung, seq=seq, **sizes
        ).seconds
        assert long / short == pytest.approx(2, rel=0.1)
        index = {"heads": 64, "head_dim": 128, "batch": 1}
        short, long = predict(get("lightning-indexer")(), device, rung=rung, seq=seq, **index).seconds
        assert long / short == pytest.approx(4, rel=0.15)


def test_on_a_cpu_lists_of_latents_take_as_long_as_those_of_keys_and_values():
    """Its attention computes each head on its own, whether their keys are values too or not."""
    sizes = {"batch": 1, "heads": 16, "kv_heads": 1, "head_dim": 576, "value_dim": 512, "top_k": 2048}
    alike = [
        predict(get("top-k-attention")(latent=latent), "xeon-8480plus", seq=16384, **sizes).seconds
        for latent in (False, True)
    ]
    assert alike[1] / alike[0] == pytest.approx(1, rel=0.05)


def test_decoding_reads_the_chosen_latents_and_keeps_all():
    sizes = {"batch": 3, "heads": 16, "kv_rank": 64, "rope_dim": 8}
    few, many = (evaluate(SparseLatentCore(), **sizes, seq_kv=n, top_k=100) for n in (100, 1000))
    whole = evaluate(LatentCore(), **sizes, seq_kv=100)
    for count in ("matrix_flops", "vector_flops", "special_flops"):
        assert few[count] == many[count] == whole[count]
    assert many["hbm_bytes"] == whole["hbm_bytes"] + 4 * 3 * 100
    layer = SparseLatentCore()
    at = {symbol(name): size for name, size in {**sizes, "seq_kv": 1000, "top_k": 100}.items()}
    assert layer.cache_size().subs(at) == 2 * 3 * 1000 * 72
    assert layer.passed_over().subs(at) == 2 * 3 * 900 * 72


def test_a_model_keeps_every_position_and_reads_the_indexs_keys_and_the_chosen_latents():
    """DeepSeek-V3.2 in 16 bits: 61 layers with latents of 576 numbers and index keys of 128."""
    model = load("deepseek-v3.2").decode()
    near, far = (evaluate(model, batch=1, seq_kv=n) for n in (2**15, 2**16))
    more = 2**15
    assert far["compulsory_bytes"] - near["compulsory_bytes"] == 61 * 2 * 128 * more
    assert far["footprint_bytes"] - near["footprint_bytes"] == 61 * 2 * (576 + 128) * more
    cache = load("deepseek-v3.2").cache_bytes()
    assert sp.expand(cache - 61 * 1408 * symbol("batch") * symbol("seq_kv")) == 0
    left = load("deepseek-v3.2").prefill().held().left
    assert left.subs({symbol("batch"): 2, symbol("seq"): 10}) == 2 * 10 * 61 * 1408
    narrow = load("deepseek-v3.2").storing(cache="fp8").cache_bytes()
    assert narrow == cache / 2


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ({}, 6),
        ({"index_topk_freq": 3, "index_skip_topk_offset": 2}, 3),
        ({"index_topk_pattern": "FSSFSS"}, 2),
        ({"indexer_types": ["full", "shared", "shared", "shared", "shared", "full"]}, 2),
    ],
)
def test_a_layer_that_shares_a_choice_has_no_indexer(said, own):
    """GlmMoeDsaConfig: of six layers and a period of 3 from the second on, the 1st, 2nd and 5th have one."""
    config = {"model_type": "glm_moe_dsa", "num_hidden_layers": 6, **said}
    rest = 6 * 2 * 576
    assert from_config(config).cache_bytes() == (rest + own * 2 * 128) * symbol("batch") * symbol("seq_kv")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"indexer_types": ["full"] * 5}, "indexer_types has 5 entries for 6 layers"),
        ({"index_topk_pattern": "FFFFFX"}, "unknown entry 'X' of indexer_types"),
        ({"layer_types": ["full_attention"] * 6}, "unknown entry 'full_attention' of layer_types"),
        ({"mlp_layer_types": ["dense"] * 6 + ["sparse"]}, "mlp_layer_types has 7 entries"),
        ({"q_lora_rank": None}, "q_lora_rank: wanted a width"),
    ],
)
def test_other_kinds_of_layers_are_refused(said, message):
    with pytest.raises(CostmodelError, match=message):
        from_config({"model_type": "glm_moe_dsa", "num_hidden_layers": 6, **said}).prefill()
