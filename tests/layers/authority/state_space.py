"""State spaces of Mamba and Mamba-2 and RWKV's average: programs for one channel, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from .counted import LEDGER, Counted, exp, log2_ceil, maximum, total
from .kernels import WIDTH, Expected, Kernel, Number, product, statistic, table
from .pointwise import sigmoid, silu
from .scans import chains, recurrence, updated

Sizes = dict[str, int]
Row = list[Counted]


# -- Mamba (S6), one channel of N_s states -----------------------------------------------------


def selective_scan(x: Row, delta: Row, z: Row, a: Row, b: list[Row], c: list[Row], d: Counted) -> Row:
    """Return y ∘ SiLU(z) for h ← exp(Δ A) h + Δ B x, y = C·h + D x."""
    h, out = [Counted(0.0)] * len(a), []
    for t in range(len(x)):
        decay = [exp(delta[t] * entry) for entry in a]
        h = [p * s + (delta[t] * u) * x[t] for p, s, u in zip(decay, h, b[t], strict=True)]
        y = total([u * s for u, s in zip(c[t], h, strict=True)]) + x[t] * d
        out.append(y * silu(z[t]))
    return out


@dataclass
class ScanGradients:
    x: Row
    delta: Row
    z: Row
    a: list[Row]
    b: list[Row]
    c: list[Row]
    d: Row


def selective_scan_gradient(
    dout: Row, x: Row, delta: Row, z: Row, a: Row, b: list[Row], c: list[Row], d: Counted
) -> ScanGradients:
    """Compute the states again, then walk from the end.

    a, b, c and d hold the parts of single positions. Sums over positions or channels follow, whose additions
    are counted here.
    """
    n, h, states, decays, outs = len(x), [Counted(0.0)] * len(a), [], [], []
    for t in range(n):
        decays.append([exp(delta[t] * entry) for entry in a])
        states.append(h)
        h = [p * s + (delta[t] * u) * x[t] for p, s, u in zip(decays[t], h, b[t], strict=True)]
        outs.append((h, total([u * s for u, s in zip(c[t], h, strict=True)]) + x[t] * d))
    g = ScanGradients([], [], [], [], [], [], [])
    carried = [Counted(0.0)] * len(a)
    for t in reversed(range(n)):
        h, y = outs[t]
        s = sigmoid(z[t])
        gate = z[t] * s
        dy = dout[t] * gate
        of_gate = dout[t] * y
        g.z.append((of_gate * s) * (1 + z[t] * (1 - s)))
        dh = [dy * u + k for u, k in zip(c[t], carried, strict=True)]
        carried = [p * v for p, v in zip(decays[t], dh, strict=True)]
        of_decay = [(v * before) * p for v, before, p in zip(dh, states[t], decays[t], strict=True)]
        scaled = delta[t] * x[t]
        of_scaled = total([v * u for v, u in zip(dh, b[t], strict=True)])
        g.x.append(of_scaled * delta[t] + dy * d)
        g.delta.append(total([v * u for v, u in zip(of_decay, a, strict=True)]) + of_scaled * x[t])
        g.a.append(added([v * delta[t] for v in of_decay]))
        g.b.append(added([v * scaled for v in dh]))
        g.c.append(added([dy * v for v in h]))
        g.d.append(added([dy * x[t]])[0])
    for row in (g.x, g.delta, g.z, g.a, g.b, g.c, g.d):
        row.reverse()
    return g


def added(xs: Row) -> Row:
    """Return parts of sums over positions or channels, and count one addition each."""
    LEDGER["vector"] += len(xs)
    return xs


@dataclass(frozen=True)
class Cost:
    vector: int
    special: int
    depth: int


@cache
def scan_cost(t: int, states: int, direction: str, batch: int, channels: int) -> Cost:
    """Return the cost of one channel over T positions; depth includes sums over sequences and channels."""
    one = Counted(0.3)
    rows, wide = [one] * t, [[one] * states for _ in range(t)]
    args = (rows, rows, rows, [Counted(-0.5)] * states, wide, wide, one)
    LEDGER.clear()
    if direction == "fwd":
        out = selective_scan(*args)
        return Cost(LEDGER["vector"], LEDGER["special"], max(x.depth for x in out))
    g = selective_scan_gradient(rows, *args)
    over_all, over_channels = log2_ceil(batch * t), log2_ceil(channels)
    depths = [
        *(x.depth for x in (*g.x, *g.delta, *g.z)),
        *(x.depth + over_all for row in g.a for x in row),
        *(x.depth + over_all for x in g.d),
        *(x.depth + over_channels for row in (*g.b, *g.c) for x in row),
    ]
    return Cost(LEDGER["vector"], LEDGER["special"], max(depths))


def mamba(o: dict[str, Any], s: Sizes) -> Expected:
    w = WIDTH[o["dtype"]]
    b, n, d, e, st, r, k = (s[x] for x in ("batch", "seq", "d_model", "hidden", "state", "rank", "k"))
    loop, scan = recurrence("sequential", n, 1), recurrence(o["algorithm"], n, s["block"])

    def tokens(width: int) -> Number:
        return w * b * n * width

    core_in, core_weights = tokens(3 * e + 2 * st), e * st + e
    one_by_one = o["form"] == "recurrent"
    # E·N_s states of a sequence, and the k − 1 last positions of the convolution, of which new ones replace
    # the oldest.
    state = b * e * st * (WIDTH[o["state_dtype"]] if o["state_dtype"] else statistic(o["dtype"]))
    window, stays = (w * b * e * size if one_by_one else 0 for size in (k - 1, max(0, k - 1 - n)))
    forward = _core(o, s, loop, scan, core_in + w * core_weights, tokens(e))
    cost = scan_cost(n, st, "bwd", b, e)
    walked = chains(
        Kernel(
            vector=b * e * (cost.vector + 2 * st * (scan.flops - loop.flops)),
            special=b * e * cost.special,
            read=core_in + w * core_weights + tokens(e),
            write=core_in + w * core_weights,
            steps=scan.depth,
            depth=cost.depth + 2 * (scan.depth - loop.depth),
        ),
        b * e * st,
        steps=2 * scan.depth,
    )
    backward: tuple[Kernel, ...] = (walked,)
    if one_by_one:
        (core,) = forward
        forward = (updated(replace(core, read=core.read + state, write=core.write + state), state),)
    if not o["projections"]:
        return Expected(
            kernels={"fwd": forward, "bwd": backward, "fwd+bwd": forward + backward}[o["direction"]],
            inputs=core_in,
            weights=w * core_weights,
            outputs=tokens(e),
            updated=state if one_by_one else 0,
            kept=0 if one_by_one else core_in,
            path=n,
            parameters=core_weights,
        )
    # formulas.md §5: in_proj 4dE, conv 2kE, x_proj 2E(R + 2N_s), dt_proj 2RE, out_proj 2dE a token.
    rows, torch = b * n, o["convention"] == "torch"

    def taps(times: int) -> dict[str, Any]:
        """Return the taps' FLOPs; torch counts them as products, and the weights' gradient E times."""
        return {"matrix" if torch else "vector": times * 2 * k * e * rows}

    convolved = Kernel(
        **taps(1),
        read=tokens(e) + w * k * e + window,
        write=tokens(e) + window,
        depth=1 + log2_ceil(k),
        sizes={"batch": b, "seq": n, "channels": e, "width": k},
    )
    widths = ((d, 2 * e), (e, r + 2 * st), (r, e), (e, d))
    into, low, step, out = (
        product(w, rows, outer, inner, workspace=0 if outer == d and inner == e else tokens(outer))
        for inner, outer in widths
    )
    back = [(product(w, rows, inner, outer), product(w, inner, outer, rows)) for inner, outer in widths]
    unconvolved = table(
        w, rows, e, 2, 1, depth=1 + max(log2_ceil(k), log2_ceil(rows)), more_read=w * k * e,
        more_write=w * k * e,
    )  # fmt: skip
    unconvolved = replace(unconvolved, **taps(1 + e if torch else 2))
    forward = (into, convolved, low, step, *forward, out)
    twice = table(w, rows, e, 2, 1, vector=1)  # x enters the scan and the product that makes Δ, B and C
    backward = (*back[3], *backward, *back[2], *back[1], twice, unconvolved, *back[0])
    parameters = core_weights + 2 * d * e + k * e + e * (r + 2 * st) + r * e + e * d
    return Expected(
        kernels={"fwd": forward, "bwd": backward, "fwd+bwd": forward + backward}[o["direction"]],
        inputs=tokens(d),
        weights=w * parameters,
        outputs=tokens(d),
        updated=state + window if one_by_one else 0,
        unwritten=stays,
        # The input; x before and after the convolution; z; Δ's low rank; Δ; B and C; y.
        kept=0 if one_by_one else tokens(d + e + e + e + r + e + 2 * st + e),
        path=n,
        parameters=parameters,
    )


def _core(
    o: dict[str, Any], s: Sizes, loop: Any, scan: Any, read: Number, write: Number
) -> tuple[Kernel, ...]:
    w = WIDTH[o["dtype"]]
    b, n, e, st = (s[x] for x in ("batch", "seq", "hidden", "state"))
    lanes = b * e * st
    if o["fused"]:
        cost = scan_cost(n, st, "fwd", b, e)
        return (
            chains(
                Kernel(
                    vector=b * e * (cost.vector + st * (scan.flops - loop.flops)),
                    special=b * e * cost.special,
                    read=read,
                    write=write,
                    steps=scan.depth,
                    depth=cost.depth + 2 * (scan.depth - loop.depth),
                ),
                lanes,
            ),
        )
    # formulas.md §5: exp(ΔA), ΔBx and h are materialised, B·n·E·N_s each; then C·h, + D x and the gate.
    wide, narrow, shared = w * b * n * e * st, w * b * n * e, w * b * n * st
    one = b * n * e

    def kernel(vector: int, depth: int, moved: tuple[Number, Number], width: int, **more: Any) -> Kernel:
        return chains(Kernel(vector=vector, depth=depth, read=moved[0], write=moved[1], **more), width)

    return (
        kernel(lanes * n, 2, (narrow + w * e * st, wide), lanes, special=lanes * n, workspace=wide),
        kernel(2 * lanes * n, 2, (2 * narrow + shared, wide), lanes, workspace=wide),
        kernel(lanes * scan.flops, 2 * scan.depth, (2 * wide, wide), lanes, steps=scan.depth, workspace=wide),
        kernel(2 * lanes * n, 1 + log2_ceil(st), (wide + shared, narrow), b * e, workspace=narrow),
        kernel(2 * one, 2, (2 * narrow + w * e, narrow), b * e, workspace=narrow),
        kernel(3 * one, 4, (2 * narrow, narrow), b * e, special=one),
    )


# -- Mamba-2: what it adds to linear attention -------------------------------------------------


@dataclass(frozen=True)
class Duality:
    forward_channel: int
    backward_channel: int
    backward_token: int


def discretised(delta: Counted, a: Counted, x: Row) -> tuple[Counted, Row]:
    """Return the gate's logarithm Δ A and the values Δ x."""
    return delta * a, [delta * u for u in x]


