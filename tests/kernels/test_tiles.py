"""Tiles against the libraries' sources."""

import itertools
import re
from math import inf, isfinite

import numpy as np
import pytest

from costmodel.kernels import _tiles as tiles

#: sglang's ``fp8_scaled_mm``, branch by branch: up to which m and n, tile (rows, columns, K step), cluster
#: (down the rows, along the columns). ``GemmShape`` of ``sm89_fp8_dispatch_shape``; the configurations of
#: ``sm90_fp8_dispatch``, whose first four compute the transposed product: their ``Shape<_64, _16, _256>`` has
#: 16 rows of A, and counts as two steps of 128; those of ``sm100_fp8_dispatch_bias``, where two units share a
#: tile of 128 or 256 rows.
DISPATCH = {
    "ada": [
        (1, 8192, (16, 64, 128), (1, 1)),
        (1, inf, (32, 64, 128), (1, 1)),
        (16, 8192, (16, 64, 128), (1, 1)),
        (16, 16384, (32, 64, 128), (1, 1)),
        (16, inf, (16, 64, 128), (1, 1)),
        (64, 16384, (32, 64, 128), (1, 1)),
        (64, inf, (16, 64, 128), (1, 1)),
        (128, 16384, (64, 64, 128), (1, 1)),
        (128, inf, (32, 64, 128), (1, 1)),
        (256, 8192, (128, 64, 64), (1, 1)),
        (256, 16384, (64, 128, 64), (1, 1)),
        (256, inf, (128, 64, 128), (1, 1)),
        (inf, inf, (128, 128, 64), (1, 1)),
    ],
    "hopper": [
        (16, 1280, (16, 64, 128), (2, 1)),
        (16, inf, (16, 64, 128), (1, 1)),
        (64, 1280, (16, 64, 128), (4, 1)),
        (64, inf, (64, 64, 128), (1, 1)),
        (128, inf, (64, 128, 128), (2, 1)),
        (inf, inf, (128, 128, 128), (2, 1)),
    ],
    "blackwell": [
        (16, inf, (64, 64, 128), (1, 4)),
        (64, inf, (64, 64, 128), (1, 1)),
        (256, inf, (64, 128, 128), (2, 1)),
        (inf, inf, (128, 128, 64), (2, 2)),
    ],
}


@pytest.mark.parametrize("family", DISPATCH)
def test_fp8_kernels_of_sglang_are_dispatched_as_in_its_source(family):
    """At the last sizes of each branch and at the next ones; the first branch that allows both is taken."""
    edges = (
        {1, *(edge + more for edge in column if isfinite(edge) for more in (0, 1))}
        for column in list(zip(*DISPATCH[family], strict=True))[:2]
    )
    for m, n in itertools.product(*edges):
        _, _, tile, cluster = next(branch for branch in DISPATCH[family] if m <= branch[0] and n <= branch[1])
        sizes = np.array([float(m)]), np.array([float(n)])
        assert tuple(side.item() for side in tiles.fp8_scaled(family, *sizes)) == tile, (m, n)
        assert tuple(side.item() for side in tiles.fp8_clusters(family, *sizes)) == cluster, (m, n)


@pytest.mark.parametrize("family", ["cdna3", "cdna4"])
@pytest.mark.parametrize(
    "name",
    [
        "_ZN5aiter39bf16gemm_fp32bf16_tn_32x64_splitk_cleanE",
        "_ZN5aiter39bf16gemm_fp32bf16_tn_48x64_splitk_cleanE",
        "_ZN5aiter37bf16gemm_fp32bf16_tn_64x64_pf3_splitkE",
        "_ZN5aiter39bf16gemm_fp32bf16_tn_80x64_splitk_cleanE",
        "_ZN5aiter37bf16gemm_fp32bf16_tn_96x64_pf3_splitkE",
        "_ZN5aiter24bf16gemm_bf16_tn_256x256E",
        "flydsl_gemm5_abf16_wbf16_bf16_t16x64x128_split_k2_block_m_warp1",
    ],
)
def test_amds_tiles_are_those_in_the_names_of_its_kernels(family, name):
    """Of ``aiter/configs/bf16_tuned_gemm.csv``."""
    rows, columns = re.search(r"_t?n?_?(\d+)x(\d+)", name).groups()
    sides = np.stack(tiles.menu(family, "tn", 64.0, matrix=True))[:2].T
    assert (float(rows), float(columns)) in {tuple(side) for side in sides}
    assert (80.0, 64.0) not in {
        tuple(side) for side in np.stack(tiles.menu("hopper", "tn", 64.0, matrix=True))[:2].T
    }
