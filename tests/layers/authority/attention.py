"""Dense and tiled attention by loops over rows and blocks instead of closed forms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

from .counted import LEDGER, Counted, Tally, blocks, exp, highest, log2_ceil, tally, total
from .kernels import WIDTH, Expected, Kernel, Number, directed, dot_depth, product, statistic, table
from .rows import softmax_pass

Sizes = dict[str, int]


@cache
def pairs(n: int, n_kv: int, causal: bool) -> int:
    """Count (query, key) pairs. Queries are the last n of n_kv positions; i sees keys 0 … n_kv − n + i."""
    return sum(1 for i in range(n) for j in range(n_kv) if not causal or j <= n_kv - n + i)


@dataclass
class Moved:
    """Counts of elements and of statistics read from and written to memory."""

    read: int = 0
    write: int = 0
    stats_read: int = 0
    stats_written: int = 0

    def bytes(self, w: Number, stat: int) -> tuple[Number, Number]:
        return w * self.read + stat * self.stats_read, w * self.write + stat * self.stats_written


def _seen(n: int, n_kv: int, causal: bool, i: int) -> int:
    return n_kv - n + i + 1 if causal else n_kv


@cache
def visits(n: int, n_kv: int, causal: bool, cols: int) -> int:
    """Count the (row of Q, block of K) that have a pair in common."""
    return sum(1 for block in blocks(n_kv, cols) for i in range(n) if _seen(n, n_kv, causal, i) > block[0])


@cache
def fa1_forward(n: int, n_kv: int, d: int, dv: int, causal: bool, cols: int) -> Moved:
    """Run FlashAttention's Algorithm 1 for one head, without K and V; O, l, m are not read while zero."""
    moved, begun = Moved(), set()
    for block in blocks(n_kv, cols):
        for i in range(n):
            if _seen(n, n_kv, causal, i) <= block[0]:
                continue
            moved.read += d  # Q_i
            if i in begun:
                moved.read += dv  # O_i
                moved.stats_read += 2  # l_i, m_i
            begun.add(i)
            moved.write += dv
            moved.stats_written += 2
    return moved


@cache
def fa1_backward(n: int, n_kv: int, d: int, dv: int, causal: bool, cols: int) -> Moved:
    """Run Algorithm 4 for one head, without K, V, dK and dV."""
    moved = Moved()
    for block in blocks(n_kv, cols):
        for i in range(n):
            if _seen(n, n_kv, causal, i) > block[0]:
                moved.read += 2 * d + 2 * dv  # Q_i, dQ_i; O_i, dO_i
                moved.stats_read += 2
                moved.write += d  # dQ_i
    return moved


@cache
def fa2_again(n: int, n_kv: int, d: int, dv: int, causal: bool, rows: int) -> int:
    """Count the elements of K and V that FlashAttention-2 reads for all blocks of Q of one head."""
    return sum((d + dv) * max(_seen(n, n_kv, causal, i) for i in block) for block in blocks(n, rows))


