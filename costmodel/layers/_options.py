"""Options of layers: checking their values by the type of the field, and reading them from text."""

from __future__ import annotations

import inspect
import re
import types
import typing
from typing import Any

import numpy as np

from costmodel.errors import CostmodelError, shown


def option_text(value: object) -> str:
    """Return an option's value as text: ``auto`` for None, ``128x64`` for a tile."""
    if value is None:
        return "auto"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


_ENTRY = re.compile(r"(\w+(?:, \w+)*) : ")


def option_meanings(kind: type) -> dict[str, str]:
    """Return the description of each option, from the docstrings of the layer's class and its bases."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        text = inspect.cleandoc(vars(owner).get("__doc__") or "")
        section = text.partition("Parameters\n----------\n")[2]
        names: list[str] = []
        for line in section.splitlines():
            entry = _ENTRY.match(line)
            if entry:
                names = entry[1].split(", ")
                found |= dict.fromkeys(names, "")
            elif line and not line.startswith(" "):
                break  # the next section
            else:
                found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def is_typed(kind: Any) -> bool:
    """Return whether a type determines its values: ``bool``, ``int``, tuples of ``int``, each also with None.

    The values of a ``str`` option are known to the layer only.
    """
    kind, _ = _without_none(kind)
    return kind in (bool, int) or set(typing.get_args(kind)) == {int}


def checked(name: str, value: Any, kind: Any, default: Any) -> Any:
    """Return an option's value in the type of its field: a list as a tuple, NumPy's numbers as Python's.

    Parameters
    ----------
    name : str
        Option and layer, for the error message.
    value : object
        The value given.
    kind : type
        The field's type, for which `is_typed` is true.
    default : object
        The field's default; whole numbers must be at least 1, or at least 0 if the default is 0.

    Raises
    ------
    CostmodelError
        If the value has another type: ``"false"`` is not a bool, and would count as true.
    """
    kind, may_be_none = _without_none(kind)
    if value is None and may_be_none:
        return value
    sides = typing.get_args(kind)
    if kind is bool:
        wanted, good = "True or False", isinstance(value, (bool, np.bool_)) or _is_whole(value, 0, 1)
    elif kind is int:
        least = 0 if default == 0 else 1
        wanted = "a whole number of at least 1" if least else "a whole number, 0 or more"
        good = _is_whole(value, least)
    else:
        wanted = f"{len(sides)} whole numbers of at least 1"
        good = isinstance(value, (tuple, list)) and len(value) == len(sides)
        good = good and all(_is_whole(side, 1) for side in value)
    if not good:
        other = ", or None for auto" if may_be_none else ""
        raise CostmodelError(f"option {name}: wanted {wanted}{other}, got {shown(value)}")
    return tuple(map(int, value)) if sides else kind(value)


def _is_whole(value: Any, least: int, most: float = float("inf")) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and bool(least <= value <= most)


def _without_none(kind: Any) -> tuple[Any, bool]:
    """Return T of ``T | None``, or the type itself, and whether None is allowed."""
    if not isinstance(kind, types.UnionType):
        return kind, False
    (inner,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    return inner, True


def read(name: str, text: str, kind: Any) -> Any:
    """Return an option's text (``true``, ``128x64``, ``auto``) as a value of its field's type.

    Raises
    ------
    CostmodelError
        If the text does not represent a value of that type.
    """
    kind, may_be_none = _without_none(kind)
    if may_be_none and text.lower() in ("none", "auto"):
        return None
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "yes", "1", "on"):
            return True
        if text.lower() in ("false", "no", "0", "off"):
            return False
        raise CostmodelError(f"option {name}: wanted true or false, got {text!r}")
    count = len(typing.get_args(kind)) or 1
    try:
        numbers = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        numbers = ()
    if len(numbers) != count or (count > 1 and min(numbers) < 1):
        example = "x".join(["128"] * count)
        raise CostmodelError(f"option {name}: wanted something like {example}, got {text!r}")
    return numbers[0] if kind is int else numbers
