"""What the host of an eager framework costs where many kernels run one after the other.

Constants fitted on single calls hold the dispatch of each. In a chain the host runs ahead, and part of
the dispatch is hidden by the kernels before; where kernels are shorter than what the host needs to
launch one, the chain takes the host's time. Both belong to how the measurement was taken, not to the
device, and hold only for predictions of such a measurement: one whose harness is named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from costmodel.hardware.tables import table

#: How a measurement is taken: kernels of a replayed graph, of a profile, of eager calls, seen from the host;
#: on a CPU by its clock.
HARNESSES = ("graph-replay", "kernel-time", "eager-events", "host-wall", "perf_counter-median")
#: Harnesses whose times hold the host's dispatch; those of the others hold the device's alone.
HOSTED = ("eager-events", "host-wall")
#: Constants of kernel models that are the dispatch of one call.
DISPATCH = ("dispatch_s", "record_s")


@dataclass(frozen=True)
class Host:
    """How a host launches the kernels of a chain.

    Attributes
    ----------
    hidden : float
        Share of a kernel's dispatch that the kernels before it hide.
    launch_s : float
        Least time from one launch to the next [s]; 0 where it was never what limited.
    """

    hidden: float = 0.0
    launch_s: float = 0.0

    def dispatched(self, constants: Mapping[str, float], kernels: float | None) -> Mapping[str, float]:
        """Return a kernel model's constants with what of the dispatch is not hidden.

        Parameters
        ----------
        constants : mapping of str to float
            Fitted on single calls.
        kernels : float or None
            How many the chain has, the first of which hides behind none; None if that depends on its
            sizes: then it is many.
        """
        if not self.hidden:
            return constants
        left = 1.0 - self.hidden * (1.0 if kernels is None else max(0.0, 1.0 - 1.0 / kernels))
        return {name: value * left if name in DISPATCH else value for name, value in constants.items()}


def as_timed(
    constants: Mapping[str, float],
    own: Collection[str],
    fitted: str,
    asked: str | None,
    *,
    elsewhere: bool = False,
) -> Mapping[str, float]:
    """Return a kernel model's constants without those of a harness that is not the one asked for.

    Parameters
    ----------
    constants : mapping of str to float
        As they were fitted.
    own : collection of str
        Which of them belong to the harness (a kernel model's ``HARNESS``).
    fitted, asked : str, str or None
        Harness of the rows they were fitted on, and of the prediction; where either is not said, nothing
        is left out. Of two that time the host the dispatch is much the same, and stays.
    elsewhere : bool
        Whether they were fitted on another device: the host that dispatched there is not asked for
        unless a harness is.
    """
    if asked:
        kept = not fitted or asked == fitted or {asked, fitted} <= set(HOSTED)
    else:
        kept = not elsewhere or fitted not in HOSTED
    if kept:
        return constants
    return {name: value for name, value in constants.items() if name not in own}


#: No host in the prediction.
NONE = Host()


@cache
def _table() -> dict[str, Any]:
    return table("harness.yaml")


def host(name: str | None, device: str, direction: str) -> Host:
    """Return how a harness's host launches a chain; nothing of it is known for most.

    Parameters
    ----------
    name : str or None
        The harness (``eager-events``, …); None if it is not said: then no host is in the prediction.
    device : str
        Where the kernels run, by its `Device.base_name`: hosts differ.
    direction : str
        ``fwd``, ``bwd`` or ``fwd+bwd``: autograd launches backward kernels from C++, not from Python.
    """
    if name is None:
        return NONE  # and nothing is read: most predictions name no harness
    known = _table().get(name, {})
    launch_s = known.get("launch_s", {}).get(device, {}).get(direction, 0.0)
    return Host(hidden=known.get("hidden", 0.0), launch_s=launch_s)
