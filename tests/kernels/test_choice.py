"""The tile and split found with bounds, against an exhaustive search."""

import itertools

import numpy as np
import pytest

import costmodel as cm
from costmodel import dtypes, hardware
from costmodel.kernels import _blocks as blocks
from costmodel.kernels import _tiles as tiles
from costmodel.kernels import gemm
from costmodel.kernels._choice import choose
from costmodel.kernels._operands import Problem
from costmodel.kernels._operands import cold as cold_bytes
from costmodel.plan import make_plan

ROWS = 4000
#: Calibrated devices: one of each architecture whose products are modelled differently.
CASES = [
    ("nvidia/h200-sxm", "bf16"),
    ("nvidia/h200-sxm", "fp8"),
    ("nvidia/b200-sxm", "bf16"),
    ("nvidia/a100-sxm-80gb", "bf16"),
    ("nvidia/a100-sxm-80gb", "fp32"),
    ("nvidia/l40s", "bf16"),
    ("nvidia/p4", "fp32"),
    ("nvidia/v100-pcie-32gb", "fp32"),
    ("amd/mi210", "fp32"),
]


def sizes(largest, rng):
    """Return sizes of all orders of magnitude; some are powers of two, the others any whole numbers."""
    whole = np.floor(2 ** rng.uniform(0, np.log2(largest), (3, ROWS)))
    m, n, k = np.where(rng.random(ROWS) < 0.3, 2 ** np.floor(np.log2(whole)), whole)
    return {"m": m, "n": n, "k": k, "batch": np.where(rng.random(ROWS) < 0.2, 8.0, 1.0)}


def all_tried(device, c, p, cold, menu):
    """Return the tile and split of least effort by trying all of them; among equals, the first."""
    least, chosen = np.full(ROWS, np.inf), np.zeros((4, ROWS))
    splits = tiles.SPLITS if p.may_split else (1.0,)
    for tile, split in itertools.product(menu.T, splits):
        tiling = blocks.Tiling.of(device, c, p, cold, *tile).reread(device, c, p, cold)
        effort = blocks.effort(blocks.split_times(device, c, p, tiling, split))
        better = effort < least
        least[better] = effort[better]
        chosen[:, better] = np.append(tile, split)[:, None]
    return chosen[:3], chosen[3]


@pytest.mark.parametrize("strided", [True, False])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_bounded_search_finds_the_best_tile_and_split_of_all(name, dtype, strided):
    device, rng = hardware.load(name), np.random.default_rng(0)
    fitted = make_plan(cm.Matmul(dtype=dtype), device, None, "warm", (None, None, None)).phases[0].choice
    defaults = {constant: described.default for constant, described in gemm.CONSTANTS.items()}
    width = dtypes.dtype(dtype).bytes
    matrix = device.engine(dtype) == "matrix" and width < 4
    layout = "tn" if strided else "nn"
    menu = np.stack(tiles.menu(device.family, layout, blocks.STEP_BYTES / width, matrix=matrix))
    # Some sizes are too large for single precision to hold exactly.
    for c, largest in (({**defaults, **fitted.constants}, 1e5), (defaults, 1e5), (defaults, 1e8)):
        p = Problem.of(dtype, **sizes(largest, rng), strided=strided)
        cold = cold_bytes(device, c, p, "weights")
        tile, split = choose(device, c, p, cold, np.full((4, ROWS), np.nan))
        wanted_tile, wanted_split = all_tried(device, c, p, cold, menu)
        assert np.array_equal(tile, wanted_tile)
        assert np.array_equal(split, wanted_split)
        # Some products must be split and others not, or the search is not tested.
        assert not strided or 0.02 < (split > 1).mean() < 0.98


def test_a_given_tile_is_kept_and_gets_its_best_split():
    device, rng = hardware.load("nvidia/v100-pcie-32gb"), np.random.default_rng(1)
    c = {constant: described.default for constant, described in gemm.CONSTANTS.items()}
    p = Problem.of("fp32", **sizes(1e5, rng), strided=True)
    cold = cold_bytes(device, c, p, "none")
    known = rng.random(ROWS) < 0.5
    given = np.where(known, [[128.0], [64.0], [8.0], [np.nan]], np.nan)
    tile, split = choose(device, c, p, cold, given)
    of_menu = np.stack(tiles.menu(device.family, "tn", 0.0, matrix=False))
    wanted = {True: all_tried(device, c, p, cold, given[:3, known][:, :1])}
    wanted[False] = all_tried(device, c, p, cold, of_menu)
    for which, rows in ((True, known), (False, ~known)):
        assert np.array_equal(tile[:, rows], wanted[which][0][:, rows])
        assert np.array_equal(split[rows], wanted[which][1][rows])
    parts = np.where(known, [[128.0], [64.0], [8.0], [5.0]], np.nan)
    told, in_parts = choose(device, c, p, cold, parts)
    assert np.array_equal(told, tile)
    assert np.all(in_parts[known] == 5)
    assert np.array_equal(in_parts[~known], split[~known])
