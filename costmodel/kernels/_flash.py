"""What attention libraries launch: tiles, order, packing and KV splits (facts about each library).

======================  ====================================================================
``fa2``                 FlashAttention-2, varlen: one thread block a row block and head, in grid order
``fa2-paged``           its split-KV kernel, which vLLM calls with a paged cache: 64-row tiles
``fa3``                 FlashAttention-3 (Hopper): persistent, longest first, heads packed, dynamic splits
``fa3-graphs``          as vLLM calls it: its decoding steps are CUDA graphs, which bound the splits
``fa4``                 FlashAttention-4 (Blackwell): 256-row tiles, splits
``flashinfer``          FlashInfer's FA2 templates: heads packed, tile by packed length; decoding splits
                        the keys to fill the units
``trtllm``              TensorRT-LLM's generated kernels, as FlashInfer and SGLang call them on Blackwell
======================  ====================================================================

Read from the sources: the tiles of fa2 and fa2-paged (``flash_fwd_launch_template.h``, flash-attention
2, BSD-3-Clause), those of fa3 (``hopper/tile_size.h``, ``heuristics.h``), the split rules of fa3 and fa4
(``flash_prepare_scheduler.cu``, ``flash_attn/cute/interface.py``), FlashInfer's rows
(``FA2DetermineCtaTileQ``, Apache-2.0) and SGLang's choice of its matrix kernel from 4 heads a group.
Inferred from the measured waves: tiles and rows of trtllm, tiles of fa4, FlashInfer's keys a tile and
thread blocks a unit, and what runs shortest first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from costmodel.errors import unknown_name
from costmodel.hardware import Device
from costmodel.kernels._tiling import ceil_div, efficient_splits
from costmodel.kernels.base import Array

KERNELS = ("fa2", "fa2-paged", "fa3", "fa3-graphs", "fa4", "flashinfer", "trtllm")
_DEFAULT = {"hopper": "fa3", "blackwell": "trtllm"}
#: How vLLM calls a library, whose cache has pages and whose decoding steps are graphs.
_BY_VLLM = {"fa2": "fa2-paged", "fa3": "fa3-graphs"}

#: Shared memory of a unit [B] from which FlashInfer takes its wider KV tiles (A100 has 164 KiB, Ada 100).
_LARGE_SHARED = 128 * 1024
#: FlashInfer does not split below this many keys, nor flash-attention 3 and 4 up to this many KV blocks.
_MIN_SPLIT_KEYS, _UNSPLIT_BLOCKS = 128.0, 4.0
#: Sequences that flash-attention 3's scheduler kernel can prepare: 32 warps of 31 (``flash_api.cpp``).
_PREPARED = 992.0
#: Sequences up to which vLLM runs a decoding step as a CUDA graph (``max_cudagraph_capture_size``), and parts
#: that flash-attention 3 may then cut keys into (``flash_attn_max_num_splits_for_cuda_graph``): its defaults.
_GRAPH_BATCH, _GRAPH_SPLITS = 512.0, 32.0
#: Start of a kernel that does next to nothing [cycles]: the convolution's, the same on three families.
_START_CYCLES = 4000.0
#: Libraries whose kernels look up every sequence's length; FlashInfer's are given a plan by the host.
LOOKING_UP = ("fa2", "fa2-paged", "fa3", "fa3-graphs")
#: Libraries that merge the splits of a decoding step in a kernel of its own; trtllm's last thread block does.
MERGING = ("fa2", "fa2-paged", "fa3", "fa3-graphs", "flashinfer")
#: Kernels with warps that only load (flash-attention 3, section 3.1).
_LOADED_AHEAD = ("fa3", "fa3-graphs", "fa4", "trtllm")
#: Libraries whose thread blocks load their first keys while the ones before still end (inferred).
AHEAD = ("trtllm",)
#: Kernels that prepare a call: flash-attention 3's scheduler (``flash_prepare_scheduler.cu``); of trtllm
#: inferred from calls that take as much longer than those of the libraries without one.
_PREPARING = ("fa3", "fa3-graphs", "trtllm")
#: Thread blocks of a unit that FlashInfer plans a prefill for (``PrefillPlan``).
_PLANNED_SLOTS = 2.0
#: Thread blocks of FlashInfer's vector decode kernel on a unit, and whose fixed costs overlap (inferred).
_VECTOR_SLOTS, _VECTOR_OVERLAPPING = 8.0, 2.0
#: Shared memory that the system keeps of every thread block [B].
_RESERVED = 1024.0


@dataclass(frozen=True)
class Tiling:
    """How a kernel cuts its work, by row of the table.

    Attributes
    ----------
    rows, cols : array
        Tile: query rows (of all heads packed together) and keys.
    group : array
        Query heads packed into one tile.
    slots : array
        Thread blocks resident on one unit.
    ascending : bool
        Whether a head's row blocks run shortest first.
    overlapping : array
        Thread blocks of a unit whose prologues and epilogues overlap.
    """

    rows: Array
    cols: Array
    group: Array
    slots: Array
    ascending: bool
    overlapping: Array = field(default_factory=lambda: np.ones(()))


def default_kernel(device: Device) -> str:
    """Return the library that serving frameworks take on that device, where a user names none."""
    return _DEFAULT.get(device.family, "fa2")


def preparation(kernel: str) -> float:
    """Return the cycles of the kernels that a library launches before that of the attention itself."""
    return _START_CYCLES if kernel in _PREPARING else 0.0


def looked_up(kernel: str, batch: Array, splits: Splits) -> Array:
    """Return how many times a step looks up what concerns one sequence.

    Of flash-attention 3 twice where parts are to be merged, their number as well as the length: inferred from
    H200's steps of 256 to 2,048 sequences, by libraries that allow for parts and that do not.
    """
    if kernel not in LOOKING_UP:
        return np.zeros(())
    return batch * (np.where(splits.merged, 2.0, 1.0) if kernel.startswith("fa3") else 1.0)


def check(kernel: str) -> str:
    """Return `kernel` if it is known.

    Raises
    ------
    UnknownNameError
        If not.
    """
    if kernel not in KERNELS:
        raise unknown_name("attention kernel", kernel, KERNELS)
    return kernel


def padded(head_dim: Array, kernel: str = "fa2") -> Array:
    """Return the head size that the tiles are compiled for.

    64, 96, 128 and multiples of 64 beyond; fa4 compiles for any multiple of 16.
    """
    if kernel == "fa4":
        return ceil_div(head_dim, 16.0) * 16.0
    low = np.where(head_dim <= 64, 64.0, np.where(head_dim <= 96, 96.0, 128.0))
    return np.where(head_dim <= 128, low, ceil_div(head_dim, 64.0) * 64.0)


def prefill(device: Device, kernel: str, seq: Array, group: Array, head_dim: Array, causal: bool) -> Tiling:
    """Return the tiling of a prefill: `seq` queries, `group` query heads to a KV head."""
    one, size = np.ones(()), padded(head_dim)

    def by_size(d64: float, d96: float, d128: float, d256: float) -> Array:
        return np.where(size <= 64, d64, np.where(size <= 96, d96, np.where(size <= 128, d128, d256)))

    if kernel.startswith("fa2"):
        rows, cols = by_size(128, 128, 128, 64), by_size(128, 64, 64, 64)
        if kernel == "fa2-paged":
            rows, cols = 64 * one, _paged_cols(size)
        return Tiling(rows, cols, one, one, causal, _overlapping(device, rows, cols, size))
    if kernel.startswith("fa3"):
        packed = group if causal else one
        rows = _fa3_rows(seq * packed, head_dim)
        cols = by_size(128, 144, 128, 80) if causal else by_size(192, 144, 176, 80)
        return Tiling(rows, cols, packed, one, ascending=False)
    if kernel == "flashinfer":
        wide, packed = device.shared_per_unit >= _LARGE_SHARED, seq * group
        rows = np.where(packed <= 16, 16.0, np.where((packed <= 64) | (size >= 256), 64.0, 128.0))
        cols = np.where(size >= 256, 32.0 if wide else 16.0, 64.0)
        cols = np.where((rows == 16) | wide | (size >= 256) | (rows < 128), cols, 32.0)
        cols = np.where(rows == 16, 64.0, cols)
        # Two thread blocks share a unit where their tiles of Q, K and V (16 bits) fit into half of it.
        slots = np.where(2 * size * (rows + 2 * cols) <= device.shared_per_unit / 2, 2.0, 1.0)
        return Tiling(rows, cols, group, slots, causal)
    return Tiling(by_size(256, 256, 256, 128), (128 if kernel == "fa4" else 64) * one, one, one, causal)


def step_share(kernel: str, tile: Tiling) -> Array | float:
    """Return the least time of a step over that of one of 128 keys, or of any step.

    Of kernels whose loads warps of their own make ahead, a step waits for its products and softmax, and for
    fewer of them the fewer keys it has; of the others it waits for its loads (inferred).
    """
    return tile.cols / 128.0 if kernel in _LOADED_AHEAD else 1.0


def masked_tiles(tile: Tiling, causal: bool) -> Array | float:
    """Return how many tiles of a row block are masked element by element: those that may be cut.

    By the diagonal, ``n_masking_steps`` of flash-attention's kernels, or by the last key.
    """
    return ceil_div(tile.rows, tile.group * tile.cols) + 1.0 if causal else 1.0


def softmax_order(kernel: str) -> float:
    """Return the order of the norm that joins a step's products and its softmax: 1 adds them.

    A warp of flash-attention 2 does one after the other; overlapping them is version 3's first contribution
    (Shah et al., 2024, arXiv:2407.08608, section 3.1), and the later libraries' too.
    """
    return 1.0 if kernel.startswith("fa2") else 2.0


def _paged_cols(size: Array) -> Array:
    """Return the keys of a tile of flash-attention 2's split-KV kernel (``run_mha_fwd_splitkv_dispatch``)."""
    return np.where(size <= 64, 256.0, np.where(size <= 128, 128.0, 64.0))


