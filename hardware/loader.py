"""Find a device by its name, an alias, or the path of its spec."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import yaml

from costmodel.arguments import typed
from costmodel.errors import UnknownNameError, unknown_name
from costmodel.files import user_folder
from costmodel.hardware.check import read_spec
from costmodel.hardware.device import Device
from costmodel.hardware.kinship import rank
from costmodel.hardware.tables import FOLDER

_CALIBRATION = ".calibration.yaml"
_FAMILY = re.compile(r"^family: *(\S+)", re.MULTILINE)
_ALIASES = re.compile(r"^aliases:.*\n(?:[ \-].*\n)*", re.MULTILINE)
#: Words of makers, which drivers put before a name: NVIDIA GeForce RTX 4090, AMD Instinct MI210.
_MAKERS = re.compile(r"^(?:(?:nvidia|geforce|tesla|amd|instinct)-)+")
#: What drivers call devices whose specs have another name.
_DRIVER_NAMES = {
    "gh200-480gb": "gh200-96gb",  # the processor's memory, not the GPU's
    "gtx-titan-x": "titan-x-maxwell",
    "h100-80gb-hbm3": "h100-sxm",
    "k40m": "k40",
    "rtx-pro-6000-blackwell-server-edition": "rtx-pro-6000-server",
}


def available() -> list[str]:
    """Return the names of the devices that come with the program, sorted."""
    return list(_names())


@cache
def _names() -> tuple[str, ...]:
    # Discovered from the folder and from file names alone: a list is asked for at every start.
    files = (path for path in FOLDER.glob("*/*.yaml") if not path.name.endswith(_CALIBRATION))
    return tuple(sorted(f"{path.parent.name}/{path.name.removesuffix('.yaml')}" for path in files))


@typed
def load(name: str | Path) -> Device:
    """Return a device.

    Parameters
    ----------
    name : str or Path
        ``vendor/device``; the device alone, where that is unique; another name that its
        spec lists as alias; what its driver calls it (``torch.cuda.get_device_name()``); or the
        path of a YAML file. Devices measured on this machine (`costmodel validate --record`)
        have names, too. Constants fitted on the device are those beside the file
        (``<device>.calibration.yaml``), where there are any. A file that says other things of a
        device that comes with the package is a what-if of it: its name ends in ``*``.

    Raises
    ------
    UnknownNameError
        If there is no such device, or more than one.
    SpecError
        If a file is not a sound spec.
    """
    if isinstance(name, Path) or name.endswith((".yaml", ".yml")):
        return _own(Path(name))
    full = resolve(name)
    return _load(full) if full in _names() else _own(_measured()[full])


def _own(path: Path) -> Device:
    """Return the device of a user's file, marked where the package has another of that name."""
    spec = read_spec(path)
    beside = path.absolute().with_name(path.stem + _CALIBRATION)
    calibration = beside if beside.is_file() else None
    if spec.name in _names():
        packaged = _load(spec.name)
        if path.resolve() == (FOLDER / f"{spec.name}.yaml").resolve():
            return packaged
        if Device(spec).spec_hash != packaged.spec_hash:
            spec = spec.model_copy(update={"name": f"{spec.name}*"})
    return Device(spec, calibration)


def measured() -> list[str]:
    """Return the names of the devices measured on this machine (`costmodel validate`), sorted."""
    return sorted(set(_measured()) - set(_names()))


def names() -> list[str]:
    """Return every name that a device has, with its vendor and without: those to choose from."""
    whole = [*available(), *measured()]
    return [*whole, *(full.partition("/")[2] for full in whole)]


@cache
def _load(name: str) -> Device:
    return Device(read_spec(FOLDER / f"{name}.yaml"))


def _measured() -> dict[str, Path]:
    """Return the specs measured on this machine, by the devices' names; not kept, as they come and go."""
    files = (path for path in user_folder().glob("*-*.yaml") if not path.name.endswith(_CALIBRATION))
    return {path.stem.replace("-", "/", 1): path for path in files}


@typed
def resolve(name: str) -> str:
    """Return the full name that a name, a short name, an alias or a driver's name stands for.

    Raises
    ------
    UnknownNameError
        If there is no such device, or more than one.
    """
    key = _key(name)
    plain = _MAKERS.sub("", key)
    found = _called(key) or _called(_DRIVER_NAMES.get(plain, plain))
    if len(found) > 1:
        raise UnknownNameError(f"device name {name!r} is not unique: give one of {', '.join(found)}")
    if not found and os.path.exists(name):  # Path.exists raises where a name is too long
        raise UnknownNameError(f"unknown device {name!r}: the file of a spec has a name that ends in .yaml")
    if not found:
        raise unknown_name("device", name if plain == key else plain, names())
    return found[0]


def _called(key: str) -> list[str]:
    """Return the full names of the devices called so: by their whole name, their own, an alias."""
    if key in _names():
        return [key]
    return (
        [full for full in _names() if full.partition("/")[2] == key]
        or sorted(_aliases().get(key, ()))
        or [full for full in _measured() if key in (full, full.partition("/")[2])]
    )


def _key(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.strip().lower())


@cache
def _aliases() -> dict[str, set[str]]:
    """Return the devices by alias; reads no more of a spec than its ``aliases``."""
    table: dict[str, set[str]] = {}
    for name in _names():
        match = _ALIASES.search((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
        for alias in yaml.safe_load(match.group())["aliases"] if match else ():
            table.setdefault(_key(alias), set()).add(name)
    return table


@typed
@cache
def family_of(name: str) -> str:
    """Return the family of a device that comes with the program; reads no more of its spec than that.

    Parameters
    ----------
    name : str
        In full: ``nvidia/h200-sxm``; see `resolve`.

    Raises
    ------
    UnknownNameError
        If no device of that name comes with the program.
    """
    if name not in _names():
        raise unknown_name("device", name, _names())
    match = _FAMILY.search((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return match.group(1) if match else ""


@typed
def relatives(device: Device | str, candidates: Iterable[str]) -> list[tuple[str, str]]:
    """Return name and relation of the related devices among those with constants, best first.

    Parameters
    ----------
    device : Device or str
        Which has no constants of its own.
    candidates : iterable of str
        Names of the devices that have.

    Returns
    -------
    list of (str, str)
        As `costmodel.hardware.kinship.rank`.
    """
    target = load(device) if isinstance(device, str) else device
    return rank(target, [load(name) for name in candidates])
