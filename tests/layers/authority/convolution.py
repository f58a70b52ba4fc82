"""Convolutions over a sequence: taps counted one by one, receptive fields grown layer by layer."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

from .counted import log2_ceil
from .kernels import WIDTH, Expected, Kernel, directed, dot_depth, product, table
from .scans import chains

Sizes = dict[str, int]


@cache
def multiply_adds(positions: int, into: int, out: int, taps: int, groups: int) -> int:
    """Count the multiply-adds of one sequence; taps beyond its ends multiply padding."""
    found = 0
    for _ in range(positions):
        for channel in range(out):
            group = channel // (out // groups)
            mine = [c for c in range(into) if c // (into // groups) == group]
            found += len(mine) * taps
    return found


def stacked(n: int, taps: int, dilated: bool) -> int:
    """Return the layers after which the last position sees the first."""
    sees, apart, layers = 1, 1, 0
    while sees < n:
        sees += max(taps - 1, 1) * apart
        apart *= max(taps, 2) if dilated else 1
        layers += 1
    return max(1, layers)


def conv(o: dict[str, Any], s: Sizes) -> Expected:
    """formulas.md §6: 2·B·L·C_out·(C_in/G)·k; backward twice that, in torch 1 + G times (goldens)."""
    w, g = WIDTH[o["dtype"]], o["groups"]
    b, n, into, out, k = (s[x] for x in ("batch", "seq", "input", "d_model", "k"))
    flops = 2 * b * multiply_adds(n, into, out, k, g)
    x, y, weights = w * b * n * into, w * b * n * out, w * k * into * out // g
    torch = o["convention"] == "torch"

    def one(rows: int, cols: int, inner: int, read: Any, write: Any, times: int = 1) -> Kernel:
        plain = product(w, rows, cols, inner, times=g)
        assert plain.matrix == flops
        return replace(plain, matrix=flops * times, read=read, write=write)

    forward = (one(b * n, out // g, into // g * k, x + weights, y),)
    backward = (
        one(b * n, into // g, out // g * k, y + weights, x),
        one(out // g, into // g * k, b * n, x + y, weights, times=g if torch else 1),
    )
    return Expected(
        kernels=directed(o, forward, backward),
        inputs=x,
        weights=weights,
        outputs=y,
        kept=x,
        path=stacked(n, k, o["dilated"]),
        parameters=k * into * out // g,
    )


def separable(o: dict[str, Any], s: Sizes) -> Expected:
    """formulas.md §6: 2BL(Ck + C²); the depthwise part is a convolution of C groups.

    It runs on the vector engine; FlopCounterMode counts it with the products.
    """
    w = WIDTH[o["dtype"]]
    b, n, into, out, k = (s[x] for x in ("batch", "seq", "input", "d_model", "k"))
    flops = 2 * b * multiply_adds(n, into, into, k, into)
    x, taps = w * b * n * into, w * k * into
    torch = o["convention"] == "torch"

    def depthwise(read: Any, write: Any, depth: int, times: int = 1, workspace: Any = 0) -> Kernel:
        engine = {"matrix" if torch else "vector": flops * times}
        return chains(Kernel(**engine, read=read, write=write, depth=depth, workspace=workspace), 1)

    forward = (depthwise(x + taps, x, dot_depth(k), workspace=x), product(w, b * n, out, into))
    backward = (
        product(w, b * n, into, out, workspace=x),
        product(w, into, out, b * n),
        depthwise(x + taps, x, dot_depth(k)),
        depthwise(2 * x, taps, dot_depth(b * n), times=into if torch else 1),
    )
    return Expected(
        kernels=directed(o, forward, backward),
        inputs=x,
        weights=w * (k * into + into * out),
        outputs=w * b * n * out,
        kept=2 * x,
        path=stacked(n, k, o["dilated"]),
        parameters=k * into + into * out,
    )


def causal(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect a depthwise convolution over the last k positions; when decoding, k − 1 are a state."""
    w = WIDTH[o["dtype"]]
    b, n, d, k = (s[x] for x in ("batch", "seq", "d_model", "k"))
    x, taps = w * b * n * d, w * k * d
    state = w * b * (k - 1) * d if o["decode"] else 0
    # The state is a ring of k − 1 places: each new position overwrites the oldest.
    places = {t % (k - 1) for t in range(n)} if k > 1 else set()
    stays = state - w * b * len(places) * d if o["decode"] else 0
    torch = o["convention"] == "torch"

    def flops(times: int) -> dict[str, Any]:
        return {"matrix" if torch else "vector": times * 2 * b * multiply_adds(n, d, d, k, d)}

    forward = (
        Kernel(
            **flops(1),
            read=x + taps + state,
            write=x + state,
            depth=dot_depth(k),
            sizes={"batch": b, "seq": n, "channels": d, "width": k},
        ),
    )
    # dx is a convolution of dy, and dw sums x·dy over all positions: each as large as forward, but torch
    # counts dw d times.
    depth = 1 + max(log2_ceil(k), log2_ceil(b * n))
    plain = table(w, b * n, d, 2, 1, depth=depth, more_read=taps, more_write=taps)
    backward = (replace(plain, **flops(1 + d if torch else 2)),)
    return Expected(
        kernels=directed(o, forward, backward),
        inputs=x,
        weights=taps,
        outputs=x,
        updated=state,
        unwritten=stays,
        kept=x,
        path=stacked(n, k, dilated=False),
        parameters=k * d,
    )


def implicit(o: dict[str, Any], s: Sizes) -> Expected:
    """A window of T taps at m places: G groups of n × k channels, 2 FLOP each; bytes as they are stated."""
    w, g = WIDTH[o["dtype"]], s["batch"]
    m, n, k, taps = (s[x] for x in ("m", "n", "k", "taps"))
    flops = 2 * sum(multiply_adds(m, k, n, taps, 1) for _ in range(g))
    weights, positions = w * g * n * k * taps, w * g * m * n
    read, written = s["read_bytes"], s["written_bytes"]

    def one(rows: int, cols: int, inner: int, read: Any, write: Any) -> Kernel:
        if o["grouping"] == "depthwise":
            of = w * m * g * n
            sizes = {"rows": m, "cols": g * n, "reads": Fraction(read) / of, "writes": Fraction(write) / of}
            return Kernel(vector=flops, read=read, write=write, depth=dot_depth(inner), sizes=sizes)
        plain = product(w, rows, cols, inner, times=g)
        assert plain.matrix == flops
        return replace(plain, read=read, write=write)

    def gather(read: Any, write: Any) -> Kernel:
        return one(m, n, k * taps, read, write)

    def scatter(read: Any, write: Any) -> Kernel:
        return one(m, k, n * taps, read, write)

    def of_weights(read: Any, write: Any) -> Kernel:
        return one(n, k * taps, m, read, write)

    forward, of_input = (scatter, gather) if o["transposed"] else (gather, scatter)
    # The output's gradient lies at the places, or, of a transposed convolution, is what else is read.
    grad = max(read - weights - positions, 0) if o["transposed"] else positions
    kernels = {
        "fwd": (forward(read, written),),
        "bwd": (of_input(grad + weights, written - weights), of_weights(read - weights, weights)),
        "bwd_data": (of_input(read, written),),
        "bwd_weights": (of_weights(read, written),),
    }[o["direction"]]
    return Expected(
        kernels=kernels, inputs=s["least_bytes"], outputs=written, kept=0, parameters=g * n * k * taps
    )
