"""Models from torch modules: `from_torch` traces a module on tensors without values."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from costmodel.arguments import typed
from costmodel.capture._build import build
from costmodel.capture._data import CannotRun
from costmodel.capture._fuse import FUSION
from costmodel.capture._model import TORCH, CapturedModel, Unmapped
from costmodel.capture._records import Trace
from costmodel.capture._sizes import Place, from_dynamic_shapes, places
from costmodel.capture._trace import run
from costmodel.dtypes import dtype as parse_dtype
from costmodel.errors import CostmodelError, UnavailableError, unknown_name
from costmodel.layers._base import DIRECTIONS

__all__ = ["CapturedModel", "Unmapped", "from_torch"]


@typed
def from_torch(
    module: Any,
    *inputs: Any,
    dims: Mapping[str, Any] | None = None,
    dynamic_shapes: Mapping[str | int, Any] | Sequence[Any] | None = None,
    direction: str = "fwd",
    fusion: str = "eager",
    dtype: str | None = None,
    loss: Callable[[Any], Any] | None = None,
    optimizer: str | None = None,
    title: str | None = None,
    **keywords: Any,
) -> CapturedModel:
    """Return the model of a torch module, traced on tensors without values.

    Nothing is computed and no memory is allocated: parameters and inputs may be on the ``meta`` device.
    Every operation that runs, forward and (through autograd, as in torch) backward, becomes a
    kernel. Views are free; copies cost the traffic they cause.

    Parameters
    ----------
    module : torch.nn.Module
        The module, in its current mode: ``module.train()`` has dropout, ``module.eval()`` has not.
    *inputs : torch.Tensor or other
        Example inputs; their sizes and formats matter, their values do not.
    dims : mapping, optional
        Dimensions that stay symbolic: ``{"batch": (0, 0), "seq": (0, 1)}`` maps a size's name in the
        vocabulary to (input, axis), or to a list of such places; an input is named by position or keyword.
        All other sizes are those of the example.
    dynamic_shapes : mapping or sequence, optional
        The same in the notation of ``torch.export``: ``{"x": {0: Dim("batch"), 1: Dim("seq")}}``, or one
        entry per input.
    direction : {"fwd", "bwd", "fwd+bwd"}
        The pass to capture. Backward starts from `loss`; without one, from the result's ``loss`` or its
        scalars, else from every tensor of the result that has a gradient.
    fusion : {"eager", "flash", "compile"}
        ``eager``: one kernel per operation; attention by its definition, with scores in memory.
        ``flash``: the same, with scaled_dot_product_attention as one tiled kernel. ``compile``: also
        fuses chains of pointwise operations and reductions into one kernel, like Inductor
        (``costmodel.capture._fuse`` states the rule).
    dtype : str, optional
        Format that replaces the format of all floating-point tensors.
    loss : callable, optional
        Function of the module's result that returns the tensor from which backward starts.
    optimizer : str, optional
        ``sgd``, ``momentum``, ``adam`` or ``adamw``: updates the trained parameters after the backward
        pass, in their own format: one kernel per operation over all of them (torch's ``foreach``), or a
        single kernel with ``compile``.
    title : str, optional
        The model's name; default: that of the class.
    **keywords
        Further example inputs, by name.

    Returns
    -------
    CapturedModel
        A `Model`, and so a `Layer`: predict, sweep and show accept it. ``assumed`` lists what was assumed
        where the module's control flow depends on data or on a size; ``unmapped`` lists operations whose
        cost is only the traffic of their operands, with their share of FLOPs.

    Raises
    ------
    UnavailableError
        If torch is not installed.
    CostmodelError
        If the module is not a torch module, dims do not fit the inputs, or the module cannot run on them.
    """
    if importlib.util.find_spec("torch") is None:
        raise UnavailableError(
            "from_torch needs torch, which is not installed: pip install 'costmodel[validation]'"
        )
    for option, value, known in (("direction", direction, DIRECTIONS), ("fusion", fusion, FUSION)):
        if value not in known:
            raise unknown_name(option, value, known)
    if isinstance(module, type) or not hasattr(module, "named_parameters"):
        what = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise CostmodelError(f"from_torch: wanted a torch.nn.Module, got {what}")
    name = title or type(module).__name__
    sizes = {**(dims or {}), **(from_dynamic_shapes(dynamic_shapes) if dynamic_shapes else {})}
    wanted = parse_dtype(dtype).name if dtype else None
    if wanted is not None and wanted not in TORCH:
        raise unknown_name("dtype of from_torch", wanted, TORCH)
    if optimizer is not None and direction == "fwd":
        raise CostmodelError(
            "optimizer: there is nothing to update in direction='fwd'; wanted bwd or fwd+bwd"
        )
    trace = _run(
        places(sizes),
        module,
        inputs,
        keywords,
        backward=direction != "fwd",
        dtype=TORCH[wanted] if wanted else None,
        whole_attention=fusion != "eager",
        loss=loss,
    )
    return build(trace, title=name, fusion=fusion, direction=direction, dtype=wanted, optimizer=optimizer)


def _run(sizes: Mapping[str, tuple[Place, ...]], *what: Any, **how: Any) -> Trace:
    """Return the trace; with the example's sizes if the module, or torch, does not support symbols."""
    try:
        return run(*what, sizes=sizes, **how)
    except CannotRun as error:
        if not sizes:
            raise
        try:
            trace = run(*what, sizes={}, **how)
        except CannotRun:
            raise error from None
        trace.assumed.insert(
            0, f"all sizes are fixed to those of the example, because with symbolic sizes {error}"
        )
        return trace
