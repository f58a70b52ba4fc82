"""Gated feed-forward layers, and mixtures of them: products one by one, gates as counted programs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from .chances import expected_distinct
from .counted import log2_ceil, tally
from .exchanges import message
from .kernels import WIDTH, Expected, Kernel, Number, directed, dot_depth, product, statistic, table
from .pointwise import GATES, OF_RESULT, PROGRAMS, times
from .rows import row_cost

Sizes = dict[str, int]
#: Bytes of what is between the products of a mixture's experts, where these have 8 bits.
HALF = 2


# -- one set of weights, or several ------------------------------------------------------------


def _grouped(
    w: Number, m: Fraction, n: int, k: int, sets: Fraction, *, result: Number = 0, **more: Any
) -> Kernel:
    """Return a product of `sets` groups of m rows with a matrix each, which is read once.

    result : width of a number of the result, if not w.
    """
    return Kernel(
        matrix=2 * m * n * k * sets,
        read=w * sets * (m * k + k * n),
        write=(result or w) * sets * m * n,
        depth=dot_depth(k),
        sizes={"batch": sets, "m": m, "n": n, "k": k},
        **more,
    )


def _transposed(w: Number, m: int, n: int, k: Fraction, sets: Fraction, deep: int) -> Kernel:
    """Return the gradient of weights: a sum over the rows of each set."""
    return Kernel(
        matrix=2 * m * n * k * sets,
        read=w * sets * (m * k + k * n),
        write=w * sets * m * n,
        depth=deep,
        sizes={"batch": sets, "m": m, "n": n, "k": k},
    )


def _layer(
    o: dict[str, Any],
    w: Number,
    rows: Fraction,
    d: int,
    f: int,
    sets: Fraction,
    again: Number,
    wide: Number = 0,
) -> tuple[list[Kernel], list[Kernel]]:
    """Return forward and backward.

    again : bytes of the input that are read from the cache; wide : width of forward's results, if not w.
    """
    _, program, plain_gradient = PROGRAMS[o["activation"]]
    function, gated = o["activation"], o["gated"]
    plain_gradient = OF_RESULT.get(function, plain_gradient)
    every = sets * rows
    there = tally(times(program), 0.7, 0.3) if gated else tally(program, 0.7)  # type: ignore[arg-type]
    back = tally(GATES[function], 0.7, 0.3, 0.2) if gated else tally(plain_gradient, 0.7, 0.3)  # type: ignore[arg-type]
    ups = [f] if not gated else ([2 * f] if o["fused"] else [f, f])
    parts = 2 if gated else 1
    r = wide or w
    forward = [_grouped(w, rows, u, d, sets, result=r, workspace=r * every * u) for u in ups]
    forward = [replace(k, read=k.read - again, l2=again) for k in forward]
    forward.append(table(r, every, f, parts, 1, **vars(there), workspace=r * every * f))  # type: ignore[arg-type]
    forward.append(_grouped(w, rows, d, f, sets, result=r))
    deep = dot_depth(rows)  # type: ignore[arg-type]
    backward = [
        _grouped(w, rows, f, d, sets, workspace=w * every * f),
        _transposed(w, f, d, rows, sets, deep),
        table(w, every, f, parts + 1, parts, **vars(back), workspace=w * every * parts * f),  # type: ignore[arg-type]
    ]
    for i, u in enumerate(ups):
        first = i + 1 < len(ups)
        of_weights = _transposed(w, d, u, rows, sets, deep)
        backward += [
            _grouped(w, rows, d, u, sets, workspace=w * every * d if first else 0),
            replace(of_weights, read=of_weights.read - again, l2=again),
        ]
    if len(ups) > 1:
        backward.append(table(w, every, d, 2, 1, vector=1))  # type: ignore[arg-type]
    return forward, backward


def swiglu(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect 6·B·n·d·d_ff (formulas.md §6); kept are x, both parts and their product."""
    w, rows, d, f = WIDTH[o["dtype"]], s["batch"] * s["seq"], s["d_model"], s["d_ff"]
    forward, backward = _layer(o | {"gated": True}, w, rows, d, f, 1, 0)  # type: ignore[arg-type]
    return Expected(
        kernels=directed(o, tuple(forward), tuple(backward)),
        inputs=w * rows * d,
        weights=w * 3 * d * f,
        outputs=w * rows * d,
        kept=w * rows * (d + 3 * f),
        parameters=3 * d * f,
    )


