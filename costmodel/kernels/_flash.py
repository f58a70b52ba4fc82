"""Facts about attention libraries: names of their kernels; tiles, order and packing of a prefill.

How they split the keys is in `_flash_splits`, how they partition a decoding step in `_flash_decode`.

======================  ====================================================================
``fa2``                 FlashAttention-2, varlen: one thread block a row block and head, in grid order
``fa2-paged``           its split-KV kernel, which vLLM calls with a paged cache: 64-row tiles
``fa3``                 FlashAttention-3 (Hopper): persistent, longest first of as many heads as fit L2,
                        heads packed, dynamic splits
``fa3-graphs``          as vLLM calls it: its decoding steps are CUDA graphs, which bound the splits
``fa4``                 FlashAttention-4 (Blackwell): 256-row tiles, splits
``flashinfer``          FlashInfer's FA2 templates: heads packed, tile by packed length; keys split
                        to fill the units
``trtllm``              TensorRT-LLM's generated kernels, as FlashInfer and SGLang call them on Blackwell
``ck``                  Composable Kernel, as AMD's flash-attention 2 calls it: 128-row tiles
``aiter``               AITER's assembly for CDNA 3 and 4: 256-row tiles, eight waves
``triton``              the Triton kernel of AMD's flash-attention and of AOTriton (torch on AMD): 128 × 64
======================  ====================================================================

Read from the sources: the tiles of fa2 and fa2-paged (``flash_fwd_launch_template.h``, flash-attention
2, BSD-3-Clause), those of fa3 (``hopper/tile_size.h``, ``heuristics.h``) and FlashInfer's rows
(``FA2DetermineCtaTileQ``, Apache-2.0). Inferred from the measured waves: tiles and rows of trtllm, tiles of
fa4, FlashInfer's keys a tile and thread blocks a unit, and what runs shortest first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from costmodel.errors import unknown_name
from costmodel.hardware import Device
from costmodel.kernels._tiling import ceil_div
from costmodel.kernels.base import Array

KERNELS = ("fa2", "fa2-paged", "fa3", "fa3-graphs", "fa4", "flashinfer", "trtllm", "ck", "aiter", "triton")
#: Vendor → libraries that run on its devices and on no other's.
_ONLY = {"nvidia": ("fa3", "fa3-graphs", "fa4", "trtllm"), "amd": ("ck", "aiter")}
#: AMD's architectures with matrix cores.
CDNA = ("cdna1", "cdna2", "cdna3", "cdna4")
#: Library → parts of kernels' names that identify it, without punctuation and the v of a version; the first
#: match counts. torch's flash backend is version 2, and so is vLLM's own without a version. torch's
#: memory-efficient backend (xformers) uses the same instructions and is about as fast (published for A100).
_NAMES = {
    "trtllm": ("trtllm",),
    "fa4": ("fa4", "flashattn4", "flashattention4"),
    "fa3": ("fa3", "flashattn3", "flashattention3"),
    "flashinfer": ("flashinfer",),
    "fa2": (
        "fa2",
        "flashattn2",
        "flashattention2",
        "sdpaflash",
        "sdpaefficient",
        "xformers",
        "vllmflashattn",
    ),
}
#: The same on AMD, where flash-attention 2 calls Composable Kernel, and torch AOTriton.
_ON_CDNA = {
    "aiter": ("aiter", "fmha3"),
    "ck": ("composablekernel", "cktile", *_NAMES["fa2"][:3]),
    "triton": ("triton", "sdpaflash", "sdpaefficient"),
}
#: Names that only AMD's libraries have.
_OF_AMD = {"aiter": ("aiter",), "ck": ("composablekernel", "cktile")}
#: Libraries that use warp-level matrix instructions (``mma.sync``), and the share of the tensor cores' peak
#: that these reach where faster ones exist: on Hopper Luo et al., arXiv:2402.13499, section IV.C; on
#: Blackwell a unit then does 2,048 operations per cycle, as Ampere's does (inferred).
_OF_A_WARP, _WARP_SHARE = ("fa2", "fa2-paged", "flashinfer"), {"hopper": 0.63, "blackwell": 0.25}
#: Library → libraries whose constants apply to it, its own first: one code serves all architectures, and
#: FlashInfer's kernels are templates of FlashAttention-2's algorithm.
SAME_CODE = {"fa2": ("fa2",), "flashinfer": ("flashinfer", "fa2")}
#: Share of the exponentials of 128 keys that fa4 computes without special-function units; see
#: `exponential_rate`.
_EMULATED = 4 / 16 * 2 / 4
#: Other vector instructions of a score's softmax (maximum, scaling and subtraction, sum, conversion), which
#: AMD's units issue one after another with the exponential, and the lanes that issue one per cycle.
_VECTOR_OPS, _LANES = 4, 64
_DEFAULT = {"hopper": "fa3", "blackwell": "trtllm", **dict.fromkeys(CDNA, "ck")}
#: Library → its kernel as vLLM calls it, with a paged cache and decoding steps as CUDA graphs.
_BY_VLLM = {"fa2": "fa2-paged", "fa3": "fa3-graphs"}

#: Shared memory of a unit [B] from which FlashInfer takes its wider KV tiles (A100 has 164 KiB, Ada 100).
_LARGE_SHARED = 128 * 1024
#: Start-up time of a nearly empty kernel [cycles]: the convolution's, equal on three families.
START_CYCLES = 4000.0
#: Libraries whose kernels look up every sequence's length; the host gives FlashInfer's a plan.
LOOKING_UP = ("fa2", "fa2-paged", "fa3", "fa3-graphs")
#: Libraries that merge the splits of a decoding step in a separate kernel; in trtllm the last thread block
#: does it.
MERGING = ("fa2", "fa2-paged", "fa3", "fa3-graphs", "flashinfer")
#: Kernels with producer warps, which only load (flash-attention 3, section 3.1).
_LOADED_AHEAD = ("fa3", "fa3-graphs", "fa4", "trtllm")
#: Libraries whose thread blocks load their first keys before the preceding ones have ended (inferred).
AHEAD = ("trtllm",)
#: Libraries that launch a preparatory kernel: flash-attention 3's scheduler (``flash_prepare_scheduler.cu``);
#: for trtllm inferred, as its calls take that much longer than those of libraries without one.
_PREPARING = ("fa3", "fa3-graphs", "trtllm")
#: Query heads per KV head for which vLLM's flash-attention 3 has specialised kernels (inferred).
_GROUPS_COMPILED = (4.0, 8.0, 16.0)
#: Architectures of compute capability 8.6 and 8.9, for which flash-attention 2 has tiles of its own.
_SM8X = ("ampere-ga10x", "ada")
#: Shared memory that the system reserves in every thread block [B].
_RESERVED = 1024.0
#: Capacity of L2 that flash-attention 3's scheduler assumes [B].
_ASSUMED_L2 = 8 * 2.0**20
#: Heads whose longest row blocks AITER runs first, under a causal mask (inferred).
_LONGEST_FIRST = 16.0


@dataclass(frozen=True)
class Tiling:
    """How a kernel partitions its work; one entry per row of the table.

    Attributes
    ----------
    rows, cols : array
        Tile: query rows (of all packed heads) and keys.
    group : array
        Query heads packed into one tile.
    slots : array
        Thread blocks resident on one unit.
    together : array
        Number of heads (packed ones count as one) whose row blocks are ordered together, longest first, under
        a causal mask; 0: each head's row blocks run shortest first.
    overlapping : array
        Thread blocks of a unit whose prologues and epilogues overlap.
    """

    rows: Array
    cols: Array
    group: Array
    slots: Array
    together: Array
    overlapping: Array = field(default_factory=lambda: np.ones(()))


def default_kernel(device: Device) -> str:
    """Return the library that serving frameworks use on a device by default."""
    return _DEFAULT.get(device.family, "fa2")


def decoding(kernel: str) -> str:
    """Return the kernel that models a decoding step: flash-attention 2's stands in for AMD's libraries."""
    return "fa2" if kernel in _ON_CDNA else kernel


def library(kernel: str) -> str:
    """Return a kernel's library: ``fa2`` for ``fa2-paged``."""
    return kernel.partition("-")[0]


