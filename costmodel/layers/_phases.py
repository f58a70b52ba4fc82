"""Reuse of kernels in another layer: at other sizes, repeated, step by step, or as intermediates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sympy as sp

from costmodel.cost import ONE, Phase
from costmodel.symbols import symbol


def at(phases: Iterable[Phase], sizes: Mapping[sp.Symbol, sp.Expr]) -> tuple[Phase, ...]:
    """Return kernels with some of their sizes replaced."""
    return tuple(phase.at(sizes) for phase in phases)


def times(phases: Iterable[Phase], repeats: sp.Expr) -> tuple[Phase, ...]:
    """Return kernels that each run `repeats` times as often."""
    return tuple(replace(phase, repeats=phase.repeats * repeats) for phase in phases)


def of_forward(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    """Return forward kernels that run in the backward pass, marked so that they stay forward kernels."""
    return tuple(replace(phase, direction="fwd") for phase in phases)


def one_step_at_a_time(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    """Return the kernels of a layer in autoregressive generation, where each input needs the output before.

    Everything that a teacher-forced pass does once for all positions runs `seq` times for one position:
    products are only as wide as the batch, weights are read again, every step launches every kernel.
    """
    seq = symbol("seq")
    return times(at(phases, {seq: ONE}), seq)


def leaving(phases: tuple[Phase, ...], size: sp.Expr) -> tuple[Phase, ...]:
    """Return kernels whose result of `size` bytes is an intermediate, written by the last of them."""
    return (*phases[:-1], replace(phases[-1], workspace=phases[-1].workspace + size))
