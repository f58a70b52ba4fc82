"""Kernels of one layer as part of another: at other sizes, several times, step by step, for what follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sympy as sp

from costmodel.cost import ONE, Phase
from costmodel.symbols import symbol


def at(phases: Iterable[Phase], sizes: Mapping[sp.Symbol, sp.Expr]) -> tuple[Phase, ...]:
    """Return kernels with other sizes in place of some of their own."""
    return tuple(phase.at(sizes) for phase in phases)


def times(phases: Iterable[Phase], repeats: sp.Expr) -> tuple[Phase, ...]:
    """Return kernels that each run that often."""
    return tuple(replace(phase, repeats=phase.repeats * repeats) for phase in phases)


def of_forward(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    """Return kernels of a forward pass that run in the backward one: they stay what they are."""
    return tuple(replace(phase, direction="fwd") for phase in phases)


def one_step_at_a_time(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    """Return the kernels of a layer as generation runs them, each input made of the output before.

    Whatever a teacher-forced pass does for all positions at once is done `seq` times for one:
    products as narrow as the batch, weights read again each time, a launch of every kernel a step.
    """
    seq = symbol("seq")
    return times(at(phases, {seq: ONE}), seq)


def leaving(phases: tuple[Phase, ...], size: sp.Expr) -> tuple[Phase, ...]:
    """Return kernels whose results, so many bytes, are an intermediate: the last one writes them."""
    return (*phases[:-1], replace(phases[-1], workspace=phases[-1].workspace + size))
