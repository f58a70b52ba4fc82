"""Distributed training of a model: layouts, their memory and time, and the fastest one that fits."""

from __future__ import annotations

from costmodel.parallel.cluster import Cluster
from costmodel.parallel.language_model import LanguageModel
from costmodel.parallel.layered import Layered, stack_of
from costmodel.parallel.layout import Layout
from costmodel.parallel.limits import largest_batch, longest_sequence
from costmodel.parallel.search import plan
from costmodel.parallel.training import Training
from costmodel.parallel.transformer import Transformer

__all__ = [
    "Cluster",
    "LanguageModel",
    "Layered",
    "Layout",
    "Training",
    "Transformer",
    "largest_batch",
    "longest_sequence",
    "plan",
    "stack_of",
]