def peak_share(device: Device, kernel: str) -> float:
    """Return the largest share of the tensor cores' peak that a library's instructions can reach."""
    return _WARP_SHARE.get(device.family, 1.0) if kernel in _OF_A_WARP else 1.0


def fed_by_shared_memory(device: Device, kernel: str) -> bool:
    """Return whether a kernel's matrix instructions read their operands from shared memory.

    Hopper's for warp groups and Blackwell's ``tcgen05`` do; those of a warp read registers.
    """
    return device.family in _WARP_SHARE and kernel not in _OF_A_WARP


def exponential_rate(device: Device, kernel: str, direction: str) -> float:
    """Return the rate of exponentials [1/s], by special-function units and polynomials together.

    AMD's units issue exponentials and the other vector instructions of a softmax one after another
    ("AMD Instinct MI300" Instruction Set Architecture), so that these count here.

    FlashAttention-4's forward pass on Blackwell emulates a tenth to a quarter of a tile's exponentials
    (Zadouri et al., arXiv:2603.05451): by default 4 of 16, in two of the four parts of 128 keys
    (``flash_fwd_sm100.py``), and none on units with twice the rate (Blackwell Ultra). Nothing is published of
    trtllm. Where a spec has no rate, NVIDIA's 16 per cycle and unit is used.
    """
    usual = 16 * device.units * device.clock_hz
    rate = device.peak("fp32", "special") if device.has("fp32", "special") else usual
    if device.family in CDNA:
        others = _VECTOR_OPS / (_LANES * device.units * device.clock_hz)
        return 1 / (1 / rate + others)
    emulates = kernel == "fa4" and direction != "bwd" and device.family == "blackwell" and rate < 1.5 * usual
    return rate / (1 - _EMULATED) if emulates else rate


