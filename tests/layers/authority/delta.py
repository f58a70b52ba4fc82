"""Gated delta net by chunks: its products, one by one, and what their gradients are products of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from .kernels import WIDTH, Expected, Kernel, Number, dot_depth
from .scans import chains

Sizes = dict[str, int]
STATE = 4  # bytes: fp32

#: Products of a chunk (arXiv 2406.06484, §3.2): the heads whose own they are, "k" keys' or "v" values', and
#: the pairs of the chunk's tokens that meet: below the diagonal (T's own is 1), up to it, or none: d × d.
FORWARD = {
    "A = K Kᵀ": "k<",
    "W = T (β K)": "v<",
    "U = T (β V)": "v<",
    "W S": "vd",
    "Q S": "vd",
    "P = Q Kᵀ": "k≤",
    "P V′": "v≤",
    "S + Kᵀ V′": "vd",
}
#: What backward needs that was not kept; torch keeps it.
AGAIN = ("A = K Kᵀ", "W = T (β K)", "U = T (β V)", "W S", "P = Q Kᵀ", "S + Kᵀ V′")


def _flops(kind: str, heads: Mapping[str, int], c: int, d: int, *, squares: bool) -> int:
    """One product of a chunk of c tokens of width d, in all heads; a matrix library takes whole squares."""
    whose, shape = kind
    if shape == "d":
        return 2 * heads[whose] * c * d * d
    met = c * c if squares else sum(j < i or (j == i and shape == "≤") for i in range(c) for j in range(c))
    return 2 * heads[whose] * met * d


@cache
def _inverse(c: int) -> int:
    """T = (1 + A)⁻¹ by substitution: A_ik T_kj of all i > k > j, a multiply and an add each."""
    return sum(2 * max(0, i - j - 1) for i in range(c) for j in range(i))


@cache
def _inverse_gradient(c: int, *, squares: bool) -> int:
    """−Tᵀ dT Tᵀ below the diagonal: X_kj = Σ_{m ≤ j} dT_km T_jm, k > j; then Σ_{k ≥ i} T_ki X_kj, i > j."""
    if squares:
        return 4 * c**3
    below = [(i, j) for i in range(c) for j in range(i)]
    return 2 * sum(j + 1 for _, j in below) + 2 * sum(c - i for i, _ in below)


def gated_delta_net(o: dict[str, Any], s: Sizes) -> Expected:
    w, c = WIDTH[o["dtype"]], o["chunk"]
    b, n, keys, values, d = (s[x] for x in ("batch", "seq", "heads", "kv_heads", "head_dim"))
    heads, count = b * values, -(-n // c)
    state = heads * d * d * STATE
    inputs = w * b * n * (2 * keys * d + values * d + 2 * values)
    outputs = w * b * n * values * d
    sizes = {"batch": b, "seq": n, "heads": keys, "value_heads": values, "head_dim": d}
    depth = count * 3 * dot_depth(d)
    if o["form"] == "recurrent":
        # Decay; S k, a multiply and an add; β(v − S k); the outer product added; S q.
        token = d * d + 2 * d * d + 2 * d + 2 * d * d + 2 * d * d
        kernel = Kernel(
            vector=heads * n * token,
            special=heads * n,
            read=inputs + state,
            write=outputs + state,
            steps=n,
            depth=n * 3 * dot_depth(d),
            sizes=sizes,
        )
        return Expected(kernels=(kernel,), inputs=inputs, outputs=outputs, updated=state, kept=inputs, path=n)
    cut = [min(c, n - first) for first in range(0, n, c)]
    squares, own = o["convention"] == "torch", {"k": b * keys, "v": b * values}
    pairs = sum(1 for x in cut for i in range(x) for _ in range(i + 1))
    work = {
        name: sum(_flops(kind, own, x, d, squares=squares) for x in cut) for name, kind in FORWARD.items()
    }
    solve = sum(map(_inverse, cut))
    forward = Kernel(
        matrix=sum(work.values()),
        vector=heads * (solve + 2 * pairs + n * d),
        special=heads * n,
        read=inputs,
        write=outputs + state,
        steps=count,
        depth=depth,
        sizes=sizes,
    )
    again = 0 if squares else sum(work[name] for name in AGAIN)
    inverse = heads * sum(_inverse_gradient(x, squares=squares) for x in cut)
    walked: Number = 2 * count * state
    backward = chains(
        Kernel(
            matrix=2 * sum(work.values()) + again + inverse,
            # The inverse again; masks of two matrices and of their gradients; 8 rows of d.
            vector=heads * (solve + 2 * 2 * pairs + 8 * n * d),
            special=heads * n,
            read=inputs + outputs + walked,
            write=inputs + walked,
            steps=count,
            depth=depth,
            workspace=walked,
        ),
        heads,
        steps=2 * count,
    )
    kernels = {"fwd": (forward,), "bwd": (backward,), "fwd+bwd": (forward, backward)}[o["direction"]]
    return Expected(kernels=kernels, inputs=inputs, outputs=outputs, kept=inputs, path=count)
