"""Native sparse attention, query by query: which compressed, selected and near keys each of them sees."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

from .chances import expected_distinct
from .counted import log2_ceil
from .kernels import WIDTH, Expected, Kernel, Number, directed, dot_depth, product, statistic, table
from .scans import chains

Sizes = dict[str, int]


@cache
def pairs(n: int, n_kv: int, length: int, stride: int, block: int, top: int, window: int) -> tuple[int, ...]:
    """Return pairs with compressed keys, selected ones, near ones, and blocks to select from, of one head.

    The last number is the pairs with selected keys that a kernel may leave out, if all of a query's own block
    but one key came after it.
    """
    ends = [last for last in range(length, max(n_kv, length) + 1) if (last - length) % stride == 0]
    padded = max(0, length - n_kv)  # a sequence that is shorter than a block is padded to one, at its front
    compressed = selected = near = candidates = spared = 0
    for t in range(n_kv - n + 1, n_kv + 1):
        compressed += sum(end <= t + padded for end in ends)
        selected += min(t, top * block)
        near += len(range(max(0, t - window), t))
        candidates += len(range(0, t, block))
        spared += block - 1 if t > top * block else 0
    return compressed, selected, near, candidates, spared


def compressed_keys(n_kv: int, length: int, stride: int) -> int:
    """Return how many compressed blocks fit, at least one."""
    return max(1, sum(start + length <= n_kv for start in range(0, n_kv, stride)))


def native(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect Yuan et al. §3.3: compression, selection by compressed scores, a window, and gates."""
    w, stat = WIDTH[o["dtype"]], statistic(o["dtype"])
    b, n, n_kv, h, g, d, dv = (
        s[x] for x in ("batch", "seq", "seq_kv", "heads", "kv_heads", "head_dim", "value_dim")
    )
    length, stride, block, top, window = (s[x] for x in ("summary", "stride", "block", "top_k", "window"))
    seen = pairs(n, n_kv, length, stride, block, top, window)
    compressed, selected, near, candidates, _ = seen
    keys = compressed_keys(n_kv, length, stride)
    new = min(keys, -(-n // stride))
    rows, heads, both = b * h * n, b * h, w * b * g * (d + dv)
    source, around = min(n_kv, n + length - 1), min(n_kv, n + window - 1)
    least = max(n, min(top * block, n_kv))
    blocks = -(-n_kv // block)
    distinct = min(Fraction(n_kv), block * expected_distinct(blocks, min(top, blocks), n))
    queries, results, sums, chosen = w * rows * d, w * rows * dv, stat * rows, 4 * b * g * n * top

    def compress(width: int) -> Kernel:
        made = product(w, b * new, width, length * width, times=g)
        read = w * b * g * source * width + w * g * length * width * width
        return replace(made, read=read, l2=w * b * g * new * length * width, workspace=made.write)

    def sizes(count: int) -> dict[str, Number]:
        found = {"batch": b, "heads": h, "kv_heads": g, "seq_kv": Fraction(count, n)}
        if o["decode"]:
            return found | {"batch": b * n, "head_dim": Fraction(d + dv, 2)}
        return found | {"seq": n, "held": n, "head_dim": d, "value_dim": dv}

    def flops(count: int, matrix: int) -> dict[str, Number]:
        return {"matrix": heads * count * matrix, "vector": 3 * heads * count, "special": heads * count}

    def softmax_depth(most: int) -> int:
        return dot_depth(d) + 2 * log2_ceil(most) + 3 + dot_depth(most)

    gradient_depth = max(dot_depth(d) + 2, dot_depth(dv) + 1) + 1 + dot_depth(n)

    def attend(count: int, positions: int, most: int) -> Kernel:
        return Kernel(
            **flops(count, 2 * d + 2 * dv),
            read=queries + both * positions,
            write=results + sums,
            l2=Fraction(w * heads * count * (d + dv), block),
            depth=softmax_depth(most),
            workspace=results + sums,
            sizes=sizes(count),
        )

    def unattend(count: int, positions: int) -> Kernel:
        return Kernel(
            **flops(count, 6 * d + 4 * dv),
            read=both * positions + queries + results + 2 * sums,
            write=both * positions + queries,
            l2=Fraction(2 * w * heads * count * (d + dv), block),
            depth=gradient_depth,
            workspace=sums + queries,
            sizes=sizes(count),
        )

    each = -(-length // stride)
    scored = stat * b * g * candidates
    scores = Kernel(
        matrix=heads * compressed * 2 * d,
        vector=heads * compressed * 2 + b * g * compressed * each,
        special=heads * compressed,
        read=queries + w * b * g * keys * d + sums,
        write=scored,
        # S; − LSE, exp; the heads; the compressed blocks that overlap a block.
        depth=dot_depth(d) + 2 + log2_ceil(h // g) + log2_ceil(-(-block // stride) + each),
        workspace=scored,
    )
    choice = Kernel(
        vector=b * g * candidates,
        read=scored,
        write=chosen,
        depth=log2_ceil(blocks) + top,
        workspace=chosen,
        sizes={
            "rows": b * g * n,
            "cols": Fraction(candidates, n),
            "reads": Fraction(stat) / w,
            "writes": 0,
        },
    )
    gather = Kernel(
        **flops(selected, 2 * d + 2 * dv),
        read=queries + both * distinct + chosen,
        write=results + sums,
        l2=both * selected,
        depth=softmax_depth(min(top * block, n_kv)),
        workspace=results + sums + both * (n_kv - least),
        sizes=sizes(selected),
    )
    scatter = Kernel(
        **flops(selected, 6 * d + 4 * dv),
        read=queries + results + both * distinct + 2 * sums + chosen,
        write=queries + both * distinct,
        l2=2 * both * selected,
        depth=gradient_depth,
        workspace=sums + queries,
        sizes=sizes(selected),
    )
    gates = 3 * w * rows
    forward = (
        compress(d),
        compress(dv),
        attend(compressed, keys, keys),
        chains(scores, rows),
        choice,
        gather,
        attend(near, around, min(window, n_kv)),
        # Each product and its addition to the sum; the gate is one number per row.
        table(w, rows, dv, 3, 1, vector=3 * 2, depth=2 + log2_ceil(3), more_read=gates),
    )
    row_sums = table(w, rows, dv, 2, 0, vector=2, depth=dot_depth(dv), more_write=sums)

    def uncompress(width: int) -> tuple[Kernel, Kernel]:
        data = product(w, b * new, length * width, width, times=g)
        weights = product(w, length * width, width, b * new, times=g)
        of_source, again = w * b * g * source * width, w * b * g * new * length * width
        return (
            replace(data, write=of_source, l2=again),
            replace(weights, read=of_source + w * b * g * new * width, l2=again),
        )

    backward = (
        # g·dO, and dO·o, of each branch.
        table(
            w, rows, dv, 4, 3, vector=3 * (1 + 2), depth=dot_depth(dv), more_read=gates, more_write=gates,
            workspace=3 * results,
        ),
        row_sums,
        unattend(near, around),
        row_sums,
        scatter,
        row_sums,
        unattend(compressed, keys),
        *uncompress(d),
        *uncompress(dv),
        table(w, rows, d, 3, 1, vector=2, depth=2),
    )  # fmt: skip
    # A step of decoding may complete no compressed block.
    needed = 0 if o["decode"] else 1
    inputs = queries + gates + both * (needed * source + keys - new + least + around)
    parameters = g * (length * d * d + length * dv * dv)
    return Expected(
        kernels=directed(o, forward, backward),
        inputs=inputs,
        weights=needed * w * parameters,
        unread=(1 - needed) * w * parameters,
        outputs=results,
        kept=inputs + both * new + chosen + 3 * (results + sums),
        parameters=parameters,
    )
