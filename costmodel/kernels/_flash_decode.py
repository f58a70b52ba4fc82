"""How attention libraries partition a decoding step: tiles, thread blocks, key splits, auxiliary kernels.

Read from the sources: what flash-attention 2 does with one query (``mha_varlen_fwd``), version 3's merge
(``flash_fwd_combine.cu``), vLLM's bounds on its splits, and SGLang's choice of FlashInfer's matrix kernel
from 4 heads a group. Inferred from waves in the measurements: tiles and rows of trtllm, FlashInfer's thread
blocks per unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from costmodel.hardware import Device
from costmodel.kernels import _flash as flash
from costmodel.kernels._flash_splits import MIN_SPLIT_KEYS, Splits, fa3_splits, filling_splits
from costmodel.kernels._tiling import ceil_div, efficient_splits
from costmodel.kernels.base import Array

#: vLLM's defaults: largest batch of a decoding step that runs as a CUDA graph
#: (``max_cudagraph_capture_size``), and the most parts that flash-attention 3 may then split keys into
#: (``flash_attn_max_num_splits_for_cuda_graph``).
_GRAPH_BATCH, _GRAPH_SPLITS = 512.0, 32.0
#: Thread blocks of FlashInfer's vector decode kernel per unit, and how many of them overlap their fixed costs
#: (inferred).
_VECTOR_SLOTS, _VECTOR_OVERLAPPING = 8.0, 2.0


@dataclass(frozen=True)
class Decoding:
    """How a kernel partitions one decoding step; one entry per row of the table.

    Attributes
    ----------
    rows, cols : array
        Tile: rows computed (query heads packed together) and keys.
    jobs : array
        Thread blocks before splitting.
    splits : Splits
        Parts that the keys are split into.
    copies : array
        1 where two additional kernels rearrange Q and O around the attention, else 0.
    reduced : array
        Rows of one KV head that a single thread block reduces over its peers.
    overlapping : array
        Thread blocks of a unit whose fixed costs overlap.
    returned : array
        1 where an additional kernel copies O to its destination, else 0.
    """

    rows: Array
    cols: Array
    jobs: Array
    splits: Splits
    copies: Array
    reduced: Array
    overlapping: Array
    returned: Array = field(default_factory=lambda: np.zeros(()))


def decode(
    device: Device, kernel: str, batch: Array, kv_heads: Array, group: Array, seq_kv: Array, head_dim: Array
) -> Decoding:
    """Return how a kernel partitions the attention of one new token per sequence."""
    units, size = device.units, flash.padded(head_dim)
    one = np.ones(())
    if kernel.startswith("fa2"):
        # With one query, its heads become rows of their KV head, and only then are keys split
        # (seqlenq_ngroups_swapped). With several KV heads and sequences this takes two copies.
        swapped = group > 1
        rows, cols = 64 * one, flash.paged_cols(size)
        jobs = batch * kv_heads * np.where(swapped, ceil_div(group, rows), group)
        splits = np.where(swapped, efficient_splits(jobs, 2 * units, ceil_div(seq_kv, cols)), 1.0)
        copies = np.where(swapped & (kv_heads > 1) & (batch > 1), 1.0, 0.0)
        parts = Splits(splits, splits > 1)
        overlapping = flash.overlapping_blocks(device, rows, cols, size)
        return Decoding(rows, cols, jobs, parts, copies, 0 * one, overlapping, np.where(swapped, 1.0, 0.0))
    if kernel.startswith("fa3"):
        rows = flash.fa3_rows(group, head_dim)
        cols = flash.fa3_cols(size)
        heads = kv_heads * ceil_div(group, rows)
        graphs = np.where(batch <= _GRAPH_BATCH, _GRAPH_SPLITS, 0.0) if kernel == "fa3-graphs" else None
        fa3 = fa3_splits(units, batch, heads, ceil_div(seq_kv, cols), graphs)
        return Decoding(rows, cols, batch * heads, fa3, 0 * one, 0 * one, one)
    if kernel == "flashinfer":
        return _flashinfer_decode(units, batch * kv_heads * one, group * one, seq_kv, size)
    # Swapped operands: the heads of a group fill the narrow side of the matrix instruction.
    rows = np.where(group <= 8, 8.0, np.where(group <= 16, 16.0, 32.0)) * one
    jobs, cols = batch * kv_heads * ceil_div(group, np.maximum(rows, 64.0)), 128 * one
    splits = filling_splits(units, jobs, ceil_div(seq_kv, cols))
    # As long as two thread blocks can share a KV head, several do, split or not, and reduce at the end.
    reduced = np.where(jobs <= units / 2, group, 0.0)
    return Decoding(rows, cols, jobs, Splits(splits, splits > 1), 0 * one, reduced, one)


def _flashinfer_decode(units: float, heads: Array, group: Array, seq_kv: Array, size: Array) -> Decoding:
    """SGLang takes the prefill template (matrix engine) from 4 heads a group on; below, a vector kernel."""
    matrix = group >= 4
    rows = np.where(matrix, flash.flashinfer_rows(group, size), group)
    slots = np.where(matrix, np.where(size <= 128, 2.0, 1.0), _VECTOR_SLOTS)
    jobs = heads * np.where(matrix, ceil_div(group, rows), 1.0)
    splits = filling_splits(slots * units, jobs, ceil_div(seq_kv, MIN_SPLIT_KEYS))
    cols, overlapping = np.where(matrix, 64.0, 8.0), np.where(matrix, 1.0, _VECTOR_OVERLAPPING)
    return Decoding(rows, cols, jobs, Splits(splits, splits > 1), 0 * rows, 0 * rows, overlapping)


def looked_up(kernel: str, batch: Array, splits: Splits) -> Array:
    """Return the number of look-ups of per-sequence data in a decoding step.

    flash-attention 3 looks up both the length and the number of parts where parts are merged. This is
    inferred from H200's steps of 256 to 2,048 sequences, with libraries that do and do not allow splits.
    """
    if kernel not in flash.LOOKING_UP:
        return np.zeros(())
    return batch * (np.where(splits.merged, 2.0, 1.0) if kernel.startswith("fa3") else 1.0)


def merge_blocks(kernel: str, batch: Array, rows: Array, head_dim: Array) -> Array:
    """Return the thread blocks of flash-attention 3's merging kernel (``flash_fwd_combine.cu``), else 0.

    Parameters
    ----------
    kernel : str
        The library.
    batch, rows : array
        Sequences, and rows of O per sequence (all heads).
    head_dim : array
        Width of a row.
    """
    if not kernel.startswith("fa3"):
        return np.zeros(())
    narrow = head_dim <= 64
    return (
        batch * ceil_div(rows, np.where(narrow, 16.0, 8.0)) * np.where(narrow, 1.0, ceil_div(head_dim, 128.0))
    )
