"""SRU and QRNN: the recurrence is elementwise, so that every product covers all positions at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import sympy as sp

from costmodel.errors import CostmodelError
from costmodel.layers._elementwise_recurrent import Gates, _ElementwiseRecurrent
from costmodel.layers._refusal import refuse
from costmodel.symbols import symbol

H, I = symbol("hidden"), symbol("input")


@dataclass(frozen=True, kw_only=True)
class SRU(_ElementwiseRecurrent):
    """Simple recurrent unit, c = f ∘ c₋ + (1 − f) ∘ W x, h = r ∘ c + (1 − r) ∘ x: 6·B·n·d² matrix FLOP.

    Parameters
    ----------
    peephole : bool
        The gates depend on the state, f = σ(W_f x + v_f ∘ c₋ + b_f), as published; the recurrence is then
        nonlinear, and must be computed step by step. Otherwise (the first version) it can be scanned.
    highway : bool
        In every layer, the highway passes a fourth product of x instead of x itself; required if
        `input` differs from `hidden`.
    """

    name: ClassVar[str] = "sru"
    source: ClassVar[str] = "Lei et al., arXiv 1709.02755, eq. 1–4"
    # Forward: 1 − f, times x̃; r·c + (1 − r)·x 4. Backward: dc = dh·r, dr = dh·(c − x) 2, dx = dh·(1 − r) 2;
    # df = g·(c₋ − x̃) 2, dx̃ = g·(1 − f) 2; f(1 − f) and r(1 − r) from differences at hand, 4.
    gates: ClassVar[Gates] = Gates(
        matrices=3,
        biased=2,
        vector=6,
        special=2,
        vector_back=13,
        kept=4,  # x̃, f, r, c
        before=2,
        after=2,
        before_back=2,
        after_back=2,
    )

    peephole: bool = True
    highway: bool = False

    def __post_init__(self) -> None:
        """Check the combination of options."""
        super().__post_init__()
        if self.peephole and self.algorithm != "sequential":
            raise CostmodelError(
                f"{self.name}: algorithm {self.algorithm} needs peephole=false: "
                "gates that see the state make the recurrence nonlinear"
            )

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that input and state are equally wide, if the highway adds the input itself."""
        if not self.highway:
            wanted = "input differs from hidden: give highway=true, which projects it"
            refuse(self, sizes["input"] != sizes["hidden"], wanted, sizes, "input", "hidden")

    @property
    def cell(self) -> Gates:
        """The cell's arithmetic; peepholes add 4 FLOP (v ∘ c₋ in two gates), and 8 backward.

        Of the 8, 4 pass the gradient on to c₋ and 4 make v's gradient.
        """
        cell = self.gates
        if self.highway:
            cell = replace(cell, matrices=4, kept=5)
        if self.peephole:
            # One step forward: v∘c₋, +, σ, 1 − f, ·x̃, +. Backward: + dh·r, ·(c₋ − x̃), ·f(1 − f), ·v, +.
            more = {"vector": cell.vector + 4, "vector_back": cell.vector_back + 8}
            cell = replace(cell, **more, before=0, step=6, step_back=5)
        return cell

    @property
    def first_width(self) -> sp.Expr:
        """Width of the first layer's input: that of the state, unless the highway projects it."""
        return I if self.highway else H

    @property
    def skips(self) -> int:
        """1 if the input itself enters the output, 0 if a product of it does."""
        return 0 if self.highway else 1

    @property
    def peepholes(self) -> int:
        """Number of peephole vectors: v_f and v_r."""
        return 2 if self.peephole else 0


@dataclass(frozen=True, kw_only=True)
class QRNN(_ElementwiseRecurrent):
    """Quasi-recurrent layer with fo-pooling, c = f ∘ c₋ + (1 − f) ∘ z, h = o ∘ c: 6·k·B·n·I·H matrix FLOP.

    z, f and o are convolutions of width `k` over the input.
    """

    name: ClassVar[str] = "qrnn"
    source: ClassVar[str] = "Bradbury et al., arXiv 1611.01576, eq. 1–4"
    defaults: ClassVar[dict[str, str | int]] = {**_ElementwiseRecurrent.defaults, "k": 2}
    # Forward: 1 − f, times z; o·c. Backward: do = dh·c, dc = dh·o; df = g·(c₋ − z) 2, dz = g·(1 − f) 2;
    # tanh′ 3, σ′ of f 2 and of o 3.
    gates: ClassVar[Gates] = Gates(
        matrices=3,
        biased=3,
        vector=3,
        special=3,
        vector_back=14,
        kept=4,  # z, f, o, c
        before=2,
        after=1,
        before_back=2,
        after_back=2,
    )

    @property
    def taps(self) -> sp.Expr:
        """Width of the convolution, k: the position itself and the k − 1 before it."""
        return symbol("k")
