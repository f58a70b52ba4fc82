"""The Triton kernels, compiled for an H200 without one: each compiles and fits into shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")
pytest.importorskip("triton", reason="needs Triton: pip install triton")

from costmodel import hardware
from costmodel.validation import plans

#: Shared memory per block that CUDA reserves [bytes] (CUDA C++ Programming Guide, 9.0).
RESERVED = 1024


@pytest.fixture(scope="module")
def tiles():
    """Return schedule, rows and columns of every tile in a plan."""
    wanted = [one for one in plans.plan("cuda") + plans.counted() if one.bench == "triton-attention"]
    assert {(one.dtype, one["head_dim"]) for one in wanted} == {("bf16", 64)}
    return sorted(
        {tuple(one.option(name, "") for name in ("schedule", "tile_rows", "tile_cols")) for one in wanted}
    )


@pytest.fixture(scope="module")
def needs(tiles):
    """Return the shared memory and warps of each kernel, compiled for compute capability 9.0."""
    script = Path(__file__).with_name("compile_triton.py")
    done = subprocess.run(
        [sys.executable, script, "90", json.dumps(tiles)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_tile_of_the_plan_fits_on_an_h200(tiles, needs):
    """At least the tiles of Q, K and V, and more for prefetching the next; at most what the chip has."""
    most = hardware.load("nvidia/h200-sxm").shared_per_unit - RESERVED
    for schedule, rows, cols in tiles:
        shared, operands = needs[f"{schedule} {rows} {cols}"]["shared"], 2 * 64 * (rows + 2 * cols)
        assert operands <= shared <= most, (schedule, rows, cols)


def test_other_kernels_of_the_plan_compile_too(needs):
    """One query, grouped heads, a mask, tf32; barriers of one and of all blocks; arithmetic."""
    assert {"fa1 1 ieee", "fa2 99 tf32", "barrier 1", "barrier 132"} <= set(needs)
    assert len([name for name in needs if name.startswith("arithmetic")]) == 4
