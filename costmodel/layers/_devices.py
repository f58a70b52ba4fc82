"""What layers on several devices share: the collectives between them."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from costmodel.cost import ONE, ZERO, Phase
from costmodel.layers._base import Layer
from costmodel.symbols import CeilLog2, symbols

P, NODE = symbols("devices node")
#: 1 where there are other devices, 0 for who is alone. SymPy would compare the two each time it is written.
OTHERS = sp.Min(P - 1, 1, evaluate=False)

#: Bytes that a device sends, over those of its buffer (ring or pairwise): no algorithm sends less
#: (Chan et al. 2007, Table 1). Who has no neighbour repeats a send-receive 0 times.
SENT: Mapping[str, sp.Expr] = {
    "all-reduce": 2 * (P - 1) / P,
    "all-gather": (P - 1) / P,
    "reduce-scatter": (P - 1) / P,
    "all-to-all": (P - 1) / P,
    "send-receive": ONE,
}
#: Those that add, once for each byte-carrying number they reduce.
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
    """Return a collective between the `devices`, as one of them sees it.

    What a device sends it reads, and what it receives it writes; buffers of the library's own are left out.
    A reduction adds each number of the buffer once for every other device, spread over all of them:
    (p − 1)/p additions a number. Alone, a device does nothing.

    Parameters
    ----------
    layer : Layer
        Whose dtype the buffer has.
    name : str
        What is exchanged.
    collective : str
        One of ``SENT``.
    size : Expr
        Buffer of one device [bytes]; see ``costmodel.kernels.collective``.
    repeats : Expr
        How often.
    overlaps : bool
        Whether it hides behind the phase before it.
    workspace : Expr
        Bytes beside the layer's operands that what is exchanged takes while it is there: buffers to receive
        in, or what a sum or a turn is made of. An all-reduce works in place and takes none; who is alone
        has none of it.
    algorithm : str, optional
        Which of ``costmodel.kernels.collective`` takes the time; default: the fastest.
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