def attention(name: str, o: dict[str, Any], s: Sizes) -> Expected:
    """Expect dense or tiled attention, with or without projections."""
    w, stat = WIDTH[o["dtype"]], statistic(o["dtype"])
    b, n, n_kv, h, g = s["batch"], s["seq"], s["seq_kv"], s["heads"], s["kv_heads"]
    d, dv, width = s["head_dim"], s["value_dim"], s["d_model"]
    core = {"dense": _dense, "tiled": _tiled}[name](o, s, w, stat)
    forward, backward, kept = core
    queries, keys, values, result = b * n * h * d, b * n_kv * g * d, b * n_kv * g * dv, b * n * h * dv
    kept += w * (queries + keys + values)
    if not o["projections"]:
        if name == "tiled":
            kept += w * result
        return Expected(
            kernels=directed(o, forward, backward),
            inputs=w * (queries + keys + values),
            outputs=w * result,
            kept=kept,
        )
    rows, other = b * n, b * (n_kv if o["cross"] else n)
    merged = g * (d + dv)
    before = (
        product(w, rows, h * d, width, workspace=w * rows * h * d),
        product(w, other, merged, width, workspace=w * other * merged),
    )
    after = product(w, rows, width, h * dv)
    # Intermediate results: the heads' outputs; their gradient, those of Q, K and V, and one of x's two.
    forward = (*forward[:-1], beside(forward[-1], w * result))
    backward = (*backward[:-1], beside(backward[-1], w * (queries + keys + values)))
    first = (product(w, rows, h * dv, width, workspace=w * result), product(w, h * dv, width, rows))
    last = (
        product(w, rows, width, h * d),
        product(w, width, h * d, rows),
        product(w, other, width, merged, workspace=0 if o["cross"] else w * rows * width),
        product(w, width, merged, other),
        # The same sequence makes queries and keys and values, so autograd adds its two gradients.
        *(() if o["cross"] else (table(w, rows, width, 2, 1, vector=1),)),
    )
    # 4nd² for Q and O, 4nd²·g/h for K and V (formulas.md §3.1).
    parameters = width * h * d + width * merged + h * dv * width
    context = b * n_kv * width if o["cross"] else 0
    cached = 0 if o["cross"] else b * (n_kv - n) * merged
    return Expected(
        kernels=directed(o, (*before, *forward, after), (*first, *backward, *last)),
        inputs=w * (rows * width + context + cached),
        weights=w * parameters,
        outputs=w * rows * width,
        kept=kept + w * (rows * width + context + result),
        parameters=parameters,
    )


def beside(kernel: Kernel, size: Number) -> Kernel:
    """Return a kernel with a result of `size` bytes that is intermediate, not the layer's."""
    return replace(kernel, workspace=kernel.workspace + size)


Core = tuple[tuple[Kernel, ...], tuple[Kernel, ...], Number]


def _dense(o: dict[str, Any], s: Sizes, w: Number, stat: int) -> Core:
    """Expect Algorithm 0 and the passes over N² that mask and dropout add (formulas.md §3.2)."""
    b, n, n_kv, h, g, d, dv = (
        s[k] for k in ("batch", "seq", "seq_kv", "heads", "kv_heads", "head_dim", "value_dim")
    )
    masked = o["causal"] and o["convention"] == "exact"
    share = Fraction(pairs(n, n_kv, masked), n * n_kv)
    square = b * h * n * n_kv
    bh, bg = b * h, b * g
    matrix = w * square

    def pass_over(vector: int, **more: Any) -> Kernel:
        return table(w, bh * n, n_kv, 1, 1, vector=vector, pairs=share, **more)

    mask = (pass_over(1),) if o["mask"] else ()
    drop = (pass_over(2, depth=2, more_write=square, workspace=matrix + square),) if o["dropout"] else ()
    undrop = (pass_over(2, depth=2, more_read=square),) if o["dropout"] else ()
    forward = (
        product(w, n, n_kv, d, times=bh, b=bg, pairs=share, workspace=matrix),
        *mask,
        softmax_pass(w, bh * n, n_kv, "fwd", pairs=share, workspace=matrix),
        *drop,
        product(w, n, dv, n_kv, times=bh, b=bg, pairs=share),
    )
    backward = (
        product(w, n_kv, dv, n, times=bh, out=bg, pairs=share),  # dV = Pᵀ dO
        product(w, n, n_kv, dv, times=bh, b=bg, pairs=share, workspace=matrix),  # dP = dO Vᵀ
        *undrop,
        softmax_pass(w, bh * n, n_kv, "bwd", pairs=share, workspace=matrix),
        *mask,
        product(w, n, d, n_kv, times=bh, b=bg, pairs=share),  # dQ = dS K
        product(w, n_kv, d, n, times=bh, out=bg, pairs=share),  # dK = dSᵀ Q
    )
    kept = matrix + ((square + matrix) if o["dropout"] else 0)  # P; with dropout a 1-byte mask and dropped P
    return forward, backward, kept


