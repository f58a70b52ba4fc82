"""What a dependent step costs inside one kernel, where no launch lies between steps.

On CUDA, blocks that stay resident meet at a barrier in memory, once a step, as persistent recurrent
kernels do (Diamos et al. 2016, "Persistent RNNs"): one block alone pays the round trip to L2, all of
them what a grid-wide step costs. On the CPU it is a step of an LSTM so small that oneDNN's one call
for all steps does next to no arithmetic. Steps are the difference of a long chain and a short one, so
that launches and calls drop out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from costmodel.validation import timing
from costmodel.validation.torch_env import Machine, load_torch

#: Steps of the short chain, and of the long one.
SHORT, LONG = 64, 1088
#: From a number of steps to the call that walks them.
Chain: TypeAlias = Callable[[int], Callable[[], object]]


def persistent_steps(
    machine: Machine, watch: timing.Stopwatch, budget_s: float
) -> list[tuple[str, timing.Timing]]:
    """Return the time of a step by how many units take part.

    Parameters
    ----------
    machine : Machine
        Where.
    watch : Stopwatch
        Its clock.
    budget_s : float
        About how long each may take [s].

    Returns
    -------
    list of (str, Timing)
        ``one block`` and ``all units`` on CUDA, ``one call`` on the CPU; times are of one step [s]. One
        that could not be told from the noise is left out.

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
    """Return chains of barriers by how many units meet at them."""
    barriers = importlib.import_module("costmodel.validation.triton_barrier")
    counter = load_torch().zeros(1, dtype=load_torch().int32, device=machine.kind)
    return {
        name: partial(barriers.chain, counter, blocks)
        for name, blocks in (("one block", 1), ("all units", machine.units))
    }


def _recurrent_chain(steps: int) -> Callable[[], object]:
    """Return a call of an LSTM of that many steps, eight units wide."""
    torch = load_torch()
    module = torch.nn.LSTM(8, 8).eval().requires_grad_(False)
    sequence = torch.zeros(steps, 1, 8)
    return lambda: module(sequence)
