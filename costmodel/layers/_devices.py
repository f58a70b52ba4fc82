"""Collectives between the devices that share a layer."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase
from costmodel.layers._base import Layer
from costmodel.symbols import CeilLog2, symbols

P, NODE = symbols("devices node")
#: 1 if there are other devices, 0 for a single device. Unevaluated, because SymPy would otherwise compare
#: the two arguments each time the expression is rebuilt.
OTHERS = sp.Min(P - 1, 1, evaluate=False)

#: Bytes that a device sends per byte of its buffer (ring or pairwise): no algorithm sends fewer
#: (Chan et al. 2007, Table 1). For a single device a send-receive is repeated 0 times.
SENT: Mapping[str, sp.Expr] = {
    "all-reduce": 2 * (P - 1) / P,
    "all-gather": (P - 1) / P,
    "reduce-scatter": (P - 1) / P,
    "all-to-all": (P - 1) / P,
    "send-receive": ONE,
}
#: Collectives that add numbers.
_REDUCING = ("all-reduce", "reduce-scatter")


def exchange(
    layer: Layer,
    name: str,
    collective: str,
    size: sp.Expr,
    *,
    repeats: sp.Expr = ONE,
    overlaps: bool = False,
    workspace: sp.Expr = ZERO,
    algorithm: str | None = None,
) -> Phase:
    """Return a collective between the `devices`, as seen by one of them.

    The device reads what it sends and writes what it receives; the library's own buffers are left out.
    A reduction adds every number of the buffer once per other device, spread over all devices:
    (p − 1)/p additions per number. A single device does nothing.

    Parameters
    ----------
    layer : Layer
        The layer whose dtype the buffer has.
    name : str
        What is exchanged.
    collective : str
        A key of ``SENT``.
    size : Expr
        Buffer of one device [bytes]; see ``costmodel.kernels.collective``.
    repeats : Expr
        Number of times it runs.
    overlaps : bool
        Whether it is hidden behind the phase before it.
    workspace : Expr
        Memory that the exchange needs besides the layer's operands [bytes]: receive buffers, or the data
        that is summed or transposed. An all-reduce works in place and needs none; neither does a single
        device.
    algorithm : str, optional
        Algorithm of ``costmodel.kernels.collective`` that determines the time; default: the fastest.
    """
    sent = SENT[collective] * size
    adds = collective in _REDUCING
    return Phase(
        name=name,
        kernel="collective",
        op=collective.replace("-", "_"),
        sizes={"size": size, "devices": P, "node": NODE},
        options={"dtype": layer.dtype, "collective": collective, "algorithm": algorithm},
        flops={("vector", layer.accumulate): (P - 1) / P * size / layer.bytes} if adds else {},
        read=sent,
        write=sent,
        link=sent,
        pram_depth=CeilLog2(P) if adds else ZERO,
        workspace=OTHERS * workspace,
        repeats=repeats,
        launches=OTHERS,
        overlaps=overlaps,
    )
