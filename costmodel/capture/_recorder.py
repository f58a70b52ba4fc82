"""Recording of every operation below autograd while a module runs."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import sympy as sp

from costmodel.capture._data import answer
from costmodel.capture._records import WIDTHS, Call, Operand, Trace, leaves
from costmodel.capture._sizes import Translation


class Recorder:
    """Records the operations that run while it is active."""

    def __init__(self, translation: Translation) -> None:
        self.trace = Trace()
        self.translation = translation
        self.path: list[str] = []
        self.paused = False
        self._modules: dict[int, str] = {}  # module path by autograd's sequence number of a forward operation
        self._alive: list[Any] = []  # keeps storages alive, so that no two ever have the same address
        self._masks: set[int] = set()  # dropout masks: one byte per element

    # -- tensors ---------------------------------------------------------------------------

    def operand(self, tensor: Any) -> Operand:
        """Return the record of a tensor."""
        storage = tensor.untyped_storage()
        self._alive.append(storage)
        shape = tuple(self.translation.of(size) for size in tensor.shape)
        steps = zip(shape, tensor.stride(), strict=True)
        distinct = [size for size, step in steps if not (isinstance(step, int) and step == 0)]
        dtype = "bool" if storage._cdata in self._masks else str(tensor.dtype).removeprefix("torch.")
        return Operand(
            storage._cdata,
            shape,
            sp.Mul(*distinct),
            dtype,
            start=sp.expand(self.translation.of(tensor.storage_offset())),
            # A mask has a byte for each element, whatever the format of its random numbers.
            held=sp.expand(self.translation.of(storage.nbytes()) * WIDTHS[dtype] / tensor.element_size()),
        )

    def _shape(self, tensor: Any) -> str:
        return " × ".join(str(self.translation.of(size)) for size in tensor.shape)

    def note(self, tree: Any) -> Any:
        """Return arguments with operands for tensors and expressions for symbolic numbers."""
        import torch

        if isinstance(tree, torch.Tensor):
            return self.operand(tree)
        if isinstance(tree, torch.SymInt):
            return self.translation.of(tree)
        if isinstance(tree, (list, tuple)):
            return tuple(self.note(branch) for branch in tree)
        return tree

    # -- operations ------------------------------------------------------------------------

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation and record it."""
        if self.paused or func.namespace == "prim":
            return func(*args, **kwargs)
        if func.overloadpacket.__name__ == "slice_backward" and self._whole(*args, **kwargs):
            return args[0].view_as(args[0])
        answered = answer(self.trace, func, args, self._shape)
        out = _in_symbols(func)(*args, **kwargs) if answered is None else answered.value
        if not func.is_view:
            self._add(func, args, kwargs, out)
        return out

    def _add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        noted, named = self.note(args), {name: self.note(value) for name, value in kwargs.items()}
        outputs = tuple(leaves(self.note(out)))
        mutated = tuple(
            operand
            for argument, value in _by_argument(func, noted, named)
            if argument.alias_info is not None and argument.alias_info.is_write
            for operand in leaves(value)
        )
        known = {operand.storage for operand in leaves((noted, tuple(named.values())))}
        if not mutated and outputs and all(operand.storage in known for operand in outputs):
            return  # a view under another name
        name = func.overloadpacket.__name__.rstrip("_")
        if name == "mul" and (mask := self._drawn(noted)) is not None:
            name, noted, outputs = "native_dropout", noted[:1], (*outputs, mask)
        self.trace.calls.append(
            Call(
                op=name,
                module=self.module(),
                backward=self.in_backward,
                args=noted,
                kwargs=named,
                outputs=outputs,
                mutated=mutated,
                pointwise="Tag.pointwise" in map(str, func.tags),
                reduction="Tag.reduction" in map(str, func.tags),
                counted=self._counted(func, args, kwargs, out),
            )
        )

    def _whole(self, _: Any, sizes: Sequence[Any], dim: int, start: Any, end: Any, step: Any) -> bool:
        """Return whether a slice covers all of an axis whose size is a symbol, as in ``x[:, None]``.

        For an axis whose size is a number, indexing omits the slice, and nothing runs backward.
        """
        numbers = isinstance(sizes[dim], int), isinstance(start, int), isinstance(step, int)
        if numbers != (False, True, True) or (start, step) != (0, 1):
            return False
        if isinstance(end, int):
            return end == sys.maxsize
        return bool(self.translation.of(end) == self.translation.of(sizes[dim]))

    def _drawn(self, args: tuple[Any, ...]) -> Operand | None:
        """Return the mask if a product is the last of the three steps of dropout on a CPU.

        The steps are draw, divide by 1 − p, multiply: an accelerator runs them as one kernel, and keeps one
        byte per element.
        """
        before = self.trace.calls[-2:]
        mask = args[-1] if isinstance(args[-1], Operand) else None
        drawn = [call.op for call in before] == ["bernoulli", "div"]
        if mask is None or not drawn or {c.mutated[0].storage for c in before if c.mutated} != {mask.storage}:
            return None
        del self.trace.calls[-2:]
        self._masks.add(mask.storage)
        if mask.storage in self.trace.kept:  # autograd saves before it multiplies
            self.trace.kept[mask.storage] = sp.expand(mask.elements)
        return dataclasses.replace(mask, dtype="bool")

    def _counted(self, func: Any, args: Any, kwargs: Any, out: Any) -> sp.Expr | None:
        from torch.utils.flop_counter import flop_registry

        if func.overloadpacket not in flop_registry:
            return None
        return self.translation.of(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out))

    def add(
        self,
        op: str,
        inputs: tuple[Operand, ...],
        outputs: tuple[Operand, ...],
        *,
        module: str | None = None,
        **facts: Any,
    ) -> None:
        """Record a composite operation as one call, with its facts."""
        named = {name: self.note(value) for name, value in facts.items()}
        path = self.module() if module is None else module
        self.trace.calls.append(Call(op, path, self.in_backward, inputs, named, outputs))

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Run operations that are part of a recorded one, without recording them."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    # -- module paths ----------------------------------------------------------------------

    @property
    def in_backward(self) -> bool:
        """Whether autograd is running backward."""
        import torch

        return bool(torch._C._current_graph_task_id() != -1)

    def module(self) -> str:
        """Return the path of the running operation's module; backward, that of its forward operation."""
        import torch

        if not self.in_backward:
            path = self.path[-1] if self.path else ""
            self._modules.setdefault(torch.autograd._get_sequence_nr() - 1, path)
            return path
        node = torch._C._current_autograd_node()
        return self._modules.get(node._sequence_nr(), "") if node is not None else ""

    def keep(self, tensor: Any) -> Any:
        """Record a tensor that autograd saves."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.trace.weights and not self.in_backward:
            self._alive.append(storage)
            size = tensor.numel() if storage._cdata in self._masks else storage.nbytes()
            self.trace.kept[storage._cdata] = sp.expand(self.translation.of(size))
        return tensor


def _by_argument(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each argument of an operation's schema that was given, and its value."""
    for place, argument in enumerate(func._schema.arguments):
        if place < len(args):
            yield argument, args[place]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]


