"""Attention over latents: tiles and parts of the libraries, limits by hand calculation."""

from __future__ import annotations

import numpy as np
import pytest

import costmodel as cm
from costmodel import hardware
from costmodel.kernels import _flash as flash
from costmodel.kernels import _flash_latent as cut
from costmodel.kernels import decode

A100 = hardware.load("nvidia/a100-sxm-80gb")
H20 = hardware.load("nvidia/h20")
H200 = hardware.load("nvidia/h200-sxm")
B200 = hardware.load("nvidia/b200-sxm")
#: Numbers that DeepSeek-V3 caches per token (512 + 64), and FLOPs of a head and a key.
WIDTH, PER_SCORE = 512 + 64, 2 * (2 * 512 + 64)
#: Nothing but arithmetic and bytes: no latencies, no starts, memory and L2 at their peaks.
BARE = {
    "bandwidth_share": 1.0, "l2_unit_bytes": 64.0, "ramp_cycles": 0.0, "stagger_cycles": 0.0,
    "block_cycles": 0.0, "row_bytes_per_cycle": np.inf, "sequence_cycles": 0.0,
    "merge_cycles": 0.0, "merge_work_cycles": 0.0, "merge_split_cycles": 0.0, "launch_cycles": 0.0,
}  # fmt: skip


def estimate(device, constants=None, *, batch, heads, keys, kernel=None, kv_dtype=None, passing=0.0, **lists):
    heads, batch, keys = (np.asarray(size, dtype=float) for size in (heads, batch, keys))
    return decode.seconds(
        device,
        {**(constants or {}), "tick_s": 0.0},
        batch=batch,
        heads=heads,
        kv_heads=1,
        seq_kv=keys,
        head_dim=WIDTH / 2,
        flops=batch * heads * keys * PER_SCORE,
        kernel=kernel,
        kv_dtype=kv_dtype,
        passing=passing,
        **lists,
    )


@pytest.mark.parametrize(
    "device", ["nvidia/a100-sxm-80gb", "nvidia/h200-sxm", "amd/mi300x", "google/tpu-v5e"]
)
@pytest.mark.parametrize("seq", [1, 5, 700, 4096])
def test_masked_scores_of_many_new_tokens_are_computed_like_others(device, seq):
    """New tokens are rows of the same tiles, which step through all keys of the sequence."""
    sizes = {"batch": 4, "heads": 16, "head_dim": 128, "kv_rank": 512, "rope_dim": 64, "seq": seq}
    masked, whole = (
        cm.predict(cm.MLA(absorbed=True, causal=causal), device, rung="kernel", seq_kv=4096, **sizes)
        for causal in (True, False)
    )
    assert masked.seconds == whole.seconds
    assert min(masked.limits_s.values()) >= 0


def plan(device, kernel, heads, keys=8192.0, kv_dtype="bf16", listed=None):
    batch, heads, keys = (np.array([size]) for size in (4.0, heads, keys))
    return cut.partition(
        device, kernel, batch=batch, heads=heads, keys=keys, width=np.array(WIDTH), dtype="bf16",
        kv_dtype=kv_dtype, listed=None if listed is None else np.array([listed]),
    )  # fmt: skip


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


