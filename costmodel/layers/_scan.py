"""First-order linear recurrences, h_t = a_t h_{t−1} + b_t: algorithms to scan them, and their kernel.

Combining two segments of the sequence, (a, b) ∘ (a′, b′) = (a a′, a′ b + b′), takes 3 FLOP; a step
from a known state, a h + b, takes 2. For lengths between powers of two, the tree algorithms are
counted with the same expressions in ⌈log₂ T⌉, an upper bound on their combines and levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase
from costmodel.layers._base import Layer
from costmodel.symbols import CeilLog2, ceil_div

Count = Callable[[sp.Expr, sp.Expr], sp.Expr]
#: Dependent operations of a combine or a step: one multiply, one add.
COMBINE_DEPTH = 2


@dataclass(frozen=True)
class Algorithm:
    """A scan algorithm over T elements, in chunks of C if it is chunked.

    Attributes
    ----------
    combines : callable of (T, C)
        Number of combines and steps per lane.
    flops : callable of (T, C)
        Their arithmetic [FLOP].
    depth : callable of (T, C)
        Number of dependent combines.
    """

    combines: Count
    flops: Count
    depth: Count


def _tree(combines: Count, depth: Count) -> Algorithm:
    return Algorithm(combines, lambda t, c: 3 * combines(t, c), depth)


SCANS: Mapping[str, Algorithm] = {
    "sequential": Algorithm(
        combines=lambda t, _: t - 1,
        flops=lambda t, _: 2 * (t - 1),
        depth=lambda t, _: t - 1,
    ),
    # Hillis & Steele 1986; Kogge & Stone 1973: level j combines each of the T − 2ʲ elements that have
    # an element 2ʲ positions before them.
    "kogge-stone": _tree(
        combines=lambda t, _: t * CeilLog2(t) - t + 1,
        depth=lambda t, _: CeilLog2(t),
    ),
    # Blelloch 1990, exclusive: T − 1 combines up the tree, T − 1 down.
    "blelloch": _tree(
        combines=lambda t, _: 2 * (t - 1),
        depth=lambda t, _: 2 * CeilLog2(t),
    ),
    # Brent & Kung 1982, inclusive; ⌊log₂ T⌋ = ⌈log₂(T + 1)⌉ − 1.
    "brent-kung": _tree(
        combines=lambda t, _: 2 * t - 1 - CeilLog2(t + 1),
        depth=lambda t, _: sp.Max(0, 2 * CeilLog2(t) - 1),
    ),
    # The prefixes within all chunks at once, by loops from the identity; the states passed from chunk to
    # chunk; each element combined with its chunk's state, the last chunk's while the final state is made.
    "chunked": Algorithm(
        combines=lambda t, c: 2 * t + ceil_div(t, c),
        flops=lambda t, c: 5 * t + 2 * ceil_div(t, c),
        depth=lambda t, c: sp.Min(c, t) + ceil_div(t, c),
    ),
}


def recurrence(algorithm: str, length: sp.Expr, chunk: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Return the FLOPs per lane and the number of dependent steps, for a recurrence inside a layer.

    A loop starts from a state, and so takes T steps. A tree has no initial state.
    """
    if algorithm == "sequential":
        return 2 * length, length
    scan = SCANS[algorithm]
    return scan.flops(length, chunk), scan.depth(length, chunk)


def scan_phase(
    layer: Layer,
    name: str,
    *,
    chains: sp.Expr,
    steps: sp.Expr = ZERO,
    matrix: sp.Expr = ZERO,
    vector: sp.Expr = ZERO,
    special: sp.Expr = ZERO,
    read: sp.Expr,
    write: sp.Expr,
    again: sp.Expr = ZERO,
    pram_depth: sp.Expr,
    workspace: sp.Expr = ZERO,
    launches: sp.Expr = ONE,
    blocks: bool = False,
) -> Phase:
    """Return a kernel that walks chains of dependent steps, or computes the parallel part of a scan.

    Parameters
    ----------
    layer : Layer
        The layer whose dtype the products have; other arithmetic uses its accumulation format.
    name : str
        What the kernel computes.
    chains, steps : Expr
        Number of independent chains, and of dependent steps of each (0 if there are none).
    matrix, vector, special : Expr
        Arithmetic by engine [FLOP].
    read, write, again : Expr
        Traffic with main memory, and re-reads that a cache may serve [bytes].
    pram_depth, workspace, launches : Expr
        As in `Phase`.
    blocks : bool
        Whether a chain takes a thread block and its steps are small products (chunks of
        tokens), or one thread and a few instructions (a lane of an elementwise recurrence).
    """
    flops = {
        ("matrix", layer.dtype): matrix,
        ("vector", layer.accumulate): vector,
        ("special", layer.accumulate): special,
    }
    sizes = {
        "chains": chains,
        "steps": steps,
        "traffic": read + write,
        "again": again,
        "matrix_flops": matrix,
        "vector_flops": vector,
        "special_flops": special,
        "launches": launches,
    }
    options: dict[str, Any] = {"dtype": layer.dtype, "blocks": blocks}
    return Phase(
        name=name,
        kernel="scan",
        op="scan",
        sizes={key: sp.sympify(value) for key, value in sizes.items()},
        options=options,
        flops={key: sp.sympify(value) for key, value in flops.items() if value != 0},
        read=read,
        write=write,
        l2=again,
        steps=sp.sympify(steps),
        pram_depth=sp.sympify(pram_depth),
        workspace=workspace,
        launches=sp.sympify(launches),
    )
