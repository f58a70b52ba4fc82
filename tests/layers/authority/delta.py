"""Gated delta net by chunks: its products, one by one, and what their gradients are products of."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from .kernels import WIDTH, Expected, Kernel, Number, dot_depth
from .scans import chains

Sizes = dict[str, int]
STATE = 4  # bytes: fp32

#: Products of a chunk (C tokens of width d) as (rows, columns, inner): forward (arXiv 2406.06484, §3.2).
FORWARD = {
    "A = K Kᵀ": "CCd",
    "W = T (β K)": "CdC",
    "U = T (β V)": "CdC",
    "W S": "Cdd",
    "Q S": "Cdd",
    "P = Q Kᵀ": "CCd",
    "P V′": "CdC",
    "S + Kᵀ V′": "ddC",
}
#: What backward needs that was not kept.
AGAIN = ("A = K Kᵀ", "W = T (β K)", "U = T (β V)", "W S", "P = Q Kᵀ", "S + Kᵀ V′")
#: Gradients: two products for each forward's, and dA = −Tᵀ dT Tᵀ.
INVERSE = ("CCC", "CCC")


def _flops(shape: str, c: int, d: int) -> int:
    sizes = {"C": c, "d": d}
    rows, columns, inner = (sizes[x] for x in shape)
    return 2 * rows * columns * inner


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
    chunk = sum(_flops(shape, c, d) for shape in FORWARD.values())
    solve = Fraction(c * c, 3)  # a token's part of the C³/3 of a triangular inverse
    forward = Kernel(
        matrix=heads * n * Fraction(chunk, c),
        vector=heads * n * (solve + 2 * c + d),
        special=heads * n,
        read=inputs,
        write=outputs + state,
        steps=count,
        depth=depth,
        sizes=sizes,
    )
    again = sum(_flops(FORWARD[name], c, d) for name in AGAIN)
    inverse = sum(_flops(shape, c, d) for shape in INVERSE)
    walked: Number = 2 * count * state
    backward = chains(
        Kernel(
            matrix=heads * n * Fraction(2 * chunk + again + inverse, c),
            # The inverse again; masks of two C × C matrices and of their gradients; 8 rows of d.
            vector=heads * n * (solve + 2 * 2 * c + 8 * d),
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
