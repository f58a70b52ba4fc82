"""Attention over latents: tiles and parts of the libraries, limits by hand calculation."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel import hardware
from costmodel.kernels import _flash_latent as cut
from costmodel.kernels import decode

A100 = hardware.load("nvidia/a100-sxm-80gb")
H20 = hardware.load("nvidia/h20")
H200 = hardware.load("nvidia/h200-sxm")
B200 = hardware.load("nvidia/b200-sxm")
#: Numbers that DeepSeek-V3 caches per token (512 + 64), and FLOPs of a head and a key.
WIDTH, PER_SCORE = 512 + 64, 2 * (2 * 512 + 64)


def estimate(device, *, batch, heads, keys, kernel=None, kv_dtype=None):
    heads, batch, keys = (np.asarray(size, dtype=float) for size in (heads, batch, keys))
    return decode.seconds(
        device,
        {"tick_s": 0.0},
        batch=batch,
        heads=heads,
        kv_heads=1,
        seq_kv=keys,
        head_dim=WIDTH / 2,
        flops=batch * heads * keys * PER_SCORE,
        kernel=kernel,
        kv_dtype=kv_dtype,
    )


def plan(device, kernel, heads, keys=8192.0, kv_dtype="bf16"):
    return cut.partition(
        device, kernel, np.array([4.0]), np.array([heads]), np.array([keys]), "bf16", kv_dtype
    )


@pytest.mark.parametrize(
    ("kernel", "heads", "blocks", "rows"),
    [
        # FlashMLA: tiles of 64 heads; two share their keys.
        ("fa3", 1, 1, 64),
        ("fa3", 64, 1, 64),
        ("fa3", 65, 1, 128),
        ("fa3", 128, 1, 128),
        ("fa3", 192, 2, 96),
        # ``BLOCK_H`` of Triton's kernel is 16.
        ("triton", 1, 1, 16),
        ("triton", 17, 2, 16),
        ("triton", 128, 8, 16),
        ("trtllm", 16, 1, 16),
        ("trtllm", 17, 1, 128),
    ],
)
def test_heads_are_the_rows_of_tiles(kernel, heads, blocks, rows):
    found = plan(B200, kernel, float(heads))
    assert (found.jobs / 4, found.rows) == (blocks, rows)


def test_triton_splits_keys_into_parts_of_at_least_512():
    """Into a power of two of them, no more than there are units."""
    for keys, parts in ((1, 1), (1023, 1), (1024, 2), (4096, 8), (2**20, 64)):
        assert plan(A100, "triton", 1.0, float(keys)).parts == parts


def test_flash_mla_gives_every_unit_as_many_keys_as_any_other():
    """So that a sequence more than there are units takes a unit's share longer, not a whole wave."""
    full, one_more = estimate(H200, batch=[132, 133], heads=128, keys=65536).seconds
    assert one_more / full == pytest.approx(133 / 132, rel=1e-2)


@pytest.mark.parametrize(("device", "kernel"), [(H200, "fa3"), (A100, "triton"), (B200, "trtllm")])
def test_full_tiles_take_their_flops_at_the_librarys_share_of_the_peak(device, kernel):
    flops = 512 * 128 * 8192 * PER_SCORE
    found = estimate(device, batch=512, heads=128, keys=8192).terms["matrix:bf16"]
    assert found == pytest.approx(flops / device.peak("bf16") / cut.LIBRARIES[kernel].shares[0])


@pytest.mark.parametrize(("device", "heads"), [(H200, 64), (A100, 16)])
def test_heads_of_a_tile_take_as_long_as_one(device, heads):
    """As vLLM's modules of 1 to 64 heads on H200, and of 2 to 16 on A100: 2.8 to 3.0 and 1.1 TB/s."""
    one, all_ = estimate(device, batch=256, heads=[1, heads], keys=16384).seconds
    assert all_ / one == pytest.approx(1, abs=0.04)


def test_a_slow_device_takes_as_long_as_the_arithmetic_of_its_tiles():
    """H20 has a seventh of H200's rate: 192 rows, three new tokens of 64 heads, take 1.5 times 128's time.

    FlashMLA's posted benchmark has 3.407 ms for 192 and 4.641 ms for 256.
    """
    two, three, four = estimate(H20, batch=128, heads=[128, 192, 256], keys=8192).seconds
    assert three / two == pytest.approx(1.5, rel=0.02)
    assert three / four == pytest.approx(3.407 / 4.641, rel=0.03)


def test_a_cache_of_half_the_bytes_is_faster_only_where_bytes_limit():
    """Posted modules: on B200 0.20 and 0.09 ns a key, on H200, where steps limit, 0.39 and 0.36."""
    for device, ratio in ((B200, 0.09 / 0.20), (H200, 0.36 / 0.39)):
        wide = estimate(device, batch=128, heads=8, keys=65536).seconds
        narrow = estimate(device, batch=128, heads=8, keys=65536, kv_dtype="fp8").seconds
        assert narrow / wide == pytest.approx(ratio, abs=0.06)


def test_latents_are_read_no_faster_than_memory_gives_them():
    sizes = {"batch": 128, "heads": 8, "keys": 131072}
    bytes_read = 128 * 131072 * WIDTH * 2
    for device in (A100, H200, B200):
        assert estimate(device, **sizes).seconds > bytes_read / device.hbm_bandwidth


@pytest.mark.parametrize("device", [A100, H20, H200, B200], ids=lambda d: d.name)
@pytest.mark.parametrize("over", ["batch", "heads", "keys"])
def test_more_work_takes_no_less_time(device, over):
    sizes = {"batch": 4, "heads": 16, "keys": 4096, over: 2.0 ** np.arange(0, 11)}
    times = estimate(device, **sizes).seconds
    assert (np.diff(times) > -2e-2 * times[:-1]).all()


def test_libraries_go_by_architecture_and_by_name():
    assert [cut.kernel_on(device, None) for device in (A100, H200, B200)] == ["triton", "fa3", "trtllm"]
    assert cut.kernel_on(H200, "triton") == "triton"
    assert cut.kernel_on(A100, "fa2") == "triton"  # it has no heads of 576 numbers
    slow, fast = (estimate(H200, batch=64, heads=128, keys=8192, kernel=k).seconds for k in ("triton", None))
    assert slow > 3 * fast
