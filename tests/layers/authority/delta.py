"""Gated delta net by chunks: its products one by one, and the products of their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

from .counted import Counted, blocks, exp, log2_ceil, total
from .kernels import WIDTH, Expected, Kernel, Number, dot_depth, statistic
from .pieces import PIECE, by_row, squares, triangles
from .scans import updated

Sizes = dict[str, int]

#: Products of a chunk (arXiv 2406.06484, §3.2): per head of keys ("k") or of values ("v"); over which pairs
#: of the chunk's tokens: below the diagonal ("<": T's diagonal is 1), up to it ("≤"), or with
#: the state ("d"); and over rows as wide as keys ("k") or values ("v").
FORWARD = {
    "A = K Kᵀ": "k<k",
    "W = T (β K)": "v<k",
    "U = T (β V)": "v<v",
    "W S": "vd",
    "Q S": "vd",
    "P = Q Kᵀ": "k≤k",
    "P V′": "v≤v",
    "S + Kᵀ V′": "vd",
}
#: Products that backward computes again; torch keeps their results.
AGAIN = ("A = K Kᵀ", "W = T (β K)", "U = T (β V)", "W S", "P = Q Kᵀ", "S + Kᵀ V′")


def _flops(kind: str, heads: Mapping[str, int], c: int, widths: Mapping[str, int], *, squares: bool) -> int:
    """Return the FLOPs of one product of a chunk of c tokens; libraries compute whole squares."""
    whose, shape, *rows = kind
    if shape == "d":
        return 2 * heads[whose] * c * widths["k"] * widths["v"]
    met = c * c if squares else sum(j < i or (j == i and shape == "≤") for i in range(c) for j in range(c))
    return 2 * heads[whose] * met * widths[rows[0]]


@cache
def _inverse(c: int) -> int:
    """Return the FLOPs of T = (1 + A)⁻¹ by substitution: a multiply-add A_ik T_kj for all i > k > j."""
    return sum(2 * max(0, i - j - 1) for i in range(c) for j in range(i))


@cache
def _inverse_gradient(c: int, *, squares: bool) -> int:
    """Return the FLOPs of −Tᵀ dT Tᵀ below the diagonal.

    X_kj = Σ_{m ≤ j} dT_km T_jm for k > j; then Σ_{k ≥ i} T_ki X_kj for i > j.
    """
    if squares:
        return 4 * c**3
    below = [(i, j) for i in range(c) for j in range(i)]
    return 2 * sum(j + 1 for _, j in below) + 2 * sum(c - i for i, _ in below)


# -- the layer, one number at a time -----------------------------------------------------------

Row = list[Counted]


def _meet(xs: Sequence[Counted], ys: Sequence[Counted]) -> Counted:
    """Return the dot product of two computed rows."""
    depth = max(x.depth for x in (*xs, *ys)) + dot_depth(len(xs))
    return Counted(sum(x.value * y.value for x, y in zip(xs, ys, strict=True)), depth)


def _added(first: Counted, products: Sequence[tuple[Counted, Counted]]) -> Counted:
    """Return a sum that adds one product after the other."""
    for x, y in products:
        first = first + x * y
    return first


def token_by_token(q: list[Row], k: list[Row], v: list[Row], g: Row, beta: Row) -> list[Row]:
    """Return o = S q for S ← α S (I − β k kᵀ) + β v kᵀ; g is log α."""
    d, dv, out = len(q[0]), len(v[0]), []
    state = [[Counted(0.0)] * d for _ in range(dv)]
    for t in range(len(q)):
        state = [[exp(g[t]) * x for x in row] for row in state]
        new = [(v[t][i] - _meet(state[i], k[t])) * beta[t] for i in range(dv)]
        state = [[state[i][j] + new[i] * k[t][j] for j in range(d)] for i in range(dv)]
        out.append([_meet(row, q[t]) for row in state])
    return out


def channels_token_by_token(q: list[Row], k: list[Row], v: list[Row], g: list[Row], beta: Row) -> list[Row]:
    """Return o = Sᵀ q for S ← (I − β k kᵀ) diag(α) S + β k vᵀ; g is log α, for each channel."""
    d, dv, out = len(q[0]), len(v[0]), []
    state = [[Counted(0.0)] * d for _ in range(dv)]
    for t in range(len(q)):
        state = [[exp(g[t][j]) * row[j] for j in range(d)] for row in state]
        new = [(v[t][i] - _meet(state[i], k[t])) * beta[t] for i in range(dv)]
        state = [[state[i][j] + new[i] * k[t][j] for j in range(d)] for i in range(dv)]
        out.append([_meet(row, q[t]) for row in state])
    return out


def channels_by_chunks(
    q: list[Row], k: list[Row], v: list[Row], g: list[Row], beta: Row, c: int
) -> list[Row]:
    """Return the same in the chunked form, where decays weigh queries and keys (arXiv 2510.26692, §3)."""
    d, dv, out = len(q[0]), len(v[0]), []
    state = [[Counted(0.0)] * d for _ in range(dv)]
    for part in blocks(len(q), c):
        qs, ks, vs, bs = ([x[t] for t in part] for x in (q, k, v, beta))
        n, cols, keys = len(part), range(dv), range(d)
        sums = [[total([g[t][x] for t in part][: i + 1]) for x in keys] for i in range(n)]
        last = sums[-1][0].depth  # a scan finishes all of them together
        since = [[Counted(x.value, last) for x in row] for row in sums]
        asked = [[qs[i][x] * exp(since[i][x]) for x in keys] for i in range(n)]
        old = [[bs[i] * ks[i][x] * exp(since[i][x]) for x in keys] for i in range(n)]
        fresh = [[ks[i][x] * exp(-since[i][x]) for x in keys] for i in range(n)]
        inverse = [[Counted(float(i == j)) for j in range(n)] for i in range(n)]
        entry = {(i, j): _meet(old[i], fresh[j]) for i in range(n) for j in range(i)}
        for (i, j), one in entry.items():
            inverse[i][j] = -_added(one, [(entry[i, m], inverse[m][j]) for m in range(j + 1, i)])
        given = [[bs[i] * x for x in vs[i]] for i in range(n)]
        rows = [inverse[i][: i + 1] for i in range(n)]
        w = [[_meet(rows[i], [old[j][x] for j in range(i + 1)]) for x in keys] for i in range(n)]
        u = [[_meet(rows[i], [given[j][x] for j in range(i + 1)]) for x in cols] for i in range(n)]
        new = [[u[i][x] - _meet(w[i], state[x]) for x in cols] for i in range(n)]
        for i in range(n):
            seen = [_meet(asked[i], fresh[j]) for j in range(i + 1)]
            inside = [_meet(seen, [new[j][x] for j in range(i + 1)]) for x in cols]
            out.append([_meet(asked[i], state[x]) + inside[x] for x in cols])
        late = [[ks[i][x] * exp(since[-1][x] - since[i][x]) for x in keys] for i in range(n)]
        state = [
            [
                exp(since[-1][y]) * state[x][y]
                + _meet([new[i][x] for i in range(n)], [late[i][y] for i in range(n)])
                for y in keys
            ]
            for x in cols
        ]
    return out


def by_chunks(q: list[Row], k: list[Row], v: list[Row], g: Row, beta: Row, c: int) -> list[Row]:
    """Return the same in the chunked form: T by substitution, W and U, and a walk over the chunks."""
    d, dv, out = len(q[0]), len(v[0]), []
    state = [[Counted(0.0)] * d for _ in range(dv)]
    for part in blocks(len(q), c):
        qs, ks, vs, bs = ([x[t] for t in part] for x in (q, k, v, beta))
        n, cols, keys = len(part), range(dv), range(d)
        sums = [total([g[t] for t in part][: i + 1]) for i in range(n)]
        since = [Counted(x.value, sums[-1].depth) for x in sums]  # a scan finishes all of them together
        weighted = [[bs[i] * x for x in ks[i]] for i in range(n)]

        def decay(i: int, j: int, since: Row = since) -> Counted:
            return exp(since[i] - since[j])

        inverse = [[Counted(float(i == j)) for j in range(n)] for i in range(n)]
        entry = {(i, j): _meet(weighted[i], ks[j]) * decay(i, j) for i in range(n) for j in range(i)}
        for (i, j), one in entry.items():
            inverse[i][j] = -_added(one, [(entry[i, m], inverse[m][j]) for m in range(j + 1, i)])
        old = [[x * exp(since[i]) for x in weighted[i]] for i in range(n)]
        given = [[bs[i] * x for x in vs[i]] for i in range(n)]
        rows = [inverse[i][: i + 1] for i in range(n)]
        w = [[_meet(rows[i], [old[j][x] for j in range(i + 1)]) for x in keys] for i in range(n)]
        u = [[_meet(rows[i], [given[j][x] for j in range(i + 1)]) for x in cols] for i in range(n)]
        new = [[u[i][x] - _meet(w[i], state[x]) for x in cols] for i in range(n)]
        for i in range(n):
            seen = [_meet(qs[i], ks[j]) * decay(i, j) for j in range(i + 1)]
            past = [x * exp(since[i]) for x in qs[i]]
            inside = [_meet(seen, [new[j][x] for j in range(i + 1)]) for x in cols]
            out.append([_meet(past, state[x]) + inside[x] for x in cols])
        late = [[decay(n - 1, i) * x for x in ks[i]] for i in range(n)]
        state = [
            [
                exp(since[-1]) * state[x][y]
                + _meet([new[i][x] for i in range(n)], [late[i][y] for i in range(n)])
                for y in keys
            ]
            for x in cols
        ]
    return out


@cache
def _depth(n: int, d: int, dv: int, c: int | None, *, channels: bool = False) -> int:
    """Return the depth of the deepest output, by chunks of c or token by token (None)."""
    rows = [[Counted(0.5)] * d for _ in range(n)]
    values = [[Counted(0.5)] * dv for _ in range(n)]
    beta = [Counted(-0.1)] * n
    gates: Any = [[Counted(-0.1)] * d for _ in range(n)] if channels else beta
    found: list[Row]
    if c is None:
        found = (channels_token_by_token if channels else token_by_token)(rows, rows, values, gates, beta)
    else:
        found = (channels_by_chunks if channels else by_chunks)(rows, rows, values, gates, beta, c)
    return max(x.depth for row in found for x in row)


def _gradients_depth(n: int, d: int, dv: int, c: int, *, channels: bool = False) -> int:
    """Return the depth of backward.

    Forward again; dV′ and dS from the end; then dW, dT, dA, dK and the decay's gradient of the first chunk.
    """
    depth = _depth(n, d, dv, c, channels=channels)
    for part in blocks(n, c):
        depth += dot_depth(d) + 1  # dV′: K̃ dS, and Pᵀ dO
        depth += dot_depth(len(part)) + 1  # dS: Wᵀ dV′, and the rest
    first = dot_depth(min(c, n))
    depth += dot_depth(dv)  # dW = dV′ Sᵀ
    depth += max(dot_depth(d), dot_depth(dv)) + 1  # dT, of W and of U
    depth += first + first  # dA
    if channels:
        depth += first + 2  # dK weighted by β k e^b: a product, and back by e^b and β
        depth += 2  # its four parts
        return depth + 2 + log2_ceil(n)  # k∘dk and q∘dq less it, from the end
    depth += 1  # its mask
    depth += first + 1  # dK
    return depth + dot_depth(d) + 1 + log2_ceil(n)  # q·dq − k·dk, from the end


def _exponentials(n: int, c: int) -> tuple[Fraction, Fraction]:
    """Return what KDA's kernels take per channel of a value head, forward and backward (fla/ops/kda)."""
    # k e^b and k e^(end − b) before W and U; q e^b for the outputs.
    forward = triangles(n, c) + by_row(n, c) + 2 * n + n
    # Squares for dQ and for dK; q e^b, k e^b and k e^(end − b) again, and two of them for gradients.
    backward = 2 * (squares(n, c) + by_row(n, c)) + 3 * n + 2 * n
    return forward, backward


