"""RG-LRU: the gated linear recurrence of Griffin, Hawk and RecurrentGemma."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from costmodel.layers._elementwise_recurrent import Gates, _ElementwiseRecurrent
from costmodel.layers._refusal import refuse
from costmodel.symbols import symbols

H, HEADS = symbols("hidden heads")


@dataclass(frozen=True, kw_only=True)
class RGLRU(_ElementwiseRecurrent):
    """Real-gated linear recurrent unit, h = a ∘ h₋ + √(1 − a²) ∘ (i ∘ x): 4·B·n·H²/heads matrix FLOP.

    r = σ(W_a x + b_a), i = σ(W_x x + b_x), log a = −8 softplus(Λ) ∘ r. Both matrices are block-diagonal, with
    `heads` blocks. Backward computes a and √(1 − a²) again from r.
    """

    name: ClassVar[str] = "rg-lru"
    source: ClassVar[str] = "De et al. (Griffin), arXiv 2402.19427, §2.4, eq. 1–4, and appendix A"
    not_counted: ClassVar[str] = (
        f"{_ElementwiseRecurrent.not_counted}; softplus of Λ, once per unit; "
        "the limit of the root's gradient where a is almost 1"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "hidden", "heads")
    defaults: ClassVar[dict[str, str | int]] = {"num_layers": 1, "block": 64}
    meanings: ClassVar[Mapping[str, str]] = {"heads": "blocks of the gates' matrices"}
    # Forward: log a; a², 1 − a²; i·x, times the root. Backward, where g is the scanned gradient: log a, a²,
    # 1 − a²; i·x, times a²/√ 2; a·h₋ less that 2; g·that; σ′(r)·log a/r 3, dr; its part of dΛ 2; i·√, dx;
    # (1 − i)·x 2, di.
    gates: ClassVar[Gates] = Gates(
        matrices=2,
        biased=2,
        vector=5,
        special=4,
        vector_back=20,
        special_back=2,
        kept=3,  # r, i, h
        before=6,
        after=0,
        before_back=2,
        after_back=2,
        least_back=10,
    )

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that the blocks divide the units."""
        wanted = "hidden must be a multiple of heads, the blocks of its gates"
        refuse(self, sizes["hidden"] % sizes["heads"], wanted, sizes, "hidden", "heads")

    @property
    def first_width(self) -> sp.Expr:
        """Width of the first layer's input: that of the state."""
        return H

    @property
    def blocks(self) -> sp.Expr:
        """Number of blocks of the gates' matrices."""
        return HEADS

    @property
    def skips(self) -> int:
        """1: the input itself enters the state."""
        return 1

    @property
    def vectors(self) -> int:
        """Number of learned vectors besides biases: Λ."""
        return 1
