"""Fields of a configuration by this package's names, from tables of each architecture's own names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from costmodel.errors import CostmodelError, unknown_name

#: Default of a field that has none.
REQUIRED = object()


_KINDS = {
    int: "a whole number that can be a size",
    float: "a number",
    bool: "true or false",
    str: "a name",
    list: "a list",
    dict: "a mapping of fields",
}


class Field(NamedTuple):
    """One field of a configuration.

    Attributes
    ----------
    names : tuple of str
        Its names in configurations, the usual name first; none: it is always computed.
    default : object
        Its value if it is absent; a function computes it from the fields read before.
    kind : type
        Required type of the value: ``int``, ``float``, ``bool``, ``str``, ``list`` or ``dict``.
    may_be_zero : bool
        Whether a size may be 0 although its default is not.
    most : int
        Largest value of a size.
    words : mapping of str to value
        Values that are also written as words.
    listed : bool
        Whether the value may be a list that has it once for each layer.
    """

    names: tuple[str, ...]
    default: Any = REQUIRED
    kind: type = int
    may_be_zero: bool = False
    most: int = 2**40
    words: Mapping[str, Any] = MappingProxyType({})
    listed: bool = False

    @property
    def least(self) -> int:
        """Smallest value of a size."""
        return 0 if self.may_be_zero or self.default == 0 else 1


class Fields:
    """The fields of one configuration, as attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        """Return a field."""
        if name.startswith("_"):
            raise AttributeError(name)  # unpickling asks for `_values` before it is set
        if name not in self._values:
            raise AttributeError(f"no field {name!r}; there are {', '.join(self._values)}")
        return self._values[name]

    def replaced(self, **values: Any) -> Fields:
        """Return the fields with some values replaced."""
        return Fields({**self._values, **values})


def missing(config: Mapping[str, Any], table: Mapping[str, Field]) -> list[str]:
    """Return the fields that a configuration lacks, by their usual names."""
    return [
        field.names[0]
        for field in table.values()
        if field.default is REQUIRED and not any(said(config, name) for name in field.names)
    ]


def said(config: Mapping[str, Any], name: str) -> bool:
    """Return whether a configuration sets a name; null and ``auto`` leave it to the default."""
    return config.get(name) not in (None, "auto")


def read(config: Mapping[str, Any], table: Mapping[str, Field], whose: str) -> Fields:
    """Return the fields of a configuration by this package's names.

    Parameters
    ----------
    config : mapping
        The configuration as in its file; a field that is null or ``auto`` counts as absent.
    table : mapping of str to Field
        This package's name → the field.
    whose : str
        What to call the configuration in errors.

    Raises
    ------
    CostmodelError
        If fields are missing (all are named, each with the most similar key there is), or a value is invalid.
    """
    lacking = missing(config, table)
    if lacking:
        raise CostmodelError(f"{whose} lacks {', '.join(_with_nearest(name, config) for name in lacking)}")
    values: dict[str, Any] = {}
    for ours, field in table.items():
        name = next((n for n in field.names if said(config, n)), None)
        if name is None:
            values[ours] = field.default(Fields(values)) if callable(field.default) else field.default
        else:
            values[ours] = _checked(config[name], field, name, whose)
    return Fields(values)


def _with_nearest(name: str, config: Mapping[str, Any]) -> str:
    there = [str(key) for key, value in config.items() if value is not None]
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.75)
    return f"{name} (there is {near[0]!r})" if near else name


def _checked(value: Any, field: Field, name: str, whose: str) -> Any:
    """Return a value after checking its type and, for a size, its range."""
    kind = field.kind
    if isinstance(value, str) and value in field.words:
        return field.words[value]
    if field.listed and isinstance(value, list) and value and all(v == value[0] for v in value):
        value = value[0]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not right or (kind is int and not field.least <= value <= field.most):
        raise CostmodelError(f"{whose}: {name} should be {_KINDS[kind]}, got {value!r}")
    return value


