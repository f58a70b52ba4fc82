"""Embeddings, logits, rotary positions and dropout: loops and counted programs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from .chances import expected_distinct
from .counted import Counted, exp, log2_ceil, tally
from .kernels import WIDTH, Expected, Kernel, directed, product, statistic, table
from .pointwise import Row, dropout, log
from .rows import softmax_pass

Sizes = dict[str, int]
#: Bytes of a token's number in torch (int64).
INT64 = 8


def embedding(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect a copied row per token; backward a dense gradient: zeros, and a sum per touched row."""
    w, tokens, d, v = WIDTH[o["dtype"]], s["batch"] * s["seq"], s["d_model"], s["vocab"]
    touched = expected_distinct(v, 1, tokens) * w * d
    numbers = INT64 * tokens
    copy = Kernel(
        read=touched + numbers,
        write=w * tokens * d,
        l2=w * tokens * d - touched,
        depth=0,
        sizes={"rows": tokens, "cols": d, "reads": 1, "writes": 1},
    )
    zeros = table(w, v, d, 0, 1, depth=0)
    sums = Kernel(
        vector=tokens * d,  # each value is added to its token's row
        read=w * tokens * d + numbers,
        write=touched,
        depth=log2_ceil(tokens),  # at worst all are the same token
        sizes={"rows": tokens, "cols": d, "reads": 1, "writes": 1},
    )
    return Expected(
        kernels=directed(o, (copy,), (zeros, sums)),
        inputs=0,
        weights=w * d,  # at least one row: every token the same
        outputs=w * tokens * d,
        indices=numbers,
        unread=w * (v - 1) * d,
        kept=numbers,
        parameters=v * d,
    )


# -- logits ------------------------------------------------------------------------------------


def cross_entropy(scores: Row, right: int) -> tuple[Counted, Counted]:
    """Return the loss at the right token, and the log-sum-exp of the scores."""
    top = max(scores, key=lambda x: x.value)
    terms = [exp(x - top) for x in scores]
    below = log(sum(terms[1:], terms[0])) + top
    return below - scores[right], below


def cross_entropy_gradient(scores: Row, below: Counted, g: Counted, right: int) -> Row:
    """Return (softmax − one-hot)·g, from the log-sum-exp."""
    found = [exp(x - below) * g for x in scores]
    found[right] = found[right] - g
    return found


def logits(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect 2·B·n·d·V (formulas.md §6), then softmax or the right token's loss, row by row."""
    w, stat = WIDTH[o["dtype"]], statistic(o["dtype"])
    tokens, d, v = s["batch"] * s["seq"], s["d_model"], s["vocab"]
    scores = w * tokens * v
    back = (product(w, tokens, d, v), product(w, d, v, tokens))
    forward: tuple[Kernel, ...] = (product(w, tokens, v, d, workspace=0 if o["head"] == "none" else scores),)
    kept, outputs, indices = w * tokens * d, scores, 0
    if o["head"] == "softmax":
        forward += (softmax_pass(w, tokens, v, "fwd"),)
        back = (softmax_pass(w, tokens, v, "bwd", workspace=scores), *back)
        kept += scores
    if o["head"] == "cross-entropy":
        # Per score: maximum, subtract, exp, sum. Depth: two trees, subtract and exp, logarithm and the last
        # subtraction. The loss and the log-sum-exp are written.
        there = table(
            w,
            tokens,
            v,
            1,
            0,
            vector=3,
            special=1,
            depth=log2_ceil(v) + 2 + log2_ceil(v) + 2,
            more_read=INT64 * tokens,
            more_write=2 * stat * tokens,
            workspace=stat * tokens,
            by_row=True,
        )
        forward += (there,)
        # Reads the scores, the log-sum-exp, the loss's gradient and the right token.
        one = tally(lambda x, below, g: cross_entropy_gradient([x, x], below, g, 0)[1:], 0.7, 0.3, 0.2)
        gradient = table(
            w,
            tokens,
            v,
            1,
            1,
            vector=2,
            special=1,
            depth=one.depth,
            more_read=(INT64 + 2 * stat) * tokens,
            workspace=scores,
        )
        back = (gradient, *back)
        kept += scores + (stat + INT64) * tokens
        outputs, indices = stat * tokens, INT64 * tokens
    return Expected(
        kernels=directed(o, forward, back),
        inputs=w * tokens * d,
        weights=w * d * v,
        outputs=outputs,
        indices=indices,
        kept=kept,
        parameters=d * v,
    )


# -- rotary, dropout ---------------------------------------------------------------------------


def rotate(x: Counted, y: Counted, cosine: float, sine: float) -> tuple[Counted, Counted]:
    """Return a rotated pair of entries (Su et al., eq. 34)."""
    return x * cosine - y * sine, x * sine + y * cosine


def rotary(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect a rotation of all vectors of Q and K; all sequences and heads share a position's angles."""
    w, n, d = WIDTH[o["dtype"]], s["seq"], s["head_dim"]
    vectors = s["batch"] * n * (s["heads"] + s["kv_heads"])
    pair = tally(lambda x, y: rotate(x, y, 0.8, 0.6), 0.7, 0.3)
    angles = w * n * d  # d/2 cosines and d/2 sines
    one = table(w, vectors, d, 1, 1, vector=Fraction(pair.vector, 2), depth=pair.depth, more_read=angles)
    kernel = replace(one, l2=angles * (vectors // n - 1))  # all sequences and heads read the same angles
    return Expected(
        kernels=directed(o, (kernel,), (kernel,)),
        inputs=w * vectors * d,
        outputs=w * vectors * d,
        kept=0,
    )


def dropout_layer(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect a mask of one byte per element, which backward reads again (Korthikanti et al.)."""
    w, m, n = WIDTH[o["dtype"]], s["m"], s["n"]
    there = tally(dropout, 0.7, 1.0)
    forward = table(w, m, n, 1, 1, **vars(there), more_write=m * n, workspace=m * n)
    backward = table(w, m, n, 1, 1, **vars(there), more_read=m * n)
    return Expected(
        kernels=directed(o, (forward,), (backward,)), inputs=w * m * n, outputs=w * m * n, kept=m * n
    )