def preparation(kernel: str) -> float:
    """Return the time of the kernels that a library launches before the attention kernel [cycles]."""
    return START_CYCLES if kernel in _PREPARING else 0.0


def check(kernel: str) -> str:
    """Return `kernel` if it is a known name.

    Raises
    ------
    UnknownNameError
        If not.
    """
    if kernel not in KERNELS:
        raise unknown_name("attention kernel", kernel, KERNELS)
    return kernel


def padded(head_dim: Array, kernel: str = "fa2") -> Array:
    """Return the head size that a kernel is compiled for: 64, 96, 128 and multiples of 64 beyond.

    fa4's steps at 72 and 80 take as long as at 128 (inferred; it is compiled for multiples of 16).
    """
    low = np.where(head_dim <= 64, 64.0, np.where((head_dim <= 96) & (kernel != "fa4"), 96.0, 128.0))
    return np.where(head_dim <= 128, low, ceil_div(head_dim, 64.0) * 64.0)


def prefill(
    device: Device, kernel: str, seq: Array, group: Array, head_dim: Array, keys: Array, causal: bool
) -> Tiling:
    """Return the tiling of a prefill of `seq` queries, `group` query heads per KV head, and `keys` keys."""
    one, size = np.ones(()), padded(head_dim)
    if kernel.startswith("fa2"):
        rows, cols = (64 * one, paged_cols(size)) if kernel == "fa2-paged" else _fa2(device, size, causal)
        return Tiling(rows, cols, one, one, 0 * one, overlapping_blocks(device, rows, cols, size))
    if kernel.startswith("fa3"):
        packed = group if causal else one
        rows = fa3_rows(seq * packed, head_dim)
        cols = fa3_cols(size) if causal else _by_size(size, 192, 144, 176, 128, 80)
        return Tiling(rows, cols, packed, one, _heads_in_l2(keys, cols, 2 * head_dim))
    if kernel == "flashinfer":
        wide, packed = device.shared_per_unit >= _LARGE_SHARED, seq * group
        rows = flashinfer_rows(packed, size)
        cols = np.where(size >= 256, 32.0 if wide else 16.0, 64.0)
        cols = np.where((rows == 16) | wide | (size >= 256) | (rows < 128), cols, 32.0)
        cols = np.where(rows == 16, 64.0, cols)
        # Two thread blocks share a unit if the tiles of Q, K and V (16 bits) fit into half its shared memory.
        slots = np.where(2 * size * (rows + 2 * cols) <= device.shared_per_unit / 2, 2.0, 1.0)
        return Tiling(rows, cols, group, slots, 0 * one)
    if kernel in _ON_CDNA:
        return _on_cdna(device, kernel, size)
    rows, cols = _by_size(size, 256, 256, 256, 128, 128), (128 if kernel == "fa4" else 64) * one
    return Tiling(rows, cols, one, one, 0 * one)


def _on_cdna(device: Device, kernel: str, size: Array) -> Tiling:
    """Return the tiling on AMD.

    ``fmha_fwd.py`` of Composable Kernel's code generator (MIT), ``fmha_fwd.csv`` of AITER's assembly for
    gfx942 and gfx950 (MIT), and the configurations that ROCm's flash-attention tries on CDNA.
    """
    one = np.ones(())
    if kernel == "aiter":
        rows, cols = _by_size(size, 256, 256, 256, 128, 128), (64 if device.family == "cdna4" else 32) * one
        return Tiling(rows, cols, one, one, _LONGEST_FIRST * one)
    cols = _by_size(size, 64, 128, 128, 128, 128) if kernel == "ck" else 64 * one
    return Tiling(128 * one, cols, one, 2 * one, 0 * one)