def fraction(numerator: str, denominator: str) -> Callable[[Fields], int]:
    """Return a default that is the quotient of two fields, such as the width of a head.

    Raises
    ------
    CostmodelError
        When the default is used and the quotient is not whole.
    """

    def default(fields: Fields) -> int:
        a, b = getattr(fields, numerator), getattr(fields, denominator)
        if b == 0 or a % b:
            raise CostmodelError(f"{numerator} {a} is not a multiple of {denominator} {b}")
        return int(a // b)

    return default


def of_layers(
    c: Fields, known: Collection[str], key: str = "layer_types", listed: Collection[str] | None = None
) -> list[str]:
    """Return the types of the layers as listed, one entry per layer, or an empty list.

    Parameters
    ----------
    c : Fields
        The fields; by default, the list is their `layer_types`.
    known : collection of str
        The entries allowed.
    key : str
        The list's key in configurations.
    listed : collection of str, optional
        Another list.

    Raises
    ------
    CostmodelError
        If there are more or fewer entries than layers.
    UnknownNameError
        If an entry is unknown.
    """
    entries: list[Any] = list(c.layer_types if listed is None else listed)
    for name in entries:
        if name not in known:
            raise unknown_name(f"entry of {key}", name, known)
    return each_layer(c, key, entries)


def each_layer(c: Fields, name: str, listed: list[Any]) -> list[Any]:
    """Return a list of the configuration with one entry per layer, or an empty list.

    Raises
    ------
    CostmodelError
        If there are more or fewer entries than layers.
    """
    if listed and len(listed) != c.layers:
        raise CostmodelError(f"{name} has {len(listed)} entries for {c.layers} layers; wanted one each")
    return listed


def overridden(key: str, default: Callable[[Fields], Any]) -> Callable[[Fields], Any]:
    """Return a default: the value that ``per_layer_config``, the field `per_layer`, gives some layers.

    Parameters
    ----------
    key : str
        The key of the value.
    default : callable
        The value if no layer has one there.

    Raises
    ------
    CostmodelError
        When the default is used and layers there differ.
    """

    def value(fields: Fields) -> Any:
        found = {said[key] for said in (fields.per_layer or {}).values() if key in said}
        if len(found) > 1:
            raise CostmodelError(f"per_layer_config: wanted one {key} for its layers, got {sorted(found)}")
        return found.pop() if found else default(fields)

    return value


def check_overridden(c: Fields, allowed: Collection[str], layers: Collection[int]) -> None:
    """Refuse a ``per_layer_config`` that is not of exactly these layers and keys.

    Raises
    ------
    CostmodelError
        If it has other layers, or keys that are not allowed.
    """
    if not c.per_layer:
        return
    there = {int(i) for i in c.per_layer}
    keys = {key for said in c.per_layer.values() for key in said}
    if there != set(layers) or not keys <= set(allowed):
        raise CostmodelError(
            f"per_layer_config: wanted {', '.join(allowed)} of layers {sorted(layers)}, got "
            f"{', '.join(sorted(keys))} of {sorted(there)}"
        )


def same(name: str, times: int = 1) -> Callable[[Fields], Any]:
    """Return a default that is a multiple of another field."""
    return lambda fields: getattr(fields, name) * times if times != 1 else getattr(fields, name)


#: Activations by the names of configurations.
ACTIVATIONS = {
    **dict.fromkeys(("silu", "swish"), "silu"),
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh"), "gelu-tanh"),
    **{name: name for name in ("relu", "relu2", "xielu", "tanh", "sigmoid")},
}


def function_of(c: Fields, default: str) -> str:
    """Return the activation that a configuration states as `act`, or the default if that is empty.

    Raises
    ------
    UnknownNameError
        If it is unknown.
    """
    if c.act and c.act not in ACTIVATIONS:
        raise unknown_name("activation", c.act, ACTIVATIONS)
    return ACTIVATIONS[c.act] if c.act else default


#: Fields of most architectures.
ACT = Field(("hidden_activation", "hidden_act", "activation_function", "activation"), "", str)
D_MODEL = Field(("hidden_size", "n_embd", "n_embed", "d_model", "embedding_dim"))
#: Layers are handled one by one, so more than a million would take forever.
LAYERS = Field(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"), most=10**6)
HEADS = Field(("num_attention_heads", "n_head", "n_heads", "num_heads"))
VOCAB = Field(("vocab_size",))
TIED = Field(("tie_word_embeddings",), True, bool)
UNTIED = Field(("tie_word_embeddings",), False, bool)
DENSE = {"vocab": VOCAB, "d_model": D_MODEL, "layers": LAYERS, "heads": HEADS}
#: Differences of some layers from the others (transformers, HeterogeneousConfigMixin); see `overridden`.
PER_LAYER = Field(("per_layer_config",), None, dict)
