"""FlashAttention run on numbers in both schedules: results are attention's, traffic is the layer's.

The programs move rows block by block between a counting memory and lists of their own, as Algorithm 1 of
Dao et al. 2022 and of Dao 2023 do."""

import math
import random
from collections import Counter

import pytest

from costmodel import evaluate, hardware, predict
from costmodel.errors import SizeError
from costmodel.layers import get

D, DV = 3, 2


class Memory:
    """Main memory: named rows, and counts of the numbers read and written."""

    def __init__(self, **rows):
        self.rows, self.read_of, self.written_to = rows, Counter(), Counter()

    def read(self, name, block):
        self.read_of[name] += sum(_width(self.rows[name][i]) for i in block)
        return [self.rows[name][i] for i in block]

    def write(self, name, block, values):
        for i, value in zip(block, values, strict=True):
            self.rows[name][i] = value
            self.written_to[name] += _width(value)


def _width(row):
    return len(row) if isinstance(row, list) else 1


def blocks(n, side):
    return [range(i, min(i + side, n)) for i in range(0, n, side)]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def fa1(n, n_kv, rows, cols, memory):
    """Loop over blocks of K and V outside; reread O, l and m of a block of Q for each but the first."""
    for j, keys in enumerate(blocks(n_kv, cols)):
        k, v = memory.read("k", keys), memory.read("v", keys)
        for block in blocks(n, rows):
            q = memory.read("q", block)
            if j:
                old = list(zip(*(memory.read(x, block) for x in ("o", "l", "m")), strict=True))
            else:
                old = [([0.0] * DV, 0.0, -math.inf)] * len(block)
            new = [_normalised(query, k, v, *before) for query, before in zip(q, old, strict=True)]
            for name, values in zip(("o", "l", "m"), zip(*new, strict=True), strict=True):
                memory.write(name, block, values)


def _normalised(q, k, v, o, total, top):
    """Algorithm 1, lines 9 to 13, for one row."""
    scores = [dot(q, key) for key in k]
    highest = max(scores)
    p = [math.exp(s - highest) for s in scores]
    new_top = max(top, highest)
    old_part, new_part = math.exp(top - new_top) * total, math.exp(highest - new_top)
    new_total = old_part + new_part * sum(p)
    pv = [dot(p, column) for column in zip(*v, strict=True)]
    return [(old_part * x + new_part * y) / new_total for x, y in zip(o, pv, strict=True)], new_total, new_top


def fa2(n, n_kv, rows, cols, memory):
    """Loop over blocks of Q outside: O stays on chip, K and V are read again for every block."""
    for block in blocks(n, rows):
        q = memory.read("q", block)
        state = [([0.0] * DV, 0.0, -math.inf)] * len(block)
        for keys in blocks(n_kv, cols):
            k, v = memory.read("k", keys), memory.read("v", keys)
            state = [_unnormalised(query, k, v, *before) for query, before in zip(q, state, strict=True)]
        memory.write("o", block, [[x / total for x in o] for o, total, _ in state])
        memory.write("lse", block, [top + math.log(total) for _, total, top in state])


def _unnormalised(q, k, v, o, total, top):
    scores = [dot(q, key) for key in k]
    new_top = max(top, *scores)
    p = [math.exp(s - new_top) for s in scores]
    scale = math.exp(top - new_top)
    pv = [dot(p, column) for column in zip(*v, strict=True)]
    return [scale * x + y for x, y in zip(o, pv, strict=True)], scale * total + sum(p), new_top


def attention(q, k, v):
    rows = []
    for query in q:
        p = [math.exp(dot(query, key)) for key in k]
        rows.append([dot(p, column) / sum(p) for column in zip(*v, strict=True)])
    return rows


@pytest.mark.parametrize(("n", "n_kv"), [(1, 1), (7, 7), (8, 5), (5, 12)])
@pytest.mark.parametrize("tile", [(2, 3), (4, 4), (3, 20)])
@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_results_and_traffic_of_tiled_attention_equal_a_simulation(schedule, n, n_kv, tile):
    rng = random.Random(0)
    q, k, v = (
        [[rng.gauss(0, 1) for _ in range(w)] for _ in range(m)] for m, w in ((n, D), (n_kv, D), (n_kv, DV))
    )
    memory = Memory(q=q, k=k, v=v, o=[[]] * n, l=[0.0] * n, m=[0.0] * n, lse=[0.0] * n)
    {"fa1": fa1, "fa2": fa2}[schedule](n, n_kv, *tile, memory)
    assert memory.rows["o"] == [pytest.approx(row) for row in attention(q, k, v)]

    layer = get("tiled-attention")(dtype="fp32", schedule=schedule, tile=tile)
    sizes = {"batch": 1, "heads": 1, "seq": n, "seq_kv": n_kv, "head_dim": D, "value_dim": DV}
    counts = evaluate(layer, **sizes)
    keys = memory.read_of["k"] + memory.read_of["v"]
    if schedule == "fa1":
        assert counts["hbm_bytes"] == 4 * (memory.read_of.total() + memory.written_to.total())
        assert counts["l2_bytes"] == 0
    else:
        # Only the first read of K and V comes from memory; all reads pass through the cache.
        moved = memory.read_of["q"] + memory.written_to.total() + n_kv * (D + DV)
        assert counts["hbm_bytes"] == 4 * moved
        assert counts["l2_bytes"] == 4 * keys
    assert counts["kept_bytes"] == 4 * (
        n * D + n_kv * (D + DV) + n * DV + (2 if schedule == "fa1" else 1) * n
    )


