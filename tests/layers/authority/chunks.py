"""Linear attention with a state, for one head: token by token and by chunks, forward and backward.

S_t = α_t S_{t−1} + e^{i_t} k_t v_tᵀ, o_t = q_t S_t, divided by q_t·z_t if normalised. The programs run on
counting numbers (`counted`) and are checked against torch in test_families.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from .counted import LEDGER, Counted, blocks, exp, log2_ceil, total

Row = list[Counted]
Matrix = list[Row]


@dataclass(frozen=True)
class Head:
    """The operands of a head: rows of q, k and v, and logarithms of its gates."""

    q: Matrix
    k: Matrix
    v: Matrix
    #: ``none``, ``fixed`` (γ), ``scalar`` (one per token) or ``vector`` (one per token and row of the state).
    decay: str
    gates: Sequence[Counted | Row] = ()
    #: Logarithms of the keys' own gates.
    key_gates: Row = field(default_factory=list)
    normalised: bool = False
    gamma: float = 0.9
    #: Count all pairs of a chunk, as FlopCounterMode does, instead of those that a causal mask leaves.
    full: bool = False

    def part(self, r: range) -> Head:
        def cut(rows: Sequence[object]) -> list[object]:
            return list(rows[r.start : r.stop])

        return replace(
            self,
            q=cut(self.q),
            k=cut(self.k),
            v=cut(self.v),
            gates=cut(self.gates),
            key_gates=cut(self.key_gates),
        )


def dot(xs: Sequence[Counted], ys: Sequence[Counted], engine: str = "matrix") -> Counted:
    """Return a dot product: a multiply and an add per term, as deep as a balanced tree."""
    LEDGER[engine] += 2 * len(xs)
    value = sum(x.value * y.value for x, y in zip(xs, ys, strict=True))
    return Counted(value, 1 + log2_ceil(len(xs)) + max(x.depth for x in (*xs, *ys)))


def join(a: Counted, b: Counted) -> Counted:
    """Return a sum that a product accumulates: it costs no operation but adds one to the depth."""
    return Counted(a.value + b.value, 1 + max(a.depth, b.depth))


def columns(m: Matrix) -> Matrix:
    return [list(column) for column in zip(*m, strict=True)]


def settled(m: Sequence[Sequence[Counted]]) -> Matrix:
    """Return numbers as the next kernel reads them: with depth 0."""
    return [[Counted(x.value) for x in row] for row in m]


def running(xs: Row) -> Row:
    """Return prefix sums: one addition each, as deep as a balanced tree."""
    LEDGER["vector"] += len(xs)
    sums, value = [], 0.0
    for x in xs:
        value += x.value
        sums.append(Counted(value, max(x.depth for x in xs) + log2_ceil(len(xs))))
    return sums


def running_gates(h: Head) -> list[Counted | Row]:
    if h.decay == "vector":
        return columns([running(column) for column in columns(h.gates)])  # type: ignore[arg-type, return-value]
    return running(list(h.gates)) if h.decay == "scalar" else []  # type: ignore[arg-type, return-value]


def weighted_keys(h: Head, sums: list[Counted | Row]) -> tuple[Matrix, list[Counted | Row]]:
    """Return the keys decayed to the end of the chunk, and the weights."""
    c = len(h.k)
    if h.decay == "none":
        return h.k, []
    if h.decay == "fixed":
        return [[x * h.gamma ** (c - 1 - t) for x in row] for t, row in enumerate(h.k)], []
    if h.decay == "vector":
        weights = [[exp(end - x) for end, x in zip(sums[-1], row, strict=True)] for row in sums]
        return [
            [a * b for a, b in zip(*rows, strict=True)] for rows in zip(h.k, weights, strict=True)
        ], weights
    distances = [sums[-1] - b for b in sums]
    if h.key_gates:
        distances = [d + i for d, i in zip(distances, h.key_gates, strict=True)]
    weights = [exp(d) for d in distances]
    return [[x * w for x in row] for row, w in zip(h.k, weights, strict=True)], weights


def weighted_queries(h: Head, sums: list[Counted | Row]) -> tuple[Matrix, list[Counted | Row]]:
    """Return the queries weighted for the state at the chunk's beginning, and the weights."""
    if h.decay == "none":
        return h.q, []
    if h.decay == "fixed":
        return [[x * h.gamma ** (t + 1) for x in row] for t, row in enumerate(h.q)], []
    if h.decay == "vector":
        weights = [[exp(x) for x in row] for row in sums]
        return [
            [a * b for a, b in zip(*rows, strict=True)] for rows in zip(h.q, weights, strict=True)
        ], weights
    weights = [exp(b) for b in sums]
    return [[x * w for x in row] for row, w in zip(h.q, weights, strict=True)], weights


