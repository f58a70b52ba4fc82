"""Sizes that do not go together are refused with the first values that do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from costmodel.errors import SizeError
from costmodel.units import in_full

if TYPE_CHECKING:
    from costmodel.layers._base import Layer


def refuse(layer: Layer, wrong: Any, wanted: str, sizes: Mapping[str, Any], *names: str) -> None:
    """Refuse a layer's sizes where a condition holds.

    Parameters
    ----------
    layer : Layer
        The layer, which is named first.
    wrong : bool, float or array
        Whether sizes do not go together, or a remainder that has to be 0.
    wanted : str
        What is wanted of them.
    sizes : mapping of str to float or array
        The layer's sizes by name.
    names : str
        Those that the condition depends on. Symbolic ones have no value to state (`costmodel.programs`).

    Raises
    ------
    SizeError
        If the condition holds anywhere; it states the first values for which it does.
    """
    if not (wrong if isinstance(wrong, (bool, float)) else np.any(wrong)):
        return
    given = {name: sizes[name] for name in names}
    if all(isinstance(value, (int, float, np.ndarray)) for value in given.values()):
        where, *values = np.broadcast_arrays(wrong, *given.values())
        first = np.argmax(np.ravel(where) != 0)
        pairs = zip(given, values, strict=True)
        wanted += f"; got {', '.join(f'{name} = {in_full(value.flat[first])}' for name, value in pairs)}"
    raise SizeError(f"{layer.name}: {wanted}")
