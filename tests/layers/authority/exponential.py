"""sLSTM: one step of xLSTM's scalar memory, forward and backward, one unit at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from .counted import LEDGER, Counted, dot, exp, log2_ceil, maximum, sigma, special, tanh
from .kernels import WIDTH, Expected, Kernel, dot_depth, product

Sizes = dict[str, int]
GATES = 4
KEPT = 8  # i′, f′, σ(f), z, o, c, n, and h for the recurrent weights' gradient
Row = list[Counted]


@dataclass(frozen=True)
class Memory:
    """h, c, n, m of every unit."""

    h: Row
    c: Row
    n: Row
    m: Row


def forward(
    wx: list[Row], before: Memory, r: list[list[list[float]]], bias: list[float] | None
) -> tuple[Memory, Any]:
    """Run a step (arXiv 2405.04517, eq. 8–18, stabilised); wx and r by gate i, f, z, o; wx has the bias."""
    units = range(len(before.h))
    pre = []
    for gate in range(GATES):
        into = [x + bias[gate] for x in wx[gate]] if bias else wx[gate]
        pre.append([into[u] + dot(before.h, r[gate][u]) for u in units])
    i, f, z, o = pre
    sf = [sigma(x) for x in f]
    kept_on = [special(math.log, x) + m for x, m in zip(sf, before.m, strict=True)]
    m = [maximum(a, x) for a, x in zip(kept_on, i, strict=True)]
    new = [exp(x - y) for x, y in zip(i, m, strict=True)]
    keep = [exp(x - y) for x, y in zip(kept_on, m, strict=True)]
    zt, ot = [tanh(x) for x in z], [sigma(x) for x in o]
    c = [keep[u] * before.c[u] + new[u] * zt[u] for u in units]
    n = [keep[u] * before.n[u] + new[u] for u in units]
    h = [(ot[u] * c[u]) / n[u] for u in units]
    return Memory(h, c, n, m), (new, keep, sf, zt, ot, c, n, before.c, before.n)


def backward(
    dy: Row, carried: tuple[Row, Row, Row], kept: Any, r: list[list[list[float]]]
) -> tuple[tuple[Row, Row, Row], list[Row]]:
    """Return ((gradient through the product, dc, dn) for the step before, gradients of pre-activations)."""
    product_, dc_, dn_ = carried
    new, keep, sf, zt, ot, c, n, c_before, n_before = kept
    gates: list[Row] = [[], [], [], []]
    dcs, dns = [], []
    for u in range(len(dy)):
        dh = dy[u] + product_[u]
        ratio = c[u] / n[u]
        part = (dh * ot[u]) / n[u]
        dc, dn = part + dc_[u], dn_[u] - part * ratio
        dkeep = dc * c_before[u] + dn * n_before[u]
        dnew = dc * zt[u] + dn
        gates[0].append(dnew * new[u])
        gates[1].append((dkeep * keep[u]) * (1 - sf[u]))
        gates[2].append((dc * new[u]) * (1 - zt[u] * zt[u]))
        gates[3].append((dh * ratio) * (ot[u] * (1 - ot[u])))
        dcs.append(dc * keep[u])
        dns.append(dn * keep[u])
    flat = [x for gate in gates for x in gate]
    columns = [[row[v] for gate in r for row in gate] for v in range(len(dy))]
    return ([dot(flat, column) for column in columns], dcs, dns), gates


@dataclass(frozen=True)
class Step:
    """FLOPs, special operations and dependent chain of a step per unit, without the product."""

    vector: int
    special: int
    chain: int


@cache
def step(direction: str, bias: bool) -> Step:
    units, steps = 3, 6
    r = [[[0.1] * units for _ in range(units)] for _ in range(GATES)]
    biases = [0.1, 0.2, 0.3, 0.4] if bias else None
    memory = Memory(
        [Counted(0.1)] * units, [Counted(0.5)] * units, [Counted(0.7)] * units, [Counted(0.0)] * units
    )
    histories, depths, counts = [], [], []
    for _ in range(steps):
        LEDGER.clear()
        memory, kept = forward([[Counted(0.3)] * units] * GATES, memory, r, biases)
        histories.append(tuple([Counted(x.value) for x in row] for row in kept))
        depths.append(max(x.depth for x in memory.h))
        counts.append((LEDGER["vector"], LEDGER["special"]))
    tree = 1 + log2_ceil(units)
    if direction == "bwd":
        zero = [Counted(0.0)] * units
        carried, depths, counts = (zero, zero, zero), [], []
        for kept in reversed(histories):
            LEDGER.clear()
            carried, _ = backward([Counted(1.0)] * units, carried, kept, r)
            depths.append(max(x.depth for x in carried[0]))
            counts.append((LEDGER["vector"], LEDGER["special"]))
        tree = 1 + log2_ceil(GATES * units)
    vector, exps = counts[-1]
    assert depths[-1] - depths[-2] == depths[-2] - depths[-3]
    return Step(vector // units, exps // units, depths[-1] - depths[-2] - tree)


def slstm(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect 2·4·B·T·H·(I + H/heads): a block of recurrent weights per head, one bias vector per gate."""
    w = WIDTH[o["dtype"]]
    b, t, h, heads, layers = (s[x] for x in ("batch", "seq", "hidden", "heads", "num_layers"))
    ways = 2 if o["bidirectional"] else 1
    block = h // heads
    stacked = [(s["input"], 1), (ways * h, layers - 1)]
    one_way = GATES * h * block
    bias = GATES * h if o["bias"] else 0

    def walk(direction: str, reads: int, writes: int, once: int) -> Kernel:
        cost = step(direction, o["bias"])
        first = ways * w * one_way
        again = {True: 0, False: first, None: max(0, first - s["onchip"])}[o["persistent"]]
        made = t - (direction == "bwd" and o["convention"] == "torch")
        inner = block if direction == "fwd" else GATES * block
        return Kernel(
            matrix=2 * b * ways * made * one_way,
            vector=t * b * ways * h * cost.vector,
            special=t * b * ways * h * cost.special,
            read=first + (t - 1) * again + w * ways * (once + t * b * reads),
            write=w * ways * t * b * writes,
            steps=t,
            depth=t * (cost.chain + dot_depth(inner)),
            workspace=w * t * b * ways * (GATES * h + (h if layers > 1 else 0)),
            repeats=layers,
            sizes={"steps": t, "batch": b, "hidden": h, "width": block, "parallel": ways},
        )

    rows, gates = b * t, ways * GATES * h
    state = 4 * h  # h, c, n, m
    forward = (
        *(product(w, rows, gates, i, repeats=count) for i, count in stacked),
        walk("fwd", GATES * h + state, state, bias),
    )
    recurrent = product(w, GATES * block, block, rows, times=ways * heads, repeats=layers)
    if o["bias"]:
        recurrent = _with_bias(recurrent, ways * rows * bias, ways * w * bias)
    backward = (
        walk("bwd", KEPT * h + h, GATES * h, 0),
        *(product(w, rows, i, gates, repeats=count) for i, count in reversed(stacked)),
        *(product(w, gates, i, rows, repeats=count) for i, count in stacked),
        recurrent,
    )
    weights = sum(gates * i * count for i, count in stacked) + layers * ways * one_way
    return Expected(
        kernels={"fwd": forward, "bwd": backward, "fwd+bwd": forward + backward}[o["direction"]],
        inputs=w * rows * s["input"],
        weights=w * weights,
        offsets=w * layers * ways * bias,
        outputs=w * rows * ways * h,
        kept=w * rows * (s["input"] + layers * ways * KEPT * h),
        path=t,
        parameters=weights + layers * ways * bias,
    )


def _with_bias(k: Kernel, additions: int, written: Any) -> Kernel:
    return replace(k, vector=k.vector + additions, write=k.write + written)
