"""Models from torch modules: `from_torch` runs one without values, and models what ran."""

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
    """Return the model of a torch module, from running it on tensors without values.

    Nothing is computed and no memory is taken: parameters and inputs may be on the ``meta`` device.
    Every operation that runs, forward and (through autograd, as torch would) backward, becomes a
    kernel. Views cost nothing; copies cost what they move.

    Parameters
    ----------
    module : torch.nn.Module
        In the mode it is in: ``module.train()`` has dropout, ``module.eval()`` has not.
    *inputs : torch.Tensor or other
        Example inputs; sizes and formats count, values do not.
    dims : mapping, optional
        Which dimensions stay symbols: ``{"batch": (0, 0), "seq": (0, 1)}``, the size's name in the
        vocabulary → (input, axis), or a list of such places; an input by position or keyword. All
        other sizes are the example's.
    dynamic_shapes : mapping or sequence, optional
        The same as ``torch.export`` writes it: ``{"x": {0: Dim("batch"), 1: Dim("seq")}}``, or one
        entry for each input.
    direction : {"fwd", "bwd", "fwd+bwd"}
        What to capture. Backward starts from `loss`; without one from the result's ``loss`` or its
        scalars, else from everything in it that has a gradient.
    fusion : {"eager", "flash", "compile"}
        ``eager``: one kernel for each operation, attention by its definition, with scores in memory.
        ``flash``: the same, scaled_dot_product_attention as one tiled kernel. ``compile``: also
        chains of pointwise operations and reductions as one kernel, after Inductor
        (``costmodel.capture._fuse`` states the rule).
    dtype : str, optional
        The format that floating-point tensors are taken to have instead of their own.
    loss : callable, optional
        From the module's result, the tensor that backward starts from.
    optimizer : str, optional
        ``sgd``, ``momentum``, ``adam`` or ``adamw``: what updates the trained parameters after the backward
        pass, in their own format: a kernel for each operation over all of them (torch's ``foreach``), one
        for all under ``compile``.
    title : str, optional
        The model's name; default the class's.
    **keywords
        Further example inputs, by name.

    Returns
    -------
    CapturedModel
        A `Model`, and so a `Layer`: predict, sweep and show take it. ``assumed`` says what was assumed
        where the module's course depends on data or on a size, ``unmapped`` which operations are
        charged as moving their operands, with their share of FLOPs.

    Raises
    ------
    UnavailableError
        If torch is not installed.
    CostmodelError
        If the module is not one, dims do not fit the inputs, or the module cannot run on them.
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
    """Return what ran; with the example's sizes where the module, or torch, cannot do with symbols."""
    try:
        return run(*what, sizes=sizes, **how)
    except CannotRun as error:
        if not sizes:
            raise
        try:
            trace = run(*what, sizes={}, **how)
        except CannotRun:
            raise error from None
        trace.assumed.insert(0, f"all sizes are those of the example, because with symbols {error}")
        return trace
