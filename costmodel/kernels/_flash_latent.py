"""How attention libraries partition a decoding step over latents (multi-head latent attention, absorbed).

All heads of a sequence share one row of c + d_r numbers per key, so that they are the rows of one product: of
width c + d_r for the scores, and of width c for the outputs.

===========  =========================================================================================
``fa3``      Hopper: flash-attention 3's kernel for MLA, and FlashMLA, which vLLM takes for an FP8 cache
``trtllm``   Blackwell: TensorRT-LLM's generated kernels, as FlashInfer calls them
``triton``   elsewhere: vLLM's Triton kernel
===========  =========================================================================================

Read from the sources: a tile's heads of triton (``BLOCK_H`` of ``triton_decode_attention.py``, Apache-2.0)
and of FlashMLA, whose parts fill the units (``get_mla_metadata.cu``, MIT). Inferred from vLLM's modules
(``validation/posted/latent_fitted.csv``): triton's keys a part, trtllm's heads a tile, shares and rates.
Triton's share is A100's; whether other devices reach it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodel.hardware import Device
from costmodel.kernels._flash_splits import filling_splits
from costmodel.kernels._tiling import ceil_div
from costmodel.kernels.base import Array

#: Libraries with a kernel for latents, by architecture, and the one for all others.
_DEFAULT, _ELSEWHERE = {"hopper": "fa3", "blackwell": "trtllm"}, "triton"
#: Heads up to which trtllm makes them the narrow side of its matrix instructions, as in other decoding steps.
_NARROW = 16.0
#: Heads that one thread block, or a pair of them that share keys, computes; and keys of a part in triton.
_TILE, _PART_KEYS = 128.0, 512.0


@dataclass(frozen=True)
class Library:
    """Facts about a library's kernel for latents.

    Attributes
    ----------
    rows : float
        Heads that take as long as one: a tile's rows are computed whole.
    cols : float
        Keys of a step.
    shares : (float, float)
        Share of the peak that the products reach, with a cache of 16 and of 8 bits. Published of FlashMLA:
        660 TFLOP/s on H800, 0.67.
    key_cycles : float
        Least time of a key, whatever the heads: a unit steps through them no faster [cycles].
    load : float
        Rate at which a unit loads keys [B/cycle].
    prepares : float
        Kernels before attention: both halves of the queries are put together, except for fa3, which takes
        them apart. vLLM's triton also sets outputs and statistics to zero.
    converts : float
        The same for a cache of 8 bits: queries are put together and converted.
    even : bool
        Whether every unit gets equally many keys, of one sequence or several, so that no wave is partly
        filled (FlashMLA's ``tile_scheduler_metadata``).
    """

    rows: float
    cols: float
    shares: tuple[float, float]
    key_cycles: float = 0.0
    load: float = np.inf
    prepares: float = 0.0
    converts: float = 2.0
    even: bool = False


LIBRARIES = {
    "fa3": Library(rows=64, cols=64, shares=(0.8, 0.8), key_cycles=88, even=True),
    "trtllm": Library(rows=128, cols=128, shares=(0.46, 0.75), load=29, prepares=1),
    "triton": Library(rows=16, cols=32, shares=(0.115, 0.115), prepares=3, converts=3),
}


@dataclass(frozen=True)
class Latents:
    """How a kernel partitions one decoding step over latents; one entry per row of the table.

    Attributes
    ----------
    rows : array
        Heads of a thread block, computed whether they exist or not.
    jobs, parts : array
        Thread blocks before splitting, and the parts that their keys are split into.
    share : float
        Share of the peak that the products reach.
    dtype : str
        Format in which they are computed.
    prepared : float
        Kernels that prepare queries and outputs.
    """

    rows: Array
    jobs: Array
    parts: Array
    share: float
    dtype: str
    prepared: float


def kernel_on(device: Device, named: str | None) -> str:
    """Return the library that attends over latents: the architecture's, or triton if that is named."""
    return _ELSEWHERE if named == _ELSEWHERE else _DEFAULT.get(device.family, _ELSEWHERE)


def partition(
    device: Device, kernel: str, batch: Array, heads: Array, keys: Array, dtype: str, kv_dtype: str
) -> Latents:
    """Return how a library partitions one step.

    On Blackwell a cache of 8 bits is multiplied in its own format, with queries converted to it; elsewhere it
    is widened first.
    """
    found, eight = LIBRARIES[kernel], kv_dtype != dtype
    tile = np.where((kernel == "trtllm") & (heads <= _NARROW), _NARROW, found.rows)
    blocks = ceil_div(heads, tile if kernel == "triton" else _TILE)
    rows = ceil_div(heads, tile) * tile / blocks
    jobs = batch * blocks
    if kernel == "triton":
        parts = 2.0 ** np.floor(np.log2(np.clip(keys / _PART_KEYS, 1.0, device.units)))
    else:
        parts = filling_splits(device.units, jobs, ceil_div(keys, found.cols))
    return Latents(
        rows=rows,
        jobs=jobs,
        parts=parts,
        share=found.shares[eight],
        dtype=kv_dtype if kernel == "trtllm" else dtype,
        prepared=found.converts if eight else found.prepares,
    )