def faded(h: Head, sums: list[Counted | Row], state: Matrix, beside: Row) -> tuple[Matrix, Row]:
    """Return the state and the sum of keys decayed over a chunk, without the chunk's own contribution."""
    if h.decay == "none":
        return state, beside
    if h.decay == "fixed":
        power = h.gamma ** len(h.k)
        return [[x * power for x in row] for row in state], [x * power for x in beside]
    if h.decay == "vector":
        left = [exp(x) for x in sums[-1]]
        return [[x * y for x in row] for row, y in zip(state, left, strict=True)], beside
    one = exp(sums[-1])
    return [[x * one for x in row] for row in state], [x * one for x in beside]


def nothing(rows: int, cols: int) -> Matrix:
    return [[Counted(0.0)] * cols for _ in range(rows)]


# -- kernels of the chunked form ---------------------------------------------------------------


def states(h: Head, c: int) -> tuple[list[Matrix], list[Row]]:
    """Return S and z at the beginning of every chunk and at the end of the last."""
    state, beside = nothing(len(h.k[0]), len(h.v[0])), [Counted(0.0)] * (len(h.k[0]) * h.normalised)
    found, sums_found = [state], [beside]
    for r in blocks(len(h.k), c):
        part = h.part(r)
        sums = running_gates(part)
        keys, _ = weighted_keys(part, sums)
        state, beside = faded(part, sums, state, beside)
        added = [[dot(k, v) for v in columns(part.v)] for k in columns(keys)]
        state = [[join(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(state, added, strict=True)]
        if h.normalised:
            beside = [join(a, total(k)) for a, k in zip(beside, columns(keys), strict=True)]
        found.append(state)
        sums_found.append(beside)
    return found, sums_found


def scores(h: Head, sums: list[Counted | Row], queries: Matrix) -> tuple[dict, dict]:
    """Return (QKᵀ ∘ mask, the mask's factors) for the pairs of a chunk."""
    c = len(h.k)
    pairs = [(i, j) for i in range(c) for j in range(c) if h.full or j <= i]
    keys = h.k
    if h.decay == "vector":
        keys = [[x * exp(-b) for x, b in zip(*rows, strict=True)] for rows in zip(h.k, sums, strict=True)]
    product = {
        (i, j): dot(queries[i] if h.decay == "vector" else h.q[i], keys[j], "matrix of keys")
        for i, j in pairs
    }
    return masked(h, sums, product)


def masked(
    h: Head, sums: list[Counted | Row], product: dict, factors: dict | None = None
) -> tuple[dict, dict]:
    if h.decay in ("none", "vector"):
        return product, {}
    if factors is None and h.decay == "fixed":
        factors = {(i, j): Counted(h.gamma ** (i - j)) for i, j in product}
    if factors is None:
        factors = {}
        for i, j in product:
            distance = sums[i] - sums[j]
            factors[i, j] = exp(distance + h.key_gates[j] if h.key_gates else distance)
    return {pair: x * factors[pair] for pair, x in product.items()}, factors


def row_of(a: dict, i: int) -> tuple[list[int], Row]:
    seen = [j for k, j in a if k == i]
    return seen, [a[i, j] for j in seen]


def outputs(h: Head, c: int, all_states: list[Matrix], all_sums: list[Row]) -> Matrix:
    """Return O of all chunks from the states at their beginnings."""
    found = []
    for r, state, beside in zip(blocks(len(h.k), c), all_states, all_sums, strict=False):
        part = h.part(r)
        sums = running_gates(part)
        queries, _ = weighted_queries(part, sums)
        a, _ = scores(part, sums, queries)
        for i, q in enumerate(queries):
            seen, row = row_of(a, i)
            inside = [dot(row, [v[j] for j in seen]) for v in columns(part.v)]
            o = [join(x, dot(q, s)) for x, s in zip(inside, columns(state), strict=True)]
            if h.normalised:
                below = total(row) + total([x * y for x, y in zip(q, beside, strict=True)])
                o = [x / below for x in o]
            found.append(o)
    return found


def undivided(do: Row, o: Row, below: Counted) -> tuple[Row, Counted]:
    """Return dO over the divisor of O, and the dot product of that with O."""
    d = [x / below for x in do]
    return d, total([x * y for x, y in zip(d, o, strict=True)])


def state_gradients(h: Head, c: int, do: Matrix, inner: Row) -> tuple[list[Matrix], list[Row]]:
    """Return dS and dz at the end of every chunk and before the first, walking from the last chunk."""
    ds, dz = nothing(len(h.k[0]), len(h.v[0])), [Counted(0.0)] * (len(h.k[0]) * h.normalised)
    found, sums_found = [ds], [dz]
    for r in reversed(blocks(len(h.k), c)):
        part = h.part(r)
        sums = running_gates(part)
        queries, _ = weighted_queries(part, sums)
        ds, dz = faded(part, sums, ds, dz)
        own = do[r.start : r.stop]
        added = [[dot(q, d) for d in columns(own)] for q in columns(queries)]
        ds = [[join(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(ds, added, strict=True)]
        if h.normalised:
            weighed = [[-(x * inner[t]) for x in q] for t, q in zip(r, queries, strict=True)]
            dz = [join(a, total(q)) for a, q in zip(dz, columns(weighed), strict=True)]
        found.append(ds)
        sums_found.append(dz)
    return found[::-1], sums_found[::-1]


@dataclass
class Gradients:
    """Gradients of one head's operands."""

    q: Matrix = field(default_factory=list)
    k: Matrix = field(default_factory=list)
    v: Matrix = field(default_factory=list)
    gates: list = field(default_factory=list)
    key_gates: Row = field(default_factory=list)


def operand_gradients(
    h: Head,
    c: int,
    do: Matrix,
    inner: Row,
    all_states: list[Matrix],
    all_sums: list[Row],
    ds: list[Matrix],
    dz: list[Row],
) -> Gradients:
    """Return all gradients from S and z at each chunk's beginning, and dS and dz at its end."""
    g, gate_rows = Gradients(), []
    for m, r in enumerate(blocks(len(h.k), c)):
        part, own, s_in, ds_out = h.part(r), do[r.start : r.stop], all_states[m], ds[m + 1]
        sums = running_gates(part)
        queries, e = weighted_queries(part, sums) if h.decay == "vector" else _weights_only(part, sums)
        keys_end, w = weighted_keys(part, sums)
        keys_start = part.k
        if h.decay == "vector":
            back = [[exp(-b) for b in row] for row in sums]
            keys_start = [
                [x * b for x, b in zip(*rows, strict=True)] for rows in zip(part.k, back, strict=True)
            ]
        pairs = [(i, j) for i in range(len(r)) for j in range(len(r)) if h.full or j <= i]
        product = {(i, j): dot(queries[i], keys_start[j], "scores again") for i, j in pairs}
        a, factors = masked(part, sums, product)
        da = {(i, j): dot(own[i], part.v[j]) for i, j in pairs}
        if h.normalised:
            da = {(i, j): x - inner[r.start + i] for (i, j), x in da.items()}
        dp, _ = masked(part, sums, da, factors or None)
        for i in range(len(r)):
            seen, row = row_of(dp, i)
            inside = [dot(row, [k[j] for j in seen], "matrix of keys") for k in columns(keys_start)]
            across = [dot(own[i], s) for s in s_in]
            if h.normalised:
                across = [x - inner[r.start + i] * z for x, z in zip(across, all_sums[m], strict=True)]
            g.q.append(_weighed_sum(part, inside, across, e[i] if e else None, h.gamma ** (i + 1), "q"))
        for j in range(len(r)):
            seen = [i for i, k in pairs if k == j]
            column = [dp[i, j] for i in seen]
            inside = [dot(column, [q[i] for i in seen], "matrix of keys") for q in columns(queries)]
            across = [dot(part.v[j], row) for row in ds_out]
            if h.normalised:
                across = [x + y for x, y in zip(across, dz[m + 1], strict=True)]
            if h.decay == "vector":
                inside = [x * b for x, b in zip(inside, back[j], strict=True)]
            power = h.gamma ** (len(r) - 1 - j)
            g.k.append(_weighed_sum(part, inside, across, w[j] if w else None, power, "k"))
            of_scores = [dot([a[i, j] for i in seen], [own[i][x] for i in seen]) for x in range(len(own[0]))]
            of_state = [dot(keys_end[j], column) for column in columns(ds_out)]
            g.v.append([join(x, y) for x, y in zip(of_scores, of_state, strict=True)])
        for j in range(len(r)):
            gate_rows.append((part.q[j], g.q[r.start + j], part.k[j], g.k[r.start + j]))
    _gate_gradients(h, g, gate_rows)
    return g


def _weights_only(h: Head, sums: list[Counted | Row]) -> tuple[Matrix, list[Counted | Row]]:
    """Return the queries unweighted, with their weights for the state at the chunk's beginning."""
    return h.q, [exp(b) for b in sums] if h.decay == "scalar" else []


def _weighed_sum(
    h: Head, inside: Row, across: Row, weight: Counted | Row | None, power: float, of: str
) -> Row:
    """Return the gradient through the scores plus the weighted gradient through the state."""
    if h.decay == "none":
        return [join(x, y) for x, y in zip(inside, across, strict=True)]
    if h.decay == "vector" and of == "q":
        both = [join(x, y) for x, y in zip(inside, across, strict=True)]
        return [x * w for x, w in zip(both, weight, strict=True)]
    if h.decay == "vector":
        return [x + y * w for x, y, w in zip(inside, across, weight, strict=True)]
    return [x + y * (power if weight is None else weight) for x, y in zip(inside, across, strict=True)]


def _gate_gradients(h: Head, g: Gradients, rows: list[tuple[Row, Row, Row, Row]]) -> None:
    """Add the gates' gradients: q∘dq − k∘dk summed from the end; for the keys' gates, k·dk."""
    if h.decay == "scalar":
        differences = []
        for q, dq, k, dk in rows:
            of_q = total([x * y for x, y in zip(q, dq, strict=True)])
            of_k = total([x * y for x, y in zip(k, dk, strict=True)])
            if h.key_gates:
                g.key_gates.append(of_k)
            differences.append(of_q - of_k)
        g.gates = running(differences[::-1])[::-1]
    if h.decay == "vector":
        entries = [[a * b - c * d for a, b, c, d in zip(*row, strict=True)] for row in rows]
        g.gates = columns([running(column[::-1])[::-1] for column in columns(entries)])


# -- token by token ----------------------------------------------------------------------------


def token_by_token(h: Head) -> Matrix:
    """Return O by the definition, on the vector engine."""
    state, beside, found = (
        nothing(len(h.k[0]), len(h.v[0])),
        [Counted(0.0)] * (len(h.k[0]) * h.normalised),
        [],
    )
    for t, (q, k, v) in enumerate(zip(h.q, h.k, h.v, strict=True)):
        keys = k
        if h.key_gates:
            gate = exp(h.key_gates[t])
            keys = [x * gate for x in k]
        alpha: list[Counted] | list[float] = []
        if h.decay == "fixed":
            alpha = [h.gamma] * len(k)
        if h.decay == "scalar":
            alpha = [exp(h.gates[t])] * len(k)
        if h.decay == "vector":
            alpha = [exp(x) for x in h.gates[t]]
        if alpha:
            state = [[x * a for x in row] for row, a in zip(state, alpha, strict=True)]
            beside = [x * a for x, a in zip(beside, alpha, strict=False)]
        state = [[x + y * z for x, z in zip(row, v, strict=True)] for row, y in zip(state, keys, strict=True)]
        o = [total([x * y for x, y in zip(q, column, strict=True)]) for column in columns(state)]
        if h.normalised:
            beside = [x + y for x, y in zip(beside, keys, strict=True)]
            below = total([x * y for x, y in zip(q, beside, strict=True)])
            o = [x / below for x in o]
        found.append(o)
    return found


# -- counts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """FLOPs and depth of one kernel for one head; products of queries and keys are separate."""

    matrix: int
    keys: int
    again: int
    vector: int
    special: int
    depth: int


def _tally(result: Sequence[Sequence[Counted]]) -> Tally:
    depth = max(x.depth for row in result for x in row)
    names = ("matrix", "matrix of keys", "scores again", "vector", "special")
    counted = Tally(*(LEDGER[name] for name in names), depth)
    LEDGER.clear()
    return counted


def example(n: int, dk: int, dv: int, decay: str, gate_depth: int = 0, **more: object) -> Head:
    """Return a head of given sizes; the logarithms of its gates have depth `gate_depth`."""

    def rows(width: int, value: float) -> Matrix:
        return [[Counted(value)] * width for _ in range(n)]

    gate = Counted(-0.1, gate_depth)
    gates: dict[str, list] = {"scalar": [gate] * n, "vector": [[gate] * dk for _ in range(n)]}
    key_gates = [Counted(0.1)] * n if more.pop("gated_keys", False) else []
    return Head(
        rows(dk, 0.3),
        rows(dk, 0.2),
        rows(dv, 0.4),
        decay,
        gates.get(decay, []),
        key_gates,
        **more,  # type: ignore[arg-type]
    )


@cache
def kernels(n: int, c: int, dk: int, dv: int, decay: str, direction: str, **more: object) -> dict[str, Tally]:
    """Return the cost of each kernel of the chunked form for one head."""
    h = example(n, dk, dv, decay, **more)
    LEDGER.clear()
    found, beside = states(h, c)
    tallies = {"states": _tally([*(row for s in found for row in s), *beside])}
    found, beside = [settled(s) for s in found], settled(beside)
    o = outputs(h, c, found, beside)
    tallies["outputs"] = _tally(o)
    if direction == "fwd":
        return tallies
    do, inner = [[Counted(0.5)] * dv for _ in range(n)], [Counted(0.1)] * n
    ds, dz = state_gradients(h, c, do, inner)
    tallies["state gradients"] = _tally([*(row for s in ds for row in s), *dz])
    ds, dz = [settled(s) for s in ds], settled(dz)
    g = operand_gradients(h, c, do, inner, found, beside, ds, dz)
    gates = g.gates if decay == "vector" else [g.gates] if g.gates else []
    tallies["operand gradients"] = _tally([*g.q, *g.k, *g.v, *gates])
    return {name: tallies[name] for name in ("state gradients", "operand gradients")}


@cache
def recurrence(n: int, dk: int, dv: int, decay: str, **more: object) -> Tally:
    """Return the cost of the token-by-token form for one head."""
    LEDGER.clear()
    return _tally(token_by_token(example(n, dk, dv, decay, **more)))
