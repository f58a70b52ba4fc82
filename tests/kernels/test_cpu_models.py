"""Kernel models of CPUs, against hand calculation and loops that count blocks."""

import math

import numpy as np
import pytest

import costmodel as cm
from costmodel import hardware
from costmodel.errors import UnavailableError, UnknownNameError
from costmodel.kernels import (
    _cpu,
    cpu_attention,
    cpu_conv,
    cpu_decode,
    cpu_delta,
    cpu_gemm,
    cpu_recurrence,
    cpu_scan,
    cpu_stream,
)
from costmodel.symbols import symbols

DEVICE = hardware.load("cpu/epyc-9654")
#: No overheads: what remains is arithmetic over the peak, or bytes over the bandwidth.
IDEAL = {
    "peak_share": 1.0,
    "pack_cycles": 0.0,
    "page_cycles": 0.0,
    "edge_rows": 0.0,
    "start_s": 0.0,
    "call_s": 0.0,
    "fork_s": 0.0,
    "matrix_s": 0.0,
    "chain_cycles": 0.0,
    "step_s": 0.0,
    "block_s": 0.0,
    "row_cycles": 0.0,
    "page_s": 0.0,
    "bandwidth_share": 1.0,
    "overlap": 8.0,
}


def test_a_large_product_runs_at_the_peak():
    got = cpu_gemm.seconds(DEVICE, IDEAL, m=16384, n=16384, k=16384)
    assert got.seconds == pytest.approx(2 * 16384**3 / DEVICE.peak("fp32"), rel=1e-3)
    assert max(got.terms, key=lambda name: float(got.terms[name])) == "vector:fp32"


def test_a_product_with_a_vector_reads_its_matrix_at_the_bandwidth():
    n = 2**17
    got = cpu_gemm.seconds(DEVICE, IDEAL, m=1, n=n, k=n, batch=3)
    assert got.seconds == pytest.approx(3 * 4 * n * n / DEVICE.hbm_bandwidth, rel=0.01)


def test_packing_b_costs_a_page_translation_per_element_once_rows_fill_a_page():
    """1,024 columns of fp32 fill a page of 4 KiB: from there on each element of B costs more to pack."""
    page = {**IDEAL, "page_cycles": 7.0}
    for n, cycles in ((1023, 0.0), (1024, 7.0)):
        sizes = {"batch": 3, "m": 4096, "n": n, "k": 4096}
        more = cpu_gemm.seconds(DEVICE, page, **sizes).terms["vector:fp32"]
        more = more - cpu_gemm.seconds(DEVICE, IDEAL, **sizes).terms["vector:fp32"]
        expected = cycles * 3 * 4096 * n / (DEVICE.units * DEVICE.clock_hz)
        assert more == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("n", [1, 4, 8])
def test_narrow_results_are_chains_of_multiply_adds(n):
    """Up to eight columns of fp32 are one register: k dependent steps for each row, whatever the columns."""
    slow, sizes = {**IDEAL, "chain_cycles": 4.0}, {"m": 256, "k": 64}
    chain = 16 * 256 * 64 * 4 / (DEVICE.units * DEVICE.clock_hz)
    assert cpu_gemm.seconds(DEVICE, slow, n=n, batch=16, **sizes).terms["vector:fp32"] == pytest.approx(chain)
    # A ninth column fills a second register, and tiles; a single product with a vector streams its matrix.
    for other in ({"n": 9, "batch": 16}, {"n": 1, "batch": 1}):
        alike = [cpu_gemm.seconds(DEVICE, c, **sizes, **other).seconds for c in (slow, IDEAL)]
        assert alike[0] == alike[1]


