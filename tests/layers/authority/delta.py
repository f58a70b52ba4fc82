"""Gated delta net by chunks: its products one by one, and the products of their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from .counted import Counted, blocks, exp, log2_ceil, total
from .kernels import WIDTH, Expected, Kernel, Number, dot_depth, statistic
from .scans import chains, updated

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
def _depth(n: int, d: int, dv: int, c: int | None) -> int:
    """Return the depth of the deepest output, by chunks of c or token by token (None)."""
    rows = [[Counted(0.5)] * d for _ in range(n)]
    values = [[Counted(0.5)] * dv for _ in range(n)]
    gates = [Counted(-0.1)] * n
    found = (
        token_by_token(rows, rows, values, gates, gates)
        if c is None
        else by_chunks(rows, rows, values, gates, gates, c)
    )
    return max(x.depth for row in found for x in row)


def _gradients_depth(n: int, d: int, dv: int, c: int) -> int:
    """Return the depth of backward.

    Forward again; dV′ and dS from the end; then dW, dT, dA, dK and the decay's gradient of the first chunk.
    """
    depth = _depth(n, d, dv, c)
    for part in blocks(n, c):
        depth += dot_depth(d) + 1  # dV′: K̃ dS, and Pᵀ dO
        depth += dot_depth(len(part)) + 1  # dS: Wᵀ dV′, and the rest
    first = dot_depth(min(c, n))
    depth += dot_depth(dv)  # dW = dV′ Sᵀ
    depth += max(dot_depth(d), dot_depth(dv)) + 1  # dT, of W and of U
    depth += first + first + 1  # dA, masked
    depth += first + 1  # dK
    return depth + dot_depth(d) + 1 + log2_ceil(n)  # q·dq − k·dk, from the end


def gated_delta_net(o: dict[str, Any], s: Sizes) -> Expected:
    w, c = WIDTH[o["dtype"]], o["chunk"]
    b, n, keys, values, d, dv = (s[x] for x in ("batch", "seq", "heads", "kv_heads", "head_dim", "value_dim"))
    heads, count = b * values, -(-n // c)
    state = heads * d * dv * statistic(o["dtype"])
    inputs = w * b * n * (2 * keys * d + values * dv + 2 * values)
    outputs = w * b * n * values * dv
    sizes = {"batch": b, "seq": n, "heads": keys, "value_heads": values, "head_dim": d, "value_dim": dv}
    if o["form"] == "recurrent":
        state = heads * d * dv * (WIDTH[o["state_dtype"]] if o["state_dtype"] else statistic(o["dtype"]))
        # Decay; S k (multiply and add); β(v − S k); adding the outer product; S q.
        token = d * dv + 2 * d * dv + 2 * dv + 2 * d * dv + 2 * d * dv
        kernel = Kernel(
            vector=heads * n * token,
            special=heads * n,
            read=inputs + state,
            write=outputs + state,
            steps=n,
            depth=_depth(n, d, dv, None),
        )
        kernels = (updated(kernel, state),)
        return Expected(kernels=kernels, inputs=inputs, outputs=outputs, updated=state, kept=inputs, path=n)
    cut = [min(c, n - first) for first in range(0, n, c)]
    squares, own = o["convention"] == "torch", {"k": b * keys, "v": b * values}
    widths = {"k": d, "v": dv}
    pairs = sum(1 for x in cut for i in range(x) for _ in range(i + 1))
    work = {
        name: sum(_flops(kind, own, x, widths, squares=squares) for x in cut)
        for name, kind in FORWARD.items()
    }
    solve = sum(map(_inverse, cut))
    forward = Kernel(
        matrix=sum(work.values()),
        vector=heads * (solve + 2 * pairs + n * d),
        special=heads * n,
        read=inputs,
        write=outputs + state,
        steps=count,
        depth=_depth(n, d, dv, c),
        sizes=sizes,
    )
    again = 0 if squares else sum(work[name] for name in AGAIN)
    inverse = heads * sum(_inverse_gradient(x, squares=squares) for x in cut)
    # flash-linear-attention's chunk_gated_delta_rule_bwd, with states in the format of the keys.
    walked: Number = 2 * count * heads * d * dv * w
    inverses = w * b * n * values * min(c, n)
    key, weight, value = (w * b * n * x for x in (keys * d, values * d, values * dv))
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
    backward = chains(
        Kernel(
            matrix=2 * sum(work.values()) + again + inverse,
            # The inverse again; masks of two matrices and of their gradients; 8 rows of d.
            vector=heads * (solve + 2 * 2 * pairs + 8 * n * d),
            special=heads * n,
            read=inputs + outputs + inverses + walked,
            write=inputs + walked,
            l2=sum(moved.values()) - once,
            steps=count,
            depth=_gradients_depth(n, d, dv, c),
            workspace=walked,
            launches=8,
        ),
        heads,
        steps=2 * count,
    )
    kernels = {"fwd": (forward,), "bwd": (backward,), "fwd+bwd": (forward, backward)}[o["direction"]]
    return Expected(kernels=kernels, inputs=inputs, outputs=outputs, kept=inputs + inverses, path=count)