def _overlapping(device: Device, rows: Array, cols: Array, size: Array) -> Array:
    """Return 2 where a unit's shared memory holds Q, K and V (16 bits) of two thread blocks, else 1.

    Of flash-attention 2's, of four warps with nearly all the registers a thread can have, no third fits.
    """
    return np.where(2 * (2 * size * (rows + 2 * cols) + _RESERVED) <= device.shared_per_unit, 2.0, 1.0)


def _fa3_rows(packed: Array, head_dim: Array) -> Array:
    """Return 64 rows, of one warp group, if all queries fit (``use_one_mma_wg``); else those of 2 or 3."""
    single = (packed <= 64) & ((head_dim == 64) | (head_dim == 128))
    return np.where(single, 64.0, np.where(padded(head_dim) <= 96, 192.0, 128.0))


def loaded_rows(kernel: str, tile: Tiling, rows: Array) -> Array:
    """Return the rows of Q that a thread block loads, `rows` of them valid on average.

    FlashAttention-3 is charged its whole tile, the others multiples of 64 (fa4: its stages of 128):
    what the measured steps show, not read from the sources.
    """
    quantum = np.minimum(tile.rows, 128.0 if kernel == "fa4" else 64.0)
    return tile.rows if kernel.startswith("fa3") else ceil_div(rows, quantum) * quantum


