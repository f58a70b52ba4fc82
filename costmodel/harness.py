"""Cost of the host of an eager framework for chains of kernels.

Constants fitted on single calls include the dispatch of each call. In a chain the host runs ahead, so the
kernels before hide part of the dispatch; if kernels are shorter than the host needs to launch one, the chain
takes the host's time. Both effects belong to the harness of a measurement, not to the device: they apply
only to predictions that name a harness.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from costmodel.hardware.tables import table

#: Harnesses: replay of a captured graph, kernel times from a profiler, events around eager calls, host time
#: around them; on a CPU, its clock.
HARNESSES = ("graph-replay", "kernel-time", "eager-events", "host-wall", "perf_counter-median")
#: Harnesses whose times include the host's dispatch; the others time the device alone.
HOSTED = ("eager-events", "host-wall")
#: Constants of kernel models that make up the dispatch of one call.
DISPATCH = ("dispatch_s", "record_s")


@dataclass(frozen=True)
class Host:
    """How a host launches the kernels of a chain.

    Attributes
    ----------
    hidden : float
        Fraction of a kernel's dispatch that the kernels before it hide.
    launch_s : float
        Shortest time from one launch to the next [s]; 0 if it was never the limit.
    """

    hidden: float = 0.0
    launch_s: float = 0.0

    def dispatched(self, constants: Mapping[str, float], kernels: float | None) -> Mapping[str, float]:
        """Return a kernel model's constants with the dispatch reduced to the part that is not hidden.

        Parameters
        ----------
        constants : mapping of str to float
            Constants fitted on single calls.
        kernels : float or None
            Number of kernels in the chain, the first of which hides nothing; None if it depends on sizes: the
            number is then taken to be large.
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
    """Return a kernel model's constants, without those of a harness that is not the one asked for.

    Parameters
    ----------
    constants : mapping of str to float
        The constants as fitted.
    own : collection of str
        Names of those that belong to the harness (a kernel model's ``HARNESS``).
    fitted, asked : str, str or None
        Harness of the rows they were fitted on, and of the prediction. If either is unknown, nothing is left
        out. Both harnesses that time the host see much the same dispatch, so it stays between these two.
    elsewhere : bool
        Whether they were fitted on another device: that device's host is not part of a prediction that names
        no harness.
    """
    if asked:
        kept = not fitted or asked == fitted or {asked, fitted} <= set(HOSTED)
    else:
        kept = not elsewhere or fitted not in HOSTED
    if kept:
        return constants
    return {name: value for name, value in constants.items() if name not in own}


#: No host cost in the prediction.
NONE = Host()


@cache
def _table() -> dict[str, Any]:
    return table("harness.yaml")


def host(name: str | None, device: str, direction: str) -> Host:
    """Return how the host of a harness launches a chain; for most combinations nothing is known.

    Parameters
    ----------
    name : str or None
        The harness (``eager-events``, …); None: no host cost in the prediction.
    device : str
        `Device.base_name` of the device that runs the kernels: hosts differ.
    direction : str
        ``fwd``, ``bwd`` or ``fwd+bwd``: autograd launches backward kernels from C++, not from Python.
    """
    if name is None:
        return NONE  # without reading the table: most predictions name no harness
    known = _table().get(name, {})
    launch_s = known.get("launch_s", {}).get(device, {}).get(direction, 0.0)
    return Host(hidden=known.get("hidden", 0.0), launch_s=launch_s)
