"""Backward attention on Hopper and Blackwell waits for shared memory."""

import numpy as np
import pytest

from costmodel import TiledAttention, hardware, predict
from costmodel.kernels import _flash_backward as backward
from costmodel.kernels import attention

H200, B200, A100 = (hardware.load(name) for name in ("h200-sxm", "b200-sxm", "a100-sxm-80gb"))

#: Head size, causal, rows and keys of the tile, and bytes through shared memory in a step, as
#: flash-attention's own search for configurations counts them (``flash_attn/cute/sm90_config_search.py``,
#: commit 01afd16) for the configurations of ``hopper/flash_bwd_launch_template.h``.
COUNTED = [
    (64, True, 128, 128, 327_680),
    (96, True, 64, 128, 270_336),
    (128, True, 64, 128, 344_064),
    (128, False, 80, 128, 405_504),
    (192, True, 64, 96, 540_672),
    (256, True, 64, 80, 593_920),
]


@pytest.mark.parametrize(("size", "causal", "rows", "keys", "counted"), COUNTED)
def test_traffic_on_hopper_is_what_flash_attention_counts(size, causal, rows, keys, counted):
    width = np.asarray(float(size))
    cut = backward.tile(H200, width, causal)
    assert (cut.rows, cut.keys) == (rows, keys)
    assert backward.shared_bytes(cut, width, width, 2.0) == counted


def test_a_step_on_blackwell_takes_longer_in_shared_memory_than_in_tensor_cores():
    # 128 rows, 128 keys, heads of 128 in bf16. A matrix of 128 × 128 takes 256 cycles at 128 bytes a cycle.
    scores = 2 * (256 + 256)  # K and Q, V and dO
    gradients = 256 + 256  # dO for dV and Q for dK; P and dS are in tensor memory
    queries = 256 + 256 + 256  # dS stored, then dS and K read
    added = 512 + 512  # dQ in fp32, stored and fetched
    cycles = scores + gradients + queries + added
    size = np.asarray(128.0)
    per_score = backward.shared_cycles(B200, "fa4", size, size, 2.0, causal=True)
    assert per_score * 128 * 128 == cycles
    # 8,192 operations per cycle and unit (Zadouri et al., arXiv:2603.05451).
    assert cycles == 1.3 * 5 * 2 * 128**3 / 8192


@pytest.mark.parametrize(("device", "kernel"), [(A100, "fa2"), (B200, "fa2"), (H200, "flashinfer")])
def test_kernels_of_warp_level_instructions_are_left_as_they_were_fitted(device, kernel):
    size = np.asarray(128.0)
    assert backward.shared_cycles(device, kernel, size, size, 2.0, causal=True) == 0.0


@pytest.mark.parametrize("size", [64.0, 128.0, 256.0])
def test_narrower_elements_move_fewer_bytes_but_the_sums_of_dq_stay_wide(size):
    head = np.asarray(size)
    cut = backward.tile(B200, head, causal=True)
    wide, narrow = (backward.shared_bytes(cut, head, head, width) for width in (2.0, 1.0))
    dq = 2 * 4 * cut.rows * size
    assert narrow - dq == (wide - dq) / 2


def test_narrower_values_move_fewer_bytes_than_keys_of_their_width_and_more_than_none():
    keys = np.asarray(192.0)
    cut = backward.tile(H200, keys, causal=True)
    same, narrow = (backward.shared_bytes(cut, keys, np.asarray(v), 2.0) for v in (192.0, 128.0))
    # Values are read for dP, by each warp group's share of dO and once of V, and dO once for dV.
    assert same - narrow == 2.0 * (192 - 128) * ((cut.keys + cut.copies * cut.rows) + cut.rows)


def test_dq_passes_memory_three_times_besides():
    # Zeroed and read in fp32, written in bf16: 4 + 4 + 2 bytes for each element.
    assert backward.summed_bytes(np.asarray(1e6), 2.0) == 1e7


def test_the_kernel_that_converts_dq_is_launched_in_every_backward_pass():
    # Forward, so many thread blocks need no split of the keys, and nothing is launched besides.
    sizes = {"batch": 4, "heads": 32, "kv_heads": 32, "seq": 2048, "head_dim": 128, "dtype": "bf16"}
    for direction, launched in (("fwd", 0.0), ("bwd", 30_000.0)):
        without, also = (
            attention.seconds(A100, {"merge_cycles": cycles}, kernel="fa2", direction=direction, **sizes)
            for cycles in (0.0, 30_000.0)
        )
        assert also.terms["l2"] - without.terms["l2"] == pytest.approx(launched / A100.clock_hz)


def test_fp8_backward_on_hopper_computes_what_a_causal_mask_hides():
    sizes = {"batch": 2, "heads": 64, "kv_heads": 8, "seq": 8192, "head_dim": 128}

    def seconds(dtype, device, causal):
        layer = TiledAttention(dtype=dtype, causal=causal, direction="bwd")
        return predict(layer, device, sizes, rung="kernel").seconds

    for dtype, device, least, most in [
        # Posted for these sizes (cuDNN 9.27): 16.3 ms with a mask, 15.6 ms without.
        ("fp8", "h200-sxm", 0.9, 1.1),
        ("bf16", "h200-sxm", 0.45, 0.7),
        ("fp8", "b200-sxm", 0.4, 0.7),
    ]:
        share = seconds(dtype, device, causal=True) / seconds(dtype, device, causal=False)
        assert least < share < most
