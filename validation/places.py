"""Where a user's own files are: journals, and specs measured here."""

from __future__ import annotations

import contextlib
from pathlib import Path

from costmodel import hardware
from costmodel.errors import CostmodelError, UnavailableError, UnknownNameError
from costmodel.files import user_folder
from costmodel.hardware import Device
from costmodel.validation.spec import spec_name
from costmodel.validation.torch_env import Machine


def spec_path(machine: Machine, folder: Path | None = None) -> Path:
    """Return where the measured spec of a device is, or would be."""
    return (folder or user_folder()) / f"{spec_name(machine).replace('/', '-')}.yaml"


def find_device(machine: Machine, folder: Path | None = None) -> Device:
    """Return the device that a machine is, from its spec.

    A GPU has the one that comes with the program, by the name that its driver gives it, or that measured on
    it earlier; a CPU the latter: those that come with the program are of whole sockets.

    Raises
    ------
    UnavailableError
        If there is none: the text says how to get one.
    """
    if machine.kind == "cuda":
        with contextlib.suppress(UnknownNameError):
            return hardware.load(machine.title)
    path = spec_path(machine, folder)
    if path.is_file():
        return hardware.load(path)
    raise UnavailableError(
        f"no spec of {machine.title}: `costmodel validate` measures one, and writes it to {path}; "
        "or give another with --spec SPEC.yaml"
    )


def check_same(device: Device, machine: Machine, *, fit: bool = False) -> None:
    """Refuse the spec of another device, under whose name this machine's rows would go.

    Parameters
    ----------
    device : Device
        The spec that was given.
    machine : Machine
        What is measured.
    fit : bool
        Whether constants are to be fitted: those of a part of a GPU are not the whole one's.

    Raises
    ------
    CostmodelError
        If one is of a CPU and the other is not; to fit, also if a GPU has another number of units.
    """
    kind = device.spec.units.kind
    if (kind == "core") != (machine.kind == "cpu"):
        raise CostmodelError(
            f"{device.name} has units of kind {kind}, and {machine.title} is measured with --device "
            f"{machine.kind}: give the spec of what is measured"
        )
    if fit and machine.kind == "cuda" and device.units != machine.units:
        raise CostmodelError(
            f"{device.name} has {device.units:g} {kind}, and torch finds {machine.units} of {machine.title}: "
            "constants of one are not the other's; give the spec of what is measured"
        )
