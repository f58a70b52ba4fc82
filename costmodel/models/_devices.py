"""Shared by training and serving on several devices: undivided parts, and exchanges between devices."""

from __future__ import annotations

import sympy as sp

from costmodel.dtypes import dtype as parse_dtype
from costmodel.layers.collective import Collective
from costmodel.models._part import Part

#: Name of the parts that exchange data between devices.
BETWEEN = "between devices"
#: Parts whose inner dimension is divided and whose result every device needs: partial results are summed.
SUMMED = ("Δ, B and C projection",)


def of_stream(part: Part, whole: Part, width: int) -> bool:
    """Return whether a part works on the residual stream of that width, or streams, and is not divided."""
    if part.layer.name == "hyper-connection":
        return True
    return part == whole and part.layer.name in ("norm", "elementwise") and dict(part.sizes)["n"] == width


def rows_of(part: Part) -> sp.Expr:
    """Return the tokens of a part that works on the residual stream."""
    sizes = dict(part.sizes)
    return sizes["m"] if "m" in sizes else sizes["batch"] * sizes["seq"]


def of_divided_row(part: Part, whole: Part) -> bool:
    """Return whether a part is a norm over rows of which each device has a share: their sums are summed."""
    return part.layer.name == "norm" and dict(part.sizes)["n"] != dict(whole.sizes)["n"]


def exchange(
    name: str,
    of: Part,
    collective: str,
    rows: sp.Expr,
    width: sp.Expr | int,
    *,
    devices: int,
    node: int,
    algorithm: str = "auto",
) -> Part:
    """Return a collective over rows of that width, in the number format of a part's results.

    Parameters
    ----------
    name : str
        Name of the returned part.
    of : Part
        The part whose operand or result is exchanged.
    collective : str
        One of ``costmodel.layers.collective.ADJOINT``.
    rows, width : Expr or int
        Rows and columns of one device's buffer.
    devices, node : int
        Number of devices that take part, and how many of them are in one node.
    algorithm : str
        Algorithm of ``costmodel.layers.collective``.
    """
    wide = parse_dtype(of.layer.dtype).around.name
    layer = Collective(dtype=wide, collective=collective, algorithm=algorithm)
    return Part.of(name, layer, m=rows, n=width, devices=devices, node=node)