def test_tiles_add_edge_rows_except_with_a_vector_and_batches_add_starts():
    """A tile has ``edge_rows`` more rows and columns than its product; each further product is a start."""
    edges = {**IDEAL, "edge_rows": 6.0, "matrix_s": 1e-3, "vector_bytes_cycle": 1e-3}
    flops, launch = {}, {}
    for m in (1, 250):
        found = cpu_gemm.seconds(DEVICE, {**edges, "vector_bytes_cycle": 64.0}, m=m, n=500, k=4096, batch=481)
        flops[m] = found.terms["vector:fp32"] * DEVICE.peak("fp32") / (2 * 481 * 4096)
        launch[m] = found.terms["launch"] / 1e-3
    assert flops == pytest.approx({1: 500, 250: 256 * 506})
    assert launch == pytest.approx(dict.fromkeys((1, 250), 480 / DEVICE.units))
    # ``vector_bytes_cycle`` applies only to a product with a single vector.
    free, slow = (
        cpu_gemm.seconds(DEVICE, {**edges, "vector_bytes_cycle": rate}, m=2, n=500, k=4096).terms["l2"]
        for rate in (64.0, 1e-3)
    )
    assert slow == free


def test_a_small_product_stays_on_one_thread_where_waking_others_is_dear():
    """Where waking threads is expensive, one thread computes 16³; where it is free, all do."""
    sizes = {"m": 16, "n": 16, "k": 16}
    alone = 2 * 16**3 / (DEVICE.peak("fp32") / DEVICE.units)
    dear = cpu_gemm.seconds(DEVICE, {**IDEAL, "fork_s": 1.0}, **sizes).seconds
    assert alone <= dear < 1e-3
    assert cpu_gemm.seconds(DEVICE, IDEAL, **sizes).seconds < dear


def test_long_copies_run_at_memory_bandwidth_and_short_ones_in_the_caches():
    rows = np.array([2.0**13, 2.0**26])
    got = cpu_stream.seconds(DEVICE, {**IDEAL, "element_cycles": 0.01}, rows=rows, cols=64.0)
    rate = rows * 64 * 8 / got.seconds
    assert rate[1] == pytest.approx(DEVICE.hbm_bandwidth, rel=0.01)
    in_cores = _cpu.MEMORY["l2_bytes_cycle"].default * DEVICE.clock_hz * DEVICE.units
    assert 2 * DEVICE.hbm_bandwidth < rate[0] <= in_cores


def test_operands_as_large_as_the_shared_cache_together_miss_half():
    """Two tables are read and one written; the cores' own caches (1 MiB each) keep next to nothing."""
    constants = {**IDEAL, "l3_share": 0.5, "l2_share": 0.01}
    cells = 0.5 * DEVICE.llc_capacity / (3 * 4)
    found = cpu_stream.seconds(DEVICE, constants, rows=cells, cols=1.0, reads=2.0, writes=1.0)
    assert found.terms["hbm"] == pytest.approx(0.5 * 12 * cells / DEVICE.hbm_bandwidth, rel=1e-3)


def test_instructions_are_counted_per_element_and_per_row():
    """They run on all cores; an elementwise pass has no rows and none of their instructions."""
    constants = {**IDEAL, "element_cycles": 3.0, "row_cycles": 50.0}
    for pattern, rows in (("softmax", 2**16), ("elementwise", 0)):
        found = cpu_stream.seconds(DEVICE, constants, rows=2.0**16, cols=128.0, pattern=pattern)
        cycles = found.terms["vector:fp32"] * DEVICE.units * DEVICE.clock_hz
        assert cycles == pytest.approx(2**16 * 128 * 3 + rows * 50)


def test_results_above_32_mib_cost_a_fault_per_page():
    """Each 4 KiB of a result larger than 32 MiB costs a page fault; smaller results cost none.

    Threads share the faults: on a Xeon, a page takes 1.58 µs with one thread and 0.86 with two (means of
    four, torch 2.13).
    """
    cells = np.array([2.0**22, 2.0**23, 2.0**24])
    free, paid = (
        cpu_stream.seconds(DEVICE, {**IDEAL, "page_s": page}, rows=cells, cols=1.0).seconds
        for page in (0, 1e-6)
    )
    fault = 1e-6 / DEVICE.units
    np.testing.assert_allclose(paid - free, [0.0, 0.0, 4 * 2**24 / 4096 * fault], atol=1e-12)
    two = cpu_stream.seconds(DEVICE, {**IDEAL, "page_s": 1e-6}, rows=cells[2:], cols=1.0, writes=2.0)
    one = cpu_stream.seconds(DEVICE, {**IDEAL, "page_s": 1e-6}, rows=cells[2:], cols=1.0, writes=1.0)
    np.testing.assert_allclose(two.terms["launch"], 2 * one.terms["launch"])


