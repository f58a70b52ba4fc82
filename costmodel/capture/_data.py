"""Data-dependent operations: a trace has no values, so their results are assumed, and noted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from costmodel.capture._records import Trace
from costmodel.errors import CostmodelError

#: Operations that may select by a mask.
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


class CannotRun(CostmodelError):
    """A module raised an error, or one of its sizes depends on data."""


@dataclass(frozen=True)
class Answer:
    """The assumed result of an operation."""

    value: Any


def answer(trace: Trace, func: Any, args: tuple[Any, ...], sizes: Callable[[Any], str]) -> Answer | None:
    """Return the assumed result of an operation on unknown data, and note it; None for other operations.

    A condition is assumed false, unless it asks whether all elements satisfy it; a number is assumed to be
    1; a selection is assumed to select everything. ``sizes`` formats a tensor's shape.
    """
    name = func.overloadpacket.__name__
    if name == "_local_scalar_dense" and getattr(args[0], "constant", None) is None:
        return _scalar(trace, args[0])
    if name == "nonzero":
        made = args[0].new_empty((args[0].numel(), args[0].ndim), dtype=_long())
        return _everything(trace, sizes(args[0]), made)
    if name == "masked_select":
        return _everything(trace, sizes(args[0]), args[0].new_empty((args[0].numel(),)))
    if name in _INDEXED and any(i is not None and str(i.dtype) == "torch.bool" for i in args[1]):
        return _everything(trace, sizes(args[0]), func(args[0], _positions(args[1]), *args[2:]))
    return None


def _scalar(trace: Trace, tensor: Any) -> Answer:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind == "bool":
        value: Any = trace.calls[-1].op == "all" if trace.calls else False
    else:
        value = 1.0 if tensor.dtype.is_floating_point else 1
    what = "condition" if kind == "bool" else "number"
    _note(trace, f"a {what} that depends on data was taken to be {value}")
    return Answer(value)


def _everything(trace: Trace, shape: str, made: Any) -> Answer:
    _note(trace, f"a selection that depends on data was taken to select all of {shape}")
    return Answer(made)


def _positions(indices: Any) -> list[Any]:
    """Return indices with masks converted to positions, one for each element of the mask."""
    found: list[Any] = []
    for index in indices:
        if index is not None and str(index.dtype) == "torch.bool":
            position = index.new_empty((index.numel(),), dtype=_long())
            found += [position] * index.ndim
        else:
            found.append(index)
    return found


def _long() -> Any:
    import torch

    return torch.int64


def _note(trace: Trace, text: str) -> None:
    line = f"{caller()}: {text}"
    in_backward = bool(trace.calls) and trace.calls[-1].backward  # noted in the forward pass
    if not in_backward and line not in trace.assumed:
        trace.assumed.append(line)


def caller() -> str:
    """Return file, line and function of the innermost frame that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame is not None:
        if _is_the_modules(frame):
            return _place(frame, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return "somewhere"


def raiser(error: BaseException) -> str:
    """Return file, line and function of the innermost such frame that an error passed through."""
    found = ""
    step = error.__traceback__
    while step is not None:
        if _is_the_modules(step.tb_frame):
            found = _place(step.tb_frame, step.tb_lineno)
        step = step.tb_next
    return found or "called from outside"


def _is_the_modules(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return not name.startswith(("torch", "costmodel.capture", "contextlib", "sympy"))


def _place(frame: FrameType, line: int) -> str:
    return f"{frame.f_code.co_filename}:{line}, in {frame.f_code.co_name}"
