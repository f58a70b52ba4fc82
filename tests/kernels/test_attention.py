"""Prefill attention: counts against torch, limits by algebra, accuracy against recorded measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costmodel import hardware
from costmodel.errors import UnknownNameError
from costmodel.kernels import _flash, _flash_splits, attention, decode

H200 = hardware.load("nvidia/h200-sxm")
L40S = hardware.load("nvidia/l40s")
#: Without power draw nothing is throttled, so each term is a count over a rate.
COOL = {"energy_j": 0.0}
SIZES = {"batch": 4, "heads": 32, "kv_heads": 8, "seq": 4096, "head_dim": 128}


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_matrix_term_is_torchs_flops_over_the_peak(head_dim: int) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    query = torch.empty(2, 4, 1536, head_dim, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    estimate = attention.seconds(
        L40S, {**COOL, "matrix_efficiency": 1.0}, batch=2, heads=4, kv_heads=4, seq=1536, head_dim=head_dim,
        causal=False, kernel="fa2",
    )  # fmt: skip
    expected = counter.get_total_flops() / L40S.peak("bf16", "matrix")
    assert estimate.terms["matrix:bf16"] == pytest.approx(expected)


@pytest.mark.parametrize(("direction", "products"), [("fwd", [128, 64]), ("bwd", [128, 64, 64, 128, 128])])
def test_matrix_flops_use_the_width_of_keys_or_of_values(direction: str, products: list[int]) -> None:
    """Expected: the products of FlashAttention (arXiv:2205.14135, B.4) and the width of each.

    Forward QKᵀ and PV; backward QKᵀ again, dO·Vᵀ and PᵀdO (values), dS·K and dSᵀQ (keys).
    """
    found = attention.seconds(
        L40S, {**COOL, "matrix_efficiency": 1.0}, batch=2, heads=4, kv_heads=4, seq=1536, head_dim=128,
        value_dim=64, causal=False, kernel="fa2", direction=direction,
    )  # fmt: skip
    flops = sum(2 * 2 * 4 * 1536**2 * width for width in products)
    assert found.terms["matrix:bf16"] == pytest.approx(flops / L40S.peak("bf16", "matrix"))


def test_a_causal_kernel_computes_the_diagonal_tiles_whole() -> None:
    tiles = 4096 // 128
    full = attention.seconds(H200, COOL, **SIZES, causal=False, kernel="trtllm").terms["matrix:bf16"]
    half = attention.seconds(H200, COOL, **SIZES, causal=True, kernel="trtllm").terms["matrix:bf16"]
    # Tiles of 256 × 64: row block i (of 16) visits 4(i + 1) of the 64 column tiles.
    assert half / full == pytest.approx(sum(4 * (i + 1) for i in range(tiles // 2)) / (tiles // 2 * 64))


@pytest.mark.parametrize("sizes", [{"seq": 1, "seq_kv": 2**20}, {"seq": 2**20, "seq_kv": 1}, {"seq": 2**16}])
@pytest.mark.parametrize("value_dim", [64, 128])
def test_memory_moves_each_operand_once(sizes: dict[str, int], value_dim: int) -> None:
    """Q and O have the query heads, K and V the KV heads; backward moves all of it twice.

    The operands are far larger than any cache.
    """
    given = {"batch": 4, "heads": 32, "kv_heads": 8, "head_dim": 128} | sizes
    keys = sizes.get("seq_kv", sizes["seq"])
    operands = {"Q": 32 * sizes["seq"] * 128, "O": 32 * sizes["seq"] * value_dim}
    operands |= {"K": 8 * keys * 128, "V": 8 * keys * value_dim}
    once, twice = (
        attention.seconds(
            H200, {"bandwidth_share": 1.0}, **given, value_dim=value_dim, causal=False, kernel="fa2",
            direction=direction,
        ).terms["hbm"]
        for direction in ("fwd", "bwd")
    )  # fmt: skip
    assert once == pytest.approx(2 * 4 * sum(operands.values()) / H200.hbm_bandwidth, rel=1e-3)
    assert twice == pytest.approx(2 * once)


def test_head_sizes_are_padded_to_the_next_compiled_one() -> None:
    sizes = SIZES | {"head_dim": np.array([72.0, 80.0, 96.0])}
    products = attention.seconds(L40S, COOL, **sizes, kernel="fa2").terms["matrix:bf16"]
    assert np.ptp(products) == 0


def test_no_call_is_faster_than_its_flops_at_the_boost_clock() -> None:
    seq = np.array([256.0, 2048.0, 16384.0])
    found = attention.seconds(H200, {}, **(SIZES | {"seq": seq}), causal=False).seconds
    flops = 4 * 4 * 32 * seq**2 * 128
    assert (found > flops / H200.boost_peak("bf16")).all()


def test_time_is_quadratic_in_long_sequences_and_at_least_the_launch() -> None:
    seconds = attention.seconds(H200, {}, **(SIZES | {"seq": np.array([1.0, 32768.0, 65536.0])})).seconds
    launch = attention.CONSTANTS["launch_cycles"].default / H200.clock_hz
    assert launch < seconds[0] < 2 * launch
    assert seconds[2] / seconds[1] == pytest.approx(4, rel=0.02)


def test_time_at_the_power_limit_scales_with_the_cube_root_of_the_power() -> None:
    """Power is ∝ V² f and the voltage follows the clock: an eighth of the power is half the clock."""
    long = SIZES | {"batch": 64, "seq": 32768}
    slow, slower = (
        attention.seconds(H200.replace(power=power), {"energy_j": 1e-11}, **long).seconds
        for power in ("200 W", "25 W")
    )
    assert slower / slow == pytest.approx(2, rel=0.1)


def test_twice_the_clock_halves_a_call_that_memory_does_not_limit() -> None:
    small = SIZES | {"batch": 1, "heads": 1, "kv_heads": 1, "seq": 64}
    once, twice = (
        attention.seconds(H200.replace(clock=clock), {}, **small).seconds for clock in ("1 GHz", "2 GHz")
    )
    assert once / twice == pytest.approx(2, rel=0.05)


def test_scalars_and_arrays_agree() -> None:
    seq = np.array([100.0, 1000.0, 10000.0])
    together = attention.seconds(L40S, {}, **(SIZES | {"seq": seq}), kernel="flashinfer").seconds
    apart = [attention.seconds(L40S, {}, **(SIZES | {"seq": n}), kernel="flashinfer").seconds for n in seq]
    assert together.tolist() == [float(one) for one in apart]


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("keys", [1, 128, 129, 1000, 2048, 4096, 8192, 16384, 40000])
def test_heads_that_fit_l2_run_their_longest_blocks_together(head_dim: int, keys: int) -> None:
    """Expected: ``get_nheads_in_l2`` of flash-attention 3's ``flash_prepare_scheduler.cu``, heads packed."""
    device = hardware.load("nvidia/h200-sxm")
    sizes = (np.asarray(float(size)) for size in (keys, 1, head_dim, keys))
    tiling = _flash.prefill(device, "fa3", *sizes, causal=True)
    cols = int(tiling.cols)
    most, tiles = 8 * 1024 * 1024 // (cols * 2 * head_dim * 2), -(-keys // cols)
    assert tiling.together == next((heads for heads in (16, 8, 4, 2) if tiles * heads <= most), 1)


