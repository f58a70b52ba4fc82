"""Scans of h_t = a_t h_{t−1} + b_t, run on numbers: combines are counted, with the time each can start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .counted import log2_ceil
from .kernels import WIDTH, Expected, Kernel, Number

Sizes = dict[str, int]


@dataclass(frozen=True)
class Stretch:
    """Maps h before a stretch of the sequence to a·h + b after it; known after `depth` combines."""

    a: float
    b: float
    depth: int = 0


@dataclass
class Work:
    """Numbers of combines of two stretches (3 FLOPs) and of steps from a known state (2 FLOPs)."""

    combines: int = 0
    steps: int = 0

    def combine(self, first: Stretch, then: Stretch) -> Stretch:
        self.combines += 1
        return Stretch(first.a * then.a, then.a * first.b + then.b, 1 + max(first.depth, then.depth))

    def step(self, state: Stretch, then: Stretch) -> Stretch:
        self.steps += 1
        return Stretch(0.0, then.a * state.b + then.b, 1 + max(state.depth, then.depth))


def sequential(work: Work, xs: list[Stretch]) -> list[Stretch]:
    """Run a loop: h_1 = b_1, and a step for each further element."""
    states = [replace(xs[0], a=0.0)]
    for x in xs[1:]:
        states.append(work.step(states[-1], x))
    return states


def kogge_stone(work: Work, xs: list[Stretch]) -> list[Stretch]:
    """Run Hillis & Steele's scan: combine every element with the one 1, 2, 4, … positions before."""
    distance = 1
    while distance < len(xs):
        xs = [x if t < distance else work.combine(xs[t - distance], x) for t, x in enumerate(xs)]
        distance *= 2
    return xs


def blelloch(work: Work, xs: list[Stretch]) -> list[Stretch]:
    """Run Blelloch's exclusive scan (1990) up and down a balanced tree."""

    def up(tree: list[Stretch]) -> list[list[Stretch]]:
        levels = [tree]
        while len(levels[-1]) > 1:
            below = levels[-1]
            levels.append([work.combine(below[i], below[i + 1]) for i in range(0, len(below), 2)])
        return levels

    levels = up(xs)
    before = [
        Stretch(1.0, 0.0, levels[-1][0].depth)
    ]  # nothing precedes the root; handed down once the tree is built
    for level in reversed(levels[:-1]):
        handed: list[Stretch] = []
        for parent, left in zip(before, level[::2], strict=True):
            # The left child's value is copied while the right child's is combined.
            right = work.combine(parent, left)
            handed += [replace(parent, depth=right.depth), right]
        before = handed
    return before


