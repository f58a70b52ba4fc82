"""A figure of a spec: a value with its unit, source and status."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from costmodel.units import parse

#: confirmed: found in two independent sources; single: in one source; derived: computed, as the note says;
#: memory: not checked against a source; assumed: a guess with range and reason; measured.
Status = Literal["confirmed", "single", "derived", "memory", "assumed", "measured"]

#: Source keys that do not refer to a document and therefore confirm nothing.
NOT_A_DOCUMENT = frozenset({"mem", "calc"})


class Section(BaseModel):
    """Base class of all parts of a spec: immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(Section):
    """Source and status of a figure.

    Attributes
    ----------
    source : tuple of str
        Keys of ``sources.yaml``. ``mem`` is "from memory", ``calc`` is "see the note".
    status : Status
        How well it is supported.
    note : str, optional
        Additional information: the arithmetic, a disagreement between sources.
    reason : str, optional
        Why an assumed value was chosen; required for assumed figures.
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
        Lowest and highest plausible value; required for an assumed figure.
    """

    dimension: ClassVar[str]

    value: str
    range: tuple[str, str] | None = None

    @field_validator("value", mode="before")
    @classmethod
    def _has_a_fitting_unit(cls, value: object) -> object:
        parse(value, cls.dimension)  # before pydantic's check of the type, to explain a bare number
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
        """Lowest and highest plausible value in SI units; both are the value itself without a range."""
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
    """A count.

    Attributes
    ----------
    value : int
        The whole number.
    """

    value: Annotated[int, Field(strict=True)]

    @property
    def si(self) -> float:
        """The number as float, like every other figure."""
        return float(self.value)
