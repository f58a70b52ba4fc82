"""Attention over devices: schedules run device by device and round by round, then grouped into kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from typing import Any

from .attention import attention
from .exchanges import message
from .kernels import WIDTH, Expected, Kernel, Number, directed, product, statistic, table
from .rows import softmax_pass

Sizes = dict[str, int]
Options = dict[str, Any]


class Part:
    """Tensors of one device's part of a sequence, padded to equal parts [bytes]."""

    def __init__(self, o: Options, s: Sizes) -> None:
        self.w, self.stat, self.p = WIDTH[o["dtype"]], statistic(o["dtype"]), s["devices"]
        self.chunk = (s["seq"] + self.p - 1) // self.p
        rows, d, dv = s["batch"] * self.chunk, s["head_dim"], s["value_dim"]
        self.heads, self.kv_heads = s["batch"] * s["heads"], s["batch"] * s["kv_heads"]
        self.queries, self.outputs = (self.w * rows * s["heads"] * x for x in (d, dv))
        self.keys, self.values = (self.w * rows * s["kv_heads"] * x for x in (d, dv))
        self.statistics = self.stat * rows * s["heads"]
        self.wide = Fraction(self.stat) / Fraction(self.w)

    def block(self, o: Options, s: Sizes, direction: str, causal: bool) -> tuple[Kernel, ...]:
        """Return FlashAttention-2 of a device's queries with the keys of one device."""
        tiled = {"schedule": "fa2", "tile": None, "projections": False, "cross": False, "causal": causal}
        shared = {"dtype": o["dtype"], "convention": o["convention"], "direction": direction}
        return attention(
            "tiled", tiled | shared, {**s, "seq": self.chunk, "seq_kv": self.chunk, "d_model": 1}
        ).kernels

    def merge(self, dv: int, repeats: int) -> Kernel:
        """Return the merge of a block: o −= σ(…)·(o − o′); O, the fp32 sum and both LSE are read."""
        rows = self.heads * self.chunk
        return Kernel(
            vector=3 * rows * dv,
            read=rows * dv * (self.w + self.stat) + 2 * self.stat * rows,
            write=rows * dv * self.stat + self.stat * rows,
            depth=6,
            workspace=self.stat * rows * dv,
            repeats=repeats,
            sizes={
                "rows": rows,
                "cols": dv,
                "reads": 1 + self.wide + 2 * self.wide / dv,
                "writes": self.wide + self.wide / dv,
            },
        )

    def add(self, heads: int, cols: int, repeats: int) -> Kernel:
        """Return the addition of a block's gradient to the sum in fp32."""
        rows = heads * self.chunk
        return Kernel(
            vector=rows * cols,
            read=rows * cols * (self.w + self.stat),
            write=rows * cols * self.stat,
            depth=1,
            workspace=self.stat * rows * cols,
            repeats=repeats,
            sizes={"rows": rows, "cols": cols, "reads": 1 + self.wide, "writes": self.wide},
        )

    def expected(self, kernels: tuple[Kernel, ...], kept: Number) -> Expected:
        inputs = self.queries + self.keys + self.values
        return Expected(kernels=kernels, inputs=inputs, outputs=self.outputs, kept=kept)


def _often(kernels: tuple[Kernel, ...], repeats: int) -> tuple[Kernel, ...]:
    """Repeat kernels for blocks after a device's own, which reuse the workspace of that one."""
    return tuple(replace(kernel, repeats=kernel.repeats * repeats, workspace=0) for kernel in kernels)


# -- Ring Attention ----------------------------------------------------------------------------


@cache
def ring_messages(p: int) -> list[str]:
    """Run the ring; return what a device sends (keys, gradients) after it has begun each block."""
    holds, seen, log = list(range(p)), [set() for _ in range(p)], []
    for step in range(p):
        for device in range(p):
            seen[device].add(holds[device])
        # Keys are passed on until all devices have seen them; gradients follow one round later.
        log.append(("keys " if step < p - 1 else "") + ("gradients" if step > 0 else ""))
        holds = [holds[(device - 1) % p] for device in range(p)]
    assert all(blocks == set(range(p)) for blocks in seen)
    return log


@cache
def ring_buffers(p: int) -> int:
    """Run the ring with buffers; return how many a device needs besides that of its own block.

    A round computes with one buffer and sends it, while the arriving block needs a free one. Gradients go
    round in the same way, p times.
    """
    places, current = [0], 0
    for step in range(1, p):
        free = [i for i in range(len(places)) if i != current]  # all except the one in use
        if not free:
            places.append(step)
            free = [len(places) - 1]
        places[free[0]], current = step, free[0]
    return len(places) - 1


