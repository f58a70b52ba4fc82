"""How attention libraries partition a decoding step over latents (multi-head latent attention, absorbed).

All heads of a sequence share one row of c + d_r numbers per key, so that they are the rows of one product: of
width c + d_r for the scores, and of width c for the outputs. If a list says which keys a token sees
(DeepSeek's sparse attention), other kernels run, which step through all of it, filled or not.

=============  =======================================================================================
``fa3``        Hopper: flash-attention 3's kernel for MLA, and FlashMLA, which vLLM takes for an FP8 cache
``trtllm``     Blackwell: TensorRT-LLM's generated kernels, as FlashInfer calls them
``triton``     elsewhere: vLLM's Triton kernel
``flashmla``   Hopper and Blackwell, over a list: FlashMLA's sparse kernels; on Blackwell trtllm's for at most
               16 heads with a cache of 16 bits
=============  =======================================================================================

Read from the sources: a tile's heads of triton (``BLOCK_H`` of ``triton_decode_attention.py``, Apache-2.0)
and of FlashMLA, whose parts fill the units (``get_mla_metadata.cu``, MIT), and the heads that its sparse
kernels need (``flashmla_sparse.py`` of vLLM, Apache-2.0). Inferred from vLLM's modules
(``validation/posted/latent_fitted.csv``): triton's keys a part, trtllm's heads a tile, shares and rates.
Triton's share is A100's; whether other devices reach it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from costmodel import dtypes
from costmodel.hardware import Device
from costmodel.kernels._flash_splits import filling_splits
from costmodel.kernels._tiling import ceil_div
from costmodel.kernels.base import Array

#: Libraries with a kernel for latents, by architecture, and the one for all others.
_DEFAULT, _ELSEWHERE = {"hopper": "fa3", "blackwell": "trtllm"}, "triton"
#: Heads up to which trtllm makes them the narrow side of its matrix instructions, as in other decoding steps;
#: vLLM takes it over a list of keys up to as many.
_NARROW = 16.0


@dataclass(frozen=True)
class Library:
    """Facts about a library's kernel for latents.

    Attributes
    ----------
    rows, narrow : float
        Heads that take as long as one: a tile's rows are computed whole. Up to `narrow` heads are a tile of
        so many.
    cols : float
        Keys of a step.
    shares : (float, float)
        Share of the peak that the products reach, with a cache of 16 and of 8 bits. Published of FlashMLA:
        660 TFLOP/s on H800, 0.67; of its sparse kernel for whole prompts 640 on H800 and 1450 on B200, 0.65.
    block : float
        Heads that one thread block, or a pair of them that share keys, computes.
    padded : float
        Heads to whose multiple a layer's are filled up, by a copy of the queries.
    key_cycles : float
        Least time of a key, whatever the heads: a unit steps through them no faster [cycles].
    widen_cycles : float
        Time to widen a key of 8 bits, half of it where two thread blocks share keys [cycles].
    load : float
        Rate at which a unit loads keys [B/cycle].
    prepares : float
        Kernels before attention: both halves of the queries are put together, except for fa3, which takes
        them apart. vLLM's triton also sets outputs and statistics to zero.
    converts : float
        The same for a cache of 8 bits: queries are put together and converted.
    native : bool
        Whether keys of 8 bits are multiplied in their own format, with queries converted to it; else they are
        widened.
    even : bool
        Whether every unit gets equally many keys, of one sequence or several, so that no wave is partly
        filled (FlashMLA's ``tile_scheduler_metadata``).
    part_keys : float
        Least keys of a part, of which there is a power of two; 0: parts fill the units.
    splits : bool
        Whether several units share a sequence's keys.
    bulk : bool
        Whether queries and outputs pass L2 no slower than it gives bytes to a unit.
    """

    rows: float
    cols: float
    shares: tuple[float, float]
    narrow: float = 0.0
    block: float = 128.0
    padded: float = 1.0
    key_cycles: float = 0.0
    widen_cycles: float = 0.0
    load: float = np.inf
    prepares: float = 0.0
    converts: float = 2.0
    native: bool = False
    even: bool = False
    part_keys: float = 0.0
    splits: bool = True
    bulk: bool = False


LIBRARIES = {
    "fa3": Library(rows=64, cols=64, shares=(0.8, 0.8), key_cycles=88, even=True),
    "trtllm": Library(
        rows=128, cols=128, shares=(0.46, 0.75), narrow=_NARROW, load=29, prepares=1, native=True
    ),
    "triton": Library(
        rows=16, cols=32, shares=(0.115, 0.115), block=16, prepares=3, converts=3, part_keys=512
    ),
}
_SPARSE = Library(
    rows=64, cols=64, shares=(0.65, 0.65), block=64, padded=64, prepares=1, converts=1, bulk=True
)
_FASTER = replace(_SPARSE, shares=(0.7, 0.7))
#: FlashMLA's kernels over a list of keys, by architecture: for a cache of 16 bits and for one of 8.
LISTED = {
    "hopper": (
        replace(_SPARSE, splits=False),
        replace(_SPARSE, key_cycles=80, widen_cycles=28, even=True),
    ),
    "blackwell": (
        replace(_FASTER, padded=128, splits=False),
        replace(_FASTER, key_cycles=80, even=True),
    ),
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
    keys, part_keys : array
        Keys that a thread block computes before splitting, and those of a part, in whole steps.
    share : array
        Share of the peak that the products reach.
    step_cycles : array
        Least time of a key [cycles].
    prepared : array
        Kernels that prepare queries and outputs.
    even, bulk : array of bool
        See `Library`.
    dtype : str
        Format in which they are computed.
    """

    rows: Array
    jobs: Array
    parts: Array
    keys: Array
    part_keys: Array
    share: Array
    step_cycles: Array
    prepared: Array
    even: NDArray[np.bool_]
    bulk: NDArray[np.bool_]
    dtype: str


def kernel_on(device: Device, named: str | None) -> str:
    """Return the library that attends over latents: the architecture's, or triton if that is named."""
    return _ELSEWHERE if named == _ELSEWHERE else _DEFAULT.get(device.family, _ELSEWHERE)


def partition(
    device: Device,
    kernel: str,
    *,
    batch: Array,
    heads: Array,
    keys: Array,
    width: Array,
    listed: Array | None,
    dtype: str,
    kv_dtype: str,
) -> Latents:
    """Return how a library partitions one step.

    Parameters
    ----------
    device : Device
        The device that runs it.
    kernel : str
        As from `kernel_on`.
    batch, heads, keys : array
        Sequences, heads, keys that exist and are seen.
    width : array
        Numbers of a key.
    listed : array, optional
        Places of a list of keys, if there is one.
    dtype, kv_dtype : str
        Format of queries and outputs, and of the cache.
    """

    def of(library: Library, keys: Array) -> Latents:
        size = dtypes.dtype(kv_dtype).bytes * width
        found = kv_dtype if library.native else dtype
        return _partition(device.units, library, batch, heads, keys, size, eight, found)

    eight = kv_dtype != dtype
    dense = of(LIBRARIES[kernel], keys)
    if listed is None or kernel == _ELSEWHERE or device.family not in LISTED:
        return dense
    over = of(LISTED[device.family][eight], listed)
    if kernel != "trtllm" or eight:
        return over
    return _where(heads <= _NARROW, dense, over)


def _partition(
    units: float,
    found: Library,
    batch: Array,
    heads: Array,
    keys: Array,
    size: Array,
    eight: bool,
    dtype: str,
) -> Latents:
    """Return how a library partitions one step over so many keys, of so many bytes each."""
    filled = ceil_div(heads, found.padded) * found.padded
    tile = np.where(heads <= found.narrow, found.narrow, found.rows)
    blocks = ceil_div(filled, found.block)
    jobs = batch * blocks
    if found.part_keys:
        parts = 2.0 ** np.floor(np.log2(np.clip(keys / found.part_keys, 1.0, units)))
    else:
        most = ceil_div(keys, found.cols) if found.splits else np.ones_like(keys)
        parts = filling_splits(units, jobs, most)
    widened = found.widen_cycles / np.where(blocks > 1, 2.0, 1.0)
    prepared = np.full(np.shape(jobs), found.converts if eight else found.prepares)
    return Latents(
        rows=ceil_div(filled, tile) * tile / blocks,
        jobs=jobs,
        parts=parts,
        keys=keys,
        part_keys=ceil_div(keys, found.cols * parts) * found.cols,
        share=np.full(np.shape(jobs), found.shares[eight]),
        step_cycles=np.maximum(found.key_cycles + widened, size / found.load),
        prepared=prepared + (filled > heads),
        even=np.full(np.shape(jobs), found.even),
        bulk=np.full(np.shape(jobs), found.bulk),
        dtype=dtype,
    )


def _where(first: NDArray[np.bool_], one: Latents, other: Latents) -> Latents:
    """Return the entries of one plan where `first` holds, and those of the other elsewhere."""
    chosen = {
        field.name: np.where(first, getattr(one, field.name), getattr(other, field.name))
        for field in fields(Latents)
        if field.name != "dtype"
    }
    return Latents(**chosen, dtype=one.dtype)
