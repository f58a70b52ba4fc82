"""Boards and modules of two GPUs: the driver names the whole, but a program sees each half as a GPU."""

from __future__ import annotations

from costmodel import hardware
from costmodel.errors import TableError

#: Board or module → specs of one half by number of units; the first applies if the trace has no number.
HALVES: dict[str, dict[int, str]] = {
    "nvidia/k80": {13: "nvidia/k80-gpu"},
    "amd/mi250x": {110: "amd/mi250x-gcd", 104: "amd/mi250-gcd"},
}
#: ROCm's name for two modules, MI250X and MI250, which differ in their number of units.
EITHER = "amd instinct mi250x / mi250"


def seen(name: str, units: int | None) -> str:
    """Return the device as a program sees it: one half of a board or module, else the device itself.

    Parameters
    ----------
    name : str
        The device, as its driver or the user names it.
    units : int or None
        Number of multiprocessors or compute units that the program sees, if known.

    Raises
    ------
    UnknownNameError
        If no device has that name.
    TableError
        If the name stands for two modules, and the number of units is not known.
    """
    either = name.strip().lower() == EITHER
    halves = HALVES.get("amd/mi250x" if either else hardware.load(name).name, {})
    if either and units not in halves:
        raise TableError(f"ran on {name!r}; say which it is: {' or '.join(halves.values())} (-m, gpu=)")
    return halves.get(units or 0, next(iter(halves.values()), name))
