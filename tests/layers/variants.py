"""Cases of attention variants, for `cases`: masks, spans, graphs, memories, latents, decoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from families import Points, _sizes

from costmodel.layers import Layer, get

_CORE = "batch heads kv_heads seq head_dim value_dim"
#: All sizes differ; blocks that do and do not divide the length, windows longer and shorter than it.
MASKED = _sizes(
    f"{_CORE} block window globals random density stride summary",
    (3, 6, 2, 20, 5, 7, 4, 9, 1, 8, 30, 6, 2),
    (2, 12, 4, 33, 3, 9, 5, 16, 7, 10, 45, 8, 3),
    (5, 8, 1, 17, 9, 2, 3, 40, 10, 6, 7, 25, 10),
    (1, 9, 3, 64, 2, 5, 8, 19, 3, 16, 80, 11, 4),
    (4, 2, 1, 8, 17, 3, 3, 5, 12, 1, 60, 3, 1),
    (7, 3, 3, 48, 4, 1, 6, 2, 5, 12, 12, 5, 2),
    (2, 10, 5, 40, 33, 6, 9, 24, 11, 18, 100, 7, 7),
    (6, 6, 3, 21, 8, 65, 30, 1, 2, 4, 3, 20, 9),
    (3, 2, 2, 24, 5, 7, 3, 15, 20, 4, 30, 6, 2),
    (3, 4, 2, 1, 5, 7, 2, 3, 1, 1, 30, 2, 1),
    (6, 3, 1, 8, 2, 48, 9, 30, 10, 11, 23, 12, 3),
    # A window nearly as long as the sequence, in many blocks: which of the two is shorter decides.
    (6, 9, 3, 64, 5, 7, 2, 61, 1, 8, 30, 11, 4),
)
#: Many blocks, few of them global.
BLOCKS = _sizes(
    f"{_CORE} block window globals random",
    (3, 6, 2, 150, 5, 7, 4, 13, 10, 22),
    (2, 12, 4, 97, 3, 9, 5, 16, 21, 8),
    (2, 80, 40, 334, 5, 41, 2, 43, 30, 6),
    # The mask keeps nearly all blocks.
    (5, 56, 14, 33, 2, 14, 7, 3, 11, 11),
    (9, 72, 24, 14, 33, 20, 1, 1, 3, 7),
    (4, 12, 4, 33, 14, 20, 5, 9, 14, 6),
    (8, 24, 12, 33, 24, 11, 3, 4, 14, 2),
    (7, 6, 2, 12, 6, 8, 1, 3, 9, 33),
    (1, 24, 6, 24, 14, 20, 17, 24, 11, 17),
    (33, 68, 17, 5, 8, 5, 17, 1, 3, 6),
    (9, 4, 1, 20, 1, 3, 1, 7, 11, 8),
)
#: Last columns as long as the others; numbers of keys per query at a power of two and one above (8, 9; 16,
#: 17); strides longer than the sequence.
STRIDED = _sizes(
    f"{_CORE} block stride summary",
    (2, 6, 3, 12, 5, 9, 4, 6, 2),
    (5, 4, 1, 14, 3, 6, 5, 7, 2),
    (3, 9, 3, 24, 4, 10, 7, 8, 4),
    (4, 10, 5, 27, 6, 2, 8, 9, 4),
    (7, 3, 1, 45, 2, 4, 6, 11, 5),
    (2, 3, 1, 5, 4, 6, 3, 20, 7),
    (6, 2, 2, 30, 7, 3, 9, 13, 4),
    (3, 12, 4, 9, 6, 5, 2, 40, 8),
    (2, 24, 6, 3, 5, 40, 4, 70, 9),
    (1, 4, 2, 4, 6, 3, 2, 33, 1),
    (3, 4, 2, 30, 6, 2, 5, 20, 5),
    (2, 6, 3, 40, 5, 70, 4, 17, 3),
    # Two positions more than a stride apart, or none.
    (33, 34, 17, 5, 8, 5, 17, 1, 1),
    (17, 80, 20, 8, 12, 1, 9, 6, 6),
    (12, 36, 9, 11, 17, 4, 1, 5, 5),
)
COMBINED = _sizes(
    "batch heads seq head_dim value_dim",
    (3, 5, 16, 7, 9),
    (2, 4, 64, 9, 3),
    (5, 2, 8, 3, 17),
    (1, 3, 33, 4, 2),
    (4, 7, 1, 5, 2),
    (6, 2, 2, 33, 5),
    (9, 3, 100, 2, 65),
    (2, 11, 7, 6, 4),
    (8, 10, 8, 62, 10),
    (1, 10, 25, 58, 40),
)
SEGMENTED = _sizes(
    f"{_CORE} block",
    (3, 6, 2, 20, 5, 7, 4),
    (2, 4, 4, 33, 3, 9, 8),
    (5, 8, 1, 17, 9, 2, 40),
    (1, 2, 2, 3, 2, 300, 2),
    (4, 10, 5, 66, 17, 1, 33),
    (1, 1, 1, 1, 4, 9, 3),
)
GRAPH = _sizes(
    "batch heads seq head_dim value_dim degree edges",
    (3, 5, 7, 9, 4, 2, 30),
    (2, 4, 17, 3, 8, 6, 33),
    (5, 2, 40, 4, 33, 3, 700),
    (4, 3, 9, 65, 2, 5, 9),
    (2, 5, 9, 4, 3, 7, 33),
    (2, 3, 1, 4, 5, 6, 1),
)
STORED = _sizes(
    f"{_CORE} store top_k lists probes",
    (3, 6, 2, 5, 7, 9, 640, 4, 16, 8),
    (2, 4, 4, 3, 9, 5, 2000, 17, 10, 2),
    (5, 2, 1, 7, 4, 33, 1440, 3, 12, 5),
    (1, 3, 3, 1, 65, 2, 700, 6, 35, 4),
    (5, 4, 2, 40, 7, 3, 30, 6, 9, 8),
    (2, 6, 3, 4, 5, 9, 9000, 7, 120, 2),
)
HASHED = _sizes(
    "batch heads seq head_dim value_dim block rounds lists",
    (3, 6, 20, 5, 7, 4, 2, 9),
    (2, 4, 33, 3, 9, 8, 3, 17),
    (5, 8, 17, 9, 2, 40, 1, 1),
    (1, 3, 64, 2, 5, 2, 5, 33),
    (4, 2, 1, 17, 3, 3, 7, 3),
    (7, 5, 48, 4, 1, 6, 9, 300),
    (2, 9, 70, 6, 33, 1, 8, 2000),
    # Keys of 8 or 9 bits, where the sort needs another pass.
    (2, 3, 4, 5, 7, 3, 4, 16),
    (3, 2, 64, 5, 4, 9, 2, 1),
    (1, 2, 16, 3, 5, 6, 4, 1),
    (2, 5, 40, 3, 6, 7, 2, 1),
    (2, 1, 64, 3, 7, 5, 4, 1),
)
NATIVE = _sizes(
    "batch heads kv_heads seq seq_kv head_dim value_dim summary stride block top_k window",
    (3, 6, 2, 20, 20, 5, 7, 4, 3, 8, 2, 9),
    (2, 12, 4, 33, 65, 3, 9, 6, 2, 5, 3, 16),
    (5, 8, 1, 1, 70, 9, 2, 8, 4, 16, 2, 11),
    (4, 10, 5, 3, 3, 17, 6, 9, 7, 2, 1, 1),
    (2, 4, 2, 9, 80, 33, 8, 16, 16, 11, 5, 7),
    # Compressed blocks that overlap more than once; one that starts at each position, or a shorter sequence.
    (3, 6, 3, 30, 30, 4, 8, 11, 2, 7, 2, 5),
    (2, 8, 4, 12, 12, 3, 5, 7, 1, 6, 9, 10),
    (3, 2, 2, 4, 4, 6, 5, 9, 1, 8, 2, 7),
    # More blocks are selected than there are.
    (1, 9, 3, 2, 30, 2, 5, 40, 5, 9, 12, 80),
    # Eight and nine compressed keys, and fewer new ones.
    (1, 2, 1, 12, 12, 3, 5, 5, 1, 6, 2, 9),
    (1, 3, 1, 13, 13, 4, 2, 5, 1, 3, 2, 6),
    (1, 4, 2, 10, 60, 5, 3, 7, 2, 20, 2, 6),
    (1, 5, 5, 8, 40, 3, 4, 6, 2, 9, 3, 17),
)
LATENT = _sizes(
    "batch heads seq seq_kv head_dim value_dim d_model q_rank kv_rank rope_dim sram",
    (3, 5, 4, 9, 7, 6, 33, 11, 8, 2, 700),
    (2, 4, 7, 7, 20, 9, 16, 5, 17, 10, 96),
    (5, 2, 1, 65, 9, 4, 7, 3, 2, 12, 300),
    (4, 3, 140, 300, 2, 33, 5, 6, 9, 4, 64),
    (2, 3, 61, 121, 5, 4, 7, 6, 9, 8, 400),
    (1, 3, 96, 287, 9, 8, 30, 2, 17, 7, 684),
    (33, 17, 3, 4, 5, 4, 6, 40, 9, 2, 200),
)
TILED = _sizes(
    "batch heads kv_heads seq seq_kv head_dim value_dim d_model sram",
    (3, 6, 2, 5, 11, 8, 17, 33, 700),
    (2, 4, 4, 9, 33, 3, 5, 16, 96),
    (5, 3, 1, 17, 17, 33, 2, 7, 1600),
    (6, 2, 1, 61, 121, 2, 9, 3, 96),
    (5, 4, 2, 46, 61, 31, 13, 10, 475),
)
DECODED = _sizes(
    "batch heads kv_heads seq_kv head_dim value_dim block splits",
    (3, 6, 2, 11, 8, 17, 4, 3),
    (2, 4, 4, 33, 3, 5, 9, 7),
    (5, 3, 1, 17, 33, 2, 17, 10),
    (9, 18, 9, 64, 4, 65, 5, 16),
    (1, 2, 1, 40, 2, 3, 50, 33),
)
Options = Iterator[tuple[str, dict[str, Any], Points]]


def _variants() -> Options:
    for convention in ("exact", "torch"):
        both = {"convention": convention}
        for causal in (True, False):
            yield "sliding-window", {"causal": causal, **both}, MASKED
            yield "mla", {"causal": causal, **both}, LATENT
            yield "mla", {"causal": causal, "absorbed": True, **both}, LATENT
        yield "compressive-memory", both, SEGMENTED
    for pattern in ("strided", "fixed"):
        yield "strided", {"pattern": pattern}, MASKED + STRIDED
    for pattern in ("fixed", "logsparse"):
        yield "combiner", {"pattern": pattern}, COMBINED
    for schedule in ("fa1", "fa2"):
        yield "block-sparse", {"schedule": schedule}, MASKED
    for name in ("longformer", "bigbird"):
        yield name, {}, MASKED + BLOCKS
    yield "graph-attention", {}, GRAPH
    for index in ("flat", "ivf"):
        yield "retrieval-memory", {"index": index}, STORED
    yield "native-sparse-attention", {}, NATIVE
    yield "native-sparse-attention", {"decode": True}, NATIVE
    for factors in (1, 2, 3):
        yield "lsh-attention", {"factors": factors}, HASHED
    for paged in (False, True):
        yield "decode-attention", {"paged": paged}, DECODED
        yield "split-kv", {"paged": paged}, DECODED
    for options in ({}, {"causal": True}, {"projections": True, "causal": True}):
        yield "flash-attention-3", options, TILED


def variant_cases() -> Iterator[tuple[Layer, Points]]:
    """Yield every variant with its options and directions, and most of them once in fp64."""
    done = {"longformer", "bigbird", "strided"}  # covered by sliding-window
    for name, options, points in _variants():
        kind = get(name)
        once = "bwd" not in kind.directions or options.get("absorbed") or options.get("decode")
        for direction in ("fwd",) if once else ("fwd", "bwd"):
            yield kind(**options, direction=direction), points
        if name not in done:
            done.add(name)
            yield kind(**options, dtype="fp64", direction="fwd" if once else "fwd+bwd"), points
