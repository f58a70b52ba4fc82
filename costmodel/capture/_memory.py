"""Memory of a trace: what is kept for backward, what lives at once, what has to be moved."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from costmodel.capture import _ops
from costmodel.capture._parts import recurrent_part, size_of
from costmodel.capture._records import Call, Operand, Piece, Trace, union
from costmodel.cost import ZERO


def kept(trace: Trace) -> sp.Expr:
    """Return what forward keeps for backward [bytes]: what autograd saved, and recurrent layers' states.

    torch does not show what a recurrent layer keeps besides its input and output: its `Layer` defines it.
    """
    inside = []
    for call in trace.calls:
        if call.op == "recurrent" and not call.backward:
            part = recurrent_part(call, "")
            io = part.layer.tensors()
            inside.append(part.expression(part.layer.kept() - io.inputs - io.outputs))
    saved = sp.Add(*trace.kept.values())
    return trace.settle(sp.Add(saved, *inside)) if saved != 0 else ZERO


def live(trace: Trace, calls: list[Call]) -> sp.Expr:
    """Return the peak memory of intermediate results, taken at the example's sizes [bytes].

    A result lives from the operation that computes it to the last one that reads it. Gradients that persist
    are not included.
    """
    outside = {*trace.weights, *trace.made, *(operand.storage for operand in trace.inputs)}
    size: dict[int, Operand] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, call in enumerate(calls):
        for operand in (*call.operands, *call.written):
            if operand.storage in outside:
                continue
            first.setdefault(operand.storage, place)
            last[operand.storage] = place
            known = size.setdefault(operand.storage, operand)
            if size_of(operand.bytes, trace.example) > size_of(known.bytes, trace.example):
                size[operand.storage] = operand
    at = {storage: size_of(operand.bytes, trace.example) for storage, operand in size.items()}
    change = [0.0] * (len(calls) + 1)
    for storage, bytes_ in at.items():
        change[first[storage]] += bytes_
        change[last[storage] + 1] -= bytes_
    total, most, peak = 0.0, -1.0, 0
    for place, step in enumerate(change):
        total += step
        if total > most:
            most, peak = total, place
    return trace.settle(sp.Add(*(size[s].bytes for s in size if first[s] <= peak <= last[s])))


def read_whole(trace: Trace, operands: Iterable[Operand]) -> dict[int, sp.Expr]:
    """Return the bytes of each input or weight that a forward pass reads whatever the data, by storage.

    A table from which some rows are gathered counts nothing: which rows, and how many, depends on the data.
    """
    wanted = {operand.storage for operand in operands}
    found: dict[Piece, Operand] = {}
    for call in trace.calls:
        if call.backward:
            continue
        known = _ops.kind(call)
        for operand in call.tensors:
            if operand.storage not in wanted or (known == "gather" and operand is call.args[0]):
                continue
            best = found.setdefault(operand.piece, operand)
            if size_of(operand.bytes, trace.example) > size_of(best.bytes, trace.example):
                found[operand.piece] = operand
    whole = union((piece, operand.bytes) for piece, operand in found.items())
    return {storage: trace.settle(count) for storage, count in whole.items()}
