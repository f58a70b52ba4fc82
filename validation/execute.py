"""Turn a case into a callable: make operands, set up gradients, check the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from costmodel.errors import UnavailableError
from costmodel.validation.case import Case
from costmodel.validation.registry import Bench, Work, find
from costmodel.validation.torch_env import load_torch, math_mode, torch_dtype

#: Largest relative error (Frobenius norm, against float64) of a correct kernel: rounding of products and of
#: stored results in that format, with a margin for long sums (on a CPU, gradients through 512 steps of an
#: LSTM have errors of 3e-2 in bf16 and 4e-3 in fp16).
TOLERANCE = {"fp64": 1e-10, "fp32": 1e-4, "tf32": 5e-3, "bf16": 5e-2, "fp16": 1e-2, "fp8": 3e-2}


class IncorrectResultError(ArithmeticError):
    """A kernel's result differs too much from that in float64."""


@dataclass(frozen=True)
class RandomMaker:
    """Reproducible random operands; see `costmodel.validation.registry.Maker`."""

    torch: Any
    device: str
    dtype: Any
    generator: Any
    gradients: bool

    def __call__(self, *shape: int, scale: float = 1.0) -> Any:
        """Return a tensor of standard normal values times `scale`."""
        values = self.torch.randn(shape, generator=self.generator, device=self.device).mul_(scale)
        return values.to(self.dtype).requires_grad_(self.gradients)

    def adopt(self, module: Any) -> Any:
        """Return a module moved to the device and format, in evaluation mode."""
        return module.to(device=self.device, dtype=self.dtype).eval().requires_grad_(self.gradients)


def supported(bench: Bench, case: Case, kind: str) -> str:
    """Return why a kernel cannot run a case on that kind of device; empty if it can."""
    if kind not in bench.devices:
        return f"{bench.name} exists on {', '.join(bench.devices)} only"
    if case.dtype not in bench.dtypes:
        return f"{bench.name} exists in {', '.join(bench.dtypes)} only"
    if case.direction not in bench.directions:
        return f"{bench.name} has the directions {', '.join(bench.directions)} only"
    if kind == "cpu" and (case.launch == "graph" or case.dtype == "tf32"):
        return f"a CPU has no {'graphs' if case.launch == 'graph' else 'tf32'}"
    return ""


@dataclass(frozen=True)
class Prepared:
    """A case that is ready to run on one set of operands.

    Attributes
    ----------
    run : callable
        Does the timed work once and returns its results, a tuple of tensors; has to be called inside `scope`.
    scope : callable
        Returns the context of the case: TF32 or not, gradients or not, the attention backend.
    work : Work
        Operands, the call, and its exact counterpart.
    upstream : Tensor or None
        The gradient of the result, if the case has a backward pass.
    """

    run: Callable[[], tuple[Any, ...]]
    scope: Callable[[], AbstractContextManager[Any]]
    work: Work
    upstream: Any


def prepare(case: Case, kind: str, *, copy: int = 0) -> Prepared:
    """Make the operands of a case and return it ready to run.

    Parameters
    ----------
    case : Case
        The case to run.
    kind : str
        ``cpu`` or ``cuda``.
    copy : int
        Number of the set of operands; sets have different values in different memory, for cold measurements.

    Raises
    ------
    UnavailableError
        If the kernel does not exist on that device, in that format or direction.
    """
    bench = find(case.bench)
    reason = supported(bench, case, kind)
    if reason:
        raise UnavailableError(reason)
    torch = load_torch()
    generator = torch.Generator(device=kind).manual_seed(int(case.key[:8], 16) + copy)
    # Modules initialise their weights from the global generator.
    torch.manual_seed(int(case.key[8:], 16) % 2**31 + copy)
    gradients = case.direction != "fwd"
    work = bench.build(case, RandomMaker(torch, kind, torch_dtype(case.dtype), generator, gradients))

    @contextmanager
    def scope() -> Iterator[None]:
        with nullcontext() if gradients else torch.inference_mode(), math_mode(case.dtype), work.scope():
            yield

    if not gradients:
        return Prepared(lambda: (work.call(*work.inputs),), scope, work, None)
    with scope():
        result = work.call(*work.inputs)
    upstream = torch.randn(result.shape, generator=generator, device=kind).to(result.dtype)

    def backward() -> tuple[Any, ...]:
        grads: tuple[Any, ...] = torch.autograd.grad(result, work.inputs, upstream, retain_graph=True)
        return grads

    def both() -> tuple[Any, ...]:
        grads: tuple[Any, ...] = torch.autograd.grad(work.call(*work.inputs), work.inputs, upstream)
        return grads

    return Prepared(backward if case.direction == "bwd" else both, scope, work, upstream)


def relative_error(case: Case, prepared: Prepared) -> float:
    """Run a case once and return the relative error of its results against float64.

    Returns
    -------
    float
        The largest ‖got − exact‖ / ‖exact‖ (Frobenius) of all results.

    Raises
    ------
    IncorrectResultError
        If it exceeds ``TOLERANCE`` for the format, or is not a number.
    """
    torch = load_torch()
    with prepared.scope():
        got = [result.detach() for result in prepared.run()]
    inputs = [x.detach().double().requires_grad_(case.direction != "fwd") for x in prepared.work.inputs]
    if case.direction == "fwd":
        with torch.inference_mode():
            exact = (prepared.work.exact(*inputs),)
    else:
        result = prepared.work.exact(*inputs)
        exact = torch.autograd.grad(result, inputs, prepared.upstream.double())
    errors = []
    for one, other in zip(got, exact, strict=True):
        size = torch.linalg.vector_norm(other)
        errors.append(float(torch.linalg.vector_norm(one.double() - other) / torch.clamp(size, min=1e-30)))
    worst = float(np.max(errors))  # NaN if one of them is
    if not worst <= TOLERANCE[case.dtype]:
        raise IncorrectResultError(
            f"relative error {worst:.1e} against float64, wanted at most {TOLERANCE[case.dtype]:.0e}"
        )
    return worst