def gated_delta_net(o: dict[str, Any], s: Sizes) -> Expected:
    return _delta_net(o, s, channels=False)


def kimi_delta_attention(o: dict[str, Any], s: Sizes) -> Expected:
    return _delta_net(o, s, channels=True)


def _delta_net(o: dict[str, Any], s: Sizes, *, channels: bool) -> Expected:
    w, c = WIDTH[o["dtype"]], o["chunk"]
    b, n, keys, values, d, dv = (s[x] for x in ("batch", "seq", "heads", "kv_heads", "head_dim", "value_dim"))
    heads, count = b * values, -(-n // c)
    state = heads * d * dv * statistic(o["dtype"])
    decays = d if channels else 1
    inputs = w * b * n * (2 * keys * d + values * dv + (decays + 1) * values)
    outputs = w * b * n * values * dv
    sizes = {"batch": b, "seq": n, "heads": keys, "value_heads": values, "head_dim": d, "value_dim": dv}
    if o["form"] == "recurrent":
        state = heads * d * dv * (WIDTH[o["state_dtype"]] if o["state_dtype"] else statistic(o["dtype"]))
        # Decay; S k (multiply and add); β(v − S k); adding the outer product; S q.
        token = d * dv + 2 * d * dv + 2 * dv + 2 * d * dv + 2 * d * dv
        kernel = Kernel(
            vector=heads * n * token,
            special=heads * n * decays,
            read=inputs + state,
            write=outputs + state,
            steps=n,
            depth=_depth(n, d, dv, None, channels=channels),
        )
        kernels = (updated(kernel, state),)
        return Expected(kernels=kernels, inputs=inputs, outputs=outputs, updated=state, kept=inputs, path=n)
    cut = [min(c, n - first) for first in range(0, n, c)]
    # Decays of channels are part of the scores, which each value head has of its own.
    full, own = o["convention"] == "torch", {"k": b * (values if channels else keys), "v": b * values}
    widths = {"k": d, "v": dv}
    pairs = sum(1 for x in cut for i in range(x) for _ in range(i + 1))
    work = {
        name: sum(_flops(kind, own, x, widths, squares=full) for x in cut) for name, kind in FORWARD.items()
    }
    solve = sum(map(_inverse, cut))
    products, again = sum(work.values()), 0 if full else sum(work[name] for name in AGAIN)
    gradients = 2 * products + again + heads * sum(_inverse_gradient(x, squares=full) for x in cut)
    walked: Number = 2 * count * heads * d * dv * w
    square = w * b * n * values * min(c, n)
    kept = 2 * square if channels else square
    if channels:
        # A sum; q, β, k, k and k with their weights, and the distance from the end; β v; the states' decay.
        weighing, back = n * (1 + 5 + 1) * d + n * dv + count * d * dv, 0
        back = n * (7 + 13) * d + n * 3 * dv + count * (1 + 1 + 2) * d * dv
        exps = 3 * n * d  # e^b, e^−b, e^(end − b)
        there, here = _moved_by_channels(o, s)
    else:
        # Masks of two matrices, and of their gradients; a row of d forward, 8 rows backward.
        weighing, back, exps = 2 * pairs + n * d, 2 * 2 * pairs + 8 * n * d, n
        there, here = 0, _moved(o, s)
    taken = [heads * d * each for each in _exponentials(n, c)]

    def timed(moved: Number, which: int, matrix: Number) -> dict[str, Number]:
        more = {"walks": 1 + which, "work": Fraction(matrix, products), "traffic": moved}
        return {**sizes, **more, **({"exponentials": taken[which]} if channels else {})}

    forward = Kernel(
        matrix=products,
        vector=heads * (solve + weighing),
        special=heads * exps,
        read=inputs,
        write=outputs + state,
        l2=there,
        steps=count,
        depth=_depth(n, d, dv, c, channels=channels),
        sizes=timed(inputs + outputs + state + there, 0, products) if channels else sizes,
    )
    # flash-linear-attention's chunk_gated_delta_rule_bwd and chunk_kda_bwd, with states in the format of the
    # keys.
    backward = Kernel(
        matrix=gradients,
        vector=heads * (solve + back),  # the inverse again
        special=heads * exps,
        read=inputs + outputs + kept + walked,
        write=inputs + walked,
        l2=here,
        steps=count,
        depth=_gradients_depth(n, d, dv, c, channels=channels),
        workspace=walked,
        launches=8,
        sizes=timed(2 * inputs + outputs + kept + 2 * walked + here, 1, gradients),
    )
    kernels = {"fwd": (forward,), "bwd": (backward,), "fwd+bwd": (forward, backward)}[o["direction"]]
    return Expected(kernels=kernels, inputs=inputs, outputs=outputs, kept=inputs + kept, path=count)


def _moved(o: dict[str, Any], s: Sizes) -> Number:
    """Return what the kernels of backward move beyond operands, T, gradients and states once."""
    w, b, n = WIDTH[o["dtype"]], s["batch"], s["seq"]
    d, dv, keys, values = s["head_dim"], s["value_dim"], s["heads"], s["kv_heads"]
    key, weight, value = (w * b * n * x for x in (keys * d, values * d, values * dv))
    inverses = w * b * n * values * min(o["chunk"], n)
    moved = {
        "recompute_w_u": key + value + inverses + weight + value,
        "fwd_h": key + weight + value + value,
        "dv_local": key + key + value + value,
        "dhu": key + key + weight + value + value + value,
        "dqkwg": key + key + value + weight + value + value + key + key + weight,
        "wy": key + value + inverses + weight + value + key + value,
        "add": 3 * key,
    }
    # Once: Q, K, V, T and dO in, the gradients out.
    once = (2 * key + 2 * value + inverses) + (2 * key + value)
    return sum(moved.values()) - once


def _moved_by_channels(o: dict[str, Any], s: Sizes) -> tuple[Number, Number]:
    """Return what KDA's kernels move beyond operands once, forward and backward (fla/ops/kda).

    Each line is a kernel: what it reads, and what it writes. Sums of decays, gradients of Q, K, decays and
    scores, and the blocks on the diagonal of KKᵀ are in fp32.
    """
    w, b, n, wide = WIDTH[o["dtype"]], s["batch"], s["seq"], statistic(o["dtype"])
    d, dv, keys, values, c = s["head_dim"], s["value_dim"], s["heads"], s["kv_heads"], o["chunk"]
    q, g, v = (w * b * n * x for x in (keys * d, values * d, values * dv))
    sums, square = wide * b * n * values * d, w * b * n * values * min(c, n)
    scores, blocked = wide * b * n * values * min(c, n), wide * b * n * values * min(PIECE, c, n)
    states = w * b * values * -(-n // c) * d * dv
    forward: tuple[tuple[Number, Number], ...] = (
        (g, sums),
        (2 * q + sums, blocked),  # pairs within a piece, and a quarter of the scores
        (0, square),  # zeros
        (2 * q + sums + blocked, square + square),  # pairs of pieces; T
        (q + v + square + sums, g + v + g),  # W, U, weighted keys
        (2 * g + v, states + v),  # V′
        (q + v + square + sums + states, v),
    )
    once = (2 * q + v + g) + v
    backward: tuple[tuple[Number, Number], ...] = (
        (g, sums),
        (2 * q + v + square + sums, 3 * g + v),  # and weighted queries
        (2 * g + v, states + v),
        (v + square + v, scores + v),
        (3 * g + v + v, states + v),
        (2 * q + 4 * v + sums + square + 2 * states, 3 * sums + v + scores),
        (2 * q + 4 * sums + 2 * scores, 3 * sums),
        (sums, sums),  # from the end
        (3 * sums, 2 * q + g),  # made narrow
    )
    once_back = (2 * q + v + g) + v + 2 * square + 4 * states + (2 * q + v + g)
    return sum(map(sum, forward)) - once, sum(map(sum, backward)) - once_back