def tile(o: dict[str, Any], s: Sizes) -> tuple[int, int]:
    """Return (B_r, B_c): B_c = ⌈M/4d⌉; for FA-1, B_r = min(B_c, d); M in elements (claims.md §3.2)."""
    if o["tile"]:
        return o["tile"]
    m, d = Fraction(s["sram"]) / WIDTH[o["dtype"]], s["head_dim"]
    cols = -(-m // (4 * d))
    return int(min(cols, d) if o["schedule"] == "fa1" else cols), int(cols)


def _tiled(o: dict[str, Any], s: Sizes, w: Number, stat: int) -> Core:
    """Expect Algorithms 1 and 4 or FlashAttention-2's order of loops; backward 10 N²d with S recomputed."""
    b, n, n_kv, h, g, d, dv = (
        s[k] for k in ("batch", "seq", "seq_kv", "heads", "kv_heads", "head_dim", "value_dim")
    )
    masked = o["causal"] and o["convention"] == "exact"
    all_pairs = b * h * pairs(n, n_kv, masked)
    rows, cols = tile(o, s)
    bh, fa1 = b * h, o["schedule"] == "fa1"
    met = bh * visits(n, n_kv, masked, cols)
    keys = w * b * n_kv * g * (d + dv)
    sizes = {k: s[k] for k in ("batch", "heads", "kv_heads", "seq", "seq_kv", "head_dim", "value_dim")}
    # formulas.md §3.1: maximum, subtract, sum for each score; FA-1 2·d·T_c + 4·T_c a row, FA-2 d·T_c + d.
    if fa1:
        moved = fa1_forward(n, n_kv, d, dv, masked, cols)
        read, write = moved.bytes(w, stat)
        traffic = {"read": keys + bh * read, "write": bh * write}
        vector, special = 3 * all_pairs + (2 * dv + 4) * met, all_pairs + 2 * met  # e^(m − m′), e^(m̃ − m′)
    else:
        traffic = {
            "read": keys + w * bh * n * d,
            "write": w * bh * n * dv + stat * bh * n,  # O and the log-sum-exp
            "l2": w * bh * fa2_again(n, n_kv, d, dv, masked, rows),
        }
        vector, special = 3 * all_pairs + dv * met + bh * n * dv, all_pairs + met
    stats = (2 if fa1 else 1) * stat * bh * n
    # formulas.md §3.3: scores, maximum, subtract and exp, sum, division, values.
    depth = dot_depth(d) + 2 * log2_ceil(n_kv) + 3 + dot_depth(n_kv)
    forward = Kernel(
        matrix=2 * all_pairs * (d + dv),
        vector=vector,
        special=special,
        **traffic,
        depth=depth,
        workspace=stats,
        sizes=sizes,
    )
    return (forward,), _tiled_backward(o, s, w, stat, all_pairs, met, cols), stats


def _tiled_backward(
    o: dict[str, Any], s: Sizes, w: Number, stat: int, all_pairs: int, met: int, cols: int
) -> tuple[Kernel, ...]:
    b, n, n_kv, h, g, d, dv = (
        s[k] for k in ("batch", "seq", "seq_kv", "heads", "kv_heads", "head_dim", "value_dim")
    )
    bh = b * h
    sizes = {k: s[k] for k in ("batch", "heads", "kv_heads", "seq", "seq_kv", "head_dim", "value_dim")}
    keys = w * b * n_kv * g * (d + dv)
    # S = QKᵀ again, dP = dO Vᵀ, dV = Pᵀ dO, dQ = dS K, dK = dSᵀ Q.
    matrix = all_pairs * (2 * d + 2 * dv + 2 * dv + 2 * d + 2 * d)
    masked = o["causal"] and o["convention"] == "exact"
    to_gradients = dot_depth(max(n, n_kv))
    if o["schedule"] == "fa1":
        moved = fa1_backward(n, n_kv, d, dv, masked, cols)
        read, write = moved.bytes(w, stat)
        return (
            Kernel(
                matrix=matrix,
                vector=4 * all_pairs + 2 * dv * met,  # S − m, /l, dP − D, P∘; D = rowsum(dO∘O) each time
                special=all_pairs,
                read=keys + bh * read,
                write=keys + bh * write,
                depth=max(dot_depth(d) + 3, dot_depth(dv) + 1) + 1 + to_gradients,
                workspace=2 * stat * bh * n,
                sizes=sizes,
            ),
        )
    sums = table(w, bh * n, dv, 2, 0, vector=2, depth=dot_depth(dv), more_write=stat * bh * n)
    main = Kernel(
        matrix=matrix,
        vector=3 * all_pairs,  # S − LSE, dP − D, P∘
        special=all_pairs,
        read=keys + w * bh * n * (d + dv) + 2 * stat * bh * n,  # Q, dO; LSE, D
        write=keys + w * bh * n * d,
        l2=met * (w * (d + dv) + 2 * stat + 2 * stat * d),  # Q, dO; LSE, D; dQ in fp32, in and out
        depth=max(dot_depth(d) + 2, dot_depth(dv) + 1) + 1 + to_gradients,
        workspace=stat * bh * n * (1 + d),  # D; dQ in fp32
        sizes=sizes,
    )
    return sums, main


def decode(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect one query per sequence: 4·s·d FLOP per query head, 2·s·d elements per KV head (formulas §3.1).

    Pages add four bytes each for their number, and the unused positions of the last one.
    """
    w, b, n_kv, h, g = WIDTH[o["dtype"]], s["batch"], s["seq_kv"], s["heads"], s["kv_heads"]
    d, dv = s["head_dim"], s["value_dim"]
    inputs, outputs = w * b * (h * d + n_kv * g * (d + dv)), w * b * h * dv
    numbers, left_over = 0, 0
    if o["paged"]:
        pages = blocks(n_kv, s["block"])
        numbers = 4 * b * len(pages)
        left_over = w * b * g * (d + dv) * sum(s["block"] - len(page) for page in pages)
    kernel = Kernel(
        matrix=b * h * n_kv * (2 * d + 2 * dv),
        vector=b * h * (3 * n_kv + dv),  # maximum, subtract, sum; one division at the end
        special=b * h * n_kv,
        read=inputs + numbers,
        write=outputs,
        depth=dot_depth(d) + 2 * log2_ceil(n_kv) + 3 + dot_depth(n_kv),
        workspace=numbers + left_over,
        # The kernel model reads two tensors of equal width: half of a key and its value together.
        sizes={k: s[k] for k in ("batch", "heads", "kv_heads", "seq_kv")} | {"head_dim": Fraction(d + dv, 2)},
    )
    return Expected(kernels=(kernel,), inputs=inputs, outputs=outputs, kept=0)


def split(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect Flash-Decoding: S parts, each with an output and a log-sum-exp in fp32, then their merge."""
    whole = decode(o, s)
    (one,) = whole.kernels
    b, h, dv, parts, n_kv = s["batch"], s["heads"], s["value_dim"], s["splits"], s["seq_kv"]
    stat, length = statistic(o["dtype"]), -(-n_kv // parts)
    partial = stat * b * h * parts * (dv + 1)
    weights, outputs = merge_cost(parts), b * h * dv
    first = replace(
        one,
        vector=b * h * (3 * n_kv + parts * dv),
        write=partial,
        depth=dot_depth(s["head_dim"]) + 2 * log2_ceil(length) + 3 + dot_depth(length),
        workspace=one.workspace + partial,
        sizes={**one.sizes, "batch": b * parts, "seq_kv": length},
    )
    merge = Kernel(
        vector=b * h * weights.vector + outputs * (2 * parts + 1),
        special=b * h * weights.special,
        read=partial,
        write=whole.outputs,
        depth=weights.depth,
        sizes={"rows": b * h, "cols": parts * dv, "reads": 1, "writes": Fraction(1, parts)},
    )
    return replace(whole, kernels=(first, merge))


@cache
def merge_cost(parts: int) -> Tally:
    """Count the weights of the parts, and one merged output: Σ e^(l_s − max) o_s / Σ e^(l_s − max)."""

    def program() -> list[Counted]:
        logs = [Counted(0.1 * s) for s in range(parts)]
        top = highest(logs)
        scale = [exp(one - top) for one in logs]
        divisor = total(scale)
        before = dict(LEDGER)
        merged = total([weight * 0.5 for weight in scale]) / divisor
        # The caller counts the operations of each output element.
        assert LEDGER["vector"] - before["vector"] == 2 * parts + 1
        LEDGER["vector"] = before["vector"]
        return [merged]

    return tally(program)
