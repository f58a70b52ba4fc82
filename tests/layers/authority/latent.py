"""Multi-head latent attention, from the formulas of DeepSeek-V2's paper."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from .attention import attention, beside, pairs
from .counted import log2_ceil
from .kernels import WIDTH, Expected, Kernel, dot_depth, product, table

Sizes = dict[str, int]


def mla(o: dict[str, Any], s: Sizes) -> Expected:
    """formulas.md §3.1: weights dq + q·h(d_n + d_r) + d(c + d_r) + c·h(d_n + d_v) + h·d_v·d, and the core."""
    w = WIDTH[o["dtype"]]
    b, n, n_kv, h, d, dv, width = (
        s[k] for k in ("batch", "seq", "seq_kv", "heads", "head_dim", "value_dim", "d_model")
    )
    q, c, r = s["q_rank"], s["kv_rank"], s["rope_dim"]
    rows, keys = b * n, b * n_kv
    down = product(w, rows, q, width, workspace=w * rows * q)
    up = product(w, rows, h * (d + r), q, workspace=w * rows * h * (d + r))
    latent = product(w, rows, c + r, width, workspace=w * rows * (c + r))
    values = product(w, keys, h * (d + dv), c, workspace=w * keys * h * (d + dv))
    out = product(w, rows, width, h * dv)
    weights = width * q + q * h * (d + r) + width * (c + r) + c * h * (d + dv) + h * dv * width
    expected = Expected(
        kernels=(),
        inputs=w * (rows * width + b * (n_kv - n) * (c + r)),
        weights=w * weights,
        outputs=w * rows * width,
        kept=0,
        parameters=weights,
    )
    if o["absorbed"]:
        into = product(w, rows, c, d, times=h, workspace=w * rows * h * c)
        back = product(w, rows, dv, c, times=h, workspace=w * rows * h * dv)
        kernels = (down, latent, up, into, _on_latents(o, s, w), back, out)
        return replace(expected, kernels=kernels)
    core = attention(
        "tiled",
        {**o, "schedule": "fa2", "tile": None, "projections": False, "cross": False},
        s | {"head_dim": d + r, "kv_heads": h},
    )
    before = (down, latent, up, values)
    last = (
        product(w, rows, width, q),
        product(w, width, q, rows),
        product(w, rows, q, h * (d + r), workspace=w * rows * q),
        product(w, q, h * (d + r), rows),
        product(w, rows, width, c + r, workspace=w * rows * width),
        product(w, width, c + r, rows),
        product(w, keys, c, h * (d + dv), workspace=w * keys * c),
        product(w, c, h * (d + dv), keys),
        table(w, rows, width, 2, 1, vector=1),  # x is the input of both down projections
    )
    result = w * rows * h * dv
    first = (product(w, rows, h * dv, width, workspace=result), product(w, h * dv, width, rows))
    # The core's results are intermediate: the heads' outputs; the gradients of Q, K and V.
    gradients = core.inputs
    made = {"fwd": (result,), "bwd": (0, gradients), "fwd+bwd": (result, 0, gradients)}[o["direction"]]
    kernels = tuple(beside(kernel, size) for kernel, size in zip(core.kernels, made, strict=True))
    whole = {
        "fwd": (*before, *kernels, out),
        "bwd": (*first, *kernels, *last),
        "fwd+bwd": (*before, *kernels[:1], out, *first, *kernels[1:], *last),
    }
    # x, both latents (also the prefix's), and what the core keeps.
    kept = w * (rows * width + rows * q + keys * (c + r)) + core.kept
    return replace(expected, kernels=whole[o["direction"]], kept=kept)


def _on_latents(o: dict[str, Any], s: Sizes, w: Any) -> Kernel:
    """Return the absorbed core: 2·s·h(2c + d_r) per token; all heads read c + d_r numbers per key once."""
    b, n, n_kv, h, c, r = (s[k] for k in ("batch", "seq", "seq_kv", "heads", "kv_rank", "rope_dim"))
    scores = b * h * pairs(n, n_kv, o["causal"] and o["convention"] == "exact")
    rows = b * n * h
    products = scores * (2 * (c + r) + 2 * c)
    return Kernel(
        matrix=products,
        vector=3 * scores + rows * c,
        special=scores,
        read=w * (b * n_kv * (c + r) + rows * (c + r)),
        write=w * rows * c,
        depth=dot_depth(c + r) + 2 * log2_ceil(n_kv) + 3 + dot_depth(n_kv),
        workspace=w * rows * c,
        sizes={
            "batch": b,
            "heads": h * n,
            "kv_heads": 1,
            "seq_kv": n_kv,
            "head_dim": Fraction(c + r, 2),
            "flops": b * h * n * n_kv * (2 * (c + r) + 2 * c),  # the kernel computes masked scores, too
        },
    )
