"""Decoding: split rules of the libraries, limits by hand calculation, accuracy on recorded measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import costmodel as cm
from costmodel import hardware
from costmodel.kernels import _flash, _flash_decode, decode

A100 = hardware.load("nvidia/a100-sxm-80gb")
H200 = hardware.load("nvidia/h200-sxm")
B200 = hardware.load("nvidia/b200-sxm")
L40S = hardware.load("nvidia/l40s")
SIZES = {"batch": 16, "heads": 32, "kv_heads": 8, "seq_kv": 8192, "head_dim": 128}


def plan(device: hardware.Device, kernel: str, **sizes: float) -> _flash_decode.Decoding:
    batch, heads, kv, seq, dim = (np.asarray([sizes[k]], dtype=float) for k in SIZES)
    return _flash_decode.decode(device, kernel, batch, kv, heads / kv, seq, dim)


def test_flash_attention_2_splits_keys_only_if_query_heads_share_them() -> None:
    one = {"batch": 1, "seq_kv": 65536, "head_dim": 128, "kv_heads": 1}
    assert plan(A100, "fa2-paged", **one, heads=1).splits.parts == 1
    assert plan(A100, "fa2-paged", **one, heads=8).splits.parts > 50


def test_flash_attention_2_copies_queries_only_of_several_sequences_and_kv_heads() -> None:
    assert plan(A100, "fa2-paged", **SIZES).copies == 1
    assert plan(A100, "fa2-paged", **(SIZES | {"kv_heads": 1})).copies == 0
    assert plan(A100, "fa2-paged", **(SIZES | {"batch": 1})).copies == 0


def test_flash_attention_2_copies_outputs_back_if_it_swapped_heads_and_rows() -> None:
    """``out_.copy_(out)`` in ``mha_varlen_fwd``, after the query heads of a KV head became its rows."""
    assert plan(A100, "fa2-paged", **SIZES).returned == 1
    assert plan(A100, "fa2-paged", **(SIZES | {"kv_heads": SIZES["heads"]})).returned == 0


def test_flash_attention_3_never_splits_four_key_blocks_or_fewer() -> None:
    one = {"batch": 1, "heads": 8, "kv_heads": 1, "head_dim": 128}
    assert plan(H200, "fa3", **one, seq_kv=4 * 128).splits.parts == 1
    assert plan(H200, "fa3", **one, seq_kv=5 * 128).splits.parts > 1


def test_vllm_limits_flash_attention_3_to_32_parts_and_always_merges() -> None:
    """Up to 512 sequences, vLLM's ``max_cudagraph_capture_size``, because it captures CUDA graphs."""
    one = {"batch": 1, "heads": 8, "kv_heads": 1, "head_dim": 128}
    assert plan(H200, "fa3-graphs", **one, seq_kv=512).splits.parts == 4  # one block of 128 keys each
    assert plan(H200, "fa3-graphs", **one, seq_kv=131072).splits.parts == 32
    assert plan(H200, "fa3", **one, seq_kv=131072).splits.parts > 32
    short = one | {"seq_kv": 64}
    assert plan(H200, "fa3-graphs", **short).splits.merged.all()
    assert not plan(H200, "fa3", **short).splits.merged.any()
    assert not plan(H200, "fa3-graphs", **(short | {"batch": 513})).splits.merged.any()


def test_flash_attention_3_does_not_split_993_sequences() -> None:
    """Its scheduling kernel prepares at most 992 sequences.

    Beyond that the host counts the thread blocks of all sequences: 993 of them fill the units.
    """
    long = {"heads": 8, "kv_heads": 1, "head_dim": 128, "seq_kv": 131072}
    assert plan(H200, "fa3", **long, batch=992).splits.merged.all()
    assert not plan(H200, "fa3", **long, batch=993).splits.merged.any()
    assert not plan(H200, "fa3", **(long | {"heads": 64, "kv_heads": 64}), batch=993).splits.merged.any()


