"""Thread blocks of two warps on a unit's four partitions, against measured rows."""

import numpy as np
import pandas as pd
import pytest

from costmodel import hardware
from costmodel.kernels import gemm

V100 = hardware.load("nvidia/v100-pcie-32gb")
SIZES = {"m": 64, "n": 64, "k": 4096, "dtype": "fp32", "layout": "nn", "tile_k": 8}
CONSTANTS = {"edge_elements": 0.0, "step_cycles": 10.0, "fill_cycles": 1.0, "overlap": 12.0}


@pytest.fixture(scope="module")
def cycles(shared):
    """Return cycles per step of K for tiles of 64 × 64, by the most blocks on one of V100's units."""
    rows = pd.read_parquet(shared / "measurements" / "gemm.parquet")
    rows = rows[(rows["gpu"] == "v100-pcie-32gb") & (rows["kernel"] == "volta_sgemm_64x64_nn")]
    rows = rows[rows["k"] > 300].astype({"latency_s": float, "grid": float, "k": float})
    taken = (rows["latency_s"] - 3e-5) * V100.clock_hz / (rows["k"] / 8)
    return taken.groupby(np.ceil(rows["grid"] / V100.units)).median()


def test_measured_times_of_two_and_four_blocks_of_two_warps_are_equal(cycles):
    assert cycles[2] > 1.35 * cycles[1]
    assert cycles[3] == pytest.approx(cycles[2], rel=0.1)
    assert cycles[4] == pytest.approx(cycles[2], rel=0.1)
    assert cycles[6] == pytest.approx(cycles[8], rel=0.25)


def test_the_model_pairs_blocks_of_64_by_64_tiles_on_v100_only():
    def arithmetic(batch, side, device=V100):
        tile = {"tile_m": side, "tile_n": side}
        terms = gemm.seconds(device, CONSTANTS, **SIZES, **tile, batch=batch).terms
        return terms["vector:fp32"]

    one, two, four = (arithmetic(V100.units * blocks, 64) for blocks in (1, 2, 4))
    assert two / one == pytest.approx(2)
    assert four == pytest.approx(two)
    assert arithmetic(V100.units * 4, 128) / arithmetic(V100.units, 128) == pytest.approx(4)
    a100 = hardware.load("nvidia/a100-pcie-40gb")
    assert arithmetic(a100.units * 2, 64, a100) / arithmetic(a100.units, 64, a100) == pytest.approx(2)
    assert arithmetic(a100.units * 4, 64, a100) / arithmetic(a100.units, 64, a100) == pytest.approx(4)