def ring_attention(o: Options, s: Sizes) -> Expected:
    """Expect Liu et al., Algorithm 1; gradients of K and V travel in fp32, one round later, and return."""
    part, p = Part(o, s), s["devices"]
    keys, gradients = (
        part.keys + part.values,
        part.stat * (part.keys + part.values) / Fraction(part.w),
    )
    log = ring_messages(p)
    first, last = int(p > 1), int(p > 1)
    middle = sum(entry == "keys gradients" for entry in log)
    assert log.count("keys ") == first
    send = partial(message, o["dtype"], s, "send-receive")
    # Of Liu et al.'s six blocks (Q, O, K, V, and the arriving K and V), the last two are not operands.
    coming = {name: size * ring_buffers(p) for name, size in (("keys", keys), ("gradients", gradients))}
    own, other = (part.block(o, s, "fwd", causal) for causal in (o["causal"], False))
    forward = (
        *own,
        send(keys, first, workspace=coming["keys"]),
        *_often(other, middle),
        send(keys, middle),
        *_often(other, last),
        part.merge(s["value_dim"], p - 1),
    )
    (sums, mine), (_, theirs) = (part.block(o, s, "bwd", causal) for causal in (o["causal"], False))
    backward = (
        sums,
        mine,
        send(keys, first, workspace=coming["keys"]),
        *_often((theirs,), middle),
        send(keys + gradients, middle),
        *_often((theirs,), last),
        send(gradients, last, workspace=coming["gradients"]),
        part.add(part.heads, s["head_dim"], p - 1),
        part.add(part.kv_heads, s["head_dim"] + s["value_dim"], p - 1),
        send(gradients, last),  # back to their owner, after the last block
    )
    kept = part.queries + part.keys + part.values + part.outputs + part.statistics
    return part.expected(directed(o, forward, backward), kept)


# -- DistFlashAttn -----------------------------------------------------------------------------


@cache
def schedule(p: int, balanced: bool) -> tuple[list[tuple[int, bool]], int]:
    """Run the schedule; return each round's (blocks of their owners, whether any is helped), and idle slots.

    Every block (queries of i, keys of j < i) must be computed once.
    """
    done = {(i, i) for i in range(p)}
    rounds, idle = [], 0
    for t in range(1, p):
        owners = {(i, i - t) for i in range(t, p)}
        helped = {(i + p - t, i) for i in range(t)} if balanced else set()
        work = (owners | helped) - done
        if not work:
            break
        helping = helped - owners - done
        idle += p - len(work)
        done |= work
        rounds.append((len(owners), bool(helping)))
    assert done == {(i, j) for i in range(p) for j in range(i + 1)}
    return rounds, idle


def dist_flash_attention(o: Options, s: Sizes) -> Expected:
    """Expect Li et al. 2024, Algorithms 1 and 2, with the transfers of the device that sends most."""
    part, p = Part(o, s), s["devices"]
    rounds, _ = schedule(p, o["balanced"])
    first, middle, last = int(bool(rounds)), max(len(rounds) - 1, 0), int(bool(rounds))
    keys, asked = part.keys + part.values, part.queries
    helped_first = bool(rounds) and rounds[0][1]
    helped_last = bool(rounds) and rounds[-1][1]
    outputs = part.outputs + part.statistics
    send = partial(message, o["dtype"], s, "send-receive")
    anyone_helped = any(helped for _, helped in rounds)
    own, other = (part.block(o, s, "fwd", causal) for causal in (True, False))
    fetch = max(keys, asked if helped_first else 0)
    onward = max(keys + outputs, asked) if o["balanced"] else keys
    late = (send(outputs, int(helped_last)),) if o["balanced"] else ()
    forward = (
        *own,
        # Fetched operands of this round and of the next, and outputs of a helper.
        send(fetch, first, workspace=fetch * min(len(rounds), 2) + (outputs if anyone_helped else 0)),
        *_often(other, middle),
        send(onward, middle),
        *_often(other, last),
        *late,
        part.merge(s["value_dim"], p - 1),
    )
    (sums, mine), (_, theirs) = (part.block(o, s, "bwd", causal) for causal in (True, False))
    asking = part.queries + part.outputs + 2 * part.statistics
    # The largest of: fetch and return gradients; help and return; return and ask for help.
    onward = max(keys + keys, keys + part.queries, keys + asking) if o["balanced"] else keys + keys
    fetch = max(keys, asking if helped_first else 0)
    # A device whose keys were fetched receives their gradients; one that was helped, those of its queries.
    results = max(keys, part.queries if anyone_helped else 0)
    backward = (
        sums,
        mine,
        send(fetch, first, workspace=fetch * min(len(rounds), 2) + results),
        *_often((theirs,), middle),
        send(onward, middle),
        *_often((theirs,), last),
        send(max(keys, part.queries if helped_last else 0), last),
        part.add(part.heads, s["head_dim"], p - 1),
        part.add(part.kv_heads, s["head_dim"] + s["value_dim"], p - 1),
    )
    everything = part.queries + part.keys + part.values + outputs
    kept = {"none": everything, "attention": outputs, "layer": 0}[o["checkpoint"]]
    again = forward if o["checkpoint"] == "layer" else ()
    return part.expected(directed(o, forward, (*again, *backward)), kept)