def duality_gradient(
    delta: Counted, a: Counted, x: Row, skip: Counted, dy: Row, dgate: Counted, dvalues: Row
) -> tuple[Row, Counted, Counted, Row]:
    """Return (dx, dΔ, this token's parts of dA and dD); the additions of their sums are counted here."""
    dx = [u * delta + v * skip for u, v in zip(dvalues, dy, strict=True)]
    ddelta = total([u * v for u, v in zip(x, dvalues, strict=True)]) + dgate * a
    return dx, ddelta, added([dgate * delta])[0], added([u * v for u, v in zip(x, dy, strict=True)])


@cache
def duality_cost() -> Duality:
    """Return the FLOPs per channel and per token, from runs with 3 and with 5 channels."""

    def counted(run: Any) -> tuple[int, int]:
        costs = []
        for p in (3, 5):
            LEDGER.clear()
            run([Counted(0.3)] * p)
            costs.append(LEDGER["vector"])
        channel = (costs[1] - costs[0]) // 2
        return channel, costs[0] - 3 * channel

    one = Counted(0.4)

    def forward(x: Row) -> None:
        _, values = discretised(one, one, x)
        _ = [o + u * one for o, u in zip(values, x, strict=True)]

    def backward(x: Row) -> None:
        discretised(one, one, x)
        duality_gradient(one, one, x, one, x, one, x)

    (there, one_there), (back, one_back) = counted(forward), counted(backward)
    assert one_there == 1
    return Duality(there, back, one_back)


