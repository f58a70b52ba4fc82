"""The experts' kernel against literal sorting and padding, the roofline, and what others drew."""

from __future__ import annotations

import math

import numpy as np
import pytest

from costmodel import hardware
from costmodel.kernels import experts
from costmodel.kernels._loads import working_and_blocks
from costmodel.layers.moe import LOADS

H200, B200 = hardware.load("nvidia/h200-sxm"), hardware.load("nvidia/b200-sxm")
#: Only the stated limits: no latencies, no starts, and nothing but the longest limit.
BARE = {
    "peak_share": 1.0,
    "bandwidth_share": 1.0,
    "fill_cycles": 0.0,
    "step_cycles": 0.0,
    "sort_s": 0.0,
    "map_s": 0.0,
    "start_s": 0.0,
    "overlap": 60.0,
}


def seconds(constants=None, **sizes):
    return estimate(constants, **sizes).seconds


def estimate(constants=None, *, tokens, experts_=128, top_k=8, n=3072, k=4096, device=H200, **more):
    choices = tokens * top_k
    working = np.minimum(choices, experts_)
    sizes = {"batch": working, "m": choices / working, "n": n, "k": k, "held": experts_, "tokens": tokens}
    given = {"inputs": tokens, "results": choices, **sizes, "loads": "balanced", **more}
    return experts.seconds(device, constants or {}, **given)


def drawn(loads, tokens, number, top_k, rng):
    """Return how many tokens each expert gets in one draw."""
    if loads == "balanced":
        return np.bincount(np.arange(tokens * top_k) % number, minlength=number)
    if loads == "random":
        chosen = [rng.choice(number, top_k, replace=False) for _ in range(tokens)]
        return np.bincount(np.concatenate(chosen), minlength=number)
    return power_law(tokens, number, top_k, rng)


def power_law(tokens, number, top_k, rng):
    """Draw loads as aiconfigurator's collector does: shares of choices, rounded; the rest one by one."""
    choices = tokens * top_k
    low, high = (1.0, 0.8 * tokens) if choices > number else (0.01, 2.0)
    shares = low * (high / low) ** rng.random(number)
    each = np.minimum(np.round(shares / shares.sum() * choices), tokens)
    while each.sum() < choices:
        each[np.argmin(each)] += 1
    while each.sum() > choices:
        each[np.argmax(each)] -= 1
    return each


@pytest.mark.parametrize("loads", LOADS)
@pytest.mark.parametrize(("number", "top_k"), [(128, 8), (384, 8), (8, 2)])
@pytest.mark.parametrize(("tokens", "rows"), [(1, 16), (16, 16), (64, 32), (256, 64), (2048, 128)])
def test_working_experts_and_blocks_are_those_of_drawn_loads(loads, number, top_k, tokens, rows):
    """Exactly with equal loads; within 12 % of draws, as half a block per expert is too many or too few."""
    rng = np.random.default_rng(7)
    draws = [drawn(loads, tokens, number, top_k, rng) for _ in range(1 if loads == "balanced" else 12)]
    working = np.mean([(each > 0).sum() for each in draws])
    blocks = np.mean([np.ceil(each / rows).sum() for each in draws])
    chance = number * (1 - (1 - top_k / number) ** tokens)
    given = min(number, tokens * top_k) if loads == "balanced" else chance
    sizes = {"working": given, "held": number, "choices": tokens * top_k, "tokens": tokens, "rows": rows}
    arrays = {name: np.array([float(size)]) for name, size in sizes.items()}
    found = [float(value[0]) for value in working_and_blocks(loads, **arrays)]
    exact = {"rel": 1e-12} if loads == "balanced" else {"rel": 0.12, "abs": 1.0}
    assert found == pytest.approx([working, blocks], **exact)


@pytest.mark.parametrize(
    ("tokens", "each", "rows"), [(64, 0.3, 1), (64, 0.9, 16), (64, 1.5, 16), (512, 4, 16), (16, 4, 4)]
)
def test_so_many_experts_that_chance_hardly_matters_work_as_drawn_by_a_power_law(tokens, each, rows):
    number = 4096
    draw = power_law(tokens, number, each * number / tokens, np.random.default_rng(7))
    sizes = {"held": number, "choices": each * number, "tokens": tokens, "rows": rows}
    # With other numbers of tokens in the same table.
    arrays = {name: np.array([1.0, 8.0, 1.0]) * size for name, size in sizes.items()}
    found = working_and_blocks("power-law", working=np.ones(3), **arrays)
    expected = [(draw > 0).sum(), np.ceil(draw / rows).sum()]
    assert [value[0] for value in found] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("loads", LOADS)