def test_sixteen_sequences_of_one_head_take_longer_than_one_of_sixteen_heads() -> None:
    """Both have the same row blocks, but those of 16 sequences are scheduled one sequence after another.

    The long blocks of the last sequence therefore start late.
    """
    device = hardware.load("nvidia/h200-sxm")
    many, few = (
        float(attention.seconds(device, {}, batch=b, heads=h, kv_heads=h, seq=2048, head_dim=128).seconds)
        for b, h in ((1, 16), (16, 1))
    )
    assert few > 1.2 * many


def test_tiles_that_the_diagonal_cuts_are_masked() -> None:
    """Expected: ``n_masking_steps`` of flash-attention's kernels.

    With 128 rows and 64 keys the diagonal cuts two tiles, and one more is masked; without a causal mask, only
    the last tile is.
    """
    for rows, cols, cut in ((128.0, 64.0, 3), (64.0, 256.0, 2), (64.0, 128.0, 2)):
        tile = _flash.Tiling(*(np.array(size) for size in (rows, cols, 1.0, 1.0, 0.0)))
        assert _flash.masked_tiles(tile, causal=True) == cut
        assert _flash.masked_tiles(tile, causal=False) == 1
    packed = _flash.Tiling(*(np.array(size) for size in (128.0, 64.0, 8.0, 1.0, 0.0)))
    assert _flash.masked_tiles(packed, causal=True) == 2  # 128 rows are 16 queries of 8 heads