def after_longest(tile: Tiling, heads: Array, row_blocks: Array) -> Array:
    """Return the number of row blocks that start from the last of the longest one on, inclusive (causal).

    There are `heads` heads (packed ones count as one) of `row_blocks` each; sequences follow one another.
    """
    return np.maximum(np.minimum(tile.together, heads) * row_blocks, 1.0)


def step_share(kernel: str, tile: Tiling) -> Array | float:
    """Return the least time of a step relative to the constant `step_cycles`.

    With producer warps, which load ahead, a step waits for its products and softmax, so its latency is
    proportional to its keys (relative to 128). In the other kernels it waits for its loads, whatever their
    size (inferred).
    """
    return tile.cols / 128.0 if kernel in _LOADED_AHEAD else 1.0


def masked_tiles(tile: Tiling, causal: bool) -> Array | float:
    """Return how many tiles of a row block are masked element by element.

    These are the tiles that the diagonal may cut (``n_masking_steps`` of flash-attention's kernels), and the
    one that the last key may cut.
    """
    return ceil_div(tile.rows, tile.group * tile.cols) + 1.0 if causal else 1.0


def mask_share(kernel: str, group: Array) -> Array | float:
    """Return the cost of masking relative to that of other kernels and groups.

    For vLLM's flash-attention 3 it is a quarter where 4, 8 or 16 query heads share a KV head, but not for
    other groups (2, 3, 5, 32, …). The kernel seems to be compiled for those, so that it finds a row's token
    without a division (inferred).
    """
    return np.where(np.isin(group, _GROUPS_COMPILED), 0.25, 1.0) if kernel == "fa3-graphs" else 1.0


def softmax_order(kernel: str) -> float:
    """Return the order of the norm that combines a step's products and its softmax: 1 adds them.

    A warp of flash-attention 2 does them one after the other, as those of Composable Kernel and Triton on
    AMD are taken to. Version 3 (Shah et al., 2024, arXiv:2407.08608,
    section 3.1) and the later libraries overlap them.
    """
    return 1.0 if kernel.startswith("fa2") or kernel in ("ck", "triton") else 2.0


def paged_cols(size: Array) -> Array:
    """Return the keys of a tile of flash-attention 2's split-KV kernel (``run_mha_fwd_splitkv_dispatch``)."""
    return _by_size(size, 256, 128, 128, 64, 64)


def overlapping_blocks(device: Device, rows: Array, cols: Array, size: Array) -> Array:
    """Return 2 where a unit's shared memory holds the tiles (16 bits) of two thread blocks, else 1.

    No third block fits: flash-attention 2's have four warps that use nearly all registers a thread can have.
    No second one does where they have eight: for 128 rows of heads of more than 128.
    """
    fit = 2 * (2 * size * (rows + 2 * cols) + _RESERVED) <= device.shared_per_unit
    return np.where(fit & ((rows < 128) | (size <= 128)), 2.0, 1.0)


def fa3_cols(size: Array) -> Array:
    """Return the keys of a tile of flash-attention 3 under a causal mask, or with a paged cache."""
    return _by_size(size, 128, 144, 128, 128, 80)


def _fa2(device: Device, size: Array, causal: bool) -> tuple[Array, Array]:
    """Return rows and keys of a tile of flash-attention 2 (run_mha_fwd_hdim… of its launch template).

    Compute capability 8.6 and 8.9 has tiles of its own for heads of 96 and 128. Heads of 256 have 128 rows
    where a unit holds their tiles once, but not those of 64 rows twice.
    """
    square, low = device.family in _SM8X and causal, device.family in _SM8X and not causal
    memory = device.shared_per_unit
    whole = memory - _RESERVED >= 2 * 256 * (128 + 2 * 64) and memory < 4 * 256 * (64 + 2 * 64)
    middle = 64 if square else 128
    rows = _by_size(size, 128, middle, middle, 128, 128 if whole else 64)
    return rows, _by_size(size, 128, 64, 32 if low else 64, 64, 64)


def _by_size(size: Array, d64: float, d96: float, d128: float, d192: float, d256: float) -> Array:
    """Select a value by the head size that a kernel is compiled for: up to 64, 96, 128, 192 and 256."""
    above = np.where(size <= 192, d192, d256)
    return np.where(size <= 64, d64, np.where(size <= 96, d96, np.where(size <= 128, d128, above)))


