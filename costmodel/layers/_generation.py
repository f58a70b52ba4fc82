"""Generation: a layer run step by step, because each input is made of the output before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sympy as sp

from costmodel.cost import Phase
from costmodel.symbols import symbol


def one_step_at_a_time(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    """Return the kernels of a layer as generation runs them: each once for every position.

    Whatever a teacher-forced pass does for all positions at once is done `seq` times for one:
    products as narrow as the batch, weights read again each time, a launch of every kernel a step.
    """
    seq = symbol("seq")
    one = (at(phase, {seq: sp.Integer(1)}) for phase in phases)
    return tuple(replace(phase, repeats=seq * phase.repeats) for phase in one)


def at(phase: Phase, values: Mapping[sp.Symbol, sp.Expr]) -> Phase:
    """Return a kernel with some of its sizes replaced, all at once."""
    fields = ("read", "write", "l2", "steps", "pram_depth", "workspace", "repeats", "launches")

    def put(expression: sp.Expr) -> sp.Expr:
        return expression.subs(dict(values), simultaneous=True)

    return replace(
        phase,
        sizes={name: put(size) for name, size in phase.sizes.items()},
        flops={key: put(count) for key, count in phase.flops.items()},
        **{name: put(getattr(phase, name)) for name in fields},
    )
