"""Reading models from Hugging Face configurations and from the catalogue."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from costmodel.arguments import typed
from costmodel.errors import CostmodelError, UnknownNameError, shown, unknown_name
from costmodel.models import _checkpoint, _fields, _nested
from costmodel.models.architecture import Architecture
from costmodel.models.families import by_type

#: Folder of the models that come with the package.
CATALOGUE = Path(__file__).parent / "catalogue"
#: The longest sequence that a model is made for [tokens].
CONTEXT = _fields.Field(
    ("max_position_embeddings", "n_positions", "context_length", "max_seq_len", "model_max_length"), None
)
#: Keys of an entry of the catalogue.
ENTRY = {"name", "title", "sources", "figures", "parameters"}


def available() -> list[str]:
    """Return the names of the models in the catalogue."""
    return sorted(path.stem for path in CATALOGUE.glob("*.yaml"))


@typed
def load(model: str | os.PathLike[str] | Mapping[str, Any], *, model_type: str | None = None) -> Architecture:
    """Return a model.

    Parameters
    ----------
    model : str, Path or mapping
        A name in the catalogue (``llama-2-7b``); the path of a ``config.json``, of its folder, or of a YAML
        file like those of the catalogue; or the content of a ``config.json``.
    model_type : str, optional
        The architecture to read it as, if the configuration's own is unknown.

    Raises
    ------
    UnknownNameError
        If the model or its architecture is unknown: the text says which is nearest.
    CostmodelError
        If the file cannot be read, or lacks fields that its architecture needs.
    """
    if isinstance(model, Mapping):
        return from_config(model, model_type=model_type)
    if not str(model):
        raise CostmodelError(f"model: wanted a name, a path or a configuration, got {model!r}")
    path = Path(model)
    if str(model) in available():
        return _from_entry(CATALOGUE / f"{model}.yaml", model_type)
    try:
        folder = path.is_dir()
    except OSError as error:  # a string that cannot be a file name
        raise CostmodelError(f"model {shown(str(model))}: {error.strerror}") from None
    if folder:
        path = path / "config.json"
        if not path.is_file():
            raise CostmodelError(f"{path.parent}: is a folder without a config.json; give the file")
    if not path.is_file():
        if path.suffix in (".json", ".yaml", ".yml") or len(path.parts) > 2:
            raise CostmodelError(f"{path}: no such file")
        raise _unknown_model(path)
    if path.suffix in (".yaml", ".yml"):
        with _of_file(path):
            return _from_entry(path, model_type)
    with _of_file(path):
        return from_config(_json(path), name=_name_of(path), model_type=model_type)


def _unknown_model(path: Path) -> UnknownNameError:
    """Return the error for a model of no catalogue entry, also if it is named like a repository."""
    said = unknown_name("model", path.name, available(), about={name: title(name) for name in available()})
    owner = f"{path.parent} is no folder here: " if path.parent != Path() else ""
    end = "" if str(said).endswith("?") else "."
    return UnknownNameError(f"{owner}{said}{end} Others: by their config.json, or with cm.from_torch")


@contextlib.contextmanager
def _of_file(path: Path) -> Iterator[None]:
    """Put the file's name in front of an error that lacks it."""
    try:
        yield
    except CostmodelError as error:
        if str(error).startswith(f"{path}:"):
            raise
        raise type(error)(f"{path}: {error}") from None