@pytest.mark.parametrize(("kernel", "step"), [("fa3", 64), ("trtllm", 128)])
def test_other_libraries_split_keys_into_at_most_their_steps(kernel, step):
    """So that parts fill the units, of which the plan's four sequences leave B200 37 each."""
    for keys, parts in ((1, 1), (step, 1), (step + 1, 2), (2**20, 148 // 4)):
        assert plan(B200, kernel, 1.0, float(keys)).parts == parts


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
    for device, posted in ((B200, (0.20, 0.09)), (H200, (0.39, 0.36))):
        sizes = {"batch": 128, "heads": 8, "keys": 65536}
        found = [estimate(device, **sizes, kv_dtype=kv_dtype).seconds for kv_dtype in ("bf16", "fp8")]
        assert np.array(found) / (128 * 65536 * 1e-9) == pytest.approx(posted, rel=0.2)
        assert found[1] / found[0] == pytest.approx(posted[1] / posted[0], abs=0.06)


@pytest.mark.parametrize(
    ("device", "kv_dtype", "each"), [(A100, "bf16", 2), (B200, "bf16", 2), (B200, "fp8", 1)]
)
def test_latents_and_queries_are_read_once_and_outputs_written(device, kv_dtype, each):
    """Too many for L2, and for their keys to be split."""
    latents, rows = 4096 * 512 * WIDTH * each, 4096 * 128 * (WIDTH + 512) * 2
    terms = estimate(device, BARE, batch=4096, heads=128, keys=512, kv_dtype=kv_dtype).terms
    assert terms["hbm"] == pytest.approx((latents + rows) / device.hbm_bandwidth, rel=1e-3)
    assert terms["l2"] == pytest.approx(0, abs=1e-3 * terms["hbm"])


def test_partial_outputs_are_written_and_read_in_32_bits():
    """Of 8 sequences and 128 heads in 64 parts."""
    moved = 8 * 2**20 * WIDTH * 2 + 8 * 128 * (WIDTH + 512) * 2 + 64 * 8 * 128 * 512 * (4 + 4)
    found = estimate(A100, BARE, batch=8, heads=128, keys=2**20).terms["hbm"]
    assert found == pytest.approx(moved / A100.hbm_bandwidth, rel=1e-3)


def test_latents_stay_in_l2_between_steps_unless_other_kernels_fill_it():
    moved = 2 * 512 * WIDTH * 2 + 2 * 16 * (WIDTH + 512) * 2
    sizes = {"batch": 2, "heads": 16, "keys": 512}
    ramp = {**BARE, "ramp_cycles": 1e4}
    kept = estimate(A100, BARE, **sizes)
    gone, ramped = (estimate(A100, given, **sizes, passing=1e9) for given in (BARE, ramp))
    assert kept.terms["l2"] == pytest.approx(moved / (64 * A100.units * A100.clock_hz))
    assert kept.terms["hbm"] == pytest.approx(0, abs=1e-12)
    assert estimate(A100, ramp, **sizes).seconds == pytest.approx(kept.seconds)
    assert gone.terms["hbm"] == pytest.approx(moved / A100.hbm_bandwidth)
    assert gone.terms["l2"] == pytest.approx(0, abs=1e-12)
    longer = [ramped.terms["hbm"] - gone.terms["hbm"], ramped.seconds - gone.seconds]
    assert longer == pytest.approx([1e4 / A100.clock_hz] * 2)


@pytest.mark.parametrize(
    ("device", "kv_dtype", "kernels"),
    [
        (A100, "bf16", 3),
        (A100, "fp8", 3),
        (H200, "bf16", 0),
        (H200, "fp8", 2),
        (B200, "bf16", 1),
        (B200, "fp8", 2),
    ],
)
def test_kernels_before_attention_read_and_write_the_queries(device, kv_dtype, kernels):
    """Besides, Triton's is the only library without a kernel that plans, and fa3's looks up all lengths."""
    given = {**BARE, "launch_cycles": 1e4, "sequence_cycles": 100.0}
    found = estimate(device, given, batch=4096, heads=128, keys=512, kv_dtype=kv_dtype)
    queries = 4096 * 128 * WIDTH * 2
    started = kernels + (device is not A100)
    starts = 1e4 + flash.START_CYCLES * started + 100 * 4096 * (device is H200)
    expected = starts / device.clock_hz + kernels * 2 * queries / device.hbm_bandwidth
    assert found.terms["launch"] == pytest.approx(expected, rel=1e-3)
    without = estimate(device, BARE, batch=4096, heads=128, keys=512, kv_dtype=kv_dtype)
    rest = [one.seconds - one.terms["launch"] for one in (found, without)]
    assert rest[0] == pytest.approx(rest[1])
    assert rest[0] >= found.terms["hbm"]


def test_only_parts_are_merged():
    given = {**BARE, "merge_cycles": 1e5, "merge_work_cycles": 1e4, "merge_split_cycles": 1e3}
    for keys, cycles in ((512, 0.0), (1024, 1e5 + 1e4 + 2 * 1e3), (4096, 1e5 + 1e4 + 8 * 1e3)):
        merged, not_ = (estimate(A100, c, batch=1, heads=16, keys=keys) for c in (given, BARE))
        assert merged.terms["launch"] - not_.terms["launch"] == pytest.approx(cycles / A100.clock_hz)
        assert merged.seconds - not_.seconds == pytest.approx(cycles / A100.clock_hz)


@pytest.mark.parametrize(("heads", "blocks", "loaded"), [(3, 1, 3), (32, 2, 16)])
def test_a_block_takes_whole_steps_of_keys_and_its_rows_of_queries_and_outputs(heads, blocks, loaded):
    """Triton: 500 keys are 16 steps of 32, and 3 heads as much work as 16; 3 are loaded and stored."""
    given = {**BARE, "block_cycles": 1e4, "row_bytes_per_cycle": 0.5, "stagger_cycles": 1e3}
    found = estimate(A100, given, batch=1, heads=heads, keys=500).terms
    peak = A100.peak("bf16") * cut.LIBRARIES["triton"].shares[0]
    once = (1e4 + loaded * (WIDTH + 512) * 2 / 0.5 + blocks * 1e3) / A100.clock_hz
    assert found["matrix:bf16"] == pytest.approx(blocks * 500 * 16 * PER_SCORE / peak)
    block = 16 * 32 * 16 * PER_SCORE / peak * A100.units + once
    assert found["matrix:bf16"] + found["depth"] == pytest.approx(block)


def in_blocks(device, **sizes):
    """Return the time of the thread blocks without memory's."""
    terms = estimate(device, BARE, **sizes).terms
    return terms[next(name for name in terms if name.startswith("matrix"))] + terms["depth"]


@pytest.mark.parametrize(("kv_dtype", "each"), [("bf16", 2), ("fp8", 1)])
def test_few_heads_wait_for_the_keys_that_a_unit_loads(kv_dtype, each):
    cycles = 128 * each * WIDTH / cut.LIBRARIES["trtllm"].load
    found = in_blocks(B200, batch=1, heads=1, keys=128, kv_dtype=kv_dtype)
    assert found == pytest.approx(cycles / B200.clock_hz)


@pytest.mark.parametrize(("device", "most"), [(A100, 512), (B200, 128)])
def test_a_sequence_more_than_units_takes_another_wave_in_libraries_that_do_not_share_keys_evenly(
    device, most
):
    full, more, two = in_blocks(device, batch=device.units * np.array([1, 1.01, 2]), heads=16, keys=most)
    assert [more / full, two / full] == pytest.approx([2, 2])


def test_steps_of_keys_are_not_split():
    """With 148 units, 149 steps of 128 keys take as long as 296."""
    one, more, two = in_blocks(B200, batch=1, heads=128, keys=128 * np.array([148, 149, 296]))
    assert [more / one, two / one] == pytest.approx([2, 2])


def test_a_unit_with_the_keys_of_two_sequences_begins_parts_of_three():
    """FlashMLA, with twice as many sequences as units: the first and the last one's are in part another's."""
    given = {**BARE, "block_cycles": 1e6}
    short, long = (estimate(H200, c, batch=[132, 264], heads=64, keys=8192) for c in (BARE, given))
    assert long.terms["depth"] - short.terms["depth"] == pytest.approx(np.array([1, 3]) * 1e6 / H200.clock_hz)


def test_only_trtllm_multiplies_in_the_format_of_the_cache():
    formats = [plan(d, kernel, 64.0, kv_dtype="fp8").dtype for d, kernel in ((H200, "fa3"), (B200, "trtllm"))]
    assert [*formats, plan(A100, "triton", 64.0, kv_dtype="fp8").dtype] == ["bf16", "fp8", "bf16"]
    assert plan(B200, "trtllm", 64.0).dtype == "bf16"


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


@pytest.mark.parametrize(
    ("device", "kv_dtype", "heads", "blocks"),
    [
        # ``prefill_padding`` of vLLM's flashmla_sparse.py: 64 heads on Hopper, 128 on Blackwell.
        (H200, "bf16", 1, 1), (H200, "bf16", 64, 1), (H200, "bf16", 65, 2), (H200, "fp8", 8, 1),
        (B200, "bf16", 17, 2), (B200, "bf16", 128, 2), (B200, "fp8", 8, 1), (B200, "fp8", 128, 2),
    ],
)  # fmt: skip
def test_over_a_list_heads_are_filled_up_to_tiles_of_64(device, kv_dtype, heads, blocks):
    found = plan(device, cut.kernel_on(device, None), float(heads), kv_dtype=kv_dtype, listed=2048.0)
    assert (found.jobs / 4, found.rows) == (blocks, 64)
    filled = blocks * 64
    assert found.prepared == 1 + (filled > heads)


def test_few_heads_over_a_list_are_trtllms_on_blackwell():
    """``num_heads <= 16`` in vLLM's choice of sparse backends, for a cache of 16 bits."""
    for heads, keys in ((16.0, 100.0), (17.0, 2048.0)):
        assert plan(B200, "trtllm", heads, keys=100.0, listed=2048.0).keys == keys
    both = cut.partition(
        B200, "trtllm", batch=np.array([4.0]), heads=np.array([8.0, 32.0]), keys=np.array([100.0]),
        width=np.array(WIDTH), listed=np.array([2048.0]), dtype="bf16", kv_dtype="bf16",
    )  # fmt: skip
    assert both.keys.tolist() == [100, 2048]
    assert both.rows.tolist() == [16, 64]


@pytest.mark.parametrize(
    ("device", "kv_dtype"), [(H200, "bf16"), (H200, "fp8"), (B200, "bf16"), (B200, "fp8")]
)
def test_a_list_takes_as_long_if_few_of_its_places_are_filled(device, kv_dtype):
    """Posted modules: 1,024 sequences of 2 to 512 positions take as long as ones of 2,048 and more."""
    sizes = {"batch": 1024, "heads": 64, "kv_dtype": kv_dtype}
    few, many = (estimate(device, **sizes, keys=keys, listed=2048.0).seconds for keys in (8, 2048))
    assert 0.65 < few / many <= 1
    assert few > 3 * estimate(device, **sizes, keys=8).seconds


def test_a_token_with_a_cache_of_16_bits_is_one_thread_blocks_on_hopper():
    """Posted modules: 1 to 128 tokens take as long as another, and 133 would take another wave."""
    sizes = {"heads": 64, "keys": 2048, "listed": 2048.0}
    one, all_, more = in_blocks(H200, batch=np.array([1, 132, 133]), **sizes)
    assert [all_ / one, more / one] == pytest.approx([1, 2])
    even = in_blocks(H200, batch=np.array([132, 133]), **sizes, kv_dtype="fp8")
    assert even[1] / even[0] == pytest.approx(133 / 132, rel=1e-3)


def test_keys_that_tokens_share_come_from_memory_once_and_again_from_l2():
    tokens, top = 4096, 512
    sizes = {"batch": tokens, "heads": 128, "keys": top, "listed": float(top)}
    shared, own = (
        estimate(B200, BARE, **sizes, passing=1e10, **held).terms for held in ({"held": float(tokens)}, {})
    )
    rows, keys = tokens * 128 * (WIDTH + 512) * 2, tokens * WIDTH * 2
    assert shared["hbm"] == pytest.approx((rows + keys) / B200.hbm_bandwidth, rel=1e-3)
    assert own["hbm"] == pytest.approx((rows + top * keys) / B200.hbm_bandwidth, rel=1e-3)
    assert shared["l2"] == pytest.approx((top - 1) * keys / (64 * B200.units * B200.clock_hz), rel=1e-3)


def test_a_pair_of_thread_blocks_widens_half_of_the_keys_each():
    """FlashMLA's notes on its FP8 kernel: two thread blocks of 64 heads exchange what they widened."""
    sizes = {"batch": 4096, "keys": 2048, "listed": 2048.0, "kv_dtype": "fp8"}
    one, two = (in_blocks(H200, heads=heads, **sizes) for heads in (64, 128))
    found = cut.LISTED["hopper"][1]
    least = found.key_cycles + found.widen_cycles
    assert two / one == pytest.approx(2 * (least - found.widen_cycles / 2) / least, rel=1e-2)