def test_the_merging_kernel_has_one_block_per_eight_rows_of_128_numbers() -> None:
    """``flash_fwd_combine``: a block takes 8 rows of 128 numbers, or 16 rows of 64."""
    batch, rows = np.array([3.0]), np.array([17.0])
    for width, blocks in ((64, 2), (128, 3), (256, 2 * 3)):
        assert _flash_decode.merge_blocks("fa3", batch, rows, np.array([float(width)])) == 3 * blocks
    assert _flash_decode.merge_blocks("fa2-paged", batch, rows, np.array([128.0])) == 0


def test_a_step_with_a_merge_looks_up_each_sequence_twice() -> None:
    batch = np.array([512.0, 513.0])
    sizes = (batch, np.ones(2), np.ones(2), np.full(2, 64.0), np.full(2, 128.0))
    found = _flash_decode.decode(H200, "fa3-graphs", *sizes)
    assert _flash_decode.looked_up("fa3-graphs", batch, found.splits).tolist() == [1024.0, 513.0]
    assert _flash_decode.looked_up("flashinfer", batch, found.splits) == 0


def test_flashinfer_uses_tensor_cores_from_four_query_heads_per_kv_head() -> None:
    one = {"batch": 1, "kv_heads": 1, "seq_kv": 128, "head_dim": 128}
    assert plan(L40S, "flashinfer", **one, heads=2).rows == 2
    assert plan(L40S, "flashinfer", **one, heads=4).rows == 16


@pytest.mark.parametrize(
    ("kernel", "group", "head_dim", "rows", "tiles"),
    [
        # ``seqlenq_ngroups_swapped``: the heads of a group are the rows of tiles of 64.
        ("fa2-paged", 64, 128, 64, 1),
        ("fa2-paged", 65, 128, 64, 2),
        # ``use_one_mma_wg``: 64 rows if all fit, else 128.
        ("fa3", 64, 128, 64, 1),
        ("fa3", 65, 128, 128, 1),
        # ``FA2DetermineCtaTileQ`` of the packed heads.
        ("flashinfer", 3, 128, 3, 1),
        ("flashinfer", 16, 128, 16, 1),
        ("flashinfer", 17, 128, 64, 1),
        ("flashinfer", 65, 128, 128, 1),
        ("flashinfer", 129, 128, 128, 2),
        ("flashinfer", 65, 256, 64, 2),
        # The narrow side of a matrix instruction has 8 columns or a multiple.
        ("trtllm", 8, 128, 8, 1),
        ("trtllm", 9, 128, 16, 1),
        ("trtllm", 17, 128, 32, 1),
    ],
)
def test_query_heads_of_one_kv_head_share_tiles(
    kernel: str, group: int, head_dim: int, rows: int, tiles: int
) -> None:
    """So 3 sequences of 2 KV heads have 6 thread blocks for each tile."""
    sizes = {"batch": 3, "heads": 2 * group, "kv_heads": 2, "seq_kv": 128, "head_dim": head_dim}
    found = plan(L40S, kernel, **sizes)
    assert (found.rows, found.jobs) == (rows, 3 * 2 * tiles)