class Splits(NamedTuple):
    """Into how many parts the keys of a row block are split, by row of the table.

    Attributes
    ----------
    parts : array
        1 where they are not split.
    merged : array of bool
        Whether a kernel that merges parts is launched: that may be though a sequence turns out to have one.
    """

    parts: Array
    merged: NDArray[np.bool_]


def prefill_splits(
    kernel: str, units: float, batch: Array, jobs: Array, keys: Array, blocks: Array
) -> Splits:
    """Return the splits of a prefill.

    Parameters
    ----------
    kernel : str
        The library.
    units : float
        Processors.
    batch : array
        Sequences.
    jobs : array
        Thread blocks of one sequence, without a split.
    keys, blocks : array
        Keys, and KV blocks, of the longest row block.
    """
    if kernel.startswith("fa3"):
        return _fa3_splits(units, batch, jobs, blocks)
    parts = np.ones_like(batch * jobs)
    if kernel == "flashinfer":
        parts = _flashinfer_splits(_PLANNED_SLOTS * units, batch * jobs, keys)
    if kernel == "fa4":
        filling = np.maximum(np.minimum(np.floor(units / (batch * jobs)), blocks), 1.0)
        parts = np.where(blocks <= _UNSPLIT_BLOCKS, 1.0, filling)
    return Splits(parts, parts > 1)