def brent_kung(work: Work, xs: list[Stretch]) -> list[Stretch]:
    """Run Brent and Kung's scan: pairs, prefixes of pairs, then the odd positions, level by level."""
    if len(xs) == 1:
        return xs
    pairs = brent_kung(work, [work.combine(xs[i], xs[i + 1]) for i in range(0, len(xs) - 1, 2)])
    level = max(pair.depth for pair in pairs)  # some pairs are known a level earlier
    pairs = [replace(pair, depth=level) for pair in pairs]
    result = [xs[0]]
    for t in range(1, len(xs)):
        result.append(pairs[t // 2] if t % 2 else work.combine(pairs[t // 2 - 1], xs[t]))
    return result


def chunked(work: Work, xs: list[Stretch], c: int) -> list[Stretch]:
    """Run loops in all chunks at once, hand the state from chunk to chunk, and apply it to each element."""
    local: list[list[Stretch]] = []
    for first in range(0, len(xs), c):
        prefix, chunk = Stretch(1.0, 0.0), []
        for x in xs[first : first + c]:
            prefix = work.combine(prefix, x)
            chunk.append(prefix)
        local.append(chunk)
    state, states = Stretch(0.0, 0.0), []
    for chunk in local:
        states += [work.step(state, x) for x in chunk]
        state = work.step(state, chunk[-1])
    # The last hand-over gives the final state.
    return [*states, state]


ALGORITHMS: dict[str, Callable[..., list[Stretch]]] = {
    "sequential": sequential,
    "kogge-stone": kogge_stone,
    "blelloch": blelloch,
    "brent-kung": brent_kung,
    "chunked": chunked,
}


def run(algorithm: str, xs: list[Stretch], c: int) -> tuple[Work, list[Stretch]]:
    work = Work()
    more = (c,) if algorithm == "chunked" else ()
    return work, ALGORITHMS[algorithm](work, xs, *more)


@dataclass(frozen=True)
class Counts:
    """Combines, FLOPs and depth of one lane by formulas.md §2, with ⌈log₂ T⌉ or ⌊log₂ T⌋ for log₂."""

    combines: int
    flops: int
    depth: int


def counts(algorithm: str, t: int, c: int) -> Counts:
    """Return formulas.md §2: equal to `run` at powers of two, an upper bound elsewhere (test_scans.py)."""
    up, down = log2_ceil(t), log2_ceil(t + 1) - 1
    if algorithm in ("sequential", "chunked"):
        work, states = run(algorithm, [Stretch(0.5, 1.0)] * t, c)
        return Counts(
            work.combines + work.steps, 3 * work.combines + 2 * work.steps, max(s.depth for s in states)
        )
    combines, depth = {
        "kogge-stone": (t * up - t + 1, up),
        "blelloch": (2 * (t - 1), 2 * up),
        "brent-kung": (2 * t - 2 - down, max(0, 2 * up - 1)),
    }[algorithm]
    return Counts(combines, 3 * combines, depth)


def recurrence(algorithm: str, t: int, c: int) -> Counts:
    """Return the counts inside a layer, where a loop starts from a state and steps at every position."""
    return Counts(t, 2 * t, t) if algorithm == "sequential" else counts(algorithm, t, c)


def chains(kernel: Kernel, count: int, *, steps: int | None = None) -> Kernel:
    """Return a kernel with the sizes that the scan's kernel model takes, which are its own counts."""
    sizes = {
        "chains": count,
        "steps": kernel.steps if steps is None else steps,
        "traffic": kernel.read + kernel.write,
        "again": kernel.l2,
        "matrix_flops": kernel.matrix,
        "vector_flops": kernel.vector,
        "special_flops": kernel.special,
        "launches": kernel.launches,
    }
    return replace(kernel, sizes=sizes)


def scan(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect a and b in, h out; backward a, h and dh in, da and db out, with one product for da."""
    w, t, lanes = WIDTH[o["dtype"]], s["seq"], s["batch"] * s["hidden"]
    work = counts(o["algorithm"], t, s["block"])
    one_in, one_out = (3, 1) if o["algorithm"] == "sequential" else (4, 2)

    def walk(reads: int, writes: int, product: int) -> Kernel:
        moved_in, moved_out = reads * t, writes * t
        if not o["fused"]:  # copied, then combine after combine in memory
            moved_in += 2 * t + one_in * work.combines
            moved_out += 2 * t + one_out * work.combines
        return chains(
            Kernel(
                vector=lanes * (work.flops + product * t),
                read=w * lanes * moved_in,
                write=w * lanes * moved_out,
                steps=work.depth,
                depth=2 * work.depth + product,
                workspace=0 if o["fused"] else 2 * w * lanes * t,
                launches=1 if o["fused"] else 1 + work.depth,
            ),
            lanes,
        )

    forward, backward = (walk(2, 1, 0),), (walk(3, 2, 1),)
    return Expected(
        kernels={"fwd": forward, "bwd": backward, "fwd+bwd": forward + backward}[o["direction"]],
        inputs=2 * w * lanes * t,
        outputs=w * lanes * t,
        kept=2 * w * lanes * t,
        path=work.depth,
    )


def updated(k: Kernel, states: Number) -> Kernel:
    """Return a kernel that reads states, updates them token by token, and writes them back [bytes]."""
    sizes = {"states": states, "traffic": k.read + k.write, "steps": k.steps, "vector_flops": k.vector}
    return replace(k, sizes=sizes)
