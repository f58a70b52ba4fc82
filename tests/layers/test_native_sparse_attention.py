"""Native sparse attention against its paper, and against torch's counter on the layer written out."""

import numpy as np
import pytest
from flop_counter import flops

from costmodel import evaluate, predict
from costmodel.asymptotics import degree
from costmodel.errors import CostmodelError
from costmodel.layers import get
from costmodel.symbols import symbol

torch = pytest.importorskip("torch")

NSA = get("native-sparse-attention")
#: §4.1: 64 heads in 4 groups, keys of 192 and values of 128 numbers; the blocks of §4.1 are the defaults.
PAPER = {"heads": 64, "kv_heads": 4, "head_dim": 192, "value_dim": 128}


@pytest.mark.parametrize(("context", "tokens"), [(8192, 2048), (16384, 2560), (32768, 3584), (65536, 5632)])
def test_decoding_reads_the_tokens_of_table_4(context, tokens):
    """Yuan et al., Table 4: memory accessed per decoding step, in tokens of keys and values.

    The paper counts context/16 compressed tokens; the last one begins 32 positions before the end: one less.
    """
    layer = NSA(decode=True)
    sizes = {symbol(name): size for name, size in {**PAPER, "batch": 1, "seq": 1, "seq_kv": context}.items()}
    sizes |= {symbol(name): size for name, size in layer.defaults.items() if isinstance(size, int)}
    token, query = 2 * 4 * (192 + 128), 2 * 64 * 192
    read = {phase.name: phase.read.subs(sizes) for phase in layer.phases()}
    numbers = 4 * 4 * 16  # of the selected blocks
    found = [
        (read["compressed attention"] - query) / token,
        (read["selected attention"] - query - numbers) / token,
        (read["window attention"] - query) / token,
    ]
    assert found == [context // 16 - 1, 16 * 64, 512]
    assert sum(found) == tokens - 1


def test_decoding_reads_a_tenth_of_full_attention_at_64k_tokens():
    """Table 4: an expected speedup of 11.6 at 65,536 tokens (65,536 / 5,632)."""
    sizes = {**PAPER, "batch": 1, "seq_kv": 65536}
    ours = evaluate(NSA(decode=True), seq=1, **sizes)["compulsory_bytes"]
    full = evaluate(get("decode-attention")(), **sizes)["compulsory_bytes"]
    assert full / ours == pytest.approx(65536 / 5632, rel=0.03)


# -- written out -------------------------------------------------------------------------------

B, H, G, N, D, DV, LENGTH, STRIDE, BLOCK, TOP, WINDOW = 2, 4, 2, 24, 6, 5, 4, 2, 4, 3, 7
SIZES = {
    "batch": B, "heads": H, "kv_heads": G, "head_dim": D, "value_dim": DV, "summary": LENGTH,
    "stride": STRIDE, "block": BLOCK, "top_k": TOP, "window": WINDOW,
}  # fmt: skip


def decoded(q, keys, values, maps):
    """Return the last query's output, computed by reading the keys that it sees, and no others.

    q : (B, G, H/G, D); keys, values : (B, G, n, width), the same for all branches.
    """
    n = keys.shape[2]

    def blocks(x):
        return x.unfold(2, LENGTH, STRIDE).transpose(-1, -2).flatten(3)

    def attend(k, v):
        return torch.softmax(q @ k.mT, -1) @ v

    short = (blocks(keys) @ maps[0], blocks(values) @ maps[1])
    assert short[0].shape[2] == (n - LENGTH) // STRIDE + 1
    weights = torch.softmax(q @ short[0].mT, -1).sum(2)
    starts = STRIDE * torch.arange(short[0].shape[2])
    of_block = torch.zeros(B, G, -(-n // BLOCK))
    for first in range(of_block.shape[-1]):
        overlaps = (starts < (first + 1) * BLOCK) & (starts + LENGTH > first * BLOCK)
        of_block[..., first] = (weights * overlaps).sum(-1)
    chosen = of_block.topk(TOP).indices[..., None] * BLOCK + torch.arange(BLOCK)
    places = chosen.flatten(2)[..., None]
    picked = [x.gather(2, places.expand(B, G, TOP * BLOCK, x.shape[-1])) for x in (keys, values)]
    branches = (attend(*short), attend(*picked), attend(keys[:, :, -WINDOW:], values[:, :, -WINDOW:]))
    return sum(branches) / 3


def test_flops_of_decoding_equal_torchs():
    """Compressed keys are cached; to score blocks, a kernel computes the compressed scores again."""
    shapes = ((B, G, H // G, D), (B, G, N, D), (B, G, N, DV), (G, LENGTH * D, D), (G, LENGTH * DV, DV))
    tables = [torch.rand(*shape, requires_grad=True) for shape in shapes]
    counted, _ = flops(lambda q, k, v, *maps: decoded(q, k, v, maps), *tables)
    found = evaluate(NSA(decode=True), seq=1, seq_kv=N, **SIZES)["matrix_flops"]
    made = (N - LENGTH) // STRIDE + 1
    cached = (made - 1) * 2 * B * G * LENGTH * (D * D + DV * DV)
    assert counted == found + cached


def seen(t):
    """Return the numbers of compressed, selected and near keys of the query at position t (from 1)."""
    compressed = [start for start in range(0, N, STRIDE) if start + LENGTH <= t]
    selected = min(t, TOP * BLOCK)
    return len(compressed), selected, len(range(max(0, t - WINDOW), t))


def test_flops_of_a_whole_sequence_are_those_of_its_queries():
    """§3.3: N_t keys per query, in three branches; the compressed scores twice; and compression itself."""
    keys = np.array([seen(t) for t in range(1, N + 1)])
    pairs = keys.sum() * 2 * (D + DV) + keys[:, 0].sum() * 2 * D
    made = 2 * G * ((N - LENGTH) // STRIDE + 1) * LENGTH * (D * D + DV * DV)
    assert evaluate(NSA(), seq=N, **SIZES)["matrix_flops"] == B * (H * pairs + made)
    back = keys.sum() * (6 * D + 4 * DV)
    assert evaluate(NSA(direction="bwd"), seq=N, **SIZES)["matrix_flops"] == B * (H * back + 2 * made)


def test_decoding_step_by_step_has_the_attention_flops_of_the_whole_sequence():
    """Each position as one query after those before it."""
    whole = evaluate(NSA(), seq=N, **SIZES)
    steps = [evaluate(NSA(decode=True), seq=1, seq_kv=t, **SIZES) for t in range(LENGTH, N + 1)]
    early = [evaluate(NSA(), seq=LENGTH - 1, **SIZES)]
    assert sum(one["special_flops"] for one in steps) == pytest.approx(
        whole["special_flops"] - early[0]["special_flops"], abs=2 * B * H * LENGTH
    )


def test_long_sequences_grow_with_the_compressed_keys_alone():
    n, kv = symbol("seq"), symbol("seq_kv")
    cost = NSA().cost
    assert degree(cost.flops["matrix"].subs(kv, n), "seq") == 2
    far = {"batch": 1, "seq": 2**17, **PAPER}
    ours, full = (
        evaluate(layer, **far)["matrix_flops"] for layer in (NSA(), get("dense-attention")(causal=True))
    )
    # A query sees n/2 keys on average, or n/32 compressed ones, whose scores are computed twice.
    mean = 2**17 / 32 * (1 + 192 / 320) + 16 * 64 + 512
    assert full / ours == pytest.approx(2**17 / 2 / mean, rel=0.03)


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_long_sequences_take_less_time_than_full_attention(direction):
    """§5.1, Figure 6: the kernels' speedup grows with the length. It is 9.0 forward, 6.0 backward at 64K."""
    times = []
    for n in (8192, 65536):
        sizes = {"batch": 1, "seq": n, **PAPER}
        ours = predict(NSA(direction=direction), "nvidia/a100-sxm-80gb", rung="kernel", **sizes)
        full = get("tiled-attention")(causal=True, direction=direction)
        times.append(predict(full, "nvidia/a100-sxm-80gb", rung="kernel", **sizes).seconds / ours.seconds)
        assert ours.lower_s <= ours.seconds
    assert times[1] > 1.5 * times[0]
    assert times[1] > 1.5


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"seq": 9, "seq_kv": 2}, "seq_kv of at least seq"),
        ({"seq": 9, "heads": 3, "kv_heads": 2}, "multiple of kv_heads"),
    ],
)
def test_impossible_sizes_are_refused(sizes, text):
    with pytest.raises(CostmodelError, match=text):
        evaluate(NSA(), **{"batch": 1, "heads": 2, "head_dim": 4} | sizes)


def test_decoding_is_forward_only():
    with pytest.raises(CostmodelError, match="fwd"):
        NSA(decode=True, direction="bwd")