def _flashinfer_splits(slots: Array | float, jobs: Array, keys: Array) -> Array:
    """Return FlashInfer's splits: what fills the slots, of 128 keys at least (``scheduler.cuh``)."""
    return np.clip(np.floor(slots / jobs), 1.0, ceil_div(keys, _MIN_SPLIT_KEYS))


def _fa3_splits(
    units: float, batch: Array, jobs: Array, blocks: Array, allowed: Array | None = None
) -> Splits:
    """Return flash-attention 3's splits: at most what the host allows, of these what all sequences need.

    The host allows, where it is not told how many, what fills the units with one sequence's thread blocks; a
    kernel before the attention then finds what each sequence gets. Where there are more sequences than that
    kernel can take, each gets what fills the units with those of all.
    """
    prepared = batch <= _PREPARED
    filling = efficient_splits(np.where(prepared, jobs, batch * jobs), units, blocks)
    most = np.where(blocks <= _UNSPLIT_BLOCKS, 1.0, filling)
    if allowed is not None:
        most = np.where(allowed > 0, allowed, most)
    share = np.ceil(1.1 * batch * jobs * blocks / units)
    return Splits(np.where(prepared, np.minimum(most, ceil_div(blocks, share)), most), most > 1)


def merge_blocks(kernel: str, batch: Array, rows: Array, head_dim: Array) -> Array:
    """Return the thread blocks of flash-attention 3's merging kernel (``flash_fwd_combine.cu``), else 0.

    Parameters
    ----------
    kernel : str
        The library.
    batch, rows : array
        Sequences, and rows of O of each, of all heads.
    head_dim : array
        Width of a row.
    """
    if not kernel.startswith("fa3"):
        return np.zeros(())
    narrow = head_dim <= 64
    return (
        batch * ceil_div(rows, np.where(narrow, 16.0, 8.0)) * np.where(narrow, 1.0, ceil_div(head_dim, 128.0))
    )