@pytest.mark.parametrize(
    ("capacity", "d", "tile"), [(49152, 64, (64, 192)), (49152, 128, (96, 96)), (1000, 8, (8, 32))]
)
def test_the_default_tile_of_fa1_is_the_papers(capacity, d, tile):
    """B_c = ⌈M/4d⌉ and B_r = min(⌈M/4d⌉, d), with M in elements: the traffic is that of the given tile."""
    sizes = {"batch": 2, "heads": 3, "seq": 500, "head_dim": d}
    chosen = evaluate(get("tiled-attention")(dtype="fp16", schedule="fa1"), sram=2 * capacity, **sizes)
    asked = evaluate(get("tiled-attention")(dtype="fp16", schedule="fa1", tile=tile), **sizes)
    assert chosen["hbm_bytes"] == asked["hbm_bytes"]


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd+bwd"])
@pytest.mark.parametrize("name", ["tiled-attention", "block-sparse"])
def test_the_lower_bound_does_not_depend_on_the_schedule(name, direction):
    """It contains only what every schedule does: not FA-1's extra work, nor the rescaling of O per tile."""
    sizes = {"batch": 2, "heads": 3, "seq": 4096, "head_dim": 64}
    tile = {"tile": (16, 16)} if name == "tiled-attention" else {}
    more = {} if tile else {"block": 16, "density": 25}
    layers = [get(name)(dtype="bf16", schedule=s, direction=direction, **tile) for s in ("fa1", "fa2")]
    b200 = hardware.load("nvidia/b200-sxm")
    one, two = (predict(layer, b200, rung="kernel", **sizes, **more) for layer in layers)
    assert one.lower_s == two.lower_s > 0
    assert one.vector_flops > two.vector_flops
    least = [
        {key: float(n.subs({s: (sizes | more).get(str(s), 64) for s in n.free_symbols})) for key, n in found}
        for found in (layer.cost.least_flops.items() for layer in layers)
    ]
    assert least[0] == least[1]


def test_the_lower_bound_counts_the_softmax_and_one_division():
    """Three operations per score and one per number of O.

    With a head size of 1 they take longer than the products.
    """
    n = 2**20
    p = predict(get("tiled-attention")(dtype="bf16"), "nvidia/b200-sxm", batch=1, heads=1, seq=n, head_dim=1)
    fp32 = hardware.load("nvidia/b200-sxm").boost_peak("fp32")
    assert p.lower_s == pytest.approx((3 * n**2 + n) / fp32)


def test_causal_attention_with_a_cached_prefix_equals_the_last_rows_of_all():
    """The last rows of a square attention: the whole minus the first rows."""
    layer = get("tiled-attention")(causal=True, tile=(4, 4))
    sizes = {"batch": 1, "heads": 1, "head_dim": 8}
    whole, first = (evaluate(layer, seq=n, **sizes) for n in (20, 12))
    last = evaluate(layer, seq=8, seq_kv=20, **sizes)
    assert last["matrix_flops"] == whole["matrix_flops"] - first["matrix_flops"]
    assert last["l2_bytes"] == whole["l2_bytes"] - first["l2_bytes"]


@pytest.mark.parametrize(
    ("d", "tile"), [(64, (128, 128)), (96, (128, 64)), (128, (128, 64)), (128, (128, 128)), (256, (128, 64))]
)
def test_tiles_that_libraries_compile_fit_on_their_devices(d, tile):
    """flash-attention 2's on A100 (``flash_fwd_launch_template.h``), version 3's larger ones also on H100."""
    sizes = {"batch": 1, "heads": 1, "seq": 256, "head_dim": d}
    layer = get("tiled-attention")(dtype="fp16", tile=tile)
    for device in ("a100-sxm-80gb", "h100-sxm", "mi300x"):
        assert predict(layer, device, **sizes).seconds > 0


@pytest.mark.parametrize("device", ["t4", "h100-sxm", "mi300x"])
def test_a_tile_too_large_for_a_unit_is_refused_at_the_kernel_rung(device):
    """The tile's rows of O in fp32 alone exceed the on-chip memory of a unit.

    Before, kernels became ever faster with larger tiles. The roofline holds for any schedule.
    """
    sizes = {"batch": 1, "heads": 1, "seq": 65536, "head_dim": [64, 256]}
    machine = hardware.load(device)
    rows = int(machine.onchip_capacity / machine.units / (4 * 256)) + 1
    with pytest.raises(SizeError, match=r"on the chip at once; a unit of .*: take a smaller tile"):
        predict(get("tiled-attention")(dtype="fp16", tile=(rows, 1)), machine, **sizes)
    assert (
        predict(get("tiled-attention")(dtype="fp16", tile=(rows, 1)), machine, rung="bound", **sizes).seconds
        > 0
    ).all()
    # On a CPU a tile may exceed a core's caches.
    assert (
        predict(get("tiled-attention")(dtype="fp32", tile=(rows, 9)), "epyc-9654", **sizes).seconds > 0
    ).all()