def test_a_step_of_half_the_keys_is_half_as_long_where_loads_are_prefetched() -> None:
    tile = _flash.Tiling(*(np.array(size) for size in (256.0, 64.0, 1.0, 1.0, 0.0)))
    assert _flash.step_share("trtllm", tile) == 0.5
    assert _flash.step_share("flashinfer", tile) == 1


#: Nothing takes time but the steps' arithmetic.
ARITHMETIC = COOL | dict.fromkeys(("step_cycles", "block_cycles", "launch_cycles", "mask_cost"), 0.0)
ARITHMETIC |= dict.fromkeys(("row_bytes_per_cycle", "bandwidth_share", "l2_unit_bytes"), 1e12)


def test_a_thread_block_alone_on_its_unit_has_all_of_it() -> None:
    """FlashInfer's blocks share a unit in pairs: as many as units take half as long as twice as many."""
    sizes = {"heads": 1, "kv_heads": 1, "seq": 128, "head_dim": 128, "causal": False, "kernel": "flashinfer"}
    batch = L40S.units * np.array([0.5, 1.0, 2.0])
    some, one, two = attention.seconds(L40S, ARITHMETIC, **sizes, batch=batch).seconds
    assert some == pytest.approx(one, rel=1e-6)
    assert two == pytest.approx(2 * one, rel=1e-6)


def test_a_window_as_long_as_the_sequence_is_none_and_a_shorter_one_is_masked_at_its_beginning_too() -> None:
    sizes = SIZES | {"batch": 64, "seq": 2048, "kernel": "fa2"}
    masks = COOL | {"mask_cost": 6.0}

    def masking(window: int | None) -> Any:
        free, masked = (attention.seconds(H200, c, **sizes, window=window) for c in (COOL, masks))
        return masked.seconds - free.seconds

    free, whole = (attention.seconds(H200, masks, **sizes, window=window).seconds for window in (None, 2048))
    assert whole == free
    # Of 128 rows against 64 keys two tiles and one more lie on the diagonal, two on the window's beginning.
    assert masking(1024) == pytest.approx(masking(None) * 5 / 3, rel=0.05)


def test_partial_outputs_are_written_and_read_in_fp32_and_merged() -> None:
    """FlashInfer cuts 1,280 keys of a row block into ten parts of 128: 4 bytes of each there, 4 back."""
    one = {"batch": 1, "heads": 1, "kv_heads": 1, "seq": 128, "seq_kv": 1280, "head_dim": 128}
    given = COOL | {"merge_cycles": 7000.0, "l2_unit_bytes": 100.0}
    whole, split = (
        attention.seconds(L40S, given, **one, causal=False, kernel=kernel).terms["l2"]
        for kernel in ("fa2", "flashinfer")
    )
    bytes_a_cycle = 100.0 * L40S.units
    cycles = 7000 + (4 + 4) * 10 * 128 * 128 / bytes_a_cycle
    assert split - whole == pytest.approx(cycles / L40S.clock_hz, rel=1e-6)


@pytest.mark.parametrize("model", [attention, decode])
def test_libraries_that_prepare_a_call_launch_a_kernel_more(model: Any) -> None:
    sizes = {"batch": 1, "heads": 8, "kv_heads": 8, "head_dim": 128}
    sizes |= {"seq": 128} if model is attention else {"seq_kv": 64}
    given = {"launch_cycles": 9000.0, "merge_cycles": 0.0}
    given |= {} if model is attention else {"sequence_cycles": 0.0}
    plain, prepared = (
        model.seconds(H200, given, **sizes, kernel=kernel).terms["launch"] for kernel in ("fa2", "fa3")
    )
    assert plain == pytest.approx(9000 / H200.clock_hz)
    assert prepared == pytest.approx((9000 + 4000) / H200.clock_hz)


