"""Recurrent layers with a product in their recurrence: Elman RNN, LSTM (with projection), GRU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import Phase
from costmodel.layers._kernels import gemm
from costmodel.layers._recurrent import Cell, Recurrent
from costmodel.symbols import symbols, tree_depth

B, T, H, P, L = symbols("batch seq hidden projection num_layers")

#: Backward, from the kept activations: σ′ = s(1−s) and tanh′ = 1−t² take 2 FLOP,
#: multiplying by the gradient 1, every product-rule term and accumulation 1. Factors that do
#: not depend on the gradient are ready before the chain reaches them.
ELMAN = Cell(
    gates=1,
    vector=1,
    special=1,
    vector_back=4,
    special_back=0,
    kept=1,
    states=1,
    chain=1,
    chain_back=2,
)
#: Forward: 4 adds (Wx + Uh), f∘c, i∘g, +, o∘tanh c. Backward: dh accumulated 1,
#: do 1, dc 5, di dg df dc₋₁ 4, σ′ of three gates 9, tanh′ 3; tanh c recomputed 1.
LONG_SHORT = Cell(
    gates=4,
    vector=8,
    special=5,
    vector_back=23,
    special_back=1,
    kept=6,
    states=2,
    chain=5,
    chain_back=4,
)
#: Forward: 3 adds, r∘(Uh), n + z∘(h−n) 3. Backward: dh accumulated 1, dn 2,
#: dz 2, dh₋₁ 2, tanh′ 3, dr 1, d(Uh) 1, σ′ of two gates 6.
#: The chain forward: σ, r∘, +, tanh, −, z∘, +.
GATED = Cell(
    gates=3,
    vector=7,
    special=3,
    vector_back=18,
    special_back=0,
    kept=5,
    states=1,
    chain=7,
    chain_back=3,
    split_biases=1,
)


@dataclass(frozen=True, kw_only=True)
class RNN(Recurrent):
    """Elman's simple recurrence, h_t = tanh(W x_t + U h_{t−1} + b)."""

    name: ClassVar[str] = "rnn"
    source: ClassVar[str] = "Elman 1990, doi 10.1207/s15516709cog1402_1; torch.nn.RNN"
    cell: ClassVar[Cell] = ELMAN


@dataclass(frozen=True, kw_only=True)
class GRU(Recurrent):
    """Gated recurrent unit, with the reset gate after the product, as in torch and cuDNN."""

    name: ClassVar[str] = "gru"
    source: ClassVar[str] = "Cho et al., arXiv 1406.1078; torch.nn.GRU"
    cell: ClassVar[Cell] = GATED


@dataclass(frozen=True, kw_only=True)
class LSTM(Recurrent):
    """Long short-term memory, optionally with a projected output.

    Parameters
    ----------
    projected : bool
        The state passed on is W_hr (o ∘ tanh c), of width P = `projection` instead of `hidden`
        (torch's ``proj_size``): a second, dependent product per step.
    """

    name: ClassVar[str] = "lstm"
    source: ClassVar[str] = (
        "Hochreiter & Schmidhuber 1997; Sak et al., arXiv 1402.1128 (projection); torch.nn.LSTM"
    )
    cell: ClassVar[Cell] = LONG_SHORT

    projected: bool = False

    @property
    def required(self) -> tuple[str, ...]:  # type: ignore[override]
        """The required sizes: with a projection, also `projection`."""
        return (*Recurrent.required, "projection") if self.projected else Recurrent.required

    @property
    def width(self) -> sp.Expr:
        """Width of the output: P if it is projected."""
        return P if self.projected else H

    def _step_weights(self) -> sp.Expr:
        return self._recurrent_weights() + (H * P if self.projected else 0)

    def _chain_depth(self, direction: str) -> sp.Expr:
        inner = P if direction == "bwd_data" else H
        return super()._chain_depth(direction) + (tree_depth(inner) if self.projected else 0)

    def _kept_by_unit(self) -> sp.Expr:
        return super()._kept_by_unit() + (P if self.projected else 0)

    def _backward_weights(self) -> tuple[Phase, ...]:
        phases = super()._backward_weights()
        if not self.projected:
            return phases
        product = gemm(self, "projection weight gradient", m=P, n=H, k=B * T, batch=sp.Integer(self.ways))
        return (*phases, replace(product, repeats=L))

    def parameters(self) -> sp.Expr:
        """Parameters of a recurrent stack, and the projections' H·P."""
        return super().parameters() + (L * self.ways * H * P if self.projected else 0)


#: Number of gate matrices of a cell, by layer name.
GATES = {kind.name: kind.cell.gates for kind in (RNN, LSTM, GRU)}
