"""What products move, worked out by hand: operands, scales, copies between two uses, repeated reads."""

from typing import Any

import numpy as np
import pytest

from costmodel import hardware
from costmodel.kernels import _operands as operands
from costmodel.kernels._operands import Problem

A100, H200, B200 = (hardware.load(f"nvidia/{name}") for name in ("a100-sxm-80gb", "h200-sxm", "b200-sxm"))
MIB = 2.0**20


def product(
    m: float, n: float, k: float, dtype: str = "bf16", *, batch: float = 1, strided: bool = True, **more: Any
) -> Problem:
    sizes = {name: np.array([float(size)]) for name, size in (("batch", batch), ("m", m), ("n", n), ("k", k))}
    return Problem.of(dtype, strided=strided, **sizes, **more)


@pytest.mark.parametrize(("dtype", "operand", "result"), [("fp32", 4, 4), ("bf16", 2, 2), ("fp8", 1, 2)])
def test_a_cold_call_moves_operands_and_result_once(dtype: str, operand: int, result: int) -> None:
    """Results are at least 16 bits wide. An operand quantised just before is still in the cache."""
    a, b, c = 2 * 3 * 7 * operand, 2 * 5 * 7 * operand, 2 * 3 * 5 * result
    for rotation in ("", "weights", "layers", "operands"):
        moved = operands.cold(A100, {"cache_share": 0.0}, product(3, 5, 7, dtype, batch=2), rotation)
        assert moved == a + b + c
    fresh = product(3, 5, 7, dtype, batch=2, quantised=True)
    assert operands.cold(A100, {"cache_share": 0.0}, fresh, "") == b + c


@pytest.mark.parametrize(
    ("k", "weights", "group", "stored"),
    [
        (4096, "int4", 128, 4096 // 2 + 32 * 2),
        (200, "int4", 128, 100 + 2 * 2),  # a group of 128 and one of 72
        (4096, "fp8", None, 4096 + 2),  # one scale per column
    ],
)
def test_stored_weights_have_a_scale_of_16_bits_per_group(
    k: int, weights: str, group: int | None, stored: int
) -> None:
    assert product(3, 5, k, weights=weights, group=group).right == 5 * stored


def test_batched_and_quantised_products_do_not_split_k() -> None:
    assert product(3, 5, 7).may_split
    assert not product(3, 5, 7, strided=False).may_split
    assert not product(3, 5, 7, quantised=True).may_split


@pytest.mark.parametrize(
    ("rotation", "of_a", "of_b", "of_c"),
    [
        ("", 1, 1, 1),  # one product again and again
        ("weights", 1, 5, 1),  # five copies of B
        ("layers", 1, 6, 1),  # B of six layers
        ("operands", 6, 6, 1),  # six copies of both
        ("copies", 101, 101, 101),  # a copy of everything for each of AITER's 101 calls
    ],
)
def test_a_product_is_found_in_the_cache_if_what_is_used_between_fits(
    rotation: str, of_a: int, of_b: int, of_c: int
) -> None:
    """A cache as large as the working set serves half of the accesses."""
    p = product(300, 500, 700)
    between = 2 * (of_a * 300 * 700 + of_b * 500 * 700 + of_c * 300 * 500)
    share = {"cache_share": between / A100.llc_distinct}
    assert operands.missed_again(A100, share, p, rotation) == pytest.approx(0.5)


def test_quantising_uses_operands_of_16_bits_besides_those_of_8() -> None:
    p = product(300, 500, 700, "fp8", quantised=True)
    between = 6 * (2 + 1) * 300 * 700 + 6 * 500 * 700 + 2 * 300 * 500
    share = {"cache_share": between / A100.llc_distinct}
    assert operands.missed_again(A100, share, p, "operands") == pytest.approx(0.5)


@pytest.mark.parametrize(("size", "copies"), [(4.0, 5), (16.0, 3), (64.0, 1)])
def test_as_many_copies_of_the_weights_rotate_as_fill_the_l2_and_five_at_most(
    size: float, copies: int
) -> None:
    assert A100.l2_capacity == 40 * MIB
    p = product(1, 1, size * MIB / 2)
    between = copies * size * MIB + 2 * (size * MIB / 2) + 2
    share = {"cache_share": between / A100.llc_distinct}
    assert operands.missed_again(A100, share, p, "weights") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("device", "quantised", "band"),
    [
        (A100, False, 12),
        (B200, True, 12),  # bands were seen in FP8 kernels of Blackwell
        (H200, True, 96),  # on the others a band is as wide as the whole side
    ],
)
def test_each_wave_reads_its_bands_strip_and_each_band_the_other_operand(
    device: hardware.Device, quantised: bool, band: int
) -> None:
    """96 × 192 tiles of 128 × 128, all operands far beyond any cache: what is read after the first time."""
    k = 1e7
    p = product(96 * 128, 192 * 128, k, "fp8", quantised=quantised)
    sides = [np.array([float(n)]) for n in (128, 128, 96, 192)]
    waves, bands = 192 * band / device.units, 96 / band
    again = (waves - 1) * 96 * 128 * k + (bands - 1) * 192 * 128 * k
    found = operands.reread(device, {"band_tiles": 12.0}, p, *sides)
    assert found == pytest.approx(again, rel=1e-4)


def test_a_single_wave_reads_nothing_again() -> None:
    p = product(8 * 128, 8 * 128, 1e7)
    sides = [np.array([float(n)]) for n in (128, 128, 8, 8)]
    assert operands.reread(A100, {"band_tiles": 12.0}, p, *sides) == 0
