"""minGRU and minLSTM: gated recurrences whose gates do not depend on the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.layers._elementwise_recurrent import Gates, _ElementwiseRecurrent


@dataclass(frozen=True, kw_only=True)
class MinGRU(_ElementwiseRecurrent):
    """minGRU, h_t = (1 − z_t) ∘ h_{t−1} + z_t ∘ h̃_t, z = σ(W_z x), h̃ = W_h x: 4·B·n·I·H matrix FLOP."""

    name: ClassVar[str] = "min-gru"
    source: ClassVar[str] = "Feng et al., arXiv 2410.01201, §3.1"
    # Forward: 1 − z, z·h̃. Backward, where g is the scanned gradient: 1 − z; dz = g·(h̃ − h₋) 2;
    # σ′, z(1 − z), 2; dh̃ = g·z.
    gates: ClassVar[Gates] = Gates(
        matrices=2,
        biased=2,
        vector=2,
        special=1,
        vector_back=6,
        kept=3,  # z, h̃, h
        before=2,
        after=0,
        before_back=1,
        after_back=2,
    )


@dataclass(frozen=True, kw_only=True)
class MinLSTM(_ElementwiseRecurrent):
    """minLSTM, h_t = f′_t ∘ h_{t−1} + i′_t ∘ h̃_t, f′ = f/(f + i), i′ = i/(f + i): 6·B·n·I·H matrix FLOP."""

    name: ClassVar[str] = "min-lstm"
    source: ClassVar[str] = "Feng et al., arXiv 2410.01201, §3.2"
    # Forward: f + i, two divisions, i′·h̃. Backward: f + i, f′, i′ again 3; dh̃ = g·i′ 1;
    # (g·(h₋ − h̃))/(f + i) 3, times i′ for df and f′ for di 2; σ′ twice 6.
    gates: ClassVar[Gates] = Gates(
        matrices=3,
        biased=3,
        vector=4,
        special=2,
        vector_back=15,
        kept=4,  # f, i, h̃, h
        before=3,
        after=0,
        before_back=2,
        after_back=4,
    )
