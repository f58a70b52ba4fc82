"""Errors that a user can act on: what was wanted, what came, what would do."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any


class CostmodelError(ValueError):
    """Base of every error that bad input can raise; its text is one clear line."""

    def __init__(self, text: object = "") -> None:
        """Keep the text as one line, whatever the values are that it names."""
        super().__init__(" ".join(str(text).split()))


class UnknownNameError(CostmodelError):
    """A layer, device, size, option, … of that name does not exist."""


class SizeError(CostmodelError):
    """A size is missing, not a positive whole number, or too large to be meant."""


class SpecError(CostmodelError):
    """A hardware spec or calibration file is not what its schema asks for."""


class UnavailableError(CostmodelError):
    """Something exists but is not available here; the text says what would make it available."""


class NoRateError(UnavailableError):
    """A device has no rate for a number format.

    Attributes
    ----------
    instead : str
        A format for which it has one.
    """

    def __init__(self, text: object = "", instead: str = "") -> None:
        """Keep the text and the other format, in a way that survives pickling."""
        super().__init__(text)
        self.instead = instead


class TableError(CostmodelError):
    """A table of measurements cannot be read, or lacks something that is needed."""


class OutputError(CostmodelError):
    """A file cannot be written where it was asked for; nothing was overwritten."""


#: For kinds with too many names for one line: the command that lists them.
_LISTED = {
    "device": "`costmodel devices` lists them",
    "layer": "`costmodel layers` lists them",
    "layer or device": "`costmodel layers` and `costmodel devices` list them",
    "model": "`costmodel model` lists them",
}


def unknown_name(
    kind: str,
    name: str,
    known: Iterable[str],
    *,
    about: Mapping[str, str] = MappingProxyType({}),
    meant: Sequence[str] = (),
) -> UnknownNameError:
    """Return the error for an unknown name, with the closest known names or where to find them.

    Parameters
    ----------
    kind : str
        What the name should denote ("layer", "device", …). In "size of lstm" the name stands before its
        owner: "unknown size 'heads' of lstm".
    name : str
        The unknown name.
    known : iterable of str
        The known names.
    about : mapping of str to str
        Descriptions of some known names: a user who knows a thing by another name finds it by these.
    meant : sequence of str
        Known names that are meant by that name elsewhere; no others are suggested then.
    """
    names, text = sorted(set(known)), str(name).lower()
    # A prefix stands for whole names: "a100", the start of four names, is no misspelling of "a10".
    whole = [one for one in names if len(text) > 2 and one.startswith(text)][:4]
    if len(text) > 2:
        told = [one for one, words in about.items() if _letters(text) in _letters(words)]
        whole += told if len(told) <= 4 else []  # a description of many names does not single one out
    like = difflib.get_close_matches(text, names, n=3, cutoff=0.5)
    near = meant or list(dict.fromkeys([*whole, *like]))[: max(3, min(4, len(whole)))]
    if near:
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?"
    else:
        hint = _LISTED.get(kind, f"known: {', '.join(names)}")
    what, of, owner = kind.partition(" of ")
    return UnknownNameError(f"unknown {what} {shown(name)}{of}{owner}; {hint}")


def _letters(text: str) -> str:
    """Return only the letters and digits, lowercase: GPT-3, gpt3 and gpt_3 are the same name."""
    return "".join(filter(str.isalnum, text.lower()))


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother = 60, 80


def shown(value: Any) -> str:
    """Return a value for an error message: shortened, with its type if that is not obvious."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = " ".join(_SHORT.repr(value).split())
    plain = isinstance(value, (str, bytes, bool, int, float, list, tuple, dict, set, type(None)))
    kind = type(value).__name__
    return text if plain else f"{'an' if kind[0] in 'AEIOaeio' else 'a'} {kind} ({text})"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