def test_a_cold_call_reads_everything_from_memory():
    """A table of 64 KiB, read and written: in L2 when warm, in memory when cold."""
    bytes_moved = 2 * 2**16
    emptied = {**IDEAL, "warm_share": 0.0, "l3_bytes_cycle": 1e9}
    cold = cpu_stream.seconds(DEVICE, emptied, rows=2.0**14, cols=1.0)
    assert cold.terms["hbm"] == pytest.approx(bytes_moved / DEVICE.hbm_bandwidth)
    # One core takes in less than the memory can deliver to all of them.
    one_core = cpu_stream.seconds(DEVICE, {**emptied, "l3_bytes_cycle": 12.0}, rows=2.0**14, cols=1.0)
    assert one_core.terms["hbm"] == pytest.approx(bytes_moved / (12.0 * DEVICE.clock_hz))
    assert cold.terms["l2"] == 0.0
    assert cpu_stream.seconds(DEVICE, IDEAL, rows=2.0**14, cols=1.0).terms["hbm"] < 1e-3 * cold.terms["hbm"]


def test_a_cold_call_fetches_its_own_code_once():
    """A copy of 256 bytes took 57 to 65 µs after the caches were emptied, and 1 µs before."""

    def extra(layer, **sizes):
        warm, cold = (
            cm.predict(layer, DEVICE, rung="kernel", state=state, **sizes) for state in ("warm", "cold")
        )
        return cold.seconds - warm.seconds

    copy = cm.Elementwise(op="copy", dtype="fp32")
    assert extra(copy, m=8, n=8) == pytest.approx(60e-6, rel=0.1)
    # It is the call's: of a chain the first kernel has it, and of several like ones each has its part.
    attention = cm.DenseAttention(dtype="fp32")
    assert extra(attention, batch=1, heads=1, seq=8, head_dim=8) == pytest.approx(60e-6, rel=0.1)
    m, n = symbols("m n")
    copies = (cm.models.Part.of("copies", copy, repeats=2, m=m, n=n),)
    twice = cm.models.Model(title="two", dtype="fp32", parts=copies, inputs=8 * m * n, outputs=8 * m * n)
    assert extra(twice, m=8, n=8) == pytest.approx(60e-6, rel=0.1)
    # The steps of a recurrence are not calls of their own.
    lstm = cm.LSTM(dtype="fp32")
    one, many = (extra(lstm, batch=1, hidden=8, seq=seq) for seq in (1, 1000))
    assert one <= many < 20 * one


def test_rms_norm_moves_seven_tables_in_four_passes():
    """Square: 1 read, 1 write; mean: 1 read; scaling and gain: 1 read and 1 write each. All from memory."""
    sizes = {"rows": 2.0**16, "cols": 2.0**12, "dtype": "fp32"}
    got = cpu_stream.seconds(DEVICE, IDEAL, **sizes, pattern="rmsnorm").terms["hbm"]
    assert got == pytest.approx(7 * 4 * 2**28 / DEVICE.hbm_bandwidth, rel=0.01)


def test_a_product_with_one_vector_streams_its_matrix_from_the_caches():
    """Expected: the bytes of the weights and both vectors, at 8 bytes per cycle and core, on all cores."""
    side, cores = 4096.0, DEVICE.units
    streaming = {**IDEAL, "vector_bytes_cycle": 8.0}
    got = cpu_gemm.seconds(DEVICE, streaming, m=1, n=side, k=side).terms["l2"]
    in_caches = cpu_gemm.seconds(DEVICE, {**IDEAL, "vector_bytes_cycle": 64.0}, m=1, n=side, k=side)
    assert got == pytest.approx(4 * (side**2 + 2 * side) / (8.0 * DEVICE.clock_hz * cores), rel=0.02)
    assert got > in_caches.terms["l2"]


