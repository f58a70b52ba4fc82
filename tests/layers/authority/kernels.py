"""Expected costs of a kernel and of a layer as numbers; a product, and a pass over a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from .counted import log2_ceil

Number = int | Fraction
WIDTH: Mapping[str, Number] = {
    "fp64": 8,
    "fp32": 4,
    "tf32": 4,
    "bf16": 2,
    "fp16": 2,
    "fp8": 1,
    "fp4": Fraction(1, 2),
}


def statistic(dtype: str) -> int:
    """Return the bytes of one statistic: fp32 for every dtype (contract.md) except fp64."""
    return 8 if dtype == "fp64" else 4


def dot_depth(n: int) -> int:
    """Return the depth of a multiply and a balanced tree of additions (formulas.md §3.3: 1 + ⌈log₂ n⌉)."""
    return 1 + log2_ceil(n)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One launch of a kernel as numbers: FLOPs by engine, bytes, dependent steps, depth."""

    matrix: Number = 0
    vector: Number = 0
    special: Number = 0
    read: Number
    write: Number
    l2: Number = 0
    steps: Number = 0
    depth: Number
    workspace: Number = 0
    repeats: Number = 1
    link: Number = 0
    launches: Number = 1
    sizes: Mapping[str, Number] = field(default_factory=dict)


def directed(
    o: Mapping[str, Any], forward: tuple[Kernel, ...], backward: tuple[Kernel, ...]
) -> tuple[Kernel, ...]:
    """Return the kernels of the direction that a layer's options ask for."""
    return {"fwd": forward, "bwd": backward, "fwd+bwd": forward + backward}[o["direction"]]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A layer in one direction: kernels in order, operands and kept values [bytes]."""

    kernels: tuple[Kernel, ...]
    inputs: Number
    outputs: Number
    weights: Number = 0
    offsets: Number = 0
    updated: Number = 0
    unwritten: Number = 0
    indices: Number = 0
    unread: Number = 0
    kept: Number
    path: Number = 1
    passes: Number = 1
    parameters: Number = 0


def product(
    w: Number,
    m: int,
    n: int,
    k: int,
    *,
    times: int = 1,
    a: int | None = None,
    b: int | None = None,
    out: int | None = None,
    pairs: Number = 1,
    workspace: Number = 0,
    repeats: int = 1,
) -> Kernel:
    """Return `times` products (m×k)·(k×n): 2mkn FLOPs each (formulas.md, first line); A, B, out move once.

    a, b, out : how many of the matrices are distinct in memory; pairs : share of the products that counts.
    """
    return Kernel(
        matrix=Fraction(2 * times * m * n * k) * pairs,
        read=w * ((a or times) * m * k + (b or times) * k * n),
        write=w * (out or times) * m * n,
        depth=dot_depth(k),
        workspace=workspace,
        repeats=repeats,
        sizes={"batch": times, "m": m, "n": n, "k": k},
    )


def table(
    w: Number,
    rows: int,
    cols: int,
    reads: int,
    writes: int,
    *,
    vector: Number = 0,
    special: Number = 0,
    depth: Number = 1,
    pairs: Number = 1,
    more_read: Number = 0,
    more_write: Number = 0,
    workspace: Number = 0,
    by_row: bool = False,
) -> Kernel:
    """Return one pass over a table, with reads, writes and operations per element.

    Its other bytes (masks, sums) count as elements of the table in the sizes that are timed, except in passes
    by row (norms and softmax).
    """
    beside = 0 if by_row else Fraction(1) / (w * rows * cols)
    return Kernel(
        vector=vector * rows * cols * pairs,
        special=special * rows * cols * pairs,
        read=w * rows * cols * reads + more_read,
        write=w * rows * cols * writes + more_write,
        depth=depth,
        workspace=workspace,
        sizes={
            "rows": rows,
            "cols": cols,
            "reads": reads + beside * more_read,
            "writes": writes + beside * more_write,
        },
    )
