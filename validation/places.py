"""Locate the user's own files: journals, and specs measured on this machine."""

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
    """Return the path of a device's measured spec, whether it exists or not."""
    return named_path(spec_name(machine), folder)


def named_path(name: str, folder: Path | None = None) -> Path:
    """Return the path of the measured spec of a device of that name, whether it exists or not."""
    return (folder or user_folder()) / f"{name.replace('/', '-')}.yaml"


def find_device(machine: Machine, folder: Path | None = None) -> Device:
    """Return the device that a machine is, from its spec.

    For a GPU it is the package's spec for the driver's name of it, or else the one measured earlier. For a
    CPU it is always the measured one, because the package's specs describe whole sockets.

    Raises
    ------
    UnavailableError
        If there is none; the message says how to get one.
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
    """Refuse the spec of another device, under whose name this machine's rows would be stored.

    Parameters
    ----------
    device : Device
        The device of the given spec.
    machine : Machine
        The machine that is measured.
    fit : bool
        Whether constants will be fitted; those of a part of a GPU do not apply to the whole.

    Raises
    ------
    CostmodelError
        If only one of the two is a CPU; with `fit`, also if a GPU has another number of units.
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