def test_weights_come_from_memory_if_other_data_passes_between_two_uses():
    """B of 64 KiB stays in a core's cache by itself, but not once much other data has passed."""
    sizes, passing = {"m": 16, "n": 128, "k": 128}, np.array([0.0, 1e4, 1e12])
    alone, little, much = cpu_gemm.seconds(DEVICE, IDEAL, **sizes, passing=passing).terms["hbm"]
    assert little == alone < 1e-3 * much
    assert much == pytest.approx(4 * 128 * 128 / DEVICE.hbm_bandwidth, rel=1e-3)


def test_the_librarys_grain_size_sets_how_many_threads_run():
    """With 2,048 elements per thread, 4,096 elements use two threads of half the instructions each."""
    one = cpu_stream.seconds(DEVICE, IDEAL, rows=4096.0, cols=1.0).terms["vector:fp32"]
    two = cpu_stream.seconds(DEVICE, {**IDEAL, "grain": 2048.0}, rows=4096.0, cols=1.0)
    assert two.terms["vector:fp32"] == pytest.approx(one / 2)


def test_keys_beyond_the_caches_are_read_again_from_memory():
    """Four query heads share a KV head of twice the last-level cache: each reads it, not once for all."""
    keys = DEVICE.llc_capacity  # K and V of 64 numbers of 4 bytes are 512 bytes per key
    sizes = {"batch": 1, "kv_heads": 1, "seq_kv": 2 * keys // 512, "head_dim": 64}
    fast = {**IDEAL, "l3_bytes_cycle": 1e9}
    one, four = (cpu_decode.seconds(DEVICE, fast, heads=heads, **sizes).terms["hbm"] for heads in (1, 4))
    assert four / one == pytest.approx(4.0, rel=0.05)
    # Short ones stay in the caches.
    short = cpu_decode.seconds(DEVICE, IDEAL, heads=4, **{**sizes, "seq_kv": 256}).terms["hbm"]
    assert short < 1e-3 * one


def test_summing_gradients_step_by_step_costs_every_weight_at_every_step():
    sizes = {"steps": 100, "batch": 1, "hidden": 64, "gates": 3, "direction": "bwd_weights"}
    at_once, summed = (
        cpu_recurrence.seconds(DEVICE, {**IDEAL, "sum_cycles": cycles}, **sizes).seconds
        for cycles in (0.0, 2.0)
    )
    cycles = 100 * 3 * 64 * 64 * 2.0
    assert summed - at_once == pytest.approx(cycles / (DEVICE.units * DEVICE.clock_hz))


def causal_blocks_by_hand(seq, seq_kv, rows, cols, window=math.inf):
    """Return the mean keys per block of queries: whole key blocks, up to the key of its last query."""
    total = 0
    blocks = range(0, seq, rows)
    for first in blocks:
        last_key = seq_kv - seq + first + rows - 1
        first_key = seq_kv - seq + first - window + 1
        starts = [start for start in range(0, seq_kv, cols) if start <= last_key and start + cols > first_key]
        total += sum(min(cols, seq_kv - start) for start in starts)
    return total / len(blocks)


@pytest.mark.parametrize(
    ("seq", "rows"), [(64, 32), (500, 64), (512, 64), (1024, 256), (1500, 256), (4096, 256)]
)
@pytest.mark.parametrize("prefix", [0, 1, 512, 700, 65536])
def test_a_causal_mask_skips_whole_blocks_as_a_loop_over_blocks_does(seq, rows, prefix):
    """All queries see the keys of the prefix."""
    sizes = tuple(np.array([float(size)]) for size in (seq, seq + prefix, rows))
    keys = cpu_attention._causal_keys(*sizes, 512.0)
    # A key block that begins where the block of queries ends is skipped, and so are all later ones.
    assert keys[0] == pytest.approx(causal_blocks_by_hand(seq, seq + prefix, rows, 512))
    for window in (1, 2, 100, 513, 1000, 10**6):
        keys = cpu_attention._causal_keys(*sizes, 512.0, np.array([float(window)]))
        assert keys[0] == pytest.approx(causal_blocks_by_hand(seq, seq + prefix, rows, 512, window))


def test_attention_takes_its_products_over_the_peak_without_overheads():
    sizes = {"batch": 8, "heads": 96, "kv_heads": 96, "seq": 4096, "seq_kv": 4096, "head_dim": 128}
    constants = {**IDEAL, "score_cycles": 1e-9}
    got = cpu_attention.seconds(DEVICE, constants, **sizes).seconds
    assert got == pytest.approx(4 * 8 * 96 * 4096**2 * 128 / DEVICE.peak("fp32"), rel=0.02)
    causal = cpu_attention.seconds(DEVICE, constants, **sizes, causal=True).seconds
    # Sixteen query blocks of 256 against eight key blocks of 512: 72 of 128 are computed.
    assert causal / got == pytest.approx(72 / 128, rel=1e-6)


HEADS = {"seq_kv": 3000, "head_dim": 64, "kv_heads": 1}


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (cpu_stream, {"rows": 2.0**16, "cols": 300.0, "pattern": "softmax"}),
        (cpu_gemm, {"m": 300, "n": 700, "k": 900, "batch": 5}),
        # One block of queries more than there are cores, a single one, and whole waves.
        (cpu_attention, {**HEADS, "batch": 97, "heads": 1, "seq": 32, "causal": True}),
        (cpu_attention, {**HEADS, "batch": 1, "heads": 1, "seq": 32, "direction": "bwd"}),
        (cpu_attention, {**HEADS, "batch": 96, "heads": 2, "seq": 256}),
        (cpu_decode, {**HEADS, "batch": 1, "heads": 8}),
        (cpu_recurrence, {"steps": 50, "batch": 3, "hidden": 512, "gates": 4, "parallel": 2}),
        (cpu_scan, {"chains": 64, "steps": 9, "traffic": 1e8, "vector_flops": 1e9, "launches": 9}),
    ],
    ids=lambda value: getattr(value, "__name__", "").rpartition(".")[2],
)
def test_terms_add_up_without_overlap(model, sizes):
    found = model.seconds(DEVICE, {"overlap": 1.0}, **sizes)
    assert min(term.min() for term in found.terms.values()) >= 0
    assert found.seconds == pytest.approx(sum(found.terms.values()))


