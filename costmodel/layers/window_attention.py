"""Local attention: sliding windows, and Longformer's windows with a few global tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from costmodel.layers import _pairs
from costmodel.layers._attention import N
from costmodel.layers._masked import BLOCK, _MaskedAttention
from costmodel.layers._pairs import Mask
from costmodel.layers.conv import stacked_layers
from costmodel.symbols import ceil_div, symbols

W, G = symbols("window globals")
#: Less than one position: a window of one reaches no other.
HALF = sp.Rational(1, 2)


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(_MaskedAttention):
    """Sliding-window attention: each query sees `window` positions, 4·d_h FLOP per pair and head.

    Parameters
    ----------
    causal : bool
        The window ends at the query (w·n − w(w−1)/2 pairs). Otherwise it reaches equally far to both sides,
        ±r with r = w − 1: n(2r+1) − r(r+1) pairs.
    """

    name: ClassVar[str] = "sliding-window"
    source: ClassVar[str] = (
        "Vaswani et al., arXiv 1706.03762, §4 (restricted); Jiang et al., arXiv 2310.06825, §2 (Mistral)"
    )
    required: ClassVar[tuple[str, ...]] = (*_MaskedAttention.required, "window")
    meanings: ClassVar[Mapping[str, str]] = {
        "window": "positions that a query sees, its own included (not causal: to each side)"
    }

    causal: bool = True

    def mask(self) -> Mask:
        """Return a causal window, or ±(w − 1)."""
        return _pairs.window(N, W, BLOCK) if self.causal else _pairs.local(N, W - 1, BLOCK)

    @property
    def _op(self) -> str:
        """The nearest measured kernel: if causal, the causal one, which libraries run with a window."""
        return "attention_prefill" if self.causal else super()._op

    def _sizes(self) -> Mapping[str, sp.Expr]:
        """Arguments of the kernel model, which, if causal, cuts the window into tiles itself."""
        sizes = super()._sizes()
        return {**sizes, "seq_kv": N, "window": W} if self.causal else sizes

    def _kernel_options(self, direction: str) -> Mapping[str, Any]:
        return {**super()._kernel_options(direction), "causal": self.causal}

    def path(self) -> sp.Expr:
        """⌈(n − 1)/(w − 1)⌉ layers until the first position reaches the last."""
        return stacked_layers(N, W, dilated=False)


@dataclass(frozen=True, kw_only=True)
class Longformer(_MaskedAttention):
    """Longformer: windows of `window` positions, half to each side, and `globals` global tokens.

    The global tokens are in front, attend to all and are attended to by all: g·n + (n − g)·g pairs. The
    others have the pairs of their windows.
    """

    name: ClassVar[str] = "longformer"
    source: ClassVar[str] = "Beltagy et al., arXiv 2004.05150, §3.1"
    not_counted: ClassVar[str] = (
        f"{_MaskedAttention.not_counted}; the global tokens' own projections; dilated windows"
    )
    defaults: ClassVar[dict[str, str | int]] = {**_MaskedAttention.defaults, "window": 512, "globals": 1}
    meanings: ClassVar[Mapping[str, str]] = {"window": "positions around a token, half to each side"}

    def mask(self) -> Mask:
        """Return the windows and the global rows and columns."""
        return _pairs.longformer(N, _pairs.half_width(W), G, BLOCK)

    def path(self) -> sp.Expr:
        """Two steps, through a global token; one if all other tokens see one another."""
        apart, reach = N - 1 - G, _pairs.half_width(W)
        return sp.Min(2, sp.Max(1, ceil_div(apart, sp.Max(HALF, reach))))