def _name_of(path: Path) -> str:
    """Return a name for the model of a file: the file's, or its folder's if it is a ``config.json``."""
    return (path.resolve().parent.name or "model") if path.stem == "config" else path.stem


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CostmodelError(f"{path}: not JSON (line {error.lineno}: {error.msg})") from None
    except RecursionError:
        raise CostmodelError(f"{path}: nested too deeply for a configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CostmodelError(f"{path}: cannot be read: {error}") from None


def architectures() -> list[str]:
    """Return the ``model_type`` values of the configurations that `from_config` reads, sorted."""
    return sorted((*by_type(), *_nested.ALIASES))


@typed
def from_config(config: Any, *, name: str = "", model_type: str | None = None) -> Architecture:
    """Return the model of a Hugging Face configuration, with its weights' storage format.

    Parameters
    ----------
    config : mapping
        The content of a ``config.json``.
    name : str
        Name of the model; default: that in the configuration.
    model_type : str, optional
        The architecture to read it as, if the configuration's own is unknown.

    Raises
    ------
    UnknownNameError
        If its architecture is unknown: the text says which is nearest.
    CostmodelError
        If it lacks fields that its architecture needs.
    """
    if not isinstance(config, Mapping):
        raise CostmodelError(f"a configuration is a mapping of fields, got {type(config).__name__}")
    flat = _nested.language_model(config)
    kind = model_type or flat.get("model_type")
    like, own = _nested.ALIASES.get(str(kind), (str(kind), {}))
    family = by_type().get(like)
    if family is None:
        raise _unknown(kind, flat)
    inner = flat.get(family.nested)
    known = inner if isinstance(inner, Mapping) else {}  # anything else is refused when the field is read
    whole = {**family.left_to_defaults.get(like, {}), **own, **known, **flat, "model_type": like}
    whose = f"a configuration of {kind}"
    fields = _fields.read(whole, family.fields, whose)
    named = name or str(config.get("_name_or_path") or kind)
    inside = _nested.key_of(config)
    found = Architecture(named, family, fields, context=_context(whole, whose), inside=inside)
    return found.storing(**_checkpoint.stored(flat))


def _context(config: Mapping[str, Any], whose: str) -> int | None:
    """Return the longest sequence that a model is made for, with the scaling of its rotary positions."""
    stated: int | None = _fields.read(config, {"context": CONTEXT}, whose).context
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if stated is None or not isinstance(scaling, Mapping):
        return stated
    factors = [scaling.get(key) for key in ("factor", "original_max_position_embeddings")]
    known = [factor for factor in factors if isinstance(factor, int | float)]
    return max(stated, int(math.prod(known))) if len(known) == 2 else stated


def _unknown(kind: object, config: Mapping[str, Any]) -> UnknownNameError:
    """Return the error for an unknown architecture: the nearest known one, and what that would need."""
    config = {**config, "model_type": kind or "the one to give"}
    lacking = {known: _fields.missing(config, family.fields) for known, family in by_type().items()}
    if kind:
        # A longer name is another architecture's: Falcon Mamba is no Falcon.
        names = [known for known in lacking if not known.startswith(f"{kind}_")]
        near = difflib.get_close_matches(str(kind), names, n=5, cutoff=0.6)
    else:  # its classes are named like its type: Qwen2MoeForCausalLM is of qwen2_moe, the longest such name
        classes = str(config.get("architectures")).lower().lstrip("['")
        near = sorted((k for k in lacking if classes.startswith(k.replace("_", ""))), key=len)[-1:]
    near += [known for known in lacking if str(kind).startswith(known)]
    # Among similar names, the one that lacks fewest fields: Qwen2.5-VL is read as qwen2, not qwen3_next.
    like = min(near, key=lambda known: len(lacking[known]), default=None)
    nearest = like or min(lacking, key=lambda known: _distance(known, config))
    said = "has no model_type" if kind is None else f"has the unknown model_type {kind!r}"
    if lacking[nearest]:
        remedy = f"which also needs {', '.join(lacking[nearest])}"
    else:
        remedy = f"whose fields it has: model_type={nearest!r} (--model-type {nearest}) reads it as one"
    return UnknownNameError(
        f"the configuration {said}; nearest is {nearest!r}, {remedy}. `costmodel model` lists all types"
    )


def _distance(known: str, config: Mapping[str, Any]) -> tuple[int, bool, str]:
    """Return a sort key: fields of an architecture that a configuration lacks, less those it has.

    On a tie Llama, the most common architecture, is nearest.
    """
    fields = by_type()[known].fields
    there = sum(any(_fields.said(config, name) for name in field.names) for field in fields.values())
    return len(_fields.missing(config, fields)) - there, known != "llama", known


# -- the catalogue -----------------------------------------------------------------------------


def _from_entry(path: Path, model_type: str | None) -> Architecture:
    entry = _catalogued(path) if path.parent == CATALOGUE else _yaml(path)
    figures = {name: figure["value"] for name, figure in entry["figures"].items()}
    found = from_config(figures, name=entry["name"], model_type=model_type)
    used = dict.fromkeys(figure["source"] for figure in entry["figures"].values())
    origin = "; ".join(entry["sources"][key] for key in used)
    published = entry.get("parameters")
    return replace(found, origin=origin, published=published["value"] if published else None)


@cache
def _catalogued(path: Path) -> dict[str, Any]:
    """Return an entry of the catalogue; cached, because the catalogue does not change."""
    return _yaml(path)


def _yaml(path: Path) -> dict[str, Any]:
    """Return an entry in the catalogue's form, after checking it.

    Raises
    ------
    CostmodelError
        If the file is not YAML, a key is missing or unknown, or a figure has no source.
    """
    try:
        entry = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise CostmodelError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise CostmodelError(f"{path}: nested too deeply for a model") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CostmodelError(f"{path}: cannot be read: {error}") from None
    if not isinstance(entry, dict) or not {"name", "sources", "figures"} <= set(entry) <= ENTRY:
        found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise CostmodelError(
            f"{path}: wanted the keys name, sources, figures (and title, parameters), "
            f"got {'an empty file' if entry is None else found}"
        )
    for part in ("sources", "figures"):
        if not isinstance(entry[part], dict):
            raise CostmodelError(f"{path}: {part} should be a mapping of names, got {entry[part]!r}")
    for name, figure in {**entry["figures"], "parameters": entry.get("parameters")}.items():
        if figure is None and name == "parameters":
            continue
        if not isinstance(figure, dict) or set(figure) != {"value", "source"}:
            raise CostmodelError(f"{path}: {name} should be {{value: …, source: …}}, got {figure!r}")
        if not isinstance(figure["source"], str) or figure["source"] not in entry["sources"]:
            raise CostmodelError(f"{path}: {name} has the source {figure['source']!r}, which is not listed")
    return entry


@typed
def title(name: str) -> str:
    """Return the title of a model in the catalogue.

    Raises
    ------
    UnknownNameError
        If there is no such model.
    """
    if name not in available():
        raise unknown_name("model", name, available())
    entry = _catalogued(CATALOGUE / f"{name}.yaml")
    return str(entry.get("title", name))