def test_no_block_is_overfull_and_no_more_experts_work_than_there_are_choices(loads):
    tokens, rows = np.meshgrid(2.0 ** np.arange(15), [16.0, 32.0, 64.0, 128.0])
    for number, top_k in ((128, 8), (512, 10), (8, 2), (2, 1)):
        choices, held = tokens * top_k, np.full(tokens.shape, float(number))
        working = np.minimum(choices, held)
        found, blocks = working_and_blocks(
            loads, working=working, held=held, choices=choices, tokens=tokens, rows=rows
        )
        assert np.all(found <= np.minimum(choices, held) * (1 + 1e-12))
        assert np.all(blocks * rows >= choices * (1 - 1e-9))
        assert np.all(blocks >= found * (1 - 1e-12))


def test_few_tokens_take_the_time_of_their_experts_weights():
    moved = 128 * 3072 * 4096 * 2 + 16 * 8 * 3072 * 2
    assert seconds(BARE, tokens=16) == pytest.approx(moved / H200.hbm_bandwidth, rel=1e-2)


def test_many_tokens_take_the_time_of_whole_blocks():
    """3072 tokens give each of 128 experts 192 rows: two blocks of 128, as many as 256 rows fill."""
    two = 2 * 128 * 256 * 3072 * 4096 / H200.peak("bf16")
    stored = np.array([3072, 4096]) * 8 * 3072 * 2 / H200.hbm_bandwidth
    assert seconds(BARE, tokens=np.array([3072, 4096])) == pytest.approx(two + stored, rel=1e-3)


@pytest.mark.parametrize(("tokens", "rows"), [(1, 16), (32, 16), (33, 32), (96, 32), (97, 64), (513, 128)])
def test_blocks_have_vllms_default_numbers_of_rows(tokens, rows):
    """vLLM 0.20, ``get_default_config`` of ``fused_moe.py``."""
    assert experts.block_rows(np.array([float(tokens)])) == rows


#: Tokens, with the rows, columns and step of a block that vLLM's default configuration has for them.
BLOCKS = [(32, 16, 64, 128), (64, 32, 64, 128), (65, 32, 128, 64), (600, 128, 128, 64)]


@pytest.mark.parametrize(("tokens", "rows", "columns", "step"), BLOCKS)
def test_blocks_are_computed_whole_and_each_fills_and_empties(tokens, rows, columns, step):
    """By a loop over the blocks of every expert, of which the last ones stick out of its rows and columns."""
    given = {**BARE, "peak_share": 0.5, "fill_cycles": 1e4}
    n, k, flops, perimeters = 200, 1000, 0, 0
    for load in drawn("balanced", tokens, 128, 8, None):
        for _ in range(0, load, rows):
            for _ in range(0, n, columns):
                flops += 2 * rows * columns * k
                perimeters += rows + columns
    filling = perimeters / (128 + 128) * 1e4 / H200.clock_hz / H200.units
    found = estimate(given, tokens=tokens, n=n, k=k).terms["matrix:bf16"]
    assert found == pytest.approx(flops / (0.5 * H200.peak("bf16")) + filling)


@pytest.mark.parametrize(("tokens", "rows", "columns", "step"), BLOCKS)
def test_a_block_waits_for_every_step_through_k(tokens, rows, columns, step):
    given = {**BARE, "fill_cycles": 1e4, "step_cycles": 500.0}
    cycles = 1e4 * (rows + columns) / (128 + 128) + 500 * len(range(0, 38401, step))
    assert estimate(given, tokens=tokens, k=38401).terms["depth"] == pytest.approx(cycles / H200.clock_hz)
    # 128 bytes are 128 numbers of 8 bits.
    eight = estimate({**BARE, "step_cycles": 500.0}, tokens=600, k=38401, dtype="fp8").terms["depth"]
    assert eight == pytest.approx(500 * len(range(0, 38401, 128)) / H200.clock_hz)


