"""Definition of a family of architectures: its names, its configuration fields, its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from costmodel.models._blocks import Use
from costmodel.models._fields import Field, Fields
from costmodel.models._part import Part
from costmodel.models.stack import Stack


@dataclass(frozen=True, eq=False)
class Family:
    """Architectures that differ only in sizes and a few traits.

    Attributes
    ----------
    types : tuple of str
        The ``model_type`` values of their configurations.
    fields : mapping of str to Field
        The fields of a configuration, by this package's names.
    parts : callable
        Returns the parts of a model with those fields, for one use, in execution order; its equal layers
        are stacks.
    source : str
        Papers and code that the parts follow.
    left_out : str
        What is not counted.
    decodes : bool
        Whether the model generates token by token.
    encodes : bool
        Whether a decoder attends to an encoder's sequence of `seq_kv` positions.
    cut : mapping of str to str
        Fields that tensor parallelism divides evenly among devices, with their descriptions; empty: it is
        not known how the layers are divided.
    alternates : bool
        Whether layers of different kinds alternate; if not, each kind is contiguous.
    left_to_defaults : mapping of str to mapping
        For some types, Hugging Face's defaults of keys that a configuration lacks: saved configurations omit
        values that equal the class's defaults, nested ones in particular. A key with the value null exists.
    nested : str
        Key of a nested mapping that holds some of the fields, if there is one.
    """

    types: tuple[str, ...]
    fields: Mapping[str, Field]
    parts: Callable[[Fields, Use], Iterator[Part | Stack]]
    source: str
    left_out: str = "dropout, masks, the scaling of logits, sampling"
    decodes: bool = True
    encodes: bool = False
    cut: Mapping[str, str] = field(default_factory=dict)
    alternates: bool = False
    left_to_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    nested: str = ""