@pytest.mark.parametrize(
    ("name", "kernel", "causal", "head_dim", "rows", "cols"),
    [
        # flash_fwd_launch_template.h: run_mha_fwd_hdim64, 96 and 128, of Hopper 256, of which two blocks fit.
        ("nvidia/h200-sxm", "fa2", False, 64, 128, 128),
        ("nvidia/h200-sxm", "fa2", True, 96, 128, 64),
        ("nvidia/h200-sxm", "fa2", True, 128, 128, 64),
        ("nvidia/h200-sxm", "fa2", True, 192, 128, 64),
        ("nvidia/h200-sxm", "fa2", True, 256, 64, 64),
        # is_sm8x: compute capability 8.6 and 8.9.
        ("nvidia/l40s", "fa2", True, 64, 128, 128),
        ("nvidia/l40s", "fa2", True, 96, 64, 64),
        ("nvidia/l40s", "fa2", False, 96, 128, 64),
        ("nvidia/l40s", "fa2", True, 128, 64, 64),
        ("nvidia/a40", "fa2", False, 128, 128, 32),
        ("nvidia/l40s", "fa2", True, 192, 128, 64),
        # "For A100, we want to run with 128 x 64 (128KB smem)"; a block of Ada may have 99 KiB.
        ("nvidia/a100-sxm-80gb", "fa2", False, 256, 128, 64),
        ("nvidia/l40s", "fa2", False, 256, 64, 64),
        # 8.0 and 12.0 are neither.
        ("nvidia/a100-sxm-80gb", "fa2", True, 128, 128, 64),
        ("nvidia/rtx-5090", "fa2", True, 128, 128, 64),
        # run_mha_fwd_splitkv_dispatch: 64 rows of any head size.
        ("nvidia/h200-sxm", "fa2-paged", True, 64, 64, 256),
        ("nvidia/h200-sxm", "fa2-paged", True, 128, 64, 128),
        ("nvidia/h200-sxm", "fa2-paged", True, 256, 64, 64),
        # hopper/tile_size.h: tile_size_fwd_sm90, 16 bit.
        ("nvidia/h200-sxm", "fa3", True, 64, 192, 128),
        ("nvidia/h200-sxm", "fa3", False, 64, 192, 192),
        ("nvidia/h200-sxm", "fa3", True, 96, 192, 144),
        ("nvidia/h200-sxm", "fa3", False, 96, 192, 144),
        ("nvidia/h200-sxm", "fa3", True, 128, 128, 128),
        ("nvidia/h200-sxm", "fa3", False, 128, 128, 176),
        # 192: V of up to 128, as multi-head latent attention has it.
        ("nvidia/h200-sxm", "fa3", True, 192, 128, 128),
        ("nvidia/h200-sxm", "fa3", False, 192, 128, 128),
        ("nvidia/h200-sxm", "fa3", True, 256, 128, 80),
        ("nvidia/h200-sxm", "fa3", False, 256, 128, 80),
    ],
)
def test_tiles_are_those_that_the_libraries_are_compiled_with(
    name: str, kernel: str, causal: bool, head_dim: int, rows: int, cols: int
) -> None:
    seq, group, size = (np.asarray(float(n)) for n in (4096, 1, head_dim))
    tile = _flash.prefill(hardware.load(name), kernel, seq, group, size, seq, causal)
    assert (tile.rows, tile.cols) == (rows, cols)


@pytest.mark.parametrize("head_dim", [64, 128, 192, 256])
def test_flashinfers_rows_go_by_the_packed_length(head_dim: int) -> None:
    """``FA2DetermineCtaTileQ``: 16 rows up to 16, 64 up to 64 or where heads are wide, else 128."""
    for seq, group in ((1, 16), (17, 1), (4, 16), (65, 1), (1024, 8)):
        expected = 128 if seq * group > 64 and head_dim < 256 else 64 if seq * group > 16 else 16
        sizes = (np.asarray(float(n)) for n in (seq, group, head_dim, seq))
        assert _flash.prefill(L40S, "flashinfer", *sizes, causal=True).rows == expected