@pytest.mark.parametrize(("stored", "each"), [({}, 2), ({"weights": "int4", "group": 64}, 0.5 + 2 / 64)])
def test_weights_and_inputs_come_from_memory_where_the_cache_is_too_small(stored, each):
    """A group of 64 numbers of 4 bits has one scale of 16."""
    for inputs in (65536, 8 * 65536):
        moved = 128 * 3072 * 4096 * each + inputs * 4096 * 2
        given = {"tokens": 65536, "inputs": inputs, **stored}
        found = estimate({**BARE, "bandwidth_share": 0.5}, **given).terms["hbm"]
        assert found == pytest.approx(moved / (0.5 * H200.hbm_bandwidth), rel=1e-4)


def test_what_the_cache_still_holds_is_not_read_again():
    """A megabyte of weights and inputs, unless other kernels move more than the cache holds in between."""
    small = {"tokens": 64, "experts_": 8, "top_k": 2, "n": 256, "k": 256}
    weights = 8 * 256 * 256 * 2 / H200.hbm_bandwidth
    assert estimate(BARE, **small).terms["hbm"] < 1e-3 * weights
    assert estimate(BARE, **small, passing=1e9).terms["hbm"] == pytest.approx(weights, rel=1e-3)
    rounded = estimate(BARE, **small, dtype="fp8").terms["hbm"]
    assert rounded < 1e-3 * weights


def test_rounding_to_eight_bits_reads_two_bytes_and_writes_one_before_the_product():
    """64 experts of one column: next to nothing but inputs, which are rounded, then read."""
    inputs = 65536 * 4096
    found = estimate(BARE, tokens=65536, experts_=64, top_k=1, n=1, dtype="fp8")
    reading, rounding = inputs / H200.hbm_bandwidth, 3 * inputs / H200.hbm_bandwidth
    assert found.terms["hbm"] == pytest.approx(rounding + reading, rel=1e-3)
    product = max(found.terms["matrix:fp8"], reading)
    assert found.seconds == pytest.approx(rounding + product, rel=1e-2)


@pytest.mark.parametrize("loads", LOADS)
def test_more_of_anything_never_takes_less_time(loads):
    """Among tokens that have blocks of one size."""
    for tokens in ([1, 2, 4, 8, 16, 32], [128, 256, 512], [1024, 2048, 3072, 4096, 16384]):
        assert np.all(np.diff(seconds(tokens=np.array(tokens), loads=loads)) >= 0)
    for name, values in (("n", [64, 768, 3072]), ("k", [256, 4096, 7168]), ("experts_", [16, 64, 512])):
        assert np.all(np.diff([seconds(tokens=64, loads=loads, **{name: value}) for value in values]) >= 0)


def test_eight_bits_halve_the_weights_and_round_the_inputs_before():
    sixteen, eight = (seconds(BARE, tokens=16, dtype=dtype) for dtype in ("bf16", "fp8"))
    assert 0.5 < eight / sixteen < 0.52
    starts = {"start_s": 1e-6, "sort_s": 0.0, "map_s": 0.0}
    terms = [
        experts.seconds(
            H200, starts, batch=8, m=1, n=64, k=64, held=8, tokens=1, inputs=1, results=8, dtype=dtype
        ).terms["launch"]
        for dtype in ("bf16", "fp8")
    ]
    assert terms == pytest.approx([1e-6, 2e-6])


def test_sorting_comes_before_the_first_product_and_looking_up_before_it():
    given = {"start_s": 1e-6, "sort_s": 1e-5, "map_s": 1e-4}
    plain, first, mapped = (
        seconds(given, tokens=1, **more) for more in ({}, {"first": True}, {"first": True, "mapped": True})
    )
    assert [first - plain, mapped - first] == pytest.approx([1e-5, 1e-4])
    assert seconds(given, tokens=1, mapped=True) == pytest.approx(plain)


def test_an_architectures_own_constants_hold_unless_others_are_given():
    own, bare = experts.OF_FAMILY["blackwell"], {name: BARE[name] for name in experts.OF_FAMILY["blackwell"]}
    found, given, other = (seconds(more, tokens=64, device=B200) for more in ({}, own, bare))
    assert found == given > other


def test_every_constant_lies_in_its_range_on_every_architecture():
    for family in ({}, *experts.OF_FAMILY.values()):
        for name, constant in experts.CONSTANTS.items():
            assert constant.low <= family.get(name, constant.default) <= constant.high
    assert all(math.isfinite(q) for q in experts.RESIDUALS[1])
