"""One step of each optimiser, line by line as in torch.optim, on counted numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from .counted import Counted, special, tally
from .kernels import WIDTH, Expected, Kernel, Number

RATE, BETA1, BETA2, EPSILON, DECAY, MOMENTUM, AGE = 0.1, 0.9, 0.99, 1e-8, 0.01, 0.8, 3


def root(x: Counted) -> Counted:
    return special(math.sqrt, x)


def lerp(m: Counted, g: Counted) -> Counted:
    return m + (g - m) * (1 - BETA1)


def square(v: Counted, g: Counted) -> Counted:
    return v + (g * (1 - BETA2)) * g


def sgd(p: Counted, g: Counted) -> Counted:
    return p - g * RATE


def momentum(p: Counted, g: Counted, m: Counted) -> tuple[Counted, Counted]:
    m = m * MOMENTUM + g
    return p - m * RATE, m


def adam(p: Counted, g: Counted, m: Counted, v: Counted) -> tuple[Counted, Counted, Counted]:
    m, v = lerp(m, g), square(v * BETA2, g)
    below = root(v) * (1 / math.sqrt(1 - BETA2**AGE)) + EPSILON
    return p - (m / below) * (RATE / (1 - BETA1**AGE)), m, v


def adamw(p: Counted, g: Counted, m: Counted, v: Counted) -> tuple[Counted, Counted, Counted]:
    return adam(p * (1 - RATE * DECAY), g, m, v)


STEPS: dict[str, Callable[..., Any]] = {"sgd": sgd, "momentum": momentum, "adam": adam, "adamw": adamw}
#: One kernel per line: (tables read, tables written, arithmetic).
ADAM: tuple[tuple[int, int, Callable[..., Counted]], ...] = (
    (2, 1, lerp),
    (1, 1, lambda v: v * BETA2),
    (2, 1, square),
    (1, 1, root),
    (1, 1, lambda t: t * 0.3),
    (1, 1, lambda t: t + EPSILON),
    (3, 1, lambda p, m, t: p - (m / t) * RATE),
)
LINES: dict[str, tuple[tuple[int, int, Callable[..., Counted]], ...]] = {
    "sgd": ((2, 1, sgd),),
    "momentum": (
        (1, 1, lambda m: m * MOMENTUM),
        (2, 1, lambda m, g: m + g),
        (2, 1, lambda p, m: p - m * RATE),
    ),
    "adam": ADAM,
    "adamw": ((1, 1, lambda p: p * 0.3), *ADAM),
}


def optimizer_step(o: dict[str, Any], s: dict[str, int]) -> Expected:
    """Expect a gradient in, weight and state in and out, and a narrow weight out."""
    w, numbers, pieces = WIDTH[o["dtype"]], s["params"], 1
    copied = o["master"] and w < 4
    wide = 4 if copied else w
    tables = {"sgd": 1, "momentum": 2, "adam": 3, "adamw": 3}[o["optimiser"]]  # weight, m, v
    if o["implementation"] == "loop":
        pieces = s["tensors"]
    each = Fraction(numbers, pieces)

    def kernel(read: Number, write: Number, program: Callable[..., Any] | None, operands: int) -> Kernel:
        cost = vars(tally(program, *[0.7] * operands)) if program else {"depth": 0}  # type: ignore[arg-type]
        return Kernel(
            vector=cost.get("vector", 0) * each,
            special=cost.get("special", 0) * each,
            read=read * each,
            write=write * each,
            depth=cost["depth"],
            repeats=pieces,
            sizes={"rows": 1, "cols": each, "reads": Fraction(read) / w, "writes": Fraction(write) / w},
        )

    def temporary(made: Kernel) -> Kernel:
        return Kernel(**{**vars(made), "workspace": made.write})

    if o["implementation"] == "fused":
        out = tables * wide + (w if copied else 0)
        kernels = [kernel(w + tables * wide, out, STEPS[o["optimiser"]], tables + 1)]
    else:
        kernels = [
            kernel(reads * wide, writes * wide, program, reads)
            for reads, writes, program in LINES[o["optimiser"]]
        ]
        kernels = [
            temporary(k) if program is root else k
            for k, (_, _, program) in zip(kernels, LINES[o["optimiser"]], strict=True)
        ]
        if copied:
            kernels = [temporary(kernel(w, wide, None, 1)), *kernels, kernel(wide, w, None, 1)]
    return Expected(
        kernels=tuple(kernels),
        inputs=w * numbers,
        outputs=w * numbers if copied else 0,
        updated=tables * wide * numbers,
        kept=0,
    )
