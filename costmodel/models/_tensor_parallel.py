"""One device's share of a whole model that several devices serve together (tensor parallelism).

Divided are heads, inner widths (an expert's too) and the rows of the vocabulary's tables; everything else is
replicated. Products come in pairs, the first divided by columns and the second by rows, and what each pair
adds to the residual stream is summed over the devices (Shoeybi et al., arXiv 1909.08053, §3). If there are
fewer key heads than devices, key heads are replicated, as in vLLM and Megatron; so is a single group of
Mamba-2, as in vLLM.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import sympy as sp

from costmodel.errors import SizeError, UnavailableError
from costmodel.models._blocks import Use
from costmodel.models._devices import BETWEEN, SUMMED, exchange, of_divided_row, of_stream, rows_of
from costmodel.models._part import Part
from costmodel.models.stack import Stack
from costmodel.symbols import ceil_div

if TYPE_CHECKING:
    from costmodel.models._family import Family
    from costmodel.models._fields import Fields

#: Widths of experts; training may distribute them otherwise, here they are divided like any other width.
EXPERTS = {"d_expert": "an expert's width", "d_shared": "the shared expert's width"}
#: Fields that may be smaller than the number of devices: each device then has one. Each has the largest size
#: at which it may.
COPIED = {"kv_heads": math.inf, "global_kv_heads": math.inf, "local_kv_heads": math.inf, "groups": 1}
#: Largest number of devices that an error suggests.
MOST = 64


def check_share(name: str, family: Family, fields: Fields, devices: int) -> None:
    """Refuse a number of devices that does not divide a model evenly; 1 divides any.

    Raises
    ------
    UnavailableError
        If it is not known how its layers are divided.
    SizeError
        If a field is not divided evenly.
    """
    if devices == 1:
        return
    if not family.cut:
        raise UnavailableError(f"{name}: it is not known how devices share its layers; use one device")
    odd = _odd(family, fields, devices)
    if odd:
        would = ", ".join(str(n) for n in range(1, MOST + 1) if not _odd(family, fields, n))
        raise SizeError(f"{name}: {odd} do not divide evenly among {devices} devices; {would} would")


def _odd(family: Family, fields: Fields, devices: int) -> str:
    """Return what does not divide evenly, with its size; empty if everything does."""
    for field, what in _cut(family, fields).items():
        whole = getattr(fields, field)
        copied = devices % whole == 0 and whole <= COPIED.get(field, 0)
        if whole % devices and not copied:
            return f"{what} ({whole})"
    return ""


def shared(family: Family, fields: Fields, use: Use, devices: int) -> Iterator[Part | Stack]:
    """Yield the parts of a model, and its stacks of layers, as one of the devices runs them."""
    own = {name: max(1, getattr(fields, name) // devices) for name in _cut(family, fields)}
    both = zip(family.parts(fields, use), family.parts(fields.replaced(**own), use), strict=True)
    for whole, cut in both:
        if isinstance(whole, Stack) and isinstance(cut, Stack):
            layer = _summed(whole.layer, cut.layer, int(fields.d_model), devices)
            yield dataclasses.replace(cut, layer=tuple(layer))
        elif isinstance(cut, Part):
            yield from _of_rows(cut, devices)


def _cut(family: Family, fields: Fields) -> dict[str, str]:
    """Return the fields that are divided, with their descriptions."""
    cut = {**family.cut, **(EXPERTS if getattr(fields, "experts", 0) else {})}
    return {name: what for name, what in cut.items() if getattr(fields, name, 0)}


def _summed(whole: tuple[Part, ...], cut: tuple[Part, ...], width: int, devices: int) -> Iterator[Part]:
    """Yield the parts of a layer, with an all-reduce wherever the residual stream needs divided results."""
    pending = False
    for before, part in zip(whole, cut, strict=True):
        sizes = dict(part.sizes)
        if pending and of_stream(part, before, width):
            pending = False
            yield _sum(part, rows_of(part), width, devices)
        if of_divided_row(part, before):
            yield _sum(part, sizes["m"], 1, devices)
        yield part
        if part.name in SUMMED:
            yield _sum(part, sizes["m"], sizes["n"], devices)
        pending = pending or part != before


def _of_rows(part: Part, devices: int) -> Iterator[Part]:
    """Yield a part outside of the layers, with its exchange: a vocabulary's table is divided by rows."""
    sizes = dict(part.sizes)
    if "vocab" not in sizes:
        yield part
        return
    rows, words = sizes["batch"] * sizes["seq"], sizes["vocab"]
    own = {**sizes, "vocab": ceil_div(words, sp.Integer(devices))}
    yield dataclasses.replace(part, sizes=tuple(own.items()))
    if part.layer.name == "embedding":
        yield _sum(part, rows, sizes["d_model"], devices)
    else:
        yield exchange(BETWEEN, part, "all-gather", rows, words, devices=devices, node=devices)


def _sum(part: Part, rows: sp.Expr, width: sp.Expr | int, devices: int) -> Part:
    """Return an all-reduce as inference engines run it."""
    return exchange(
        BETWEEN, part, "all-reduce", rows, width, devices=devices, node=devices, algorithm="custom"
    )