# -- RWKV-4, one channel -----------------------------------------------------------------------

FLOOR = -1e38


def wkv(w: Counted, u: Counted, k: Row, v: Row) -> Row:
    """Run the published kernel: numerator p and denominator q, both divided by e^o."""
    p, q, o, out = Counted(0.0), Counted(0.0), Counted(FLOOR), []
    for kk, vv in zip(k, v, strict=True):
        now = u + kk
        top = maximum(o, now)
        e1, e2 = exp(o - top), exp(now - top)
        out.append((e1 * p + e2 * vv) / (e1 * q + e2))
        past = w + o
        top = maximum(past, kk)
        e1, e2 = exp(past - top), exp(kk - top)
        p, q, o = e1 * p + e2 * vv, e1 * q + e2, top
    return out


def wkv_gradient(w: Counted, u: Counted, k: Row, v: Row, y: Row, dy: Row) -> tuple[Row, Row, Row, Row]:
    """Run the published backward kernel, two walks; return (dw, du, dk, dv)."""
    p, q, o, dp, dq = Counted(0.0), Counted(0.0), Counted(FLOOR), Counted(0.0), Counted(0.0)
    left, dw, du = [], Counted(0.0), Counted(0.0)
    for kk, vv, yy, g in zip(k, v, y, dy, strict=True):
        now = u + kk
        top = maximum(o, now)
        distance = now - top
        e1, e2 = exp(o - top), exp(distance)
        scale = g / (e1 * q + e2)
        dw = dw + ((dp - dq * yy) * e1) * scale
        du = du + ((vv - yy) * e2) * scale
        left.append((scale, distance))
        past = w + o
        top = maximum(past, kk)
        e1, e2 = exp(past - top), exp(kk - top)
        dp, dq = e1 * (p + dp), e1 * (q + dq)
        p, q, o = e1 * p + e2 * vv, e1 * q + e2, top
    return [dw], [du], *_second_walk(w, u, k, v, y, left)


