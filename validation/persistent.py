"""Measure the cost of a dependent step inside one kernel, without launches between steps.

On CUDA, resident blocks synchronise at a barrier in memory once per step, as persistent recurrent kernels do
(Diamos et al. 2016, "Persistent RNNs"). A single block takes a round trip to L2, all blocks take a grid-wide
step. On the CPU it is a step of an LSTM so small that oneDNN's single call for all steps does almost no
arithmetic. The time of a step is the difference between a long and a short chain, which cancels launches and
calls.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from costmodel.validation import timing
from costmodel.validation.torch_env import Machine, load_torch

#: Number of steps of the short and of the long chain.
SHORT, LONG = 64, 1088
#: Function from a number of steps to the call that runs them.
Chain: TypeAlias = Callable[[int], Callable[[], object]]


def persistent_steps(
    machine: Machine, watch: timing.Stopwatch, budget_s: float
) -> list[tuple[str, timing.Timing]]:
    """Return the time of a step by the number of units that take part.

    Parameters
    ----------
    machine : Machine
        The machine to measure.
    watch : Stopwatch
        Its timer.
    budget_s : float
        Approximate time budget of each measurement [s].

    Returns
    -------
    list of (str, Timing)
        ``one block`` and ``all units`` on CUDA, ``one call`` on the CPU, each with the time of one step [s].
        Steps that are not measurable above the noise are left out.

    Raises
    ------
    ImportError
        On CUDA without Triton.
    """
    chains: dict[str, Chain] = (
        {"one call": _recurrent_chain} if machine.kind == "cpu" else _barrier_chains(machine)
    )
    steps = {
        name: timing.measure_difference(watch, chain(LONG), chain(SHORT), budget_s, apart=LONG - SHORT)
        for name, chain in chains.items()
    }
    return [(name, step) for name, step in steps.items() if step is not None]


def _barrier_chains(machine: Machine) -> dict[str, Chain]:
    """Return chains of barriers by the number of units that synchronise."""
    barriers = importlib.import_module("costmodel.validation.triton_barrier")
    counter = load_torch().zeros(1, dtype=load_torch().int32, device=machine.kind)
    return {
        name: partial(barriers.chain, counter, blocks)
        for name, blocks in (("one block", 1), ("all units", machine.units))
    }


def _recurrent_chain(steps: int) -> Callable[[], object]:
    """Return a call of an LSTM with `steps` steps and eight units."""
    torch = load_torch()
    module = torch.nn.LSTM(8, 8).eval().requires_grad_(False)
    sequence = torch.zeros(steps, 1, 8)
    return lambda: module(sequence)