@pytest.mark.parametrize("name", ["nvidia/a100-sxm-80gb", "nvidia/h200-sxm", "nvidia/l40s", "nvidia/t4"])
@pytest.mark.parametrize("head_dim", [64, 96, 128, 192, 256])
@pytest.mark.parametrize("seq", [1, 64, 4096])
def test_thread_blocks_share_a_unit_where_their_tiles_fit_its_shared_memory(
    name: str, head_dim: int, seq: int
) -> None:
    """A tile of Q, one of K, one of V, of 2 bytes; of flash-attention's the system keeps a KiB, too.

    Blocks of eight warps (``Flash_fwd_kernel_traits<Headdim, 128, 64, 8, …>``, heads above 128) have the
    registers of two of four, so that no two share a unit.
    """
    device = hardware.load(name)
    sizes = [np.asarray(float(n)) for n in (seq, 1, head_dim, 4096)]
    for kernel, kept in (("fa2", 1024), ("fa2-paged", 1024), ("flashinfer", 0)):
        tile = _flash.prefill(device, kernel, *sizes, causal=True)
        block = sum(2 * head_dim * n for n in (tile.rows, tile.cols, tile.cols)) + kept
        found = tile.slots if kernel == "flashinfer" else tile.overlapping
        eight_warps = kernel == "fa2" and head_dim > 128 and tile.rows == 128
        assert found == (2 if 2 * block <= device.shared_per_unit and not eight_warps else 1), kernel


def test_splitting_the_keys_helps_one_long_head() -> None:
    one = {"batch": 1, "heads": 1, "kv_heads": 1, "seq": 8192, "head_dim": 128}
    split = attention.seconds(H200, {}, **one, kernel="fa3", causal=False).seconds
    whole = attention.seconds(H200, {}, **one, kernel="fa2", causal=False).seconds
    assert split < 0.7 * whole


