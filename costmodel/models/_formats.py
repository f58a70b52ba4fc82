"""The number format of each layer inside a model: narrow ones are those of products with weights only."""

from __future__ import annotations

import dataclasses

from costmodel.dtypes import dtype as parse_dtype
from costmodel.layers import Layer
from costmodel.layers._stored import StoredWeights


def in_format(layer: Layer, dtype: str) -> Layer:
    """Return the layer as it is in a model of a format: in FP8 and narrower, only products have it.

    Embeddings, scores of words, norms, attention, recurrences, residual additions and products of two
    activations keep 16 bits, as in Transformer Engine's and vLLM's FP8.
    """
    kind = parse_dtype(dtype)
    product = isinstance(layer, StoredWeights) and not getattr(layer, "batched", False)
    name = (kind if product else kind.around).name
    return layer if layer.dtype == name else dataclasses.replace(layer, dtype=name)