def test_each_block_costs_a_start_and_each_of_its_elements_packing():
    """Ten blocks of 64 queries per core; forward, 3,000 keys are six calls of up to 512."""
    sizes = {**HEADS, "batch": 96, "heads": 1, "seq": 64 * 10}
    calls = cpu_attention.seconds(DEVICE, {**IDEAL, "block_s": 1e-6, "score_cycles": 0.0}, **sizes)
    assert calls.terms["depth"] == pytest.approx(10 * 6 * 1e-6)
    free, packed = (
        cpu_attention.seconds(DEVICE, {**IDEAL, "pack_cycles": cycles}, **sizes).terms["vector:fp32"]
        for cycles in (0.0, 0.5)
    )
    met = 96 * 10 * 3000 * 2 * 64
    assert (packed - free) * DEVICE.units * DEVICE.clock_hz == pytest.approx(0.5 * met)


def test_decoding_is_attention_of_one_query():
    sizes = {"batch": 4, "heads": 8, "kv_heads": 2, "seq_kv": 3000, "head_dim": 64}
    assert (
        cpu_decode.seconds(DEVICE, {}, **sizes).seconds
        == cpu_attention.seconds(DEVICE, {}, **sizes, seq=1).seconds
    )


def test_every_step_of_a_recurrence_takes_equally_long():
    sizes = {"batch": 1, "hidden": 256, "gates": 4}
    one, many = (cpu_recurrence.seconds(DEVICE, {}, steps=steps, **sizes).seconds for steps in (1.0, 101.0))
    again = cpu_recurrence.seconds(DEVICE, {}, steps=201.0, **sizes).seconds
    assert again - many == pytest.approx(many - one)
    # Each step reads the weights at least from the cores' own caches.
    loaded = 4 * 4 * 256 * 256
    fastest = loaded / (_cpu.MEMORY["l2_bytes_cycle"].default * DEVICE.clock_hz * DEVICE.units)
    assert many - one > 100 * fastest


