"""From a trace to a model: operations become kernels, and equal kernels become one that repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import Any

import sympy as sp

from costmodel.capture import _memory, _ops
from costmodel.capture._fuse import Unit, traffic, units
from costmodel.capture._model import CapturedModel, Unmapped, same
from costmodel.capture._parts import SOLID, CapturedPart, name_of, size_of
from costmodel.capture._passes import ROWS, Memory, memory, pass_of
from costmodel.capture._records import FORMATS, Call, Operand, Trace, union
from costmodel.cost import ONE
from costmodel.errors import CostmodelError
from costmodel.layers.optimizer_step import OptimizerStep
from costmodel.models import Part

NOT_COUNTED = (
    "the host's time between kernels, copies between devices, random numbers; "
    "masks and dropout inside attention that is counted as one kernel"
)


def build(
    trace: Trace, *, title: str, fusion: str, direction: str, dtype: str | None, optimizer: str | None = None
) -> CapturedModel:
    """Return the model of a trace.

    Parameters
    ----------
    trace : Trace
        The operations that ran.
    title : str
        The model's name.
    fusion : str
        Which operations run as one kernel, see `_fuse`.
    direction : str
        The captured pass.
    dtype : str, optional
        The model's format; default: that of most of its weights.
    optimizer : str, optional
        The optimiser of the weights, see `OptimizerStep`.
    """
    calls = [_settled(replace(call, place=place), trace) for place, call in enumerate(trace.calls)]
    kernels = {
        backward: _kernels(
            trace, [c for c in calls if c.backward is backward], calls, title, fusion == "compile"
        )
        for backward in (False, True)
    }
    if not any(unit.parts for unit in kernels[False]):
        raise CostmodelError(f"{title} runs nothing that takes time: it returns its inputs, or views of them")
    weights = _memory.read_whole(trace, trace.weights.values())
    own = {operand.storage for operand in trace.inputs}
    results = {o.storage: o for o in trace.outputs if o.storage not in own | set(trace.weights)}
    trained = [trace.weights[storage] for storage in trace.trained]
    form = dtype or _most(trace)
    return CapturedModel(
        title=title,
        dtype=form,
        direction=direction,
        captured=("fwd",) if direction == "fwd" else ("fwd", "bwd", "fwd+bwd"),
        parts=same([part for unit in kernels[False] for part in unit.parts]),
        backward_parts=same([part for unit in kernels[True] for part in unit.parts]),
        inputs=sp.Add(*_memory.read_whole(trace, trace.inputs).values()),
        outputs=trace.settle(sp.Add(*(operand.bytes for operand in results.values()))),
        kept_bytes=_memory.kept(trace) if direction != "fwd" else sp.Integer(0),
        live_forward=_memory.live(trace, [call for call in trace.calls if not call.backward]),
        live_training=_memory.live(trace, trace.calls),
        stored=sp.Add(*(operand.bytes for operand in trace.weights.values())),
        moved=sp.Add(*weights.values()),
        gradients=sp.Add(
            *(operand.bytes for operand in trained if operand.storage in weights),
            *(trace.settle(operand.bytes) for operand in trace.gradients),
        ),
        made=trace.settle(sp.Add(*(operand.bytes for operand in trace.made.values()))),
        learned=sp.Add(*(trace.weights[storage].elements for storage in trace.parameters)),
        dependent=_longest(kernels[False]),
        updates=_updates(optimizer, trained, form, fusion) if optimizer else (),
        bounds=tuple(trace.bounds),
        assumed=tuple(trace.assumed),
        unmapped=_unmapped(trace),
        origin=f"captured from a torch module, fusion={fusion}",
        left_out=NOT_COUNTED,
    )


def _updates(optimizer: str, trained: Sequence[Operand], dtype: str, fusion: str) -> tuple[Part, ...]:
    """Return the optimiser's step over all trained parameters, as torch.optim runs it."""
    layer = OptimizerStep(
        dtype=dtype,
        optimiser=optimizer,
        implementation="fused" if fusion == "compile" else "foreach",
        master=False,
    )
    params = sp.Add(*(operand.elements for operand in trained))
    return (Part.of("optimiser", layer, params=params, tensors=len(trained)),)


def _settled(call: Call, trace: Trace) -> Call:
    """Return a call whose sizes are expressed in the sizes that are still open."""
    if not trace.settled:
        return call

    def settle(tree: Any) -> Any:
        if isinstance(tree, tuple):
            return tuple(settle(branch) for branch in tree)
        if isinstance(tree, sp.Expr):
            return trace.settle(tree)
        if hasattr(tree, "storage"):
            shape = tuple(trace.settle(size) for size in tree.shape)
            return replace(tree, shape=shape, elements=trace.settle(tree.elements))
        return tree

    return replace(
        call,
        args=settle(call.args),
        kwargs={name: settle(value) for name, value in call.kwargs.items()},
        outputs=settle(call.outputs),
        mutated=settle(call.mutated),
    )


