"""Find a device by name, alias or path of its spec."""

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
#: Words that drivers put before a device's name: NVIDIA GeForce RTX 4090, AMD Instinct MI210.
_MAKERS = re.compile(r"^(?:(?:nvidia|geforce|tesla|amd|instinct)-)+")
#: Driver's name → the device's name here, where they differ.
_DRIVER_NAMES = {
    "gh200-480gb": "gh200-96gb",  # 480 GB is the CPU's memory
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
    # Only file names are read, because the list is needed at every start.
    files = (path for path in FOLDER.glob("*/*.yaml") if not path.name.endswith(_CALIBRATION))
    return tuple(sorted(f"{path.parent.name}/{path.name.removesuffix('.yaml')}" for path in files))


@typed
def load(name: str | Path) -> Device:
    """Return a device.

    Parameters
    ----------
    name : str or Path
        ``vendor/device``; the device alone, if that is unique; an alias from its spec; the driver's name for
        it (``torch.cuda.get_device_name()``); or the path of a YAML file. Devices measured on this machine
        (`costmodel validate --record`) have names, too. For a path, constants fitted on the device are read
        from the file beside it (``<device>.calibration.yaml``), if there is one. A file that differs from the
        package's spec of the same device is a what-if of it: its name ends in ``*``.

    Raises
    ------
    UnknownNameError
        If there is no such device, or more than one.
    SpecError
        If a file is not a valid spec.
    """
    if isinstance(name, Path) or name.endswith((".yaml", ".yml")):
        return _own(Path(name))
    full = resolve(name)
    return _load(full) if full in _names() else _own(_measured()[full])


def _own(path: Path) -> Device:
    """Return the device of a user's file; its name is marked if it differs from the package's spec."""
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
    """Return all names of devices, with and without vendor, for suggestions."""
    whole = [*available(), *measured()]
    return [*whole, *(full.partition("/")[2] for full in whole)]


@cache
def _load(name: str) -> Device:
    return Device(read_spec(FOLDER / f"{name}.yaml"))


def _measured() -> dict[str, Path]:
    """Return the specs measured on this machine by device name; not cached, as they change."""
    files = (path for path in user_folder().glob("*-*.yaml") if not path.name.endswith(_CALIBRATION))
    return {path.stem.replace("-", "/", 1): path for path in files}


@typed
def resolve(name: str) -> str:
    """Return the full name of a device, given its full name, short name, alias or driver's name.

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
    """Return the full names of the devices with that full name, short name or alias."""
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
    """Return the devices by alias; of each spec only ``aliases`` is parsed, for speed."""
    table: dict[str, set[str]] = {}
    for name in _names():
        match = _ALIASES.search((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
        for alias in yaml.safe_load(match.group())["aliases"] if match else ():
            table.setdefault(_key(alias), set()).add(name)
    return table


@typed
@cache
def family_of(name: str) -> str:
    """Return the family of a device of the package; only that line of its spec is parsed, for speed.

    Parameters
    ----------
    name : str
        Full name, such as ``nvidia/h200-sxm``; see `resolve`.

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
    """Return name and relation of the related devices among candidates, best first.

    Parameters
    ----------
    device : Device or str
        The device without constants of its own.
    candidates : iterable of str
        Names of the devices with constants.

    Returns
    -------
    list of (str, str)
        As `costmodel.hardware.kinship.rank`.
    """
    target = load(device) if isinstance(device, str) else device
    return rank(target, [load(name) for name in candidates])