def test_a_step_costs_its_product_its_gates_and_its_latency():
    """Three sequences in tiles five rows larger; the two recurrences run one after the other on all cores."""
    constants = {**IDEAL, "edge_rows": 5.0, "pack_cycles": 0.5, "gate_cycles": 7.0, "step_s": 1e-3}
    sizes = {"steps": 10, "batch": 3, "hidden": 512, "width": 256, "gates": 4, "parallel": 2}
    found = cpu_recurrence.seconds(DEVICE, constants, **sizes).terms
    weights = 2 * 4 * 512 * 256
    cycles = 0.5 * weights + 2 * 7 * 3 * 4 * 512
    step = 2 * weights * (3 + 5) / DEVICE.peak("fp32") + cycles / (DEVICE.units * DEVICE.clock_hz)
    assert found["vector:fp32"] == pytest.approx(10 * step)
    assert found["depth"] == pytest.approx(10 * 2 * 1e-3)


def test_the_gradient_of_the_weights_is_one_product_over_all_steps():
    got = cpu_recurrence.seconds(
        DEVICE, IDEAL, steps=4096, batch=64, hidden=4096, gates=4, direction="bwd_weights"
    ).seconds
    assert got == pytest.approx(2 * 4 * 4096**2 * 64 * 4096 / DEVICE.peak("fp32"), rel=0.01)


def test_unknown_directions_and_unsupported_formats_are_refused():
    with pytest.raises(UnknownNameError, match="unknown direction 'up' of a recurrence"):
        cpu_recurrence.seconds(DEVICE, {}, steps=1, batch=1, hidden=8, gates=1, direction="up")
    with pytest.raises(UnavailableError, match="has no fp8 rate"):
        cpu_gemm.seconds(DEVICE, {}, m=8, n=8, k=8, dtype="fp8")


@pytest.mark.parametrize("model", [cpu_stream, cpu_gemm, cpu_attention, cpu_decode, cpu_recurrence])
def test_each_model_has_at_most_12_constants_besides_memory(model):
    assert len(model.CONSTANTS) - len(_cpu.MEMORY) <= 12


def test_scans_below_the_grain_size_stay_on_one_thread():
    """ATen's grain is 32,768 elements (here fp32); from there on all cores are woken and used."""
    constants = {
        **IDEAL,
        "start_s": 1e-6,
        "fork_s": 3e-6,
        "flop_cycles": 2.0,
        "lanes": 1.0,
        "step_cycles": 10.0,
    }
    sizes = {"chains": 960, "steps": 7, "vector_flops": 1e6, "special_flops": 5e5, "matrix_flops": 1e9}
    for traffic, threads, fork in ((4 * 32768 - 1.0, 1, 0.0), (4 * 32768.0, DEVICE.units, 3e-6)):
        found = cpu_scan.seconds(DEVICE, constants, traffic=traffic, **sizes).terms
        issue = 1.5e6 * 2 / DEVICE.clock_hz + 1e9 / (DEVICE.peak("fp32") / DEVICE.units)
        assert found["vector:fp32"] == pytest.approx(issue / threads)
        assert found["depth"] == pytest.approx(960 / threads * 7 * 10 / DEVICE.clock_hz)
        assert found["launch"] == pytest.approx(1e-6 + fork)
    # Bytes read again count as well; several calls share the bytes evenly.
    for again, calls, threads in ((0.0, 1, 1), (1.0, 1, DEVICE.units), (1.0, 2, 1)):
        more = {"traffic": 4 * 32768 - 1.0, "again": again, "launches": calls}
        found = cpu_scan.seconds(DEVICE, constants, **more, **sizes).terms
        assert found["vector:fp32"] == pytest.approx(issue / threads)
    moved = cpu_scan.seconds(DEVICE, IDEAL, chains=8, steps=1, traffic=1e12, again=5e11).terms["hbm"]
    assert moved == pytest.approx(1.5e12 / DEVICE.hbm_bandwidth, rel=1e-3)


