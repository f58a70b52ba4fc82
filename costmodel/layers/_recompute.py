"""What a Transformer layer's backward pass computes again rather than keeps."""

from __future__ import annotations

from costmodel.errors import CostmodelError

#: Nothing; dense attention between its projections; the whole layer (Korthikanti et al., arXiv 2205.05198).
RECOMPUTE = ("none", "selective", "full")


def check_recompute(layer: str, recompute: str, attention: str) -> None:
    """Refuse to compute scores again where none are stored.

    Parameters
    ----------
    layer : str
        Its name, for the message.
    recompute, attention : str
        One of `RECOMPUTE`; ``dense`` or ``tiled``.

    Raises
    ------
    CostmodelError
        If ``selective`` is asked of tiled attention.
    """
    if recompute == "selective" and attention == "tiled":
        raise CostmodelError(
            f"{layer}: tiled attention keeps no scores; recompute=selective needs attention=dense"
        )