# -- Ulysses, Ring Self-Attention --------------------------------------------------------------


def ulysses(o: Options, s: Sizes) -> Expected:
    """Expect Jacobs et al., §3: a device's heads over the whole sequence, between two all-to-alls."""
    part, p = Part(o, s), s["devices"]
    length = p * part.chunk
    heads, kv_heads = (-(-s[name] // p) for name in ("heads", "kv_heads"))
    local = {**s, "seq": length, "seq_kv": length, "heads": heads, "kv_heads": kv_heads, "d_model": 1}
    tiled = {"schedule": "fa2", "tile": None, "projections": False, "cross": False, "causal": o["causal"]}
    shared = {"dtype": o["dtype"], "convention": o["convention"]}
    there, back = (attention("tiled", tiled | shared | {"direction": way}, local) for way in ("fwd", "bwd"))
    rows = part.w * s["batch"] * length

    def turn(size: Number) -> Kernel:
        return message(o["dtype"], s, "all-to-all", size, workspace=size)  # a second copy, by heads

    arrive = (
        turn(rows * heads * s["head_dim"]),
        turn(rows * kv_heads * s["head_dim"]),
        turn(rows * kv_heads * s["value_dim"]),
    )
    leave = turn(rows * heads * s["value_dim"])
    kernels = directed(o, (*arrive, *there.kernels, leave), (leave, *back.kernels, *arrive))
    return part.expected(kernels, there.kept)


def ring_self_attention(o: Options, s: Sizes) -> Expected:
    """Expect Li et al. 2021, §3.1: Q Kᵀ and P V by blocks; backward K and V again, two all-reduces."""
    part, p = Part(o, s), s["devices"]
    w, c, d, dv = part.w, part.chunk, s["head_dim"], s["value_dim"]
    every, scores = p * c, w * part.heads * c * p * c
    multiply = partial(product, w, times=part.heads)

    def send(size: Number) -> Kernel:
        return message(o["dtype"], s, "send-receive", size, p - 1, workspace=size * ring_buffers(p))

    def reduce(size: Number) -> Kernel:
        """Return the all-reduce of all positions' gradients, of which a device uses its own p-th."""
        return message(o["dtype"], s, "all-reduce", p * size, workspace=(p - 1) * size)

    def total(cols: int) -> Kernel:
        return replace(table(w, part.heads * c, cols, 2, 1, vector=1), repeats=p - 1)

    forward = (
        send(part.keys),
        multiply(c, c, d, b=part.kv_heads, workspace=Fraction(scores) / p, repeats=p),
        softmax_pass(w, part.heads * c, every, "fwd", workspace=scores),
        send(part.values),
        multiply(c, dv, c, b=part.kv_heads, repeats=p),
        total(dv),
    )
    backward = (
        send(part.values),
        multiply(c, c, dv, b=part.kv_heads, workspace=Fraction(scores) / p, repeats=p),  # dP = dO Vᵀ
        multiply(every, dv, c, out=part.kv_heads),  # dV = Pᵀ dO, of all keys
        reduce(part.values),
        softmax_pass(w, part.heads * c, every, "bwd", workspace=scores),
        send(part.keys),
        multiply(c, d, c, b=part.kv_heads, repeats=p),  # dQ = dS K
        total(d),
        multiply(every, d, c, out=part.kv_heads),  # dK = dSᵀ Q
        reduce(part.keys),
    )
    return part.expected(directed(o, forward, backward), part.queries + part.keys + part.values + scores)


AUTHORITIES: dict[str, Callable[[Options, Sizes], Expected]] = {
    "ring-attention": ring_attention,
    "dist-flash-attention": dist_flash_attention,
    "ulysses": ulysses,
    "ring-self-attention": ring_self_attention,
}
