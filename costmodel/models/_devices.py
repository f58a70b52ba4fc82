"""What training and serving on several devices share: which parts are not divided, and what is exchanged."""

from __future__ import annotations

import sympy as sp

from costmodel.layers.collective import Collective
from costmodel.models._part import Part

#: Parts whose inner width is cut and whose result every device needs: their results are summed.
SUMMED = ("step, B and C",)


def of_stream(part: Part, whole: Part, width: int) -> bool:
    """Return whether a part works on the residual stream, of that width, as it does where nothing is cut."""
    return part == whole and part.layer.name in ("norm", "elementwise") and dict(part.sizes)["n"] == width


def exchange(
    name: str, of: Part, collective: str, rows: sp.Expr, width: sp.Expr | int, *, devices: int, node: int
) -> Part:
    """Return a collective over rows of that width, in the format of a part.

    Parameters
    ----------
    name : str
        What the part is called.
    of : Part
        Whose operand or result it is.
    collective : str
        One of ``costmodel.layers.collective.ADJOINT``.
    rows, width : Expr or int
        Numbers in the buffer of one device.
    devices, node : int
        How many take part, and how many of them sit in one node.
    """
    layer = Collective(dtype=of.layer.dtype, collective=collective)
    return Part.of(name, layer, m=rows, n=width, devices=devices, node=node)
