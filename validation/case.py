"""A case: a kernel to measure in one format and direction, at given sizes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from costmodel.errors import unknown_name

Option = bool | int | str
LAUNCHES = ("eager", "graph")
STATES = ("warm", "cold")


@dataclass(frozen=True)
class Case:
    """A kernel at one shape.

    Attributes
    ----------
    bench : str
        Name of the kernel, see `costmodel.validation.registry`.
    dtype, direction : str
        The names that layers use.
    sizes : tuple of (str, int)
        Sizes by the names of the vocabulary, sorted by name.
    options : tuple of (str, value)
        Other static choices: ``causal``, ``tile_rows``, ….
    launch : str
        ``eager`` (each call from the host) or ``graph`` (a captured CUDA graph, replayed).
    state : str
        ``warm`` (called again on the same operands) or ``cold`` (caches flushed, operands rotated).
    """

    bench: str
    dtype: str
    direction: str
    sizes: tuple[tuple[str, int], ...]
    options: tuple[tuple[str, Option], ...] = ()
    launch: str = "eager"
    state: str = "warm"

    def __post_init__(self) -> None:
        """Check `launch` and `state`."""
        for kind, value, known in (("launch", self.launch, LAUNCHES), ("state", self.state, STATES)):
            if value not in known:
                raise unknown_name(kind, value, known)

    def __getitem__(self, size: str) -> int:
        """Return one size."""
        return dict(self.sizes)[size]

    def get(self, size: str, default: int) -> int:
        """Return one size, or the default if the case does not give it."""
        return dict(self.sizes).get(size, default)

    def option(self, name: str, default: Option) -> Any:
        """Return one static choice, or the default if the case does not make it."""
        return dict(self.options).get(name, default)

    @cached_property
    def key(self) -> str:
        """Hash of the case in sixteen hex digits, equal on all machines."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def kind(self) -> str:
        """The case without the values of sizes: cases of equal kind are predicted together."""
        names = ",".join(name for name, _ in self.sizes)
        return f"{self.bench}|{self.dtype}|{self.direction}|{self.options}|{self.launch}|{self.state}|{names}"

    def as_dict(self) -> dict[str, Any]:
        """Return the case as plain values, for the journal."""
        return {
            "bench": self.bench,
            "dtype": self.dtype,
            "direction": self.direction,
            "sizes": dict(self.sizes),
            "options": dict(self.options),
            "launch": self.launch,
            "state": self.state,
        }

    def __str__(self) -> str:
        """Render as ``matmul fp32 fwd m=64 n=64 k=64``."""
        words = [f"{name}={value}" for name, value in (*self.sizes, *self.options)]
        extra = [word for word in (self.launch, self.state) if word not in ("eager", "warm")]
        return " ".join([self.bench, self.dtype, self.direction, *words, *extra])


def case(
    bench: str,
    sizes: Mapping[str, int],
    *,
    dtype: str = "fp32",
    direction: str = "fwd",
    options: Mapping[str, Option] | None = None,
    launch: str = "eager",
    state: str = "warm",
) -> Case:
    """Return a case with sizes and options sorted, so that equal cases compare equal."""
    return Case(
        bench=bench,
        dtype=dtype,
        direction=direction,
        sizes=tuple(sorted((name, int(value)) for name, value in sizes.items())),
        options=tuple(sorted((options or {}).items())),
        launch=launch,
        state=state,
    )


def from_dict(values: Mapping[str, Any]) -> Case:
    """Return the case that `Case.as_dict` wrote."""
    return case(**{field.name: values[field.name] for field in fields(Case)})