def moe(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect 2dE + k·(4 or 6)·d·d_ff per token, and weights of the expected experts (formulas.md §6)."""
    w, tokens, d, e, k = WIDTH[o["dtype"]], s["batch"] * s["seq"], s["d_model"], s["experts"], s["top_k"]
    busy = expected_distinct(e, k, tokens)
    again = w * tokens * d * (k - 1)
    forward, backward = _layer(o, w, tokens * k / busy, d, s["d_ff"], busy, again, wide=max(w, HALF))
    if o["direction"] == "fwd":
        forward = [_in_one_kernel(kernel, s, last=kernel is forward[-1]) for kernel in forward]
    one = (3 if o["gated"] else 2) * d * s["d_ff"]
    mixed = _mixed(o, s, forward, backward)
    return replace(
        mixed,
        weights=w * (d * e + (k + o["shared"]) * one),  # all tokens choose the same
        unread=w * (e - k) * one,
        parameters=d * e + (e + o["shared"]) * one,
    )


def _in_one_kernel(kernel: Kernel, s: Sizes, *, last: bool) -> Kernel:
    """Expect of a product, forward, what sorting the choices takes: all experts, tokens, rows in and out."""
    if "batch" not in kernel.sizes:
        return kernel
    tokens, choices = s["batch"] * s["seq"], s["batch"] * s["seq"] * s["top_k"]
    sorting = {
        "held": s["experts"],
        "tokens": tokens,
        "inputs": choices if last else tokens,
        "results": choices,
    }
    return replace(kernel, sizes={**kernel.sizes, **sorting})


def expert_parallel(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect a mixture on a device with e/p of the experts (Lepikhin et al., §3.2).

    The tokens of all devices choose among all experts; a device receives as many copies as it sent. Each
    copy is a row of the exchange and is read as one. A device by itself sends and makes no copies. Where c
    devices cut the width of each expert, each of them has the copies of all c, and their results are added.
    """
    w, tokens, d, e, k = WIDTH[o["dtype"]], s["batch"] * s["seq"], s["d_model"], s["experts"], s["top_k"]
    p, c = s["devices"], o["cut"]
    busy = expected_distinct(e, k, tokens * c * p) / p
    copies = w * tokens * k * d
    send = message(o["dtype"], s, "all-to-all", copies, workspace=copies)
    # It receives the copies of all c devices, but only the results of its own.
    gather, add = (
        (message(o["dtype"], s | {"node": c}, name, c * copies, p=c, workspace=room),) if c > 1 else ()
        for name, room in (("all-gather", c * copies), ("reduce-scatter", copies))
    )
    alone = p == c == 1
    again = w * tokens * d * (k - 1) if alone else 0
    forward, backward = _layer(o, w, c * tokens * k / busy, d, s["d_ff"] // c, busy, again, wide=max(w, HALF))
    choices = (statistic(o["dtype"]) + 4) * tokens * k
    copied = table(w, tokens, d, 1, k, depth=0, more_read=choices, workspace=w * tokens * k * d)
    copied = replace(copied, repeats=0 if alone else 1)
    one = (3 if o["gated"] else 2) * d * s["d_ff"]
    mixed = _mixed(o, s, forward, backward, (copied,), arrive=(send, *gather), leave=(*add, send))
    # At least: tokens choose experts of other devices, and this device's only if those are fewer than k.
    least = len(set(range(k)) - set(range(e - e // p)))
    return replace(
        mixed,
        weights=w * (d * e + (Fraction(least, c) + o["shared"]) * one),
        unread=w * Fraction(e // p - least, c) * one,
        kept=mixed.kept + (0 if alone else w * c * tokens * k * d),
        parameters=d * e + (Fraction(e // p, c) + o["shared"]) * one,
    )


def _mixed(
    o: dict[str, Any],
    s: Sizes,
    forward: list[Kernel],
    backward: list[Kernel],
    before: tuple[Kernel, ...] = (),
    arrive: tuple[Kernel, ...] = (),
    leave: tuple[Kernel, ...] = (),
) -> Expected:
    """Expect the experts' kernels between the choice of experts and the sum of their results.

    before : kernels before the experts, forward only; arrive, leave : kernels directly before and after them,
    in both directions.
    """
    w, stat = WIDTH[o["dtype"]], statistic(o["dtype"])
    tokens, d, f = s["batch"] * s["seq"], s["d_model"], s["d_ff"]
    e, k, shared = s["experts"], s["top_k"], o["shared"]
    common: tuple[list[Kernel], list[Kernel]] = ([], [])
    if shared:
        common = _layer(o, w, tokens, d, shared * f, 1, 0)  # type: ignore[arg-type]
    for kernels in (forward, common[0]):
        if kernels:
            kernels[-1] = replace(kernels[-1], workspace=kernels[-1].write)
    for kernels in (backward, common[1]):
        if kernels:  # the kernel of this branch's input gradient: the unfused sum, or the product
            last = len(kernels) - (1 if o["gated"] and not o["fused"] else 2)
            kernels[last] = replace(kernels[last], workspace=kernels[last].write)
    weights = stat * tokens * k
    choices = weights + 4 * tokens * k  # int32
    soft = row_cost("softmax", "fwd", e)
    choice = table(
        w,
        tokens,
        e,
        1,
        1,
        vector=soft.vector + k,  # one maximum over the row per chosen expert
        special=soft.special,
        depth=soft.depth + k * log2_ceil(e),
        more_write=choices,
        workspace=w * tokens * e + choices,
        by_row=True,
    )
    branches = k + (1 if shared else 0)
    total = table(
        max(w, HALF),
        tokens,
        d,
        branches,
        1,
        vector=2 * k + (1 if shared else 0),
        depth=1 + log2_ceil(branches),
        more_read=choices,
    )
    back_total = table(
        w,
        tokens,
        d,
        1 + k,
        k,
        vector=3 * k,  # weight times g; g times the results, summed
        depth=dot_depth(d),
        more_read=choices,
        more_write=weights,
        workspace=w * tokens * k * d + weights,
    )
    back_choice = table(
        w,
        tokens,
        e,
        1,
        1,
        vector=2 + Fraction(2 * k, e),
        depth=dot_depth(k) + 2,
        more_read=choices,
        workspace=w * tokens * e,
        by_row=True,
    )
    back_choice = replace(back_choice, vector=tokens * (2 * e + 2 * k))
    added = branches + 1  # and the router's
    back_sum = table(w, tokens, d, added, 1, vector=len(range(1, added)), depth=log2_ceil(added))
    inside = (3 if o["gated"] else 1 if o["activation"] in OF_RESULT else 2) * f
    return Expected(
        kernels=directed(
            o,
            (
                product(w, tokens, e, d, workspace=w * tokens * e),
                choice,
                *before,
                *arrive,
                *forward,
                *leave,
                *common[0],
                total,
            ),
            (
                back_total,
                *arrive,
                *backward,
                *leave,
                *common[1],
                back_choice,
                product(w, tokens, d, e, workspace=w * tokens * d),
                product(w, d, e, tokens),
                back_sum,
            ),
        ),
        inputs=w * tokens * d,
        outputs=w * tokens * d,
        kept=w * tokens * (d + e + k * d + (k + shared) * inside) + choices,
    )
