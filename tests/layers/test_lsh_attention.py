"""Reformer's attention against its paper, and against torch's counter on an implementation written out."""

import math

import pytest
import sympy as sp
from flop_counter import flops

from costmodel import evaluate, predict
from costmodel.asymptotics import complexity, degree, table1
from costmodel.layers import get
from costmodel.symbols import symbol

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

LSH = get("lsh-attention")
B, H, N, D, DV, M, ROUNDS = 2, 3, 24, 6, 5, 4, 3
SIZES = {"batch": B, "heads": H, "seq": N, "head_dim": D, "value_dim": DV, "block": M, "rounds": ROUNDS}


def attention(qk, v, factors, m=M, rounds=ROUNDS):
    """Return Kitaev et al.'s attention: hashes, sort, chunks with the one before, average of the rounds."""
    (b, h, n, d), dv = qk.shape, v.shape[-1]
    found, buckets = torch.zeros(b, h, rounds, n, dtype=torch.long), 1
    # One rotation of half a factor's columns, for each factor of the number of buckets and each round.
    turned = (qk.flatten(0, 1) @ torch.randn(h, d, rounds * sum(factors) // 2).repeat(b, 1, 1)).detach()
    for part, size in zip(
        turned.view(b, h, n, rounds, -1).split([f // 2 for f in factors], -1), factors, strict=True
    ):
        digit = torch.cat([part, -part], -1).argmax(-1).transpose(2, 3)
        found, buckets = found + buckets * digit, buckets * size
    keys = (found + buckets * torch.arange(rounds)[:, None]) * n + torch.arange(n)
    order = keys.flatten(2).argsort(-1)
    place = order % n

    def gathered(x):
        index = place[..., None].expand(*place.shape, x.shape[-1])
        return x.gather(2, index).view(b, h, rounds * n // m, m, x.shape[-1])

    def with_last(x):
        return torch.cat([x, x.roll(1, 2)], 3)

    q, values = gathered(qk), with_last(gathered(v))
    scores = q @ with_last(functional.normalize(q, dim=-1)).mT
    own = place.view(b, h, -1, m)
    scores = scores.masked_fill(own[..., None] == with_last(own[..., None]).mT, -5e4)
    sums = torch.logsumexp(scores, -1, keepdim=True)
    out = torch.exp(scores - sums) @ values
    back = order.argsort(-1)
    out = out.view(b, h, -1, dv).gather(2, back[..., None].expand(*back.shape, dv)).view(b, h, rounds, n, dv)
    weights = torch.softmax(sums.view(b, h, -1).gather(2, back).view(b, h, rounds, n, 1), 2)
    return (weights * out).sum(2)


def operands(n=N):
    return tuple(torch.rand(B, H, n, width, requires_grad=True) for width in (D, DV))


def test_two_chunks_see_everything_as_shared_dense_attention_does():
    """With n = 2m each chunk sees itself and the other, whatever the hashes say."""
    qk, v = operands(2 * M)
    scores = qk @ functional.normalize(qk, dim=-1).mT
    scores = scores.masked_fill(torch.eye(2 * M, dtype=torch.bool), -5e4)
    found = attention(qk, v, [2], rounds=1)
    assert torch.allclose(found, torch.softmax(scores, -1) @ v, atol=1e-5)


@pytest.mark.parametrize(("factors", "lists"), [([8], 8), ([2, 4], 8), ([4, 4], 16), ([2], 1)])
def test_matrix_flops_equal_torchs(factors, lists):
    counted = flops(lambda qk, v: attention(qk, v, factors), *operands())
    for way, theirs in zip(("fwd", "bwd"), counted, strict=True):
        layer = LSH(factors=len(factors), direction=way)
        assert evaluate(layer, **SIZES, lists=lists)["matrix_flops"] == theirs, way


def test_pairs_are_those_of_the_paper():
    """Kitaev et al., §2: each query attends to its chunk of m and the one before, 2·m keys, in each round."""
    sizes = {"batch": 1, "heads": 1, "seq": 2**16, "head_dim": 64, "block": 64, "rounds": 4, "lists": 1024}
    found = evaluate(LSH(), **sizes)
    hashing = 2 * 2**16 * 64 * 4 * (32 + 32) // 2
    assert found["matrix_flops"] - hashing == 4 * 2**16 * 64 * 4 * 128
    dense = evaluate(get("dense-attention")(), batch=1, heads=1, seq=2**16, head_dim=64)
    assert found["matrix_flops"] - hashing == dense["matrix_flops"] * 4 * 128 / 2**16


def test_growth_is_n_log_n_for_a_given_number_of_buckets():
    """The sort's comparisons. With as many buckets as chunks, hashing grows faster: §2 leaves it out."""
    n, lists = symbol("seq"), symbol("lists")
    cost = LSH().cost
    assert degree(cost.flops.total, "seq") == 1
    assert any(term.has(sp.log(n)) for term in complexity(cost.flops["vector"]).terms)
    assert not any(term.has(sp.log(n)) for term in complexity(cost.flops["matrix"]).terms)
    assert [degree(LSH(factors=f).cost.flops["matrix"], lists) for f in (1, 2)] == [1, pytest.approx(1 / 2)]
    for factors, power in ((1, 2), (2, 3 / 2)):
        (row,) = table1([LSH(factors=factors)])
        assert max(degree(term, "seq") for term in row.complexity.terms) == power
        assert str(row.sequential) == "O(1)"
        assert degree(row.path.terms[0], "seq") == 0


def test_bytes_of_the_sort_by_hand():
    """8,192 positions, 2 rounds, 128 buckets: keys of 21 bits, three digits; an order of 14 bits, two."""
    sizes = {"batch": 1, "heads": 2, "seq": 8192, "head_dim": 64, "rounds": 2, "lists": 128}
    layer = LSH(factors=1)
    (by_bucket, inverse) = (phase for phase in layer.phases() if phase.name in SORTS)
    values = {symbol(name): size for name, size in {**sizes, "block": 64}.items()}
    each = 2 * 2 * 8192 * (8 + 8)
    assert (by_bucket.read.subs(values), by_bucket.write.subs(values)) == (3 * each, 3 * each)
    assert (inverse.read.subs(values), inverse.write.subs(values)) == (2 * each, 2 * each)
    assert int(by_bucket.flops["vector", "fp32"].subs(values)) == 2 * 2 * 8192 * math.log2(2 * 8192)


SORTS = ("sort by bucket", "inverse of the order")


def test_long_sequences_take_less_time_than_dense_attention():
    """Kitaev et al., Figure 5: time per step is nearly constant for a given number of tokens; dense grows."""
    ours, dense = (
        [
            predict(layer, "nvidia/h200-sxm", rung="kernel", batch=2**17 // n, heads=8, seq=n, head_dim=64)
            for n in (2**11, 2**15)
        ]
        for layer in (LSH(), get("dense-attention")())
    )
    assert ours[1].seconds < 1.5 * ours[0].seconds
    assert dense[1].seconds > 8 * dense[0].seconds
    assert ours[1].seconds < dense[1].seconds
    assert all(p.lower_s <= p.seconds for p in ours)
