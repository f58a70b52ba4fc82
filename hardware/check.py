"""Find all faults of a spec file, each with its line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from costmodel.arguments import typed
from costmodel.errors import CostmodelError, SpecError, unknown_name
from costmodel.hardware import plausible, tables
from costmodel.hardware.schema import Spec
from costmodel.hardware.yamlfile import Document, Fault, Keys, parse, read_text
from costmodel.units import parse as parse_quantity


@typed
def check(path: str | Path) -> list[Fault]:
    """Return all faults of a spec file in the order of its lines; empty if it is valid.

    Parameters
    ----------
    path : str or Path
        A file such as ``hardware/<vendor>/<device>.yaml``.

    Raises
    ------
    SpecError
        If there is no such file, or it is not a text file.
    """
    return examine(read_text(Path(path)))[1]


def read_spec(path: Path) -> Spec:
    """Return the spec of a file.

    Raises
    ------
    SpecError
        If it has a fault: the message gives the first one, its line, and the number of faults.
    """
    spec, faults = examine(read_text(path))
    if spec is None or faults:
        rest = f" ({len(faults)} faults in all)" if len(faults) > 1 else ""
        raise SpecError(f"{path}: {faults[0]}{rest}; run `costmodel check {path}`")
    return spec


def examine(text: str) -> tuple[Spec | None, list[Fault]]:
    """Return the spec in a YAML text (None if it cannot be built), and the text's faults."""
    document = parse(text)
    spec, faults = None, list(document.faults)
    if document.data or not faults:
        try:
            spec = Spec.model_validate(document.data)
        except ValidationError as error:
            faults += _schema_faults(error, document)
        faults += _content_faults(document)
    return spec, sorted(set(faults))


def _schema_faults(error: ValidationError, document: Document) -> Iterator[Fault]:
    # Placeholders and duplicate keys are reported already; do not report a wrong type for them as well.
    known = {fault.keys for fault in document.faults}
    for problem in error.errors(include_url=False):
        keys = tuple(str(part) for part in problem["loc"] if part != "[key]")
        if keys not in known:
            yield Fault(document.line(keys), keys, _message(problem["type"], keys, problem))


def _message(kind: str, keys: Keys, problem: Any) -> str:
    if kind == "extra_forbidden":
        return str(unknown_name("key", keys[-1], _known_keys(keys[:-1])))
    if kind == "missing":
        return "missing, and required"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if keys == ("schema",):
        return f"wanted schema version 1, got {problem['input']!r}: this program reads no other"
    return f"{_wanted(kind, keys, problem)}, got {_short(problem['input'])}"


def _wanted(kind: str, keys: Keys, problem: Any) -> str:
    """Return what the schema wants, in the words of YAML."""
    if kind == "model_type":
        return f"wanted a mapping with keys among {', '.join(_known_keys(keys))}"
    if kind == "tuple_type":
        return f"wanted a list, such as [{problem['input']}]"
    if kind == "string_pattern_mismatch":
        return "wanted vendor/device in small letters, such as nvidia/h200-sxm"
    return str(problem["msg"]).replace("Input should be", "wanted")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _known_keys(keys: Keys) -> list[str]:
    """Return the keys that are allowed in the section at a path."""
    model: Any = Spec
    for key in keys:
        fields = {f.alias or name: f.annotation for name, f in model.model_fields.items()}
        # Keys of a dict (dtypes, links) are not fields; the section is that of their values.
        model = _section(fields[key]) if key in fields else model
    return [field.alias or name for name, field in model.model_fields.items()]


def _section(annotation: Any) -> Any:
    """Return the model inside ``Model``, ``Model | None`` or ``dict[str, Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, dict):
        return next((found for part in get_args(annotation) if (found := _section(part))), None)
    return None


def _content_faults(document: Document) -> Iterator[Fault]:
    """Find faults that the schema cannot express: sources, families, impossible or sparse figures."""
    families = tables.families()
    name = document.data.get("family")
    if isinstance(name, str) and name not in families:
        yield Fault(document.line(("family",)), ("family",), str(unknown_name("family", name, families)))
    yield from _unknown_sources(document.data, (), document)
    numbers = dict(_numbers(document.data, ()))
    family = families.get(name) if isinstance(name, str) else None
    wrong = list(plausible.impossible(numbers))
    sound = {keys: value for keys, value in numbers.items() if keys not in {k for k, _ in wrong}}
    links = document.data.get("links")
    odd = plausible.off_the_form(sound, links if isinstance(links, dict) else {})
    memory = document.data.get("memory")
    main = memory.get("hbm") if isinstance(memory, dict) else None
    slow = plausible.off_the_memory(sound, main.get("technology") if isinstance(main, dict) else None)
    for keys, message in [*wrong, *plausible.not_dense(sound, family), *odd, *slow]:
        yield Fault(document.line((*keys, "value")), keys, message)
    for keys, message in plausible.of_another(document.data, family):
        yield Fault(document.line(keys), keys, message)


def _unknown_sources(data: object, keys: Keys, document: Document) -> Iterator[Fault]:
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        path = (*keys, key)
        if key == "source" and isinstance(value, list):
            for i, source in enumerate(value):
                # The schema refuses what is no text.
                if isinstance(source, str) and source not in tables.sources():
                    near = difflib.get_close_matches(source, tables.sources(), n=1)
                    hint = f"did you mean {near[0]!r}?" if near else "add it to sources.yaml"
                    line = document.line((*path, str(i)))
                    yield Fault(line, (*path, str(i)), f"unknown source {source!r}; {hint}")
        else:
            yield from _unknown_sources(value, path, document)


def _numbers(data: object, keys: Keys) -> Iterator[tuple[Keys, float]]:
    """Yield path and SI value of every readable figure of a file that may have faults."""
    if not isinstance(data, dict):
        return
    if "value" not in data:
        for key, part in data.items():
            yield from _numbers(part, (*keys, key))
        return
    value, known = data["value"], plausible.limits(keys)
    if keys in plausible.COUNTS and isinstance(value, int):
        yield keys, float(value)
    elif known is not None and isinstance(value, str):
        try:
            yield keys, parse_quantity(value, known[0])
        except CostmodelError:
            return  # reported by the schema, with the reason