def _second_walk(
    w: Counted, u: Counted, k: Row, v: Row, y: Row, left: Sequence[tuple[Counted, Counted]]
) -> tuple[Row, Row]:
    gp, gq, o, dk, dv = Counted(0.0), Counted(0.0), Counted(FLOOR), [], []
    for kk, vv, yy, (scale, distance) in reversed(list(zip(k, v, y, left, strict=True))):
        e1, e2 = scale * exp(distance), exp(kk + o)
        dk.append(e1 * (vv - yy) + e2 * (gp * vv + gq))
        dv.append(e1 + e2 * gp)
        past, now = w + o, (distance - u) - kk
        top = maximum(past, now)
        e1, e2 = exp(past - top), scale * exp(now - top)
        gp, gq, o = e1 * gp + e2, e1 * gq - e2 * yy, top
    return dk[::-1], dv[::-1]


@cache
def wkv_cost(t: int, direction: str) -> Cost:
    one, rows = Counted(0.2), [Counted(0.3)] * t
    LEDGER.clear()
    if direction == "fwd":
        result = wkv(one, one, rows, rows)
    else:
        result = [x for row in wkv_gradient(one, one, rows, rows, rows, rows) for x in row]
    return Cost(LEDGER["vector"], LEDGER["special"], max(x.depth for x in result))


def rwkv(o: dict[str, Any], s: Sizes) -> Expected:
    w, stat = WIDTH[o["dtype"]], statistic(o["dtype"])
    b, n, d = s["batch"], s["seq"], s["d_model"]
    one, left = w * b * n * d, 2 * stat * b * n * d

    def walk(direction: str, walks: int, read: Number, write: Number, workspace: Number) -> Kernel:
        cost = wkv_cost(n, direction)
        return chains(
            Kernel(
                vector=b * d * cost.vector,
                special=b * d * cost.special,
                read=read,
                write=write,
                steps=walks * n,
                depth=cost.depth,
                workspace=workspace,
            ),
            b * d,
        )

    forward = (walk("fwd", 1, 2 * one + w * 2 * d, one, 0),)
    # k, v, y, dy in; dk, dv out, and dw and du per sequence; scale and exponent per position out and in.
    backward = (walk("bwd", 2, 4 * one + w * 2 * d + left, 2 * one + b * w * 2 * d + left, left),)
    return Expected(
        kernels={"fwd": forward, "bwd": backward, "fwd+bwd": forward + backward}[o["direction"]],
        inputs=2 * one,
        weights=w * 2 * d,
        outputs=one,
        kept=3 * one,
        path=n,
        parameters=2 * d,
    )
