"""minGRU, minLSTM, SRU, QRNN and RG-LRU: one unit walked step by step, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from .counted import LEDGER, Counted, exp, sigma, special, tanh
from .kernels import WIDTH, Expected, Kernel, product
from .scans import chains, recurrence

Sizes = dict[str, int]
#: Products with the input, and how many have a bias (papers: §3.1 and 3.2; eq. 1–4; eq. 1–4; eq. 1–2).
MATRICES = {"min-gru": 2, "min-lstm": 3, "sru": 3, "qrnn": 3, "rg-lru": 2}
BIASED = {"min-gru": 2, "min-lstm": 3, "sru": 2, "qrnn": 3, "rg-lru": 2}
#: Values that the programs below keep per unit and position.
KEPT = {"min-gru": 3, "min-lstm": 4, "sru": 4, "qrnn": 4, "rg-lru": 3}
#: RG-LRU: −8 softplus(Λ) of one unit, the logarithm of its slowest decay.
SLOPE = -0.7
#: So many positions that the loop takes longer than anything that does not wait for it.
LONG = 16
Peephole = tuple[float, float] | None


def forward(
    cell: str,
    pre: Sequence[Counted],
    before: Counted,
    x: Counted,
    biases: Sequence[float] | None,
    v: Peephole,
) -> tuple[Counted, Counted, Any]:
    """Run a step; return (state, output, values for backward). `pre` are the products, SRU's x̃ first."""
    biased = list(pre)
    if biases is not None:
        offset = 1 if cell == "sru" else 0
        biased[offset : offset + len(biases)] = [p + b for p, b in zip(biased[offset:], biases, strict=False)]
    if cell == "min-gru":
        z, u = sigma(biased[0]), biased[1]
        h = (1 - z) * before + z * u
        return h, h, (z, u, before)
    if cell == "min-lstm":
        f, i, u = sigma(biased[0]), sigma(biased[1]), biased[2]
        both = f + i
        h = (f / both) * before + (i / both) * u
        return h, h, (f, i, u, before)
    if cell == "qrnn":
        z, f, o = tanh(biased[0]), sigma(biased[1]), sigma(biased[2])
        c = f * before + (1 - f) * z
        return c, o * c, (z, f, o, c, before)
    if cell == "rg-lru":
        r, i = sigma(biased[0]), sigma(biased[1])
        a = exp(r * SLOPE)
        h = a * before + root(1 - a * a) * (i * x)
        return h, h, (r, i, before, x)
    if v is not None:
        biased[1:3] = [biased[1] + before * v[0], biased[2] + before * v[1]]
    u, f, r = biased[0], sigma(biased[1]), sigma(biased[2])
    c = f * before + (1 - f) * u
    return c, r * c + (1 - r) * x, (u, f, r, c, before, x)


def backward(
    cell: str, dh: Counted, carried: Counted, kept: Any, v: Peephole
) -> tuple[Counted, list[Counted], list[Counted]]:
    """Run a step back; return gradients of (the state before, the products, x and v if there are any)."""
    if cell == "min-gru":
        z, u, before = kept
        keep = 1 - z
        g = dh + carried
        return keep * g, [(g * (u - before)) * (z * keep), g * z], []
    if cell == "min-lstm":
        f, i, u, before = kept
        both = f + i
        keep, new = f / both, i / both
        g = dh + carried
        d = (g * (before - u)) / both
        return keep * g, [(d * new) * (f * (1 - f)), -((d * keep) * (i * (1 - i))), g * new], []
    if cell == "qrnn":
        z, f, o, c, before = kept
        g = dh * o + carried
        fresh = 1 - f
        df = (g * (before - z)) * (f * fresh)
        do = (dh * c) * (o * (1 - o))
        return f * g, [(g * fresh) * (1 - z * z), df, do], []
    if cell == "rg-lru":
        r, i, before, x = kept
        a = exp(r * SLOPE)
        square = a * a
        m = root(1 - square)
        g = dh + carried
        # The gradient of log a: a falls, and with it √(1 − a²) rises.
        slope = g * (a * before - (i * x) * (square / m))
        dx = g * (m * i)
        gates = [slope * ((r * (1 - r)) * SLOPE), dx * ((1 - i) * x)]
        return a * g, gates, [dx, slope * r + 0.0]  # the last is summed over positions and sequences
    u, f, r, c, before, x = kept
    fresh, through = 1 - f, 1 - r
    g = dh * r + carried
    df = (g * (before - u)) * (f * fresh)
    dr = (dh * (c - x)) * (r * through)
    back, extra = f * g, [dh * through]
    if v is not None:
        back = (back + dr * v[1]) + df * v[0]
        extra += [df * before + 0.0, dr * before + 0.0]  # summed over positions and sequences
    return back, [g * fresh, df, dr], extra


def root(x: Counted) -> Counted:
    """Return a square root, one special operation."""
    return special(math.sqrt, x)


@dataclass(frozen=True)
class Walk:
    """Pointwise FLOPs, special operations and depth of T steps of one unit."""

    vector: int
    special: int
    depth: int


def _number(x: Any) -> Any:
    return Counted(x.value) if isinstance(x, Counted) else x