@cache
def _in_symbols(func: Any) -> Callable[..., Any]:
    """Return an operation, or its Python decomposition if torch's C++ needs sizes as numbers."""
    import torch
    from torch._decomp import decomposition_table

    has = partial(torch._C._dispatch_has_kernel_for_dispatch_key, func.name())
    if func in decomposition_table and has("CompositeExplicitAutograd") and not has("Meta"):
        return decomposition_table[func]  # type: ignore[no-any-return]
    return func  # type: ignore[no-any-return]


@cache
def _composite(func: Any) -> bool:
    """Return whether an operation only combines others, without a kernel of its own."""
    import torch

    try:
        own = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CPU")
        return bool(func._can_decompose()) and not own
    except RuntimeError:  # an operation that C++ never runs, such as a size query
        return False


def dispatch_mode(recorder: Recorder) -> Any:
    """Return the dispatch mode that passes every operation below autograd to the recorder."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if not recorder.paused and func.namespace == "aten" and _composite(func):
                with self:
                    out = func.decompose(*args, **kwargs)
                if out is not NotImplemented:
                    return out
            return recorder.dispatch(func, args, kwargs)

    return Mode()


@contextlib.contextmanager
def module_paths(module: Any, recorder: Recorder) -> Iterator[None]:
    """Track the path of the running module."""
    import torch

    names = {inner: name for name, inner in module.named_modules()}

    def enter(inner: Any, _: Any) -> None:
        recorder.path.append(names.get(inner, type(inner).__name__))

    def leave(_: Any, __: Any, ___: Any) -> None:
        recorder.path.pop()

    hooks = (
        torch.nn.modules.module.register_module_forward_pre_hook(enter),
        torch.nn.modules.module.register_module_forward_hook(leave),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
