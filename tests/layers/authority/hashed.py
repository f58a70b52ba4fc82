"""Reformer's attention: chunks listed one by one, each with the chunk before."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

from .counted import LEDGER, Counted, log2_ceil, special, tally, total
from .fourier import even_factors, power_of_two
from .kernels import WIDTH, Expected, Kernel, Number, directed, product, statistic, table
from .rows import softmax_pass
from .scans import chains

Sizes = dict[str, int]


def unit_key(q: list[Counted]) -> list[Counted]:
    """Return q/|q|."""
    length = special(math.sqrt, total([x * x for x in q]))
    return [x / length for x in q]


def unit_key_gradient(dq: list[Counted], dk: list[Counted], q: list[Counted]) -> list[Counted]:
    """Return the gradient of a vector that is a query, and a key of unit length."""
    length = special(math.sqrt, total([x * x for x in q]))
    k = [x / length for x in q]
    along = total([a * b for a, b in zip(dk, k, strict=True)])
    return [g + (a - b * along) / length for g, a, b in zip(dq, dk, k, strict=True)]


def unit_cost(d: int, direction: str) -> dict[str, Any]:
    """Return FLOP per element, without the root of each row, and the depth."""
    LEDGER.clear()
    row = [Counted(0.3 + i) for i in range(d)]
    found = unit_key(row) if direction == "fwd" else unit_key_gradient(row, row, row)
    return {"vector": Fraction(LEDGER["vector"], d), "depth": max(x.depth for x in found)}


def chunk_pairs(n: int, m: int) -> list[tuple[int, int]]:
    """Return (queries, keys) of each chunk; the last chunk is padded, and the first one sees it."""
    found = [(m, m) for _ in range(0, n, m)]
    return [(own, own + found[i - 1][1]) for i, (own, _) in enumerate(found)]


def digits(largest: int) -> int:
    """Return the passes of a radix sort by bytes."""
    found = 0
    while 256**found < largest:
        found += 1
    return found


def lsh(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect lucidrains' LSHAttention, kernel by kernel, with the rotations of trax's factors."""
    w, stat, place = WIDTH[o["dtype"]], statistic(o["dtype"]), 8
    b, h, n, d, dv, m, times = (
        s[x] for x in ("batch", "heads", "seq", "head_dim", "value_dim", "block", "rounds")
    )
    heads, count = b * h, o["factors"]
    buckets = max(s["lists"], 2**count)
    factors = even_factors(power_of_two(buckets), count)
    columns = Fraction(sum(factors), 2)
    pairs = chunk_pairs(n, m) * times
    queries = heads * sum(own for own, _ in pairs)  # of all chunks, with padding
    rows = heads * times * n
    assert {seen for _, seen in pairs} == {2 * m}
    both = d + dv

    def among(name: tuple[int, int, int], k_of: int) -> Kernel:
        made = product(w, *name, times=heads * len(pairs))
        assert made.matrix == 2 * heads * sum(own * seen for own, seen in pairs) * k_of
        return replace(made, workspace=made.write)

    def moved(count_: int, cols: int, more: Number = 0, **over: Any) -> Kernel:
        made = table(w, count_, cols, 1, 1, depth=0, more_read=place * count_ + more, more_write=more)
        return replace(made, workspace=w * count_ * cols + more, **over)

    def sort(largest: int) -> Kernel:
        passes = digits(largest)
        return chains(
            Kernel(
                vector=rows * log2_ceil(times * n),
                read=2 * place * rows * passes,
                write=2 * place * rows * passes,
                depth=1 + log2_ceil(times * n),
                workspace=2 * place * rows,
                launches=passes,
            ),
            heads,
        )

    rotations = product(w, n, 1, d, times=heads)
    rotations = replace(
        rotations,
        matrix=2 * rows * columns * d,
        read=w * (heads * n * d + h * d * times * columns),
        write=w * rows * columns,
        workspace=w * rows * columns,
        sizes=rotations.sizes | {"n": times * columns},
    )
    largest = Kernel(
        vector=2 * rows * columns,  # of x and of −x
        read=w * rows * columns,
        write=place * rows,
        depth=-(-log2_ceil(buckets) // count),
        workspace=place * rows,
        sizes={"rows": rows, "cols": columns, "reads": 1, "writes": 0},
    )
    gather = moved(queries, both)
    again = w * both * (queries - heads * n)
    last = table(w, queries, both, 1, 2, depth=0, workspace=2 * w * queries * both)
    scores, seen = w * queries * 2 * m, 2 * m
    soft, back = softmax_pass(w, queries, seen, "fwd"), softmax_pass(w, queries, seen, "bwd")
    mask = table(w, queries, seen, 1, 1, vector=1)
    average = table(w, heads * n, dv, times, 1, more_read=stat * rows)
    forward = (
        rotations,
        largest,
        sort(times * buckets * n),
        sort(times * n),
        replace(gather, read=gather.read - again, l2=again),
        table(w, queries, d, 1, 1, **unit_cost(d, "fwd"), workspace=w * queries * d, by_row=True),
        replace(last, l2=w * queries * both),
        among((m, seen, d), d),
        mask,
        replace(soft, write=soft.write + stat * queries, workspace=scores + stat * queries),
        among((m, dv, seen), dv),
        moved(rows, dv, stat * rows),
        replace(
            average,
            vector=rows * (4 + 2 * dv),  # maximum, subtract, sum, divide; times and add
            special=rows,
            depth=2 * log2_ceil(times) + 3 + 1 + log2_ceil(times),
        ),
    )
    gradient = table(w, heads * n, dv, times + 1, times, more_read=stat * rows, more_write=stat * rows)
    to_positions = table(w, heads * n, both, times, 1, more_read=place * rows)
    backward = (
        replace(
            gradient,
            # p·dO; dO·O of each round; p·(dO·O) and its sum, the difference, times p.
            vector=rows * (dv + tally(lambda g, y: total([g * y]), 0.5, 0.5).vector * dv + 4),
            depth=1 + log2_ceil(dv) + 1 + log2_ceil(times) + 2,
            workspace=w * rows * dv + stat * rows,
        ),
        moved(queries, dv, stat * queries),
        among((seen, dv, m), dv),
        among((m, seen, dv), dv),
        replace(back, read=back.read + stat * queries, workspace=scores),
        mask,
        among((m, d, seen), d),
        among((seen, d, m), d),
        table(w, queries, both, 2, 1, vector=1, workspace=w * queries * both),
        table(w, queries, d, 3, 1, **unit_cost(d, "bwd"), workspace=w * queries * d, by_row=True),
        replace(to_positions, vector=heads * n * both * times, depth=log2_ceil(times)),
    )  # fmt: skip
    kept = w * queries * (d + 2 * both + 2 * m) + w * rows * dv + stat * rows + place * (queries + rows)
    reached, layers = 2 * m, 1
    while reached < n:
        reached, layers = reached * 2 * m, layers + 1
    return Expected(
        kernels=directed(o, forward, backward),
        inputs=w * heads * n * both,
        outputs=w * heads * n * dv,
        kept=kept,
        path=layers,
    )