@cache
def walk(cell: str, direction: str, t: int, bias: bool, peephole: bool) -> Walk:
    """Run and count T steps."""
    biases = [0.1] * BIASED[cell] if bias else None
    v = (0.3, 0.2) if peephole else None
    LEDGER.clear()
    state, histories, depths = Counted(0.5), [], []
    for _ in range(t):
        pre = [Counted(0.4)] * MATRICES[cell]
        state, h, kept = forward(cell, pre, state, Counted(0.7), biases, v)
        histories.append(tuple(map(_number, kept)))
        depths.append(h.depth)
    if direction == "bwd":
        LEDGER.clear()
        carried, depths = Counted(0.0), []
        for kept in reversed(histories):
            carried, gates, extra = backward(cell, Counted(1.0), carried, kept, v)
            depths.append(max(x.depth for x in (*gates, *extra[:1])))
    return Walk(LEDGER["vector"], LEDGER["special"], max(depths))


def gated(name: str, o: dict[str, Any], s: Sizes) -> Expected:
    """Expect the products of all positions at once (formulas.md §1, second table), then one kernel."""
    w = WIDTH[o["dtype"]]
    b, t, h, layers = (s[k] for k in ("batch", "seq", "hidden", "num_layers"))
    i, blocks = s.get("input", h), s.get("heads", 1)
    taps = s["k"] if name == "qrnn" else 1
    highway = o.get("highway", False)
    peephole = o.get("peephole", False)
    skips = 1 if name == "rg-lru" or (name == "sru" and not highway) else 0
    mats = MATRICES[name] + highway
    kept = KEPT[name] + highway
    biased = BIASED[name] if o["bias"] else 0
    vectors = 1 if name == "rg-lru" else 2 if peephole else 0
    stacked = [(i, 1), (h, layers - 1)]
    products = sum(mats * taps * width * h * count for width, count in stacked) // blocks
    weights = products + layers * h * vectors
    seen = t if not o["generation"] else 1  # positions per kernel

    def blockwise(m: int, n: int, k: int, **more: int) -> Kernel:
        """Return a product with a block-diagonal matrix, which is a smaller one for each block."""
        return product(w, m, n // blocks, k // blocks, times=blocks, **more)

    def into(place: int, width: int, count: int) -> Kernel:
        """Return a product with the input; only when generating are the window's taps read separately."""
        rows = seen if not o["generation"] else taps
        room = w * b * seen * mats * h if place == 0 else 0  # one layer at a time
        return replace(
            blockwise(b * seen, mats * h, taps * width, workspace=room, repeats=count),
            read=w * (b * rows * width + taps * width * mats * h // blocks),
        )

    def back(width: int, count: int) -> Kernel:
        plain = blockwise(b * t, taps * width, mats * h, repeats=count)
        return replace(plain, read=plain.read + skips * w * b * t * width, write=w * b * t * width)

    def of_weights(width: int, count: int) -> Kernel:
        apart = product(w, mats * h // blocks, taps * width // blocks, b * t, times=blocks)
        plain = replace(apart, repeats=count)
        return replace(
            plain,
            vector=b * t * h * biased,
            read=w * b * t * (mats * h + width),
            write=plain.write + w * h * biased,
        )

    def pointwise(direction: str, *, reads: int, writes: int, once_in: int, once_out: int) -> Kernel:
        one = walk(name, direction, seen, o["bias"], peephole)
        scan = recurrence(o["algorithm"], seen, s["block"])
        loop = recurrence("sequential", seen, 1)
        depth = one.depth
        if o["algorithm"] != "sequential":
            # A tree replaces the loop: its FLOPs and combines (a multiply and an add) instead of the loop's.
            # Walked from the end, the first position has nothing to wait for, but values computed again.
            back = int(direction == "bwd")
            least, many = (walk(name, direction, n, o["bias"], peephole).depth for n in (1, LONG))
            depth = max(back * least, many - 2 * (LONG - back) + 2 * scan.depth)
        return replace(
            chains(
                Kernel(
                    vector=b * h * (one.vector + scan.flops - loop.flops),
                    special=b * h * one.special,
                    read=w * (b * h * seen * reads + h * once_in),
                    write=w * (b * h * seen * writes + h * once_out),
                    steps=scan.depth,
                    depth=depth,
                    # The sequence between two layers; backward also the gradients of the products.
                    workspace=w * b * h * seen * (int(layers > 1) + (mats if direction == "bwd" else 0)),
                ),
                b * h,
            ),
            repeats=layers,
        )

    # When generating, a step reads its state, and writes one that is not its output.
    alone = int(o["generation"])
    state_apart = name in ("sru", "qrnn")
    forward_kernels = [into(place, *pair) for place, pair in enumerate(stacked)]
    forward_kernels.append(
        pointwise(
            "fwd",
            reads=mats + skips + alone,
            writes=1 + alone * state_apart,
            once_in=biased + vectors,
            once_out=0,
        )
    )
    if o["generation"]:
        forward_kernels = [replace(k, repeats=t * k.repeats) for k in forward_kernels]
    # Reads kept values and dh; writes the products' gradients, and the highway's part of dx.
    backward_kernels = [
        pointwise("bwd", reads=kept + 1 + skips, writes=mats + skips, once_in=vectors, once_out=vectors),
        *(back(*pair) for pair in stacked),
        *(of_weights(*pair) for pair in stacked),
    ]
    return Expected(
        kernels=tuple(
            {
                "fwd": forward_kernels,
                "bwd": backward_kernels,
                "fwd+bwd": forward_kernels + backward_kernels,
            }[o["direction"]]
        ),
        inputs=w * b * t * i,
        weights=w * weights,
        offsets=w * layers * h * biased,
        outputs=w * b * t * h,
        # A later layer's input is h: the state, which is kept, or another value.
        kept=w * b * t * (i + layers * kept * h + ((layers - 1) * h if state_apart else 0)),
        path=t,
        parameters=weights + layers * h * biased,
    )