def _heads_in_l2(keys: Array, cols: Array, width: Array) -> Array:
    """Return how many heads flash-attention 3 schedules together, longest first: a power of two up to 16.

    As many as fit into the L2 capacity it assumes, with K and V (16 bits, `width` elements of both) in whole
    tiles of keys (``flash_prepare_scheduler.cu``, whose 8 MiB are "an underestimate").
    """
    tiles = np.floor(_ASSUMED_L2 / (2 * cols * width)) / ceil_div(keys, cols)
    return 2.0 ** np.clip(np.floor(np.log2(np.maximum(tiles, 1.0))), 0.0, 4.0)


def fa3_rows(packed: Array, head_dim: Array) -> Array:
    """Return 64 rows (one warp group) if all queries fit (``use_one_mma_wg``), else those of 2 or 3."""
    single = (packed <= 64) & ((head_dim == 64) | (head_dim == 128))
    return np.where(single, 64.0, np.where(padded(head_dim) <= 96, 192.0, 128.0))


def flashinfer_rows(packed: Array, size: Array) -> Array:
    """Return the rows of a tile of FlashInfer's matrix kernels (``FA2DetermineCtaTileQ``)."""
    return np.where(packed <= 16, 16.0, np.where((packed <= 64) | (size >= 256), 64.0, 128.0))


def moved_rows(kernel: str, tile: Tiling, rows: Array) -> Array:
    """Return the average number of rows of Q and O that a thread block moves; `rows` of them are valid.

    FlashAttention-3 loads whole tiles of Q (TMA zero-fills) and stores only valid rows of O. The others are
    charged multiples of 64 (fa4: its stages of 128); this is inferred from steps in the measurements.
    """
    if kernel.startswith("fa3"):
        return (tile.rows + rows) / 2
    quantum = np.minimum(tile.rows, 128.0 if kernel == "fa4" else 64.0)
    return ceil_div(rows, quantum) * quantum


def row_share(kernel: str, heads: Array) -> Array | float:
    """Return the time of a row of Q and O relative to that of other kernels and numbers of heads.

    For TensorRT-LLM's kernels it is about a third where a token has 1, 2, 4, 8, … query heads, in every
    framework. Fitted for one number of heads alone it is 0.4 to 0.7 for powers of two, and 1.1 to 1.8 for 12,
    24, 40 and 48 (inferred; the reason is not known).
    """
    if kernel != "trtllm":
        return 1.0
    doubled = np.log2(np.maximum(heads, 1.0))
    return np.where(doubled == np.floor(doubled), 0.36, 1.0)


def kernel_named(device: Device, label: str = "", framework: str = "", causal: bool = True) -> str:
    """Return the kernel that a measured row or a user names.

    Parameters
    ----------
    device : Device
        The device, which decides where neither name does.
    label : str
        A kernel's own name (``vllm_flash_attn_fa3``, ``trtllm_mha``, …), or one of ``KERNELS``.
    framework : str
        ``vllm``, ``sglang``, ``trtllm``, on AMD ``aiter`` or ``triton``, with or without a release.
    causal : bool
        False for encoders, which have no paged cache.
    """
    label, framework = str(label or "").lower(), str(framework or "").lower()
    if device.family in CDNA:
        names = (label, _library_named(label, _ON_CDNA), _library_named(framework, _ON_CDNA))
        return next((name for name in names if name in _ON_CDNA), default_kernel(device))
    if label in KERNELS:
        return label
    named = _library_named(label)
    if named is None and device.family in _DEFAULT:
        named = "fa4" if device.family == "blackwell" and not causal else _DEFAULT[device.family]
    if named is None:
        named = "flashinfer" if "sglang" in framework and causal else "fa2"
    served = causal and ("vllm" in framework or "vllm" in label)
    return _BY_VLLM.get(named, named) if served else named


def says(label: str) -> bool:
    """Return whether a kernel's name identifies its library; ``cudnn`` and ``my_attention`` do not."""
    return label in KERNELS or any(_library_named(label, names) for names in (_NAMES, _ON_CDNA))


def absent(label: str, device: Device) -> bool:
    """Return whether a kernel's name identifies a library that runs on another vendor's devices only."""
    found = label if label in KERNELS else _library_named(label, {**_NAMES, **_OF_AMD})
    return any(found in only for vendor, only in _ONLY.items() if vendor != device.vendor.casefold())


def present(device: Device) -> tuple[str, ...]:
    """Return the libraries that run on a device."""
    return tuple(name for name in KERNELS if not absent(name, device))


def _library_named(label: str, names: Mapping[str, tuple[str, ...]] = _NAMES) -> str | None:
    plain = re.sub(r"[^a-z0-9]|v(?=\d)", "", label.lower())
    found = (name for name, words in names.items() if any(word in plain for word in words))
    return next(found, None)