def test_an_unfused_scan_costs_one_start_per_level():
    """With free arithmetic and bytes, the 11 levels over 2,048 positions cost 11 starts."""
    free = {**IDEAL, "start_s": 1e-3, "flop_cycles": 0.0, "l2_bytes_cycle": 1e9}
    got = cpu_scan.seconds(DEVICE, free, chains=8, steps=11, traffic=1e3, launches=11)
    assert got.seconds == pytest.approx(11e-3, rel=1e-6)
    assert got.terms["depth"] == 0.0


def test_a_fused_scan_of_few_lanes_is_limited_by_its_dependent_steps():
    """One lane takes 10⁶ steps of 8 cycles; a second lane runs beside it at no cost."""
    constants = {**IDEAL, "step_cycles": 8.0, "lanes": 64.0, "flop_cycles": 0.25}
    one = cpu_scan.seconds(DEVICE, constants, chains=1, steps=1e6, traffic=8.0, vector_flops=2e6)
    two = cpu_scan.seconds(DEVICE, constants, chains=2, steps=1e6, traffic=16.0, vector_flops=4e6)
    assert one.seconds == pytest.approx(8e6 / DEVICE.clock_hz, rel=1e-6)
    assert two.seconds == one.seconds


@pytest.mark.parametrize("seq", [64, 4096])
def test_a_delta_nets_chunks_are_products_at_the_peak(seq):
    """Of a chunk, five products of 64 × 64 × 128 and three of 64 × 128 × 128, for each value head."""
    sizes = {"batch": 8, "seq": seq, "heads": 16, "value_heads": 32, "head_dim": 128}
    got = cpu_delta.seconds(DEVICE, IDEAL, **sizes)
    chunk = 2 * (5 * 64 * 64 * 128 + 3 * 64 * 128 * 128)
    assert got.terms["vector:fp32"] == pytest.approx(8 * 32 * seq / 64 * chunk / DEVICE.peak("fp32"))


@pytest.mark.parametrize("decode", [False, True])
def test_a_convolution_moves_tokens_weights_and_the_window_that_it_keeps(decode):
    sizes = {"batch": 64, "seq": 1 if decode else 65536, "channels": 8192, "width": 4}
    got = cpu_conv.seconds(DEVICE, {**IDEAL, "flop_cycles": 1e-9}, **sizes, decode=decode)
    tokens = 64 * sizes["seq"] * 8192
    moved = 4 * (2 * tokens + (2 * 64 * 3 * 8192 if decode else 0) + 4 * 8192)
    plain = cpu_scan.seconds(DEVICE, {**IDEAL, "flop_cycles": 1e-9}, chains=1, steps=0, traffic=moved)
    assert got.seconds == plain.seconds


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (cm.GatedDeltaNet(), {"heads": 16, "kv_heads": 32, "head_dim": 128}),
        (cm.CausalConv1d(), {"d_model": 4096}),
        (cm.GatedDeltaNet(form="recurrent"), {"heads": 16, "kv_heads": 32, "head_dim": 128}),
    ],
)
def test_what_gpus_have_kernels_for_is_on_a_cpu_no_gpus_kernel(layer, sizes):
    """Every call is dispatched by Python and wakes the threads, and none is shorter than its bound."""
    found = cm.predict(layer, "epyc-9654", rung="kernel", seq=64, batch=[1, 8, 64], **sizes)
    assert (found.seconds > found.lower_s).all()
    assert (found.seconds > 3e-6).all()
    assert found.limits_s["launch"][0] >= 3e-6
