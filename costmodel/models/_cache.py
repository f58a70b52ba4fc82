"""State that a sequence leaves in memory for its next token: keys and values, latents, recurrent states."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from costmodel.cost import ZERO
from costmodel.layers._stored import StoredCache
from costmodel.models._part import Part


def cached(parts: Iterable[Part]) -> sp.Expr:
    """Return the size of what decoding keeps of earlier steps: keys and values, latents, … [bytes]."""
    found = ZERO
    for part in parts:
        found += part.repeats * part.layer.bytes * part.cached
        if isinstance(part.layer, StoredCache) and not part.borrows:
            found += part.repeats * part.expression(part.layer.cache_size())
    return found


def passed_over(parts: Iterable[Part]) -> sp.Expr:
    """Return the size of what decoding keeps of earlier steps and does not read in this one [bytes]."""
    found = ZERO
    for part in parts:
        if isinstance(part.layer, StoredCache) and not part.borrows:
            found += part.repeats * part.expression(part.layer.passed_over())
    return found


def states(parts: Iterable[Part]) -> sp.Expr:
    """Return the size of the recurrent states that decoding updates in place [bytes]."""
    return sp.Add(*(part.expression(part.layer.tensors().updated) * part.repeats for part in parts))
