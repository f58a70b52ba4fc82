"""One step of Elman's RNN, the LSTM and the GRU, forward and backward, one unit at a time.

Biases are torch's two: (W x + b_ih) + (U h + b_hh). Backward walks from the last step. Factors that do not
depend on a gradient are multiplied first, so that they do not lengthen the dependent chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from .counted import LEDGER, Counted, dot, log2_ceil, sigma, tanh

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
Row = list[Counted]
Matrix = Sequence[Sequence[float]]


def _pre(
    wx: Row, h: Row, u: Matrix, biases: tuple[Sequence[float], Sequence[float]] | None
) -> tuple[Row, Row]:
    """Return (W x + b_ih, U h + b_hh) for every gate and unit."""
    uh = [dot(h, row) for row in u]
    if biases is None:
        return wx, uh
    return [x + b for x, b in zip(wx, biases[0], strict=True)], [
        x + b for x, b in zip(uh, biases[1], strict=True)
    ]


def forward(cell: str, wx: Row, state: tuple[Row, Row], u: Matrix, biases: Any) -> tuple[Row, Row, Any]:
    """Run one step; return (h, c, values that backward needs)."""
    h, c = state
    x, uh = _pre(wx, h, u, biases)
    n = len(u) // GATES[cell]
    if cell == "rnn":
        new = [tanh(a + b) for a, b in zip(x, uh, strict=True)]
        return new, c, new
    if cell == "lstm":
        i, f, g, o = (
            [(tanh if gate == 2 else sigma)(x[gate * n + j] + uh[gate * n + j]) for j in range(n)]
            for gate in range(4)
        )
        cell_state = [f[j] * c[j] + i[j] * g[j] for j in range(n)]
        return [o[j] * tanh(cell_state[j]) for j in range(n)], cell_state, (i, f, g, o, c, cell_state)
    r = [sigma(x[j] + uh[j]) for j in range(n)]
    z = [sigma(x[n + j] + uh[n + j]) for j in range(n)]
    m = [tanh(x[2 * n + j] + r[j] * uh[2 * n + j]) for j in range(n)]
    new = [m[j] + z[j] * (h[j] - m[j]) for j in range(n)]
    return new, c, (r, z, m, uh[2 * n :], h)


def backward(cell: str, dy: Row, carried: tuple[Row, Row], kept: Any, u: Matrix) -> tuple[Row, Row]:
    """Run one step back; return the gradients for the step before.

    ``carried`` is (gradient through the recurrent product, gradient past it: dc, or dh∘z).
    """
    product, past = carried
    n = len(dy)
    columns = list(zip(*u, strict=True))
    if cell == "rnn":
        dh = [dy[j] + product[j] for j in range(n)]
        gates = [dh[j] * (1 - kept[j] * kept[j]) for j in range(n)]
        return [dot(gates, column) for column in columns], past
    if cell == "lstm":
        i, f, g, o, before, state = kept
        dh = [dy[j] + product[j] for j in range(n)]
        t = [tanh(s) for s in state]
        dc = [past[j] + dh[j] * (o[j] * (1 - t[j] * t[j])) for j in range(n)]
        gates = [dc[j] * (g[j] * (i[j] * (1 - i[j]))) for j in range(n)]
        gates += [dc[j] * (before[j] * (f[j] * (1 - f[j]))) for j in range(n)]
        gates += [dc[j] * (i[j] * (1 - g[j] * g[j])) for j in range(n)]
        gates += [dh[j] * (t[j] * (o[j] * (1 - o[j]))) for j in range(n)]
        return [dot(gates, column) for column in columns], [dc[j] * f[j] for j in range(n)]
    r, z, m, uhn, before = kept
    dh = [product[j] + (dy[j] + past[j]) for j in range(n)]
    dm = [dh[j] * ((1 - z[j]) * (1 - m[j] * m[j])) for j in range(n)]
    dz = [dh[j] * ((before[j] - m[j]) * (z[j] * (1 - z[j]))) for j in range(n)]
    dr = [dm[j] * (uhn[j] * (r[j] * (1 - r[j]))) for j in range(n)]
    gates = [*dr, *dz, *(dm[j] * r[j] for j in range(n))]
    return [dot(gates, column) for column in columns], [dh[j] * z[j] for j in range(n)]


@dataclass(frozen=True)
class Step:
    """Operations of a step per unit, and its dependent chain, both without the recurrent product."""

    vector: int
    special: int
    chain: int


@cache
def step(cell: str, direction: str, bias: bool = True) -> Step:
    """Count the operations of a step by running it, and its chain by running several."""
    units, steps = 3, 5
    g = GATES[cell]
    u = [[0.1] * units for _ in range(g * units)]
    biases = ([0.2] * (g * units), [0.3] * (g * units)) if bias else None
    h, c = [Counted(0.0)] * units, [Counted(0.5)] * units
    histories, depths, counts = [], [], []
    for _ in range(steps):
        LEDGER.clear()
        h, c, kept = forward(cell, [Counted(0.4)] * (g * units), (h, c), u, biases)
        histories.append(kept)
        depths.append(max(x.depth for x in h))
        counts.append((LEDGER["vector"], LEDGER["special"]))
    tree = 1 + log2_ceil(units)
    if direction == "bwd":
        # Forward's values are known before backward starts, so they have no depth.
        histories = [_settled(kept) for kept in histories]
        carried: tuple[Row, Row] = ([Counted(0.0)] * units, [Counted(0.0)] * units)
        depths, counts = [], []
        for kept in reversed(histories):
            LEDGER.clear()
            carried = backward(cell, [Counted(1.0)] * units, carried, kept, u)
            depths.append(max(x.depth for x in carried[0]))
            counts.append((LEDGER["vector"], LEDGER["special"]))
        tree = 1 + log2_ceil(g * units)
    vector, special = counts[-1]
    assert vector % units == 0, "every unit costs the same"
    assert depths[-1] - depths[-2] == depths[-2] - depths[-3], "the chain is periodic"
    return Step(vector // units, special // units, depths[-1] - depths[-2] - tree)


def _settled(kept: Any) -> Any:
    if isinstance(kept, Counted):
        return Counted(kept.value)
    return tuple(_settled(k) for k in kept) if isinstance(kept, tuple) else [_settled(k) for k in kept]