def test_flash_attention_2_has_a_thread_block_for_each_head_that_shares_no_keys() -> None:
    assert plan(A100, "fa2-paged", **(SIZES | {"kv_heads": SIZES["heads"]})).jobs == 16 * 32


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_flashinfer_fills_as_many_blocks_of_a_unit_as_its_shared_memory_holds(head_dim: int) -> None:
    """Each block takes a part of the keys. Its tiles are 16 rows of Q, 64 of K and 64 of V, of 2 bytes."""
    held = min(2, L40S.shared_per_unit // (2 * head_dim * (16 + 64 + 64)))
    found = plan(L40S, "flashinfer", batch=1, heads=8, kv_heads=1, seq_kv=2**20, head_dim=head_dim)
    assert found.splits.parts == held * L40S.units


@pytest.mark.parametrize("kernel", sorted({_flash.decoding(kernel) for kernel in _flash.KERNELS}))
def test_only_flash_attention_2_copies_and_only_trtllms_blocks_reduce(kernel: str) -> None:
    found = plan(B200, kernel, **(SIZES | {"batch": 2}))
    assert (found.copies == 1) == (found.returned == 1) == kernel.startswith("fa2")
    assert (found.reduced > 0) == (kernel in ("trtllm", "fa4"))


@pytest.mark.parametrize("kernel", _flash.KERNELS)
def test_every_part_of_a_split_has_at_least_one_key_block(kernel: str) -> None:
    for seq_kv in (1, 100, 5000, 131072):
        found = plan(L40S, kernel, **(SIZES | {"batch": 1, "kv_heads": 1, "seq_kv": seq_kv}))
        assert 1 <= found.splits.parts <= max(1, np.ceil(seq_kv / min(float(np.min(found.cols)), 128)))
        if not kernel.startswith("fa3"):
            assert found.splits.merged == (found.splits.parts > 1)


def test_a_long_kv_cache_is_read_at_the_memory_bandwidth() -> None:
    found = float(decode.seconds(H200, {}, **(SIZES | {"batch": 256, "seq_kv": 16384})).seconds)
    moved = 2 * 2 * 256 * 8 * 16384 * 128
    share = decode.CONSTANTS["bandwidth_share"].default
    assert found == pytest.approx(moved / (share * H200.hbm_bandwidth), rel=0.2)
    assert found > moved / H200.hbm_bandwidth


def test_a_kv_cache_that_fits_in_l2_is_read_from_it() -> None:
    batch = np.array([1.0, 256.0])
    estimate = decode.seconds(L40S, {}, **(SIZES | {"batch": batch}))
    assert estimate.terms["hbm"][0] < 1e-3 * estimate.terms["l2"][0]
    assert estimate.terms["l2"][1] < 1e-3 * estimate.terms["hbm"][1]


def test_partial_outputs_of_splits_are_written_and_read_in_fp32() -> None:
    """Expected: 4 bytes written and 4 read per number of each part's output.

    Keys, values, queries and outputs move as well.
    """
    one = {"batch": 1, "kv_heads": 1, "seq_kv": 65536, "head_dim": 128}
    whole, parts = (plan(A100, "fa2-paged", **one, heads=n).splits.parts.item() for n in (1, 8))
    # So much other data passes through L2 in between that every byte comes from memory.
    unsplit, split = (
        decode.seconds(A100, {}, **one, heads=n, kernel="fa2-paged", passing=1e15).terms for n in (1, 8)
    )
    keys_and_values = 2 * 2 * 65536 * 128
    moved = [keys_and_values + 2 * 2 * 128, keys_and_values + 2 * 2 * 8 * 128 + 8 * parts * 8 * 128]
    assert whole == 1
    taken = [terms["hbm"] + terms["l2"] for terms in (unsplit, split)]
    assert taken[1] / taken[0] == pytest.approx(moved[1] / moved[0], rel=1e-6)


def test_the_products_are_those_of_every_query_with_every_key_and_value() -> None:
    """QKᵀ and PV, two operations a multiply-add."""
    found = decode.seconds(A100, {}, **SIZES).terms["matrix:bf16"]
    flops = sum(2 * 16 * 32 * 8192 * 128 for _ in ("QKᵀ", "PV"))
    assert found == pytest.approx(flops / A100.peak("bf16"))


def test_an_unsplit_block_streams_every_key_and_value_of_its_sequence() -> None:
    """Expected: 128 numbers of 2 bytes per key and per value, over the constant's bytes per cycle."""
    one = {"batch": 1, "heads": 1, "kv_heads": 1, "head_dim": 128, "kernel": "fa2-paged"}
    seq_kv = np.array([4096.0, 65536.0])
    short, long = decode.seconds(A100, {"stream_bytes_per_cycle": 50.0}, **one, seq_kv=seq_kv).terms["depth"]
    further = sum(2 * 128 * 2 for _ in range(65536 - 4096))
    assert (long - short) * A100.clock_hz == pytest.approx(further / 50)


@pytest.mark.parametrize("name", ["copy_cycles", "return_cycles", "launch_cycles"])
def test_copies_and_the_launch_add_their_time_to_that_of_the_blocks(name: str) -> None:
    """FlashAttention-2 copies the queries of several KV heads, and the outputs back."""
    none, some = (
        decode.seconds(A100, {name: cycles, "tick_s": 0.0}, **SIZES, kernel="fa2-paged").seconds
        for cycles in (10_000, 1_010_000)
    )
    assert (some - none) * A100.clock_hz == pytest.approx(1e6)


@pytest.mark.parametrize(("device", "kernel"), [(A100, "fa2-paged"), (H200, "fa3"), (L40S, "flashinfer")])
def test_the_units_together_stream_all_keys_and_values(device: hardware.Device, kernel: str) -> None:
    """However the keys are split, a unit takes in a fixed number of bytes per cycle."""
    batch = np.arange(1.0, 200.0)
    sizes = {"batch": batch, "heads": 8, "kv_heads": 1, "seq_kv": 65536, "head_dim": 128}
    found = decode.seconds(device, {"stream_bytes_per_cycle": 50.0}, **sizes, kernel=kernel).terms["depth"]
    least = 2 * 2 * 128 * 65536 * batch / 50 / device.units
    assert (found * device.clock_hz >= least).all()
    # With many sequences the units are busy until the last wave.
    assert found[-1] * device.clock_hz < 2.5 * least[-1]


def test_copying_queries_and_outputs_moves_their_bytes_twice() -> None:
    """Two copies of 16 × 32 × 128 numbers of 2 bytes, each read and written at the memory bandwidth."""
    sizes = {**SIZES, "kernel": "fa2-paged", "passing": 1e15}
    fast, slow = (
        decode.seconds(A100, {"bandwidth_share": share}, **sizes).terms["launch"] for share in (1.0, 0.5)
    )
    moved = 2 * 2 * 2 * 16 * 32 * 128
    assert slow - fast == pytest.approx(moved / A100.hbm_bandwidth, rel=1e-6)


@pytest.mark.parametrize(
    ("device", "kernel", "seq_kv", "launched", "working"),
    [
        (H200, "fa3", 65536, 1, 1),
        (H200, "fa3", 512, 0, 0),
        (H200, "fa3-graphs", 64, 1, 0),  # vLLM's graphs contain it even with nothing to merge
        (B200, "trtllm", 65536, 0, 0),  # the last thread block merges
    ],
)
def test_a_merging_kernel_is_launched_and_works_only_if_there_are_parts(
    device: hardware.Device, kernel: str, seq_kv: int, launched: int, working: int
) -> None:
    one = {"batch": 1, "heads": 8, "kv_heads": 1, "head_dim": 128, "seq_kv": seq_kv, "kernel": kernel}
    # Eight rows of O are one block of flash-attention 3's merging kernel.
    for name, times in (
        ("merge_cycles", launched),
        ("merge_block_cycles", launched),
        ("merge_work_cycles", working),
    ):
        none, some = (decode.seconds(device, {name: cycles}, **one).terms["launch"] for cycles in (0, 1e6))
        assert (some - none) * device.clock_hz == pytest.approx(1e6 * times, abs=1e-3), name


def test_a_block_moves_its_queries_first_tile_and_outputs_unoverlapped() -> None:
    """Rows of Q and O and one tile of keys and of values, each row of 128 numbers of 2 bytes."""
    sizes = {"batch": 1, "heads": 1, "kv_heads": 1, "head_dim": 128, "seq_kv": 512}
    tile = plan(A100, "fa2-paged", **sizes)
    assert tile.splits.parts == 1
    slow, fast = (
        decode.seconds(A100, {"row_bytes_per_cycle": rate}, **sizes, kernel="fa2-paged").terms["depth"]
        for rate in (1.0, 2.0)
    )
    moved = 2 * 128 * 2 * (tile.rows + tile.cols).item()
    assert (slow - fast) * A100.clock_hz == pytest.approx(moved / 2)


def test_blocks_that_share_a_kv_head_reduce_its_rows_in_fp32() -> None:
    """trtllm: 16 heads of 128 on one key are 16 · 128 · 4 bytes, where half of the units are free."""
    sizes = {"heads": 16, "kv_heads": 1, "seq_kv": 64, "head_dim": 128, "kernel": "trtllm"}

    def added(batch: int) -> float:
        slow, fast = (
            decode.seconds(B200, {"reduce_bytes_per_cycle": rate}, batch=batch, **sizes).terms["depth"]
            for rate in (10.0, 40.0)
        )
        return float(slow - fast)

    half = B200.units // 2
    assert added(half) == pytest.approx(16 * 128 * 4 * (1 / 10 - 1 / 40) / B200.clock_hz)
    assert added(half + 1) == 0


def test_a_cache_of_half_the_width_takes_half_the_time_where_memory_limits() -> None:
    big = SIZES | {"batch": 256, "seq_kv": 16384}
    wide, narrow = (decode.seconds(H200, {}, **big, kv_dtype=kind).seconds for kind in ("bf16", "fp8"))
    assert narrow / wide == pytest.approx(0.5, abs=0.1)


def test_decoding_after_one_key_takes_little_more_than_the_launch() -> None:
    one = {"batch": 1, "heads": 1, "kv_heads": 1, "seq_kv": 1, "head_dim": 128}
    launch = decode.CONSTANTS["launch_cycles"].default / H200.clock_hz
    assert launch < float(decode.seconds(H200, {}, **one).seconds) < 2 * launch


def test_constants_fitted_on_two_thirds_of_a_cell_predict_the_rest(shared: Path) -> None:
    pd = pytest.importorskip("pandas")
    from costmodel.validation import cells, fit_attention  # noqa: PLC0415

    table = pd.read_parquet(shared / "measurements" / "attention.parquet")
    cell = (table.gpu == "h200-sxm") & (table.op == "attention_decode")
    rows = table[cell & table.framework.str.startswith("vllm")].sort_values("row_id")
    held = np.arange(len(rows)) % 3 == 0
    constants = fit_attention.fit(rows[~held], H200, {})
    unseen = rows[held]
    predicted = decode.seconds(H200, constants, **cells.arguments(unseen, H200))
    assert np.mean(np.abs(predicted.seconds / unseen.latency_s.to_numpy(dtype=float) - 1)) < 0.07


def test_lengths_of_vllm_0_14_rows_on_a100_do_not_include_the_new_token(shared: Path) -> None:
    """All recorded lengths are powers of two."""
    pd = pytest.importorskip("pandas")
    from costmodel.validation import cells  # noqa: PLC0415

    table = pd.read_parquet(shared / "measurements" / "attention.parquet")
    rows = table[(table.gpu == "a100-sxm-80gb") & (table.op == "attention_decode")]
    lengths = cells.arguments(rows, A100)["seq_kv"]
    assert (np.log2(lengths) % 1 == 0).all()


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("a100-sxm-80gb", "bf16"),
        ("a100-sxm-80gb", "fp32"),
        ("h200-sxm", "fp32"),
        ("p100-sxm2-16gb", "fp16"),
        ("mi300x", "fp32"),
        ("tpu-v5e", "fp32"),
        ("xeon-8480plus", "bf16"),
    ],
)
def test_many_query_heads_per_key_take_at_least_their_flops_over_the_peak(device: str, dtype: str) -> None:
    """DeepSeek-V3's 128 heads share a latent: 2·128·(2·512 + 64) FLOP for 576 numbers.

    That is above the ridge point of an A100's roofline.
    """
    chip = cm.hardware.load(device)
    sizes = {"batch": 64, "heads": 128, "seq_kv": 8192}
    latent = {"seq": 1, "head_dim": 128, "d_model": 7168, "q_rank": 1536, "kv_rank": 512, "rope_dim": 64}
    flops = {"mla": 2 * 64 * 128 * 8192 * (2 * 512 + 64), "decode-attention": 4 * 64 * 128 * 8192 * 128}
    for layer, own in (
        (cm.MLA(dtype=dtype, absorbed=True), latent),
        (cm.DecodeAttention(dtype=dtype), {"kv_heads": 1, "head_dim": 128}),
    ):
        p = cm.predict(layer, chip, rung="kernel", **sizes, **own)
        (core,) = (phase for phase in p.phases if "attention" in phase["phase"])
        assert core["matrix_flops"] == flops[layer.name]
        assert core["seconds"] >= flops[layer.name] / chip.boost_peak(dtype)
