"""Arguments of public functions, checked against their annotations with one-line errors.

Only types are checked here; values of numbers, names and files are checked where they are used.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from costmodel.errors import CostmodelError, SizeError, shown

F = TypeVar("F", bound=Callable[..., Any])
#: Returns whether a value is of a type.
Test = Callable[[Any], bool]

#: Key of the check for ``**kwargs``, among the names of parameters.
_REST = "**"
#: Origins of ``A | B`` and ``Optional[A]``.
_UNIONS = (typing.Union, types.UnionType)

#: Words for types; other types go by their names.
WORDS: dict[Any, str] = {
    str: "text",
    bool: "True or False",
    int: "a number",
    float: "a number",
    Path: "a path",
    os.PathLike: "a path",
    types.NoneType: "None",
    Callable: "a function",
    Any: "anything",
}
#: Where to get a value of a type, by the type's name.
ORIGINS = {
    "Layer": "such as costmodel.LSTM()",
    "Device": "as costmodel.hardware.load returns it",
    "Prediction": "as costmodel.predict returns it",
    "DataFrame": "a table of pandas",
    "Grid": "as costmodel.sweep.make_grid returns it",
    "Engine": "such as costmodel.sweep.Engine('threads')",
    "Architecture": "as costmodel.models.load returns it",
    "LanguageModel": "as costmodel.parallel.stack_of returns it",
    "Training": "of costmodel.parallel",
    "Cluster": "of costmodel.parallel",
    "Layout": "of costmodel.parallel",
    "Page": "as costmodel.reports.compare returns it",
    "Facts": "as costmodel.facts.facts_of returns it",
    "Frames": "as costmodel.story.story returns it",
    "ModelFrames": "as costmodel.model_story.story returns it",
    "Explorer": "which costmodel.explore.page makes",
}


def _anything(_: Any) -> bool:
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not _is_truth(value)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or _is_numpys(value, "bool_")


def _is_numpys(value: Any, kind: str) -> bool:
    """Return whether a value is of a numpy type, without importing numpy: listing devices stays light."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, getattr(numpy, kind))


#: Types that need a test other than `isinstance`.
TESTS: dict[Any, Test] = {
    int: _is_number,
    float: _is_number,
    bool: _is_truth,
    str: lambda value: isinstance(value, str) and "\0" not in value,  # names and paths never contain a NUL
    Path: lambda value: isinstance(value, Path) and "\0" not in str(value),
    Callable: callable,
}


def typed(function: F) -> F:
    """Return a function or dataclass that refuses arguments of other types than its annotations.

    Not checked are sizes (`ArrayLike`), annotations that are no class, and the items of iterators. A string
    is no sequence of strings, and True is no number.

    Raises
    ------
    CostmodelError, SizeError
        On a call, with the argument, what was wanted and what came; SizeError if a number was wanted.
    """
    if isinstance(function, type):
        function.__init__ = _checked(function.__init__, function.__name__, function)  # type: ignore[misc]
        return function
    return typing.cast("F", _checked(function, function.__qualname__, function))


def _checked(function: Callable[..., Any], name: str, annotated: Any) -> Callable[..., Any]:
    parameters = inspect.signature(function).parameters.values()
    order = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

    @functools.cache  # at the first call: annotations may name what is defined later
    def tests() -> dict[str, tuple[Any, Test]]:
        found = {name: (kind, _test(kind)) for name, kind in _hints(annotated).items()}
        return {**dict.fromkeys((*order, _REST), (Any, _anything)), **found}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        known = tests()
        for key, value in (*zip(order, args, strict=False), *kwargs.items()):
            kind, test = known.get(key) or known[_REST]
            if not test(value):
                error = SizeError if _number_or_none(kind) else CostmodelError
                raise error(f"{name}: wanted {key} to be {_words(kind)}, got {shown(value)}")
        return function(*args, **kwargs)

    return call


def _hints(annotated: Any) -> dict[str, Any]:
    """Return the type of each parameter except ``*args``."""
    hints = typing.get_type_hints(annotated)
    if isinstance(annotated, type):
        return {field.name: hints[field.name] for field in dataclasses.fields(annotated) if field.init}
    parameters = inspect.signature(annotated).parameters.values()
    named = [p for p in parameters if p.kind is not p.VAR_POSITIONAL and p.name in hints]
    return {_REST if p.kind is p.VAR_KEYWORD else p.name: hints[p.name] for p in named}


def _test(kind: Any) -> Test:
    """Return the test for a type."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in _UNIONS:
        tests = [_test(part) for part in inner]
        return _anything if _anything in tests else lambda value: any(test(value) for test in tests)
    if inner and _is_a(origin, Mapping):
        return _pairs(*map(_test, inner))
    if inner and _is_a(origin, Iterable):
        return _items(origin, _test(inner[0]))
    if getattr(origin, "_is_protocol", False):
        return callable if "__call__" in vars(origin) else _anything
    if kind is Any or not isinstance(origin, type):
        return _anything
    return TESTS.get(origin, lambda value: isinstance(value, origin))


def _is_a(kind: Any, whole: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, whole)


def _number_or_none(kind: Any) -> bool:
    return {*(typing.get_args(kind) or (kind,))} <= {int, float, types.NoneType}


def _pairs(name: Test, item: Test) -> Test:
    """Return a test for a mapping whose keys and values each pass a test."""
    return lambda value: (
        isinstance(value, Mapping) and all(name(key) and item(one) for key, one in value.items())
    )


def _items(origin: Any, item: Test) -> Test:
    """Return a test for a container of items that each pass a test; items of iterators are not looked at."""

    def test(value: Any) -> bool:
        single = isinstance(value, (str, bytes, Mapping, io.IOBase))
        if single or not isinstance(value, origin) or (_is_numpys(value, "ndarray") and value.ndim != 1):
            return False
        return not isinstance(value, Collection) or all(map(item, value))

    return test


def _words(kind: Any) -> str:
    """Return a type in words, with where to get such a value."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in WORDS:
        return WORDS[origin]
    if origin in _UNIONS:
        if _test(kind) is _anything:
            return "numbers"
        single = [part for part in inner if not _is_several(part)]
        words = [*dict.fromkeys(map(_words, single))]
        for many in filter(_is_several, inner):
            words.append("several of these" if set(_alternatives(many)) <= set(single) else _words(many))
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if inner and _is_a(origin, Mapping):
        return f"a mapping of {_words(inner[0])} to {_words(inner[1])}"
    if _is_several(kind):
        return f"several, each {_words(inner[0])}"
    name = getattr(kind, "__name__", str(kind))
    article = "an" if name[0] in "AEIOaeio" else "a"
    return f"{article} {name} ({ORIGINS[name]})" if name in ORIGINS else f"{article} {name}"


def _is_several(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return _is_a(origin, Iterable) and not _is_a(origin, Mapping)


def _alternatives(many: Any) -> tuple[Any, ...]:
    """Return the types that an item of a container may have."""
    (item, *_) = typing.get_args(many)
    return typing.get_args(item) if typing.get_origin(item) in _UNIONS else (item,)
