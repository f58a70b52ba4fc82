"""A figure of a spec: a value with its unit, where it is from, and how sure it is."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from costmodel.units import parse

#: confirmed: read in two independent sources; single: in one; derived: arithmetic, in the note;
#: memory: not checked against a source; assumed: a guess, with range and reason; measured.
Status = Literal["confirmed", "single", "derived", "memory", "assumed", "measured"]

#: Source keys that are not a document, and so confirm nothing.
NOT_A_DOCUMENT = frozenset({"mem", "calc"})


class Section(BaseModel):
    """Base of everything in a spec: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(Section):
    """Where a figure is from.

    Attributes
    ----------
    source : tuple of str
        Keys of ``sources.yaml``. ``mem`` is "from memory", ``calc`` is "see the note".
    status : Status
        How sure it is.
    note : str, optional
        What else is to be known: the arithmetic, a disagreement between sources.
    reason : str, optional
        Why an assumed value was chosen; required of those.
    """

    source: tuple[str, ...] = ()
    status: Status
    note: Annotated[str, Field(min_length=1)] | None = None
    reason: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _status_is_earned(self) -> Self:
        documents = set(self.source) - NOT_A_DOCUMENT
        if self.status == "confirmed" and len(documents) < 2:
            raise ValueError("status 'confirmed' needs two sources; one is 'single', none is 'memory'")
        if self.status in ("single", "measured") and not documents:
            raise ValueError(f"status {self.status!r} needs the key of a source")
        if self.status == "derived" and not self.note:
            raise ValueError("status 'derived' needs the arithmetic as its note")
        if self.status == "assumed" and not self.reason:
            raise ValueError("status 'assumed' needs a reason and a range")
        return self


class Quantity(Provenance):
    """A physical quantity, written with its unit.

    Attributes
    ----------
    value : str
        A number and its unit, such as ``"4.8 TB/s"``.
    range : (str, str), optional
        Lowest and highest plausible value; required of an assumed figure.
    """

    dimension: ClassVar[str]

    value: str
    range: tuple[str, str] | None = None

    @field_validator("value", mode="before")
    @classmethod
    def _has_a_fitting_unit(cls, value: object) -> object:
        parse(value, cls.dimension)  # before the check for text, to say what is wrong with a bare number
        return value

    @model_validator(mode="after")
    def _range_holds_the_value(self) -> Self:
        if self.range is None:
            if self.status == "assumed":
                raise ValueError("status 'assumed' needs a reason and a range")
            return self
        low, high = self.ends
        if not low <= self.si <= high:
            raise ValueError(f"value {self.value} is outside its range {self.range[0]} to {self.range[1]}")
        return self

    @cached_property
    def si(self) -> float:
        """The value in SI units."""
        return parse(self.value, self.dimension)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest plausible value in SI units: those of an assumed figure's range."""
        low, high = (parse(end, self.dimension) for end in self.range or (self.value, self.value))
        return low, high


class Capacity(Quantity):
    """Size of a memory [B]."""

    dimension = "bytes"


class Bandwidth(Quantity):
    """Bytes moved per second [B/s]."""

    dimension = "bytes/s"


class Rate(Quantity):
    """Dense arithmetic rate [FLOP/s]; one multiply-add is 2 FLOP, one special operation 1."""

    dimension = "FLOP/s"


class Clock(Quantity):
    """A frequency [Hz]."""

    dimension = "Hz"


class Power(Quantity):
    """Electrical power [W]."""

    dimension = "W"


class Time(Quantity):
    """A duration [s]."""

    dimension = "s"


class Count(Provenance):
    """A whole number of things.

    Attributes
    ----------
    value : int
        How many.
    """

    value: Annotated[int, Field(strict=True)]

    @property
    def si(self) -> float:
        """The number, as float like every other figure."""
        return float(self.value)
