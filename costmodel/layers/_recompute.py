"""Activation recomputation: what a Transformer layer's backward pass computes again instead of keeping."""

from __future__ import annotations

from costmodel.errors import CostmodelError

#: What is recomputed: nothing; dense attention between its projections; the whole layer
#: (Korthikanti et al., arXiv 2205.05198).
RECOMPUTE = ("none", "selective", "full")


def check_recompute(layer: str, recompute: str, attention: str) -> None:
    """Refuse selective recomputation if no scores are stored.

    Parameters
    ----------
    layer : str
        The layer's name, for the error message.
    recompute, attention : str
        One of `RECOMPUTE`; ``dense`` or ``tiled``.

    Raises
    ------
    CostmodelError
        If ``selective`` is combined with tiled attention.
    """
    if recompute == "selective" and attention == "tiled":
        raise CostmodelError(
            f"{layer}: tiled attention keeps no scores; recompute=selective needs attention=dense"
        )
