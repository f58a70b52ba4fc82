"""Tracing: running a module on tensors that have sizes but no values.

The module runs as usual, including Python code and autograd, on torch's fake tensors: no memory is
allocated and nothing is computed. Named dimensions are symbols; where the code depends on them (a loop over
the length, a table of positions), the example's sizes decide, and the decision is noted.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sympy as sp

from costmodel.capture._composites import composites
from costmodel.capture._data import CannotRun, raiser
from costmodel.capture._recorder import Recorder, dispatch_mode, module_paths
from costmodel.capture._records import Trace
from costmodel.capture._sizes import Place, Translation
from costmodel.capture._stand_ins import StandIns
from costmodel.errors import CostmodelError


def run(
    module: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    sizes: Mapping[str, Sequence[Place]],
    backward: bool,
    dtype: str | None,
    whole_attention: bool,
    loss: Callable[[Any], Any] | None,
) -> Trace:
    """Run a module forward, and backward if asked, and return the trace.

    Parameters
    ----------
    module : torch.nn.Module
        The module; its own tensors are neither read nor changed.
    args, kwargs : tuple, mapping
        Example inputs: their sizes and formats matter, their values do not.
    sizes : mapping
        Dimensions that are symbols, see `places`.
    backward : bool
        Whether the backward pass runs.
    dtype : str, optional
        torch's name of the format that replaces that of all floating-point tensors.
    whole_attention : bool
        Whether scaled_dot_product_attention is one operation, or the several that define it.
    loss : callable, optional
        Function of the module's result that returns the tensor from which backward starts.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    environment = ShapeEnv(duck_shape=False, specialize_zero_one=False)
    fake = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    fake.cache_enabled = False  # with symbolic sizes the cache costs more than it saves
    recorder = Recorder(Translation())
    mode = dispatch_mode(recorder)
    with fake:
        stand_ins = StandIns(environment, recorder, sizes, dtype)
        given = stand_ins.inputs(args, kwargs)
        tensors = stand_ins.weights(module)
    grad = contextlib.nullcontext() if backward else torch.no_grad()
    with (
        _errors_in_one_line(module),
        module_paths(module, recorder),
        composites(recorder, whole_attention=whole_attention),
        fake,
        grad,
        torch.autograd.graph.saved_tensors_hooks(recorder.keep, lambda tensor: tensor),
        mode,
    ):
        result = torch.func.functional_call(module, tensors, *given)
        recorder.trace.outputs = tuple(recorder.operand(t) for t in _tensors(result))
        if backward:
            with recorder.pause():
                roots = _roots(result if loss is None else loss(result))
                gradients = [torch.empty_like(root) for root in roots]
            torch.autograd.backward(roots, gradients)
            made = [recorder.operand(leaf.grad) for leaf in stand_ins.leaves if leaf.grad is not None]
            recorder.trace.made = {operand.storage: operand for operand in made}
    recorder.trace.settled = _settled(environment, recorder)
    return recorder.trace


@contextlib.contextmanager
def _errors_in_one_line(module: Any) -> Iterator[None]:
    """Turn any error of a module into one line: what happened, and where in its code."""
    log = logging.getLogger("torch._subclasses.fake_tensor")  # it would also print the operation's traceback
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except CostmodelError:
        raise
    except Exception as error:
        what = next((line for line in str(error).splitlines() if line.strip()), "")
        raise CannotRun(
            f"{type(module).__name__} cannot run on these inputs: {type(error).__name__}: {what.strip()} "
            f"({raiser(error)})"
        ) from error
    finally:
        log.setLevel(before)


def _tensors(tree: Any) -> list[Any]:
    """Return the tensors of a result, in any container."""
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _roots(result: Any) -> list[Any]:
    """Return the tensors from which backward starts: the result's loss, else all that have gradients."""
    loss = getattr(result, "loss", None)
    found = [t for t in _tensors(result if loss is None else loss) if t.requires_grad]
    scalars = [t for t in found if t.ndim == 0]
    if not found:
        raise CostmodelError(
            "nothing of what the module returns has a gradient: ask for direction='fwd', "
            "or give parameters that require gradients"
        )
    return scalars or found


def _settled(environment: Any, recorder: Recorder) -> dict[sp.Symbol, sp.Expr]:
    """Return sizes that the module's code fixed or equated, and note where, and its conditions on sizes."""
    translation, trace = recorder.translation, recorder.trace
    found = {}
    for made, value in environment.replacements.items():
        if made in translation.names:
            name, meant = translation.names[made], translation.expression(value)
            found[name] = meant
            about = [guard for guard in environment.guards if made in guard.expr.free_symbols]
            at = next((_place(guard) for guard in reversed(about) if _place(guard)), "")
            at = at or "in torch's own code"
            trace.assumed.append(f"{at}: {name} was taken to be {meant}, as in the example")
    for guard in environment.guards:
        # Skip guards from torch's own code: it compares sizes to choose memory orders and kernels.
        if place := _place(guard):
            condition = translation.expression(guard.expr).xreplace(found)
            ordered = isinstance(condition, (sp.Le, sp.Lt, sp.Ge, sp.Gt))
            # Skip "more than one" as well: torch asks it everywhere, as a size of 1 would broadcast.
            if ordered and not (isinstance(condition, (sp.Lt, sp.Gt)) and condition.lts == 1):
                trace.bounds.append((condition, place))
    return found


def _place(guard: Any) -> str:
    """Return where the module's code asked about a size; an empty string if torch asked."""
    import torch

    frame = guard.sloc.framework_loc
    if frame is None or not hasattr(frame, "filename"):
        return ""
    if frame.filename.startswith(torch.__path__[0]):
        return ""
    return f"{frame.filename}:{frame.lineno}, in {frame.name}"
