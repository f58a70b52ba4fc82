"""Attention under masks, to spans and with a memory: FlashAttention-2's kernel over the pairs that remain."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

from . import masks
from .chances import expected_distinct
from .counted import blocks, log2_ceil, tally, total
from .kernels import WIDTH, Expected, Kernel, Number, dot_depth, product, statistic, table
from .linear import elu_plus_1, elu_plus_1_gradient

Sizes = dict[str, int]


class Shape:
    """Sizes of a layer, and bytes of its operands."""

    def __init__(self, name: str, o: dict[str, Any], s: Sizes) -> None:
        self.w, self.stat = WIDTH[o["dtype"]], statistic(o["dtype"])
        self.b, self.n, self.h = s["batch"], s["seq"], s["heads"]
        self.g = s.get("kv_heads", self.h) if name != "combiner" else self.h
        self.d, self.dv = s["head_dim"], s["value_dim"]
        self.mask = masks.of_layer(name, o, s)
        self.all_pairs = self.mask.pairs
        if o["convention"] == "torch" and name not in ("combiner", "compressive-memory"):
            self.all_pairs = self.n**2
        self.rows = self.b * self.h * self.n
        self.queries, self.outputs = self.w * self.rows * self.d, self.w * self.rows * self.dv
        self.keys = self.w * self.b * self.g * self.n * (self.d + self.dv)
        self.statistics = self.stat * self.rows
        # Every query meets `met` of the n keys.
        self.sizes = {
            "batch": self.b, "heads": self.h, "kv_heads": self.g, "seq": self.n,
            "seq_kv": self.mask.met, "held": self.n, "head_dim": self.d, "value_dim": self.dv,
        }  # fmt: skip
        if name == "sliding-window" and o["causal"]:  # a library's causal kernel that knows the window
            self.sizes |= {"seq_kv": self.n, "window": s["window"]}


def core(x: Shape) -> tuple[Kernel, tuple[Kernel, Kernel]]:
    """Return FlashAttention-2 (see attention.py) over the pairs of the mask."""
    pairs = x.b * x.h * x.all_pairs
    visits = x.rows * x.mask.tiles
    d, dv, row = x.d, x.dv, x.mask.row
    forward = Kernel(
        matrix=pairs * (2 * d + 2 * dv),
        vector=3 * pairs + visits * dv + x.rows * dv,  # maximum, subtract, sum; O scaled, divided
        special=pairs + visits,
        read=x.queries + x.keys,
        write=x.outputs + x.statistics,
        l2=visits * (d + dv) * x.w,
        depth=dot_depth(d) + 2 * log2_ceil(row) + 3 + dot_depth(row),
        workspace=x.statistics,
        sizes=x.sizes,
    )
    sums = table(x.w, x.rows, dv, 2, 0, vector=2, depth=dot_depth(dv), more_write=x.statistics)
    backward = Kernel(
        matrix=pairs * (2 * d + 2 * dv + 2 * dv + 2 * d + 2 * d),
        vector=3 * pairs,
        special=pairs,
        read=x.keys + x.queries + x.outputs + 2 * x.statistics,  # dO is as large as O
        write=x.keys + x.queries,
        l2=visits * (x.w * (d + dv) + 2 * x.stat + 2 * x.stat * d),
        depth=max(dot_depth(d) + 2, dot_depth(dv) + 1) + 1 + dot_depth(max(row, x.mask.column)),
        workspace=x.statistics + x.statistics * d,
        sizes=x.sizes,
    )
    return forward, (sums, backward)


def _expected(o: dict[str, Any], x: Shape, forward: Any, backward: Any, **more: Any) -> Expected:
    kernels = {"fwd": forward, "bwd": backward, "fwd+bwd": (*forward, *backward)}[o["direction"]]
    kept = {"kept": x.queries + x.keys + x.outputs + x.statistics}
    return Expected(kernels=tuple(kernels), inputs=x.queries + x.keys, outputs=x.outputs, **kept | more)


def masked(name: str, o: dict[str, Any], s: Sizes) -> Expected:
    """Expect attention with windows, strides, global tokens or blocks."""
    x = Shape(name, o, s)
    forward, backward = core(x)
    if name == "block-sparse" and o["schedule"] == "fa1":
        # formulas.md §3.2: 2Nd + s·T_c(3Nd + 4N): Q in; O, l, m in and out, at every tile.
        visits, heads = x.rows * x.mask.tiles, x.b * x.h
        moved = x.w * x.dv + 2 * x.stat
        forward = replace(
            forward,
            vector=heads * 3 * x.all_pairs + visits * (2 * x.dv + 4),
            special=heads * x.all_pairs + 2 * visits,
            read=x.keys + visits * (x.w * x.d + moved),
            write=visits * moved,
            l2=0,
            workspace=2 * x.statistics,
        )
        # Algorithm 4: K, V in and dK, dV out; Q, O, dO, l, m and dQ in, dQ out, at every tile.
        _, main = backward
        main = replace(
            main,
            vector=heads * 4 * x.all_pairs + 2 * x.dv * visits,  # over l; rowsum(dO∘O)
            read=x.keys + visits * (x.w * (x.d + x.dv + x.dv + x.d) + 2 * x.stat),
            write=x.keys + visits * x.w * x.d,
            l2=0,
            depth=max(dot_depth(x.d) + 3, dot_depth(x.dv) + 1)
            + 1
            + dot_depth(max(x.mask.row, x.mask.column)),
            workspace=2 * x.statistics,
        )
        kept = x.queries + x.keys + x.outputs + 2 * x.statistics
        return _expected(o, x, (forward,), (main,), path=_path(name, o, s), kept=kept)
    return _expected(o, x, (forward,), backward, path=_path(name, o, s))


def _path(name: str, o: dict[str, Any], s: Sizes) -> int:
    """Return the layers until the first position reaches the last; two by way of a token that all see."""
    n = s["seq"]
    if name == "sliding-window":
        reach, layers = 0, 0
        while reach < n - 1:
            reach, layers = reach + max(1, s["window"] - 1), layers + 1
        return max(1, layers)
    if name == "block-sparse":
        return max(1, log2_ceil(len(blocks(n, s["block"]))))
    return 1 if _all(name, o, s) else 2


def _all(name: str, o: dict[str, Any], s: Sizes) -> bool:
    """Return whether every query sees every key (that comes before it)."""
    n = s["seq"]
    if name == "strided":
        side, summary = s["stride"], s["summary"]
        seen = {
            "strided": lambda i, j: i - j <= side or (i - j) % side == 0,
            "fixed": lambda i, j: i // side == j // side or j % side >= side - summary,
        }[o["pattern"]]
        return all(seen(i, j) for i in range(n) for j in range(i))
    if name == "longformer":
        reach = s["window"] // 2  # an even window reaches half a position further
        return all(abs(i - j) <= reach for i in range(s["globals"], n) for j in range(s["globals"], n))
    kept = sum(len(blocks(s[size], s["block"])) for size in ("globals", "window", "random"))
    return kept >= len(blocks(n, s["block"]))


def combiner(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect Ren et al.'s Combiner: keys and values of spans, then attention to keys and spans."""
    x = Shape("combiner", o, s)
    n, heads, d, dv = x.n, x.b * x.h, x.d, x.dv
    if o["pattern"] == "fixed":
        side = math.isqrt(n - 1) + 1
        spans, levels, longest = -(-n // side), 1, Fraction(side)
    else:
        levels = max(log2_ceil(n) - 1, 0)  # a span of one position is that position
        spans = sum(2 ** log2_ceil(n) // 2**level for level in range(1, levels + 1))
        longest = max(Fraction(n, 2), Fraction(1))
        if n & (n - 1):
            spans = max(n - 2, 0)  # between powers of two, in proportion
    summaries = x.w * heads * spans * (d + dv)
    operands = x.queries + x.keys
    entries = x.rows * levels
    again = operands * max(levels - 1, 0)
    sizes = {"rows": x.rows * max(levels, 1), "cols": 2 * d + dv}
    level = log2_ceil(longest)  # type: ignore[arg-type]
    attend, (sums, back) = core(x)
    make = Kernel(
        matrix=entries * (2 * d + 2 * dv),
        vector=entries * (2 * d + 3) + heads * spans * dv,  # maxima of Q and K; softmax
        special=entries,
        read=operands,
        write=summaries,
        l2=again,
        # Maxima; scores; maximum, subtract, exp, sum, divide; values.
        depth=level + dot_depth(d) + level + 2 + level + 1 + 1 + level,
        workspace=summaries,
        sizes={**sizes, "reads": 1, "writes": 0},
    )
    spread = Kernel(
        matrix=entries * (2 * d + 2 * dv + 2 * dv + 2 * d + 2 * d),
        vector=entries * (2 * d + 3) + heads * spans * 2 * dv,
        special=entries,
        read=2 * (operands + summaries),
        write=operands,
        l2=again,
        depth=level + max(dot_depth(d) + 2, dot_depth(dv) + 1) + 1 + 1 + level,
        sizes={**sizes, "reads": 2, "writes": 1},
    )
    back = replace(
        back,
        read=back.read + summaries,
        write=back.write + summaries,
        workspace=back.workspace + summaries,
    )
    forward = (make, replace(attend, read=attend.read + summaries))
    kept = operands + x.outputs + x.statistics + summaries + x.stat * heads * spans
    return _expected(o, x, forward, (sums, back, spread), kept=kept)


def compressive(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect Munkhdalai et al.'s segments with a memory M, its sum z, and a gate."""
    x = Shape("compressive-memory", o, s)
    w, b, n, h, g, d, dv = x.w, x.b, x.n, x.h, x.g, x.d, x.dv
    segments = blocks(n, s["block"])
    count, longest = len(segments), len(segments[0])
    mean = Fraction(n, count)
    matrices, sums = w * b * g * count * d * dv, w * b * g * count * d
    memory, retrieved, divisor = matrices + sums, w * x.rows * dv, x.stat * x.rows
    there, back = tally(elu_plus_1, 0.7), tally(elu_plus_1_gradient, 0.7, 0.3)
    mapped_rows = b * n * (h + g)

    def prod(m: Number, cols: Number, k: Number, *, keys: bool = False, **more: Any) -> Kernel:
        made = product(w, m, cols, k, times=b * count * (g if keys else h), **more)  # type: ignore[arg-type]
        return replace(made, depth=dot_depth(longest if k == mean else k))  # type: ignore[arg-type]

    walk = replace(
        table(w, b * g * count, d * (dv + 1), 1, 1, vector=1, workspace=memory), steps=count, depth=count
    )
    # Per element: division by q·z, gate, sum.
    of_gate = tally(lambda a, e: a / 2.0 * 0.3 + e * 0.7, 0.5, 0.5)
    forward = (
        table(w, mapped_rows, d, 1, 1, **vars(there), workspace=w * mapped_rows * d),
        prod(d, dv, mean, keys=True, workspace=matrices),
        table(w, b * g * n, d, 1, 0, vector=1, depth=log2_ceil(longest), more_write=sums, workspace=sums),
        walk,
        prod(mean, dv, d, b=b * count * g, workspace=retrieved),
        core(x)[0],
        replace(
            table(w, x.rows, dv, 2, 1, more_read=w * x.rows * d + sums),
            vector=x.rows * (of_gate.vector * dv + 2 * d),
            depth=dot_depth(d) + of_gate.depth,
        ),
    )
    # dA_dot = (1 − g) dO, dA_mem = g dO; dg = Σ dO (A_mem − A_dot); dA_mem over the divisor, whose
    # gradient is the row's sum of that with A_mem.
    both = tally(lambda x1: [x1 * 0.3, x1 * 0.7], 0.5).vector
    own = tally(lambda a, e, g_: total([g_ * (a - e)]), 0.5, 0.5, 0.5).vector
    over = tally(lambda a: a / 2.0, 0.5).vector + tally(lambda a, e: total([a * e]), 0.5, 0.5).vector
    tree = log2_ceil(x.rows * dv)
    backward = (
        table(
            w, x.rows, dv, 3, 2, vector=both + own + over,
            # difference, product, tree over everything; or scaled, divided, product, tree over a row.
            depth=max(2 + tree, 2 + dot_depth(dv)),
            more_read=divisor, more_write=divisor, workspace=2 * retrieved + divisor,
        ),
        *core(x)[1],
        prod(mean, d, dv, b=b * count * g),
        table(
            w, x.rows, d, 2, 1, vector=4, depth=max(2, 1 + log2_ceil(longest)),
            more_read=divisor + sums, more_write=sums, workspace=sums,
        ),
        prod(d, dv, mean, out=b * count * g, workspace=matrices),
        walk,
        prod(mean, d, dv, keys=True),
        table(w, b * g * n, d, 1, 1, vector=1, more_read=sums),
        prod(mean, dv, d, keys=True, workspace=w * b * n * g * dv),
        table(w, b * n * g, dv, 2, 1, vector=1),  # V's gradients of both branches
        table(w, mapped_rows, d, 3, 1, vector=back.vector + 1, special=back.special, depth=back.depth + 1),
    )  # fmt: skip
    kept = x.queries + x.keys + x.outputs + x.statistics + memory + w * mapped_rows * d + retrieved + divisor
    return _expected(o, x, forward, backward, kept=kept, path=count, parameters=h)


def graph(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect attention edge by edge over compressed rows: 4 bytes per row start and per edge."""
    w, stat = WIDTH[o["dtype"]], statistic(o["dtype"])
    b, n, h, d, dv, e = (s[k] for k in ("batch", "seq", "heads", "head_dim", "value_dim", "edges"))
    rows, edges, row = b * h * n, b * h * e, -(-e // n)
    index = 4 * (n + 1) + 4 * e
    inputs, outputs, statistics = w * rows * (2 * d + dv), w * rows * dv, stat * rows
    forward = Kernel(
        matrix=edges * (2 * d + 2 * dv),
        vector=edges * 3 + rows * dv,
        special=edges,
        read=inputs + index,
        write=outputs + statistics,
        l2=edges * w * (d + dv),
        depth=dot_depth(d) + 2 * log2_ceil(n) + 3 + dot_depth(n),  # a node may see all
        workspace=statistics + index,
        sizes={"rows": edges, "cols": d + dv, "reads": 1, "writes": 0},
    )
    sums = table(w, rows, dv, 2, 0, vector=2, depth=dot_depth(dv), more_write=statistics)
    backward = Kernel(
        matrix=edges * (2 * d + 2 * dv + 2 * dv + 2 * d + 2 * d),
        vector=edges * 3,
        special=edges,
        read=inputs + outputs + 2 * statistics + index,
        write=inputs,
        l2=edges * (w * (d + dv) + 2 * stat * (d + dv)),  # K, V; dK, dV in and out
        depth=max(dot_depth(d) + 2, dot_depth(dv) + 1) + 1 + dot_depth(n),
        workspace=statistics + index + stat * rows * (d + dv),
        sizes={"rows": edges, "cols": d + dv, "reads": 2, "writes": 1},
    )
    reached, steps = 1, 0
    while reached < n:
        reached, steps = reached * max(2, row), steps + 1
    kernels = {"fwd": (forward,), "bwd": (sums, backward), "fwd+bwd": (forward, sums, backward)}
    return Expected(
        kernels=kernels[o["direction"]],
        inputs=inputs,
        outputs=outputs,
        kept=inputs + outputs + statistics,
        path=max(1, steps),
    )


def retrieval(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect distances, the k nearest and attention to them (Wu et al. §3.2), or IVF (Johnson et al. §2)."""
    w = WIDTH[o["dtype"]]
    b, n, h, g, d, dv, store, k = (
        s[x] for x in ("batch", "seq", "heads", "kv_heads", "head_dim", "value_dim", "store", "top_k")
    )
    q = b * n * h
    scanned: Number = store

    def compare(entries: int) -> Kernel:
        return product(w, b * n, entries, d, times=h, b=g, workspace=w * q * entries)

    def select(entries: Number, chosen: int) -> Kernel:
        return Kernel(
            vector=q * entries,
            read=w * q * entries,
            write=4 * q * chosen,
            depth=log2_ceil(entries) + chosen,  # type: ignore[arg-type]
            workspace=4 * q * chosen,
            sizes={"rows": q, "cols": entries, "reads": 1, "writes": 0},
        )

    distances: tuple[Kernel, ...] = (compare(store),)
    touched: Number = store
    if o["index"] == "ivf":
        lists, probes = s["lists"], s["probes"]
        scanned = Fraction(store * probes, lists)
        touched = scanned + lists
        seen = q * scanned
        scan = Kernel(
            matrix=2 * seen * d,
            # The entries of all lists that queries of one store probe come from memory once.
            read=w * d * (q + g * Fraction(store, lists) * expected_distinct(lists, probes, q // g))
            + 4 * q * probes,
            write=w * seen,
            l2=w * seen * d,
            depth=dot_depth(d),
            workspace=w * seen,
            sizes={"rows": seen, "cols": d, "reads": 1, "writes": 0},
        )
        distances = (compare(lists), select(lists, probes), scan)
    attend = Kernel(
        matrix=q * k * (2 * d + 2 * dv),
        vector=q * k * 3 + q * dv,
        special=q * k,
        read=w * q * d + w * (d + dv) * g * expected_distinct(store, k, q // g) + 4 * q * k,
        write=w * q * dv,
        l2=w * q * k * (d + dv),
        depth=dot_depth(d) + 2 * log2_ceil(k) + 3 + dot_depth(k),
        workspace=w * g * (store * (d + dv) - scanned * d - k * dv),
        sizes={"rows": q * k, "cols": d + dv, "reads": 1, "writes": 0},
    )
    return Expected(
        kernels=(*distances, select(scanned, k), attend),
        inputs=w * (q * d + g * (touched * d + k * dv)),
        outputs=w * q * dv,
        kept=0,
    )
