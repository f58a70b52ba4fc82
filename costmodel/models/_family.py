"""What a family of architectures says of itself: its names, its fields, its parts."""

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
    """Architectures that differ in numbers and in a few traits.

    Attributes
    ----------
    types : tuple of str
        The ``model_type`` of their configurations.
    fields : mapping of str to Field
        What a configuration has to say, by our names.
    parts : callable
        The parts of a model with those fields, for one use, in the order they run; its equal layers
        as stacks.
    source : str
        Papers and code that the parts follow.
    left_out : str
        What is not counted.
    decodes : bool
        Whether it generates token by token.
    encodes : bool
        Whether a decoder attends to an encoder's sequence, of `seq_kv` positions.
    cut : mapping of str to str
        Fields that devices which share a layer divide evenly among them, and what they are in words;
        none: how its layers are shared is not known.
    alternates : bool
        Whether layers of several kinds take turns; else those of one kind follow each other.
    left_to_defaults : mapping of str to mapping
        Of some types, what Hugging Face's code takes for keys that are not in a configuration: saved ones
        lack what a class has anyway, in a nested configuration above all. A key that is null is there.
    nested : str
        Key under which a configuration keeps some of its fields, if there is one.
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
