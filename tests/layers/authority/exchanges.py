"""Collectives run chunk by chunk on all devices: how much each device sends and adds."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any

from .counted import log2_ceil
from .kernels import WIDTH, Expected, Kernel, Number, directed


def ring_reduce_scatter(have: list[list[set[int]]]) -> Iterator[tuple[int, int]]:
    """Yield (sender, chunk) of every message; afterwards device i has the sum of chunk i + 1.

    have : for each device and chunk, the devices whose contributions its sum contains so far.
    """
    p = len(have)
    for step in range(p - 1):
        before = [[set(chunk) for chunk in chunks] for chunks in have]
        for i in range(p):
            chunk = (i - step) % p
            yield i, chunk
            have[(i + 1) % p][chunk] |= before[i][chunk]


def ring_all_gather(have: list[list[set[int]]], first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (sender, chunk) of every message; device i starts with the whole of chunk i + first."""
    p = len(have)
    for step in range(p - 1):
        before = [[set(chunk) for chunk in chunks] for chunks in have]
        for i in range(p):
            chunk = (i + first - step) % p
            yield i, chunk
            have[(i + 1) % p][chunk] |= before[i][chunk]


@cache
def run(collective: str, p: int) -> tuple[int, int]:
    """Return how many p-ths of its buffer a device sends, and how many it adds to its own."""
    everyone = set(range(p))
    match collective:
        case "send-receive":
            return p, 0  # the whole buffer; a single device sends it 0 times
        case "all-to-all":
            return len(everyone - {0}), 0
        case "all-gather":
            have = [[everyone if c == i else set() for c in range(p)] for i in range(p)]
            sent = [i for i, _ in ring_all_gather(have)]
            added = 0
        case "reduce-scatter" | "all-reduce":
            have = [[{i} for _ in range(p)] for i in range(p)]
            sent = [i for i, _ in ring_reduce_scatter(have)]
            added = sent.count(0)
            assert all(have[i][(i + 1) % p] == everyone for i in range(p))
            if collective == "all-reduce":
                sent += [i for i, _ in ring_all_gather(have, first=1)]
    if collective != "reduce-scatter":
        assert all(chunk == everyone for chunks in have for chunk in chunks)
    assert len({sent.count(i) for i in everyone}) == 1
    return sent.count(0), added


def message(
    dtype: str,
    s: dict[str, int],
    collective: str,
    size: Number,
    repeats: int = 1,
    p: int | None = None,
    workspace: Number = 0,
) -> Kernel:
    """Return one collective as a kernel of one device: it reads what it sends and writes what it receives.

    workspace : bytes beside the operands; a single device needs none.
    """
    p = s["devices"] if p is None else p
    chunks, added = run(collective, p)
    sent = Fraction(size) * chunks / p
    return Kernel(
        vector=Fraction(size) * added / p / Fraction(WIDTH[dtype]),
        read=sent,
        write=sent,
        link=sent,
        workspace=workspace if p > 1 else 0,
        depth=log2_ceil(p) if collective in ("all-reduce", "reduce-scatter") else 0,
        repeats=repeats,
        launches=1 if p > 1 else 0,
        sizes={"size": size, "devices": p, "node": s["node"]},
    )


#: The collective of the gradient: copies are summed, and sums are copied.
BACK = {"all-gather": "reduce-scatter", "reduce-scatter": "all-gather"}


def collective(o: dict[str, Any], s: dict[str, int]) -> Expected:
    """Expect one collective over m × n numbers per device, and that of its gradient.

    A single device needs none; gradients need nothing that forward keeps.
    """
    size, kind = WIDTH[o["dtype"]] * s["m"] * s["n"], o["collective"]

    def one(kind: str) -> Kernel:
        alone = kind == "send-receive" and s["devices"] == 1
        return message(o["dtype"], s, kind, size, repeats=0 if alone else 1)

    kernels = directed(o, (one(kind),), (one(BACK.get(kind, kind)),))
    return Expected(kernels=kernels, inputs=size if s["devices"] > 1 else 0, outputs=0, kept=0)
