"""Registry of kernels to measure: one function each, in this folder's ``bench_*.py``.

A kernel is a function of a case and a maker of random tensors that returns `Work`: the operands, the call to
time, and the same mathematics for float64. Everything else (gradients, checking, timing, recording, joining
with a prediction) is common to all kernels.
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

#: Formats in which a kernel is measured by default.
FLOATS = ("fp32", "tf32", "bf16", "fp16")


class Maker(Protocol):
    """Maker of random operands on the device and in the format of a case."""

    @property
    def torch(self) -> Any:
        """The module ``torch``."""

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
    """Operands and calls of one kernel.

    Attributes
    ----------
    inputs : tuple of Tensor
        Operands; gradients are taken with respect to all of them.
    call : callable
        ``call(*inputs)``: the kernel to time; returns one tensor.
    exact : callable
        ``exact(*inputs64)``: the same mathematics on float64 copies of the operands.
    scope : callable
        Returns the context for calls; it is entered once for many calls, so that it does not affect times.
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
        Its name in cases.
    kernel : str
        The implementation, for the column ``kernel``.
    op : callable
        Function from a case to the operation's name in tables of measurements.
    layer : callable
        Function from a case to the layer that predicts it, or None if no layer describes it.
    build : callable
        Function from a case and a `Maker` to `Work`.
    devices, dtypes, directions : tuple of str
        Devices, formats and directions in which it exists.
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
    """Return a decorator that registers a function as the kernel of that name."""

    def register(build: Callable[[Case, Maker], Work]) -> Callable[[Case, Maker], Work]:
        if name in _BENCHES:
            raise unknown_name("name for a kernel (taken)", name, _BENCHES)
        named = op if callable(op) else lambda _: str(op)
        _BENCHES[name] = Bench(name, kernel, named, layer, build, devices, dtypes, directions)
        return build

    return register


@cache
def benches() -> dict[str, Bench]:
    """Return all kernels to measure by name."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("bench_"):
            importlib.import_module(f"{package}.{module.name}")
    return dict(sorted(_BENCHES.items()))


def described(cases: Sequence[Case]) -> tuple[Layer | None, dict[str, NDArray[np.float64]]]:
    """Return the layer of cases that differ only in the values of sizes, and those sizes as arrays.

    Sizes that the layer does not take are left out: a decoding case has one query. The layer is None if none
    describes the cases.
    """
    layer = find(cases[0].bench).layer(cases[0])
    names = [name for name, _ in cases[0].sizes if layer is not None and name in layer.sizes()]
    return layer, {name: np.array([case[name] for case in cases], dtype=np.float64) for name in names}


def find(name: str) -> Bench:
    """Return a kernel by its name.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    if name not in benches():
        raise unknown_name("kernel to measure", name, benches())
    return benches()[name]
