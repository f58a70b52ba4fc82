"""Boards and modules of two GPUs: their drivers name the whole, and a program sees each half as a GPU."""

from __future__ import annotations

from costmodel import hardware
from costmodel.errors import TableError

#: Board or module → spec of one half by its number of units; the first where the trace does not say it.
HALVES: dict[str, dict[int, str]] = {
    "nvidia/k80": {13: "nvidia/k80-gpu"},
    "amd/mi250x": {110: "amd/mi250x-gcd", 104: "amd/mi250-gcd"},
}
#: ROCm's name for two modules, MI250X and MI250, which differ in their units.
EITHER = "amd instinct mi250x / mi250"


def seen(name: str, units: int | None) -> str:
    """Return what a program sees of a device: one half of a board or module, else the device itself.

    Parameters
    ----------
    name : str
        The device, as its driver or the user names it.
    units : int or None
        How many multiprocessors or compute units the program sees, where that is known.

    Raises
    ------
    UnknownNameError
        If no device has that name.
    TableError
        If it is the name of two modules, and nothing tells which of them it is.
    """
    either = name.strip().lower() == EITHER
    halves = HALVES.get("amd/mi250x" if either else hardware.load(name).name, {})
    if either and units not in halves:
        raise TableError(f"ran on {name!r}; say which it is: {' or '.join(halves.values())} (-m, gpu=)")
    return halves.get(units or 0, next(iter(halves.values()), name))