@dataclass(frozen=True)
class Decoding:
    """How a kernel cuts one decoding step, by row of the table.

    Attributes
    ----------
    rows, cols : array
        Tile: rows that are worked on (query heads packed together) and keys.
    jobs : array
        Thread blocks before splitting.
    splits : Splits
        Parts that the keys are split into.
    copies : array
        1 where two further kernels rearrange Q and O around the attention, else 0.
    reduced : array
        Rows of one KV head that a single thread block reduces over its peers.
    overlapping : array
        Thread blocks of a unit whose fixed costs overlap.
    returned : array
        1 where a further kernel copies O to where it was asked for, else 0.
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
    """Return how one new token for each sequence is attended to."""
    units, size = device.units, padded(head_dim)
    one = np.ones(())
    if kernel.startswith("fa2"):
        # One query: its heads become rows of their KV head, and only then are keys split
        # (seqlenq_ngroups_swapped); with several KV heads and sequences that takes two copies.
        swapped = group > 1
        rows, cols = 64 * one, _paged_cols(size)
        jobs = batch * kv_heads * np.where(swapped, ceil_div(group, rows), group)
        splits = np.where(swapped, efficient_splits(jobs, 2 * units, ceil_div(seq_kv, cols)), 1.0)
        copies = np.where(swapped & (kv_heads > 1) & (batch > 1), 1.0, 0.0)
        parts = Splits(splits, splits > 1)
        overlapping = _overlapping(device, rows, cols, size)
        return Decoding(rows, cols, jobs, parts, copies, 0 * one, overlapping, np.where(swapped, 1.0, 0.0))
    if kernel.startswith("fa3"):
        rows = _fa3_rows(group, head_dim)
        cols = np.where(size <= 64, 128.0, np.where(size <= 96, 144.0, np.where(size <= 128, 128.0, 80.0)))
        heads = kv_heads * ceil_div(group, rows)
        graphs = np.where(batch <= _GRAPH_BATCH, _GRAPH_SPLITS, 0.0) if kernel == "fa3-graphs" else None
        fa3 = _fa3_splits(units, batch, heads, ceil_div(seq_kv, cols), graphs)
        return Decoding(rows, cols, batch * heads, fa3, 0 * one, 0 * one, one)
    if kernel == "flashinfer":
        return _flashinfer_decode(units, batch * kv_heads * one, group * one, seq_kv, size)
    # Swapped operands: the heads of a group fill the narrow side of the matrix instruction.
    rows = np.where(group <= 8, 8.0, np.where(group <= 16, 16.0, 32.0)) * one
    jobs, cols = batch * kv_heads * ceil_div(group, np.maximum(rows, 64.0)), 128 * one
    splits = np.clip(np.floor(units / jobs), 1.0, ceil_div(seq_kv, cols))
    # While two thread blocks can share a KV head, it runs by several, split or not, that reduce at the end.
    reduced = np.where(jobs <= units / 2, group, 0.0)
    return Decoding(rows, cols, jobs, Splits(splits, splits > 1), 0 * one, reduced, one)


def _flashinfer_decode(units: float, heads: Array, group: Array, seq_kv: Array, size: Array) -> Decoding:
    """SGLang takes the prefill template (matrix engine) from 4 heads a group on; below, a vector kernel."""
    matrix = group >= 4
    rows = np.where(matrix, np.where(group <= 16, 16.0, 64.0), group)
    slots = np.where(matrix, np.where(size <= 128, 2.0, 1.0), _VECTOR_SLOTS)
    jobs = heads * np.where(matrix, ceil_div(group, rows), 1.0)
    splits = _flashinfer_splits(slots * units, jobs, seq_kv)
    cols, overlapping = np.where(matrix, 64.0, 8.0), np.where(matrix, 1.0, _VECTOR_OVERLAPPING)
    return Decoding(rows, cols, jobs, Splits(splits, splits > 1), 0 * rows, 0 * rows, overlapping)


def kernel_named(device: Device, label: str = "", framework: str = "", causal: bool = True) -> str:
    """Return the kernel that a measured row or a user names.

    Parameters
    ----------
    device : Device
        Where it ran: decides where neither name does.
    label : str
        A kernel's own name (``vllm_flash_attn_fa3``, ``trtllm_mha``, …), or one of ``KERNELS``.
    framework : str
        ``vllm``, ``sglang``, ``trtllm``, with or without a release.
    causal : bool
        False for encoders, which have no paged cache.
    """
    label, framework = str(label or "").lower(), str(framework or "").lower()
    if label in KERNELS:
        return label
    named = [name for name in ("trtllm", "fa4", "fa3", "flashinfer", "fa2") if name in label]
    if label == "vllm_flash_attn":
        named.append("fa2")
    if not named and device.family in _DEFAULT:
        named.append("fa4" if device.family == "blackwell" and not causal else _DEFAULT[device.family])
    if not named:
        named.append("flashinfer" if "sglang" in framework and causal else "fa2")
    served = causal and ("vllm" in framework or "vllm" in label)
    return _BY_VLLM.get(named[0], named[0]) if served else named[0]