@pytest.mark.parametrize("tiles", [1, 4, 30, 200])
@pytest.mark.parametrize("keys", [100, 1024, 20000])
def test_flashinfer_splits_keys_as_its_binary_search_does(tiles: int, keys: int) -> None:
    """``PrefillBinarySearchKVChunkSize`` takes the shortest chunk of at least 128 keys whose parts fit."""
    most = 2 * L40S.units
    shortest = next((n for n in range(128, keys) if tiles * -(-keys // n) <= most), keys)
    found = _flash_splits.prefill_splits(
        "flashinfer",
        L40S.units,
        np.array([1.0]),
        np.array([float(tiles)]),
        np.array([float(keys)]),
        np.array([9.0]),
    )
    parts = int(found.parts[0])
    assert -(-keys // -(-keys // parts)) == -(-keys // shortest)


def test_writing_the_cache_token_by_token_costs_more_than_its_bytes() -> None:
    small = SIZES | {"kv_heads": 1, "heads": 1, "batch": 64, "seq": 128}
    none, by_bytes, by_token = (
        float(attention.seconds(H200, {}, **small, cache_write=way).seconds)
        for way in ("none", "bytes", "token")
    )
    assert none < by_bytes < by_token
    # vLLM's kernel takes 512 threads for a token of 8 × 128 numbers, and a unit holds 2,048: ten times
    # as many tokens as four blocks on each of 132 units are ten waves.
    slow, wide = {"token_cycles": 60000.0}, SIZES | {"batch": 1, "seq": 10 * 4 * 132}
    none, by_token = (attention.seconds(H200, slow, **wide, cache_write=way) for way in ("none", "token"))
    assert by_token.seconds - none.seconds == pytest.approx(10 * 60000 / H200.clock_hz, rel=1e-4)


@pytest.mark.parametrize(("model", "length"), [(attention, "seq"), (decode, "seq_kv")])
def test_the_ramp_up_delays_reads_from_memory_but_not_from_l2(model: Any, length: str) -> None:
    """L2 has 50 MB: operands of gigabytes come from memory, those of a megabyte from L2."""
    sizes = {"heads": 8, "kv_heads": 8, "head_dim": 128, length: 128}
    for batch, ramps in ((1, 0.0), (4096, 1.0)):
        plain, begun = (
            model.seconds(H200, {"ramp_cycles": cycles}, batch=batch, **sizes) for cycles in (0.0, 5000.0)
        )
        later = ramps * 5000 / H200.clock_hz
        assert begun.seconds - plain.seconds == pytest.approx(later, rel=1e-6, abs=1e-9)
        assert begun.terms["hbm"] - plain.terms["hbm"] == pytest.approx(later, rel=1e-6, abs=1e-9)


def test_flash_attention_3_loads_whole_tiles_and_stores_only_valid_rows() -> None:
    """Expected: the bytes of O that a thread block of head size 128 does not store, at 4 bytes per cycle."""
    slow = {"row_bytes_per_cycle": 4.0, "block_cycles": 0.0, "step_cycles": 0.0}
    one = {"batch": 1, "heads": 1, "kv_heads": 1, "head_dim": 128, "seq_kv": 128}
    few, full = (attention.seconds(H200, slow, **one, seq=rows).terms["depth"] for rows in (65, 128))
    stored = 2 * 128 * (128 - 65)  # rows of O that do not exist, in 16 bits; Q's tile always has 128
    assert full - few == pytest.approx(stored / 4 / H200.clock_hz, rel=0.02)


def test_an_unknown_kernel_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"attention kernel 'fa9'.*fa2"):
        attention.seconds(H200, {}, **SIZES, kernel="fa9")


@pytest.mark.parametrize(
    ("device", "label", "framework", "causal", "expected"),
    [
        ("nvidia/h200-sxm", "vllm_flash_attn_fa3", "vllm 0.24.0", True, "fa3-graphs"),
        ("nvidia/h200-sxm", "vllm_vit_flash_attn_fa3", "vllm 0.24.0", False, "fa3"),
        ("nvidia/h100-sxm", "", "vllm 0.24.0", True, "fa3-graphs"),
        ("nvidia/a100-sxm-80gb", "vllm_flash_attn", "vllm 0.14.0", True, "fa2-paged"),
        ("nvidia/b200-sxm", "vllm_vit_flash_attn_fa4", "vllm 0.24.0", False, "fa4"),
        ("nvidia/b200-sxm", "vllm_flashinfer_trtllmprefill", "vllm 0.24.0", True, "trtllm"),
        ("nvidia/l40s", "vllm_flash_attn_fa2", "vllm 0.24.0", True, "fa2-paged"),
        ("nvidia/l40s", "vllm_vit_flash_attn_fa2", "vllm 0.24.0", False, "fa2"),
        ("nvidia/a100-sxm-80gb", "flash_attention", "sglang 0.5.10", True, "flashinfer"),
        ("nvidia/h100-sxm", "flash_attention", "sglang 0.5.9", True, "fa3"),
        ("nvidia/l4", "", "", True, "fa2"),
        (
            "nvidia/h200-sxm",
            "sdpa flash",
            "pytorch 2.11.0",
            True,
            "fa2",
        ),  # torch's flash backend is version 2
        ("nvidia/h200-sxm", "sdpa efficient", "pytorch 2.11.0", False, "fa2"),
        ("nvidia/h200-sxm", "sdpa cudnn", "pytorch 2.11.0", True, "fa3"),
        ("nvidia/b200-sxm", "FlashAttention-2", "", False, "fa2"),
        ("nvidia/b200-sxm", "flash_attention_4", "", True, "fa4"),
        ("nvidia/b200-sxm", "flash-attn v2.8", "", True, "fa2"),
        ("nvidia/h200-sxm", "vllm_flash_attn", "", False, "fa2"),
        ("amd/mi300x", "FlashAttention-2", "", True, "ck"),
        ("amd/mi300x", "fa2", "", True, "ck"),
        ("amd/mi300x", "", "vllm 0.24.0", True, "ck"),
        ("amd/mi300x", "sdpa flash", "pytorch 2.11.0", True, "triton"),
        ("amd/mi355x", "fmha_v3_fwd", "", False, "aiter"),
        ("amd/mi355x", "", "aiter", True, "aiter"),
        ("amd/mi355x", "triton", "aiter", True, "triton"),
    ],
)
def test_label_and_framework_of_a_measurement_select_the_kernel(
    device: str, label: str, framework: str, causal: bool, expected: str
) -> None:
    assert _flash.kernel_named(hardware.load(device), label, framework, causal) == expected


@pytest.mark.parametrize(("device", "exponentials"), [("amd/mi300x", 16), ("amd/mi355x", 32)])
def test_a_softmax_on_amd_issues_its_instructions_one_after_another(device: str, exponentials: int) -> None:
    """A score: an exponential at that rate per unit and cycle, and four instructions on 64 lanes.

    Maximum, scaling with subtraction, sum, conversion; rates of transcendental and other vector instructions:
    AMD's instruction set manuals of CDNA 3 and 4.
    """
    chip = hardware.load(device)
    found = attention.seconds(
        chip,
        {**COOL, "softmax_cost": 1.0},
        batch=2,
        heads=4,
        kv_heads=4,
        seq=2048,
        head_dim=128,
        causal=False,
    )
    cycles = 2 * 4 * 2048**2 * (1 / exponentials + 4 / 64) / chip.units
    assert found.terms["special:fp32"] == pytest.approx(cycles / chip.clock_hz, rel=1e-3)


def test_only_library_names_select_a_kernel() -> None:
    for name in (
        "aiter",
        "ck",
        "composable_kernel",
        "sdpa flash",
        "vllm_flash_attn",
        "vllm_flash_attn_fa3",
        "trtllm_mha",
        "FlashInfer",
        "FA v4",
    ):
        assert _flash.says(name)
    for name in ("", "sdpa cudnn", "my_attention"):
        assert not _flash.says(name)


@pytest.mark.parametrize(
    ("device", "share"), [("nvidia/h200-sxm", 0.63), ("nvidia/b200-sxm", 0.25), ("nvidia/a100-sxm-80gb", 1.0)]
)
def test_flash_attention_2_reaches_the_peak_of_warp_level_instructions(device: str, share: float) -> None:
    """63 % of an H800's peak (arXiv:2402.13499, IV.C); on a B200, 2,048 operations per unit and cycle."""
    chip, sizes = hardware.load(device), SIZES | {"seq": 8192}
    for kernel in ("fa2", "flashinfer"):
        assert _flash.peak_share(chip, kernel) == share
    assert _flash.peak_share(chip, "fa3") == 1
    products = attention.seconds(chip, COOL, **sizes, causal=False, kernel="fa2").terms["matrix:bf16"]
    peak = chip.peak("bf16") * attention.CONSTANTS["matrix_efficiency"].default
    assert products == pytest.approx(4 * 4 * 32 * 8192**2 * 128 / (share * peak))
    if share == 0.25:
        assert share * chip.peak("bf16", "matrix") / (chip.units * 1.856e9) == pytest.approx(2048, rel=0.01)


@pytest.mark.parametrize(
    ("device", "kernel", "direction", "emulates"),
    [
        ("nvidia/b200-sxm", "fa4", "fwd", True),
        ("nvidia/gb200", "fa4", "fwd", True),
        ("nvidia/gb300", "fa4", "fwd", False),  # its hardware does 32 exponentials per cycle
        ("nvidia/b200-sxm", "fa4", "bwd", False),
        ("nvidia/b200-sxm", "trtllm", "fwd", False),
        ("nvidia/h200-sxm", "fa4", "fwd", False),
    ],
)
def test_flash_attention_4_evaluates_some_exponentials_as_polynomials(
    device: str, kernel: str, direction: str, emulates: bool
) -> None:
    """Expected: a loop over pairs like the kernel's.

    Polynomials take the last 4 of every 16 numbers, except in the first and last 32 of 128.
    """
    parts, freq, res, start = 128 // 32, 16, 4, 1
    pairs = [(part, at) for part in range(parts) for at in range(0, 32, 2)]
    polynomial = [at % freq >= freq - res and start <= part < parts - 1 for part, at in pairs]
    assert 0.1 <= np.mean(polynomial) <= 0.25  # the range that the paper states
    one = hardware.load(device)
    causal = {"causal": False, "kernel": kernel, "direction": direction}
    found = attention.seconds(one, {**COOL, "softmax_cost": 1.0}, **SIZES, **causal)
    again = 2 if direction == "bwd" else 1
    every = again * 4 * 32 * 4096**2 / one.peak("fp32", "special")
    share = 1 - np.mean(polynomial) if emulates else 1
    assert found.terms["special:fp32"] == pytest.approx(every * share)


def test_fa4_pads_heads_of_72_and_80_to_128() -> None:
    """This explains rates measured on B200: heads of 64, 72 and 80 reach 945, 816 and 931 TFLOP/s."""
    sizes = SIZES | {"head_dim": np.array([64.0, 72.0, 80.0, 128.0])}
    found = attention.seconds(hardware.load("nvidia/b200-sxm"), COOL, **sizes, causal=False, kernel="fa4")
    products = found.terms["matrix:bf16"]
    assert products[1:] == pytest.approx(np.full(3, products[3]))
    assert products[0] == pytest.approx(products[3] / 2)


def test_constants_fitted_on_two_thirds_of_a_cell_predict_the_rest(shared: Path) -> None:
    pd = pytest.importorskip("pandas")
    from costmodel.validation import cells, fit_attention  # noqa: PLC0415

    table = pd.read_parquet(shared / "measurements" / "attention.parquet")
    cell = (table.gpu == "a100-sxm-80gb") & (table.op == "attention_prefill")
    rows = table[cell & table.framework.str.startswith("vllm")].sort_values("row_id")
    device, held = hardware.load("nvidia/a100-sxm-80gb"), np.arange(len(rows)) % 3 == 0
    constants = fit_attention.fit(rows[~held], device, {})
    unseen = rows[held]
    predicted = attention.seconds(device, constants, **cells.arguments(unseen, device))
    error = np.abs(predicted.seconds / unseen.latency_s.to_numpy(dtype=float) - 1)
    assert np.mean(error) < 0.05
    for name, constant in attention.CONSTANTS.items():
        assert constant.low <= constants[name] <= constant.high


def test_vllms_masks_cost_less_with_4_8_or_16_query_heads_per_kv_head(shared: Path) -> None:
    """Relative to a prediction that treats all groups alike, measured calls with these groups are shorter."""
    pd = pytest.importorskip("pandas")
    from costmodel import calibration  # noqa: PLC0415
    from costmodel.validation import cells  # noqa: PLC0415

    table = pd.read_parquet(shared / "measurements" / "attention.parquet")
    cell = (table.gpu == "h200-sxm") & (table.op == "attention_prefill")
    rows = table[
        cell & table.framework.str.startswith("vllm") & (table.seq_q <= 512) & (table.latency_s > 4e-5)
    ]
    (section,) = (
        s for s in calibration.load("nvidia/h200-sxm") if (s.op, s.framework) == ("attention_prefill", "vllm")
    )
    alike = {**cells.arguments(rows, H200), "kernel": "fa3"}
    measured = rows.latency_s.to_numpy(dtype=float)
    times = pd.Series(measured / attention.seconds(H200, section.constants, **alike).seconds)
    by_group = times.groupby((rows.heads_q / rows.heads_kv).to_numpy()).agg(["size", "median"])
    compiled = by_group.index.isin([4.0, 8.0, 16.0])
    known = (by_group["size"] >= 5) & (by_group.index > 2)
    assert by_group[compiled & known]["median"].max() < by_group[~compiled & known]["median"].min()
    own = attention.seconds(H200, section.constants, **cells.arguments(rows, H200)).seconds
    assert np.abs(own / measured - 1).mean() < np.abs(1 / times - 1).mean() - 0.01
    assert _flash.mask_share("fa3", np.array(8.0)) == 1.0  # SGLang's kernel treats all groups alike


@pytest.mark.parametrize("framework", ["sglang", "vllm"])
def test_tensorrt_llms_kernels_are_faster_with_power_of_two_head_counts(shared: Path, framework: str) -> None:
    """Relative to a prediction that treats all head counts alike, measured calls with 4, 8, … are shorter."""
    pd = pytest.importorskip("pandas")
    from costmodel import calibration  # noqa: PLC0415
    from costmodel.validation import cells  # noqa: PLC0415

    b200 = hardware.load("nvidia/b200-sxm")
    table = pd.read_parquet(shared / "measurements" / "attention.parquet")
    cell = (table.gpu == "b200-sxm") & (table.op == "attention_prefill") & (table.latency_s > 2e-5)
    rows = table[cell & table.framework.str.startswith(framework) & (table.seq_q <= 4096)]
    (section,) = (
        s for s in calibration.load(b200.name) if (s.op, s.framework) == ("attention_prefill", framework)
    )
    arguments = cells.arguments(rows, b200)
    assert arguments["kernel"] == "trtllm"
    measured = rows.latency_s.to_numpy(dtype=float)
    # Slightly more heads are as much work for the model, but never a power of two.
    alike = {**arguments, "heads": arguments["heads"] * (1 + 1e-9)}
    times = measured / attention.seconds(b200, section.constants, **alike).seconds
    doubled = rows.heads_q.isin([1, 2, 4, 8, 16, 32, 64, 128]).to_numpy()
    assert np.median(times[doubled]) < 0.985 * np.median(times[~doubled])
    own = attention.seconds(b200, section.constants, **arguments).seconds
    assert np.abs(own / measured - 1).mean() < np.abs(1 / times - 1).mean()