def _mapped(call: Call) -> bool:
    """Return whether an operation's kernel is known."""
    return call.op in SOLID or _ops.kind(call) is not None or call.op in ROWS


def _kernels(
    trace: Trace, calls: Sequence[Call], everything: Sequence[Call], title: str, fuse: bool
) -> list[Unit]:
    """Return the kernels of one direction, each with its parts."""
    inlined = _inlined(trace, everything) if fuse else set()
    rows: list[tuple[Call, list[CapturedPart], Memory | None]] = []
    for call in calls:
        if _ops.kind(call) == "free" or any(o.storage in inlined for o in call.written):
            continue
        if call.op in SOLID:
            rows.append((call, SOLID[call.op](call, title), None))
        elif call.operands or call.written:
            rows.append((call, [], memory(call, trace.example)))
    found = units(rows, fuse=fuse, example=trace.example)
    for unit in found:
        if unit.members:
            unit.parts = [_memory_part(unit, trace, everything, inlined, title, fuse)]
    return found


def _memory_part(
    unit: Unit, trace: Trace, everything: Sequence[Call], inlined: set[int], title: str, fuse: bool
) -> CapturedPart:
    """Return the part for memory-bound operations that run as one kernel."""
    one = unit.members[0]
    path = name_of(one.call, title)
    if len(unit.members) == 1 and one.layer is not None:
        return CapturedPart(path, one.layer, tuple(one.sizes.items()))
    if fuse:
        reads, writes = traffic(unit, _outside(unit, trace, everything), inlined)
    else:
        reads, writes = (sp.Add(*union(moved.items()).values()) for moved in (one.reads, one.writes))
    return pass_of(title, path, unit.members, reads, writes, trace.example)


def _outside(unit: Unit, trace: Trace, everything: Sequence[Call]) -> set[int]:
    """Return the storages of a kernel's results that other kernels read, or that persist."""
    own = {operand.storage for call in unit.calls for operand in call.written}
    inside = set(map(id, unit.calls))
    read = {
        operand.storage
        for call in everything
        if id(call) not in inside
        for operand in call.operands
        if operand.storage in own
    }
    # Results that nothing reads: backward, gradients; forward, statistics that only backward would need.
    unread = own - {o.storage for call in everything for o in call.operands}
    return (own & trace.lasting) | read | (unread if unit.calls[0].backward else set())


def _inlined(trace: Trace, calls: Sequence[Call]) -> set[int]:
    """Return the storages of generated values (zeros, ranges, …) that only memory-bound operations read."""
    made = {o.storage for c in calls if _ops.kind(c) == "creation" for o in c.outputs if not c.mutated}
    made -= trace.lasting
    for call in calls:
        changed = {operand.storage for operand in call.mutated}
        if call.op in SOLID or _ops.kind(call) == "scatter":
            changed |= {operand.storage for operand in call.operands}
        made -= changed
    return made


def _longest(kernels: Sequence[Unit]) -> int:
    """Return the number of kernels on the longest chain of dependent kernels."""
    length: dict[Unit, int] = {}
    # A kernel into which an earlier one was merged may stand behind those that wait for it.
    for unit in TopologicalSorter({unit: unit.needs for unit in kernels}).static_order():
        length[unit] = 1 + max((length[before] for before in unit.needs), default=0)
    return max(length.values(), default=1)


def _unmapped(trace: Trace) -> tuple[Unmapped, ...]:
    """Return the operations without a known kernel, and their share of FlopCounterMode's FLOPs."""
    counted: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    total = 0.0
    for call in trace.calls:
        flops = size_of(trace.settle(call.counted), trace.example) if call.counted is not None else 0.0
        total += flops
        if not _mapped(call):
            counts[call.op] += 1
            counted[call.op] += int(flops)
    return tuple(Unmapped(op, counts[op], counted[op] / total if total else 0.0) for op in sorted(counts))


def _most(trace: Trace) -> str:
    """Return the format of most of the weights, or of the inputs if there are none."""
    sizes: Counter[str] = Counter()
    for operand in (*trace.weights.values(), *trace.inputs):
        if operand.is_float:
            sizes[FORMATS[operand.dtype]] += int(size_of(operand.elements, trace.example)) or int(ONE)
    return sizes.most_common(1)[0][0] if sizes else "fp32"
