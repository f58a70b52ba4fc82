"""Stand-in tensors with sizes but without values, for a module's inputs and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from costmodel.capture._recorder import Recorder
from costmodel.capture._sizes import Place
from costmodel.errors import CostmodelError
from costmodel.symbols import symbol


class StandIns:
    """Tensors without values for a module's inputs and weights."""

    def __init__(
        self, environment: Any, recorder: Recorder, sizes: Mapping[str, Sequence[Place]], dtype: str | None
    ) -> None:
        self.environment = environment
        self.recorder = recorder
        self.sizes = sizes
        self.dtype = dtype
        self.leaves: list[Any] = []  # tensors that receive gradients in the backward pass

    def _like(self, tensor: Any, shape: Sequence[Any] | None = None) -> Any:
        """Return an empty tensor of the same format and layout, or of another shape."""
        import torch

        dtype = tensor.dtype
        if self.dtype is not None and dtype.is_floating_point:
            dtype = getattr(torch, self.dtype)
        if shape is None:
            made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="cpu")
        else:
            made = torch.empty(tuple(shape), dtype=dtype, device="cpu")
        return made.requires_grad_(tensor.requires_grad)

    def weights(self, module: Any) -> dict[str, Any]:
        """Return stand-ins for parameters and buffers; tied ones stay tied."""
        import torch

        trace, made, found = self.recorder.trace, {}, {}
        parameters = dict(module.named_parameters(remove_duplicate=False))
        for name, tensor in (*parameters.items(), *module.named_buffers(remove_duplicate=False)):
            if id(tensor) not in made:
                if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
                    raise CostmodelError(f"parameter {name} has no size yet: run the module once before")
                stand_in = self._like(tensor.detach())
                if name in parameters:
                    stand_in = torch.nn.Parameter(stand_in, requires_grad=tensor.requires_grad)
                operand = self.recorder.operand(stand_in)
                trace.weights[operand.storage] = operand
                if name in parameters:
                    trace.parameters.add(operand.storage)
                if stand_in.requires_grad:
                    trace.trained.add(operand.storage)
                    self.leaves.append(stand_in)
                made[id(tensor)] = stand_in
            found[name] = made[id(tensor)]
        return found

    def inputs(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return stand-ins for the example inputs, with named dimensions as symbols."""
        from torch.utils._pytree import tree_map

        _check_once(self.sizes, args, kwargs)
        symbols = {name: self._symbol(name, where, args, kwargs) for name, where in self.sizes.items()}
        trace = self.recorder.trace
        noted = []

        def stand_in(where: int | str, value: Any) -> Any:
            axes = {a: symbols[name] for name, ps in self.sizes.items() for w, a in ps if w == where}

            def replace(leaf: Any) -> Any:
                if not hasattr(leaf, "untyped_storage"):
                    return leaf
                shape = [axes.get(i, axes.get(i - leaf.ndim, int(n))) for i, n in enumerate(leaf.shape)]
                made = self._like(leaf, shape)
                operand = self.recorder.operand(made)
                noted.append(operand)
                if made.requires_grad:
                    trace.gradients += (operand,)
                    self.leaves.append(made)
                return made

            return tree_map(replace, value)

        positional = tuple(stand_in(place, value) for place, value in enumerate(args))
        named = {name: stand_in(name, value) for name, value in kwargs.items()}
        trace.inputs = tuple(noted)
        return positional, named

    def _symbol(
        self, name: str, where: Sequence[Place], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Return torch's symbol for a named size; its example value is that of the inputs."""
        from torch._dynamo.source import ConstantSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic

        values = {_size(name, place, args, kwargs) for place in where}
        if len(values) != 1:
            raise CostmodelError(
                f"dims of {name!r}: the example inputs have {' and '.join(map(str, sorted(values)))}; "
                "one size has one value"
            )
        # A size of 1 would broadcast where no other number does: use 2 instead.
        example = max(2, values.pop())
        source = ConstantSource(name)
        made = self.environment.create_symbol(
            example, source=source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None
        )
        self.recorder.translation.names[made] = symbol(name)
        self.recorder.trace.example[symbol(name)] = example
        return self.environment.create_symintnode(made, hint=example, source=source)


def _check_once(
    sizes: Mapping[str, Sequence[Place]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Refuse two names for one axis, also if it is counted from the end once."""
    named: dict[Place, str] = {}
    for name, places in sizes.items():
        for where, axis in places:
            _size(name, (where, axis), args, kwargs)
            given = args[where] if isinstance(where, int) else kwargs[where]
            other = named.setdefault((where, axis % len(given.shape)), name)
            if other != name:
                raise CostmodelError(
                    f"dims of {name!r}: axis {axis} of input {where!r} is {other!r} already; "
                    "an axis has one name"
                )


def _size(name: str, place: Place, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Return the example's size at a place."""
    where, axis = place
    try:
        given = args[where] if isinstance(where, int) else kwargs[where]
        return int(given.shape[axis])
    except (IndexError, KeyError, AttributeError):
        raise CostmodelError(
            f"dims of {name!r}: there is no input {where!r} with an axis {axis} among "
            f"{len(args)} inputs and the keywords {', '.join(kwargs) or '(none)'}"
        ) from None
