"""Kernels to measure: one function each, found by looking for ``bench_*.py`` in this folder.

A kernel is a function of a case and a maker of random tensors that returns `Work`: the operands,
the call that is timed, and the same mathematics to be done in float64. Everything else (gradients,
checking, timing, recording, joining with a prediction) is the same for all of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from costmodel.errors import unknown_name
from costmodel.layers import Layer
from costmodel.validation.case import Case

#: Formats that a kernel is measured in unless it says otherwise.
FLOATS = ("fp32", "tf32", "bf16", "fp16")


class Maker(Protocol):
    """Makes random operands on the device and in the format of a case."""

    @property
    def torch(self) -> Any:
        """The module."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def dtype(self) -> Any:
        """Torch's format."""

    def __call__(self, *shape: int, scale: float = 1.0) -> Any:
        """Return a tensor of standard normal values times `scale`."""

    def adopt(self, module: Any) -> Any:
        """Return a module moved to the device and format, in evaluation mode."""


@dataclass(frozen=True)
class Work:
    """What one kernel does to its operands.

    Attributes
    ----------
    inputs : tuple of Tensor
        Operands; gradients are taken of all of them.
    call : callable
        ``call(*inputs)``: the kernel to be timed; returns one tensor.
    exact : callable
        ``exact(*inputs64)``: the same mathematics on float64 copies of the operands.
    scope : callable
        Returns the context that calls run in; entered once for many calls, so that it costs none.
    """

    inputs: tuple[Any, ...]
    call: Callable[..., Any]
    exact: Callable[..., Any]
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Bench:
    """A kernel to measure.

    Attributes
    ----------
    name : str
        As cases name it.
    kernel : str
        Whose implementation it is, for the column ``kernel``.
    op : callable
        Case to the operation's name in tables of measurements.
    layer : callable
        Case to the layer that predicts it, or None where no layer describes it.
    build : callable
        Case and `Maker` to `Work`.
    devices, dtypes, directions : tuple of str
        Where, in which formats and directions it exists.
    """

    name: str
    kernel: str
    op: Callable[[Case], str]
    layer: Callable[[Case], Layer | None]
    build: Callable[[Case, Maker], Work]
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    directions: tuple[str, ...]


_BENCHES: dict[str, Bench] = {}


def bench(
    name: str,
    *,
    kernel: str,
    op: Callable[[Case], str] | str,
    layer: Callable[[Case], Layer | None],
    devices: tuple[str, ...] = ("cpu", "cuda"),
    dtypes: tuple[str, ...] = FLOATS,
    directions: tuple[str, ...] = ("fwd", "bwd", "fwd+bwd"),
) -> Callable[[Callable[[Case, Maker], Work]], Callable[[Case, Maker], Work]]:
    """Return a decorator that makes a function known as the kernel of that name."""

    def register(build: Callable[[Case, Maker], Work]) -> Callable[[Case, Maker], Work]:
        if name in _BENCHES:
            raise unknown_name("name for a kernel (taken)", name, _BENCHES)
        named = op if callable(op) else lambda _: str(op)
        _BENCHES[name] = Bench(name, kernel, named, layer, build, devices, dtypes, directions)
        return build

    return register


@cache
def benches() -> dict[str, Bench]:
    """Return every kernel to measure by its name."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("bench_"):
            importlib.import_module(f"{package}.{module.name}")
    return dict(sorted(_BENCHES.items()))


def described(cases: Sequence[Case]) -> tuple[Layer | None, dict[str, NDArray[np.float64]]]:
    """Return the layer of cases that are alike but for their sizes' values, and those of its sizes they give.

    Decoding, a case has one query, and its layer no name for it. None where no layer describes them.
    """
    layer = find(cases[0].bench).layer(cases[0])
    names = [name for name, _ in cases[0].sizes if layer is not None and name in layer.sizes()]
    return layer, {name: np.array([case[name] for case in cases], dtype=np.float64) for name in names}


def find(name: str) -> Bench:
    """Return the kernel of that name.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    if name not in benches():
        raise unknown_name("kernel to measure", name, benches())
    return benches()[name]
