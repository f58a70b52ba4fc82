"""Traces become tables of measured kernels: recorded ones of this CPU, and Kineto's form of a GPU's."""

import gzip
import importlib
import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import NONE, bf16, fp32, kernel, number, op, record, write

from costmodel.errors import TableError, UnknownNameError
from costmodel.evaluate import evaluate
from costmodel.measured import OPERATIONS_MEASURED
from costmodel.score import score
from costmodel.traces import read_trace
from costmodel.traces._events import Kernel, busy
from costmodel.traces._operations import READERS

H200 = "NVIDIA H200"


def found(table: pd.DataFrame, torch_op: str) -> list[dict[str, object]]:
    """Return what rows of an operation say."""
    rows = table[table["torch_op"] == torch_op].to_dict("records")
    return [{name: value for name, value in row.items() if not pd.isna(value)} for row in rows]


# -- recorded on this CPU ------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(torch, tmp_path_factory):
    """Return a path of the trace of a program with one of each, and the FLOP that torch counts of it."""
    functional = torch.nn.functional
    x, q, steps = torch.randn(6, 32), torch.randn(2, 4, 48, 16), torch.randn(3, 7, 8)
    linear, norm = torch.nn.Linear(32, 80), torch.nn.LayerNorm(32)
    lstm = torch.nn.LSTM(8, 10, num_layers=2, batch_first=True, bidirectional=True)
    gru = torch.nn.GRU(8, 12, bidirectional=True)

    def products() -> None:
        functional.gelu(linear(norm(x)))
        (x.double() @ x.double().t()).softmax(-1)
        torch.bmm(q[0], q[1].transpose(1, 2))
        functional.scaled_dot_product_attention(q, q[:, :, :40], q[:, :, :40])
        functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        functional.scaled_dot_product_attention(q[:, :, :1], q, q)
        linear(x).sum().backward()

    def others() -> None:
        torch.softmax(q, 1)
        x + x
        x + x[0]
        x.mul_(1.0)
        x.clone()
        x.half()
        lstm(steps)
        gru(steps)

    counter = importlib.import_module("torch.utils.flop_counter").FlopCounterMode(display=False)
    with counter:
        products()

    def program() -> None:
        products()
        others()

    return record(tmp_path_factory.mktemp("trace") / "cpu.json", program), counter.get_total_flops()


@pytest.fixture(scope="module")
def table(recorded):
    return read_trace(recorded[0], gpu="cpu/xeon-8480plus")


def test_products_have_their_sizes_and_formats(table):
    forward, weights = found(table, "aten::addmm"), found(table, "aten::mm")
    assert [(r["op"], r["dtype"], r["m"], r["n"], r["k"], r["calls"]) for r in forward] == [
        ("gemm", "fp32", 6, 80, 32, 2)
    ]
    kinds = {(r["dtype"], r["m"], r["n"], r["k"]) for r in weights}
    assert kinds == {("fp64", 6, 6, 32), ("fp32", 80, 32, 6)}
    (batched,) = found(table, "aten::bmm")
    assert (batched["op"], batched["b"], batched["m"], batched["n"], batched["k"]) == ("bmm", 4, 48, 48, 16)


def test_arithmetic_is_what_torch_counts(table, recorded):
    sdpa_flop_count = importlib.import_module("torch.utils.flop_counter").sdpa_flop_count
    products = table[table["op"].isin(["gemm", "bmm"])]
    flops = 2 * products[["m", "n", "k"]].prod(axis=1) * products["b"].fillna(1) * products["calls"]
    assert flops.sum() == recorded[1]  # its counter leaves out this CPU's attention, but has a formula for it
    attention = table[table["op"].str.startswith("attention")]
    pairs = attention[["batch", "heads_q", "seq_kv", "head_dim"]].prod(axis=1) * attention["seq_q"].fillna(1)
    of_torch = sum(
        sdpa_flop_count((2, 4, rows, 16), (2, 4, keys, 16), (2, 4, keys, 16))
        for rows, keys in ((48, 40), (48, 48), (1, 48))
    )
    assert (4 * pairs).sum() == of_torch


def test_attention_is_causal_or_not_or_a_step_of_decoding(table):
    rows = found(table, "aten::_scaled_dot_product_flash_attention_for_cpu")
    kinds = {(r["op"], r.get("seq_q"), r["seq_kv"], r["heads_q"], r["heads_kv"], r["head_dim"]) for r in rows}
    assert kinds == {
        ("attention_prefill_noncausal", 48, 40, 4, 4, 16),
        ("attention_prefill", 48, 48, 4, 4, 16),
        ("attention_decode", None, 48, 4, 4, 16),
    }


def test_recurrent_layers_are_rows_of_their_own(table):
    (lstm,), (gru,) = found(table, "aten::lstm"), found(table, "aten::gru")
    names = ("op", "batch", "seq", "input", "hidden", "num_layers", "bidirectional")
    assert [lstm[name] for name in names] == ["lstm", 3, 7, 8, 10, 2, True]
    assert [gru[name] for name in names] == ["gru", 7, 3, 8, 12, 1, True]
    # What a recurrent layer calls is within its time.
    assert not found(table, "aten::mkldnn_rnn_layer")


def test_passes_are_rows_of_the_last_dimension(table):
    names = ("op", "m", "n")
    (norm,), (gelu,) = found(table, "aten::native_layer_norm"), found(table, "aten::gelu")
    assert [norm[name] for name in names] == ["layernorm", 6, 32]
    assert [gelu[name] for name in names] == ["gelu", 6, 80]
    assert [found(table, "aten::mul_")[0][name] for name in names] == ["elementwise_mul_scalar", 6, 32]


def test_gradients_of_passes_are_backward_rows(torch, tmp_path):
    norm, x = torch.nn.LayerNorm(32), torch.randn(6, 32, requires_grad=True)

    def program() -> None:
        torch.relu(torch.nn.functional.gelu(norm(x))).softmax(-1).sum().backward()

    table = read_trace(record(tmp_path / "cpu.json", program), gpu="cpu/xeon-8480plus")
    backward = table[table["direction"] == "bwd"]
    assert set(backward["op"]) == {"layernorm", "gelu", "relu", "softmax"}
    assert (backward[["m", "n"]] == [6, 32]).all(axis=None)
    assert set(score(table).dropna(subset="seconds")["direction"]) == {"fwd", "bwd"}


def test_what_no_layer_describes_keeps_torchs_name(table):
    softmaxes = {(r["op"], r.get("m"), r.get("n")) for r in found(table, "aten::_softmax")}
    assert {op for op, _, _ in softmaxes} == {"softmax", "pass_function"}  # the other is over heads
    assert ("softmax", 6, 6) in softmaxes
    added = {r["op"] for r in found(table, "aten::add")}
    assert added == {"elementwise_add", "pass_arithmetic"}  # the other repeats a row
    copied = {(r["op"], r["inputs"]) for r in found(table, "aten::copy_") if r["op"] == "copy"}
    assert ("copy", "[[6, 32], [6, 32], []]") in copied
    cast = [r for r in found(table, "aten::copy_") if r["op"] == "pass_cast"]
    assert (6 * 32 * 4, 6 * 32 * 2) in {(r["read_bytes"], r["written_bytes"]) for r in cast}


def test_times_add_up_to_what_the_host_took(table, recorded):
    events = json.loads(recorded[0].read_text(encoding="utf-8"))["traceEvents"]
    ops = [e for e in events if e.get("cat") == "cpu_op"]
    whole = 0.0
    for one in {e["tid"] for e in ops}:
        reached = 0.0
        for event in sorted((e for e in ops if e["tid"] == one), key=lambda e: (e["ts"], -e["dur"])):
            if event["ts"] >= reached:  # no other operation called it
                whole, reached = whole + event["dur"], event["ts"] + event["dur"]
    assert table["total_s"].sum() == pytest.approx(whole * 1e-6, rel=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_what_has_other_sizes_than_it_seems_keeps_torchs_name(torch, tmp_path):
    """No elements, expanded ones, states of another width, a causal mask over more keys than queries."""
    functional = torch.nn.functional
    q, long, table = torch.randn(2, 4, 48, 16), torch.randn(2, 4, 60, 16), torch.randn(6, 32)
    lstm = torch.nn.LSTM(8, 10, proj_size=4)

    def program() -> None:
        functional.scaled_dot_product_attention(q, long, long, is_causal=True)
        functional.scaled_dot_product_attention(q, q[:1].expand_as(q), q[:1].expand_as(q))
        torch.bmm(q[0], torch.randn(16, 20).expand(4, 16, 20))
        table[:1].expand(6, 32).clone()
        torch.randn(6, 48) * torch.randn(1, 48).expand(6, 48)
        lstm(torch.randn(7, 3, 8))
        functional.layer_norm(torch.zeros(3, 0), (0,))
        torch.mm(torch.zeros(0, 32), torch.zeros(32, 5))
        torch.relu(torch.zeros(3, 0))

    read = read_trace(record(tmp_path / "cpu.json", program), gpu="cpu/xeon-8480plus")
    of_its_steps = {"gemm", "sigmoid", "tanh", "elementwise_add", "elementwise_mul"}  # the LSTM's
    described = {op for op in set(read["op"]) - set(read["torch_op"]) if not op.startswith("pass_")}
    assert described <= of_its_steps
    assert (read.loc[read["op"].isin(of_its_steps), "n"] <= 40).all()
    assert {"aten::bmm", "aten::lstm", "aten::native_layer_norm", "aten::relu"} <= set(read["op"])
    # What is expanded is read once.
    repeated = read[read["op"] == "pass_copy"].iloc[0]
    assert (repeated["read_bytes"], repeated["written_bytes"]) == (32 * 4, 6 * 32 * 4)


def test_an_expanded_matrix_is_a_product_as_others(torch, tmp_path):
    """Torch copies it first: a gradient of a sum, for one."""
    weights = torch.randn(32, 80, requires_grad=True)
    path = record(tmp_path / "cpu.json", lambda: (torch.ones(6, 32) @ weights).sum().backward())
    rows = found(read_trace(path, gpu="cpu/xeon-8480plus"), "aten::mm")
    assert {(r["op"], r["m"], r["n"], r["k"]) for r in rows} == {("gemm", 6, 80, 32), ("gemm", 32, 80, 6)}


def test_a_softmax_that_widens_its_format_is_not_described(tmp_path):
    x = bf16(64, 128)
    events = [
        op("aten::_softmax", 0, 5, 1, x, number("-1"), number("True")),
        op("aten::_softmax", 9, 5, 2, x, number("1"), number("False")),  # the last one, counted from 0
        kernel("softmax_warp_forward", 20, 30, 1),
        kernel("softmax_warp_forward", 50, 30, 2),
    ]
    assert set(read_trace(write(tmp_path / "gpu.json", events, H200))["op"]) == {"aten::_softmax", "softmax"}


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        # As multi-head latent attention has them: queries and keys of 192, values of 128.
        (bf16(2, 16, 512, 192), bf16(2, 16, 512, 128)),
        # Keys and values of one sequence, for both.
        (bf16(1, 16, 512, 192), bf16(1, 16, 512, 192)),
    ],
    ids=["values of another width", "keys of fewer sequences"],
)
def test_attention_over_keys_or_values_of_another_shape_is_not_described(tmp_path, keys, values):
    q = bf16(2, 16, 512, 192)
    rest = (number("0."), number("True"), number("False"), NONE)
    name = "aten::_scaled_dot_product_flash_attention"
    events = [op(name, 0, 50, 1, q, keys, values, *rest), kernel("flash_fwd_kernel", 60, 30, 1)]
    assert set(read_trace(write(tmp_path / "gpu.json", events, H200))["op"]) == {name}


#: Names that torch's schemas have for inputs, by their places after the first one that a reader is told.
PLACES = {
    "mm": {0: "self", 1: "mat2"},
    "addmm": {0: "mat1", 1: "mat2"},
    "_addmm_activation": {0: "mat1", 1: "mat2"},
    "_scaled_mm": {0: "self", 1: "mat2"},
    "bmm": {0: "self", 1: "mat2"},
    "baddbmm": {0: "batch1", 1: "batch2"},
    "_softmax": {0: "self", 1: "dim"},
    **{f"{name}_backward_data": {0: "output", 1: "dim"} for name in ("_softmax", "_log_softmax")},
    "native_layer_norm": {0: "input", 1: "normalized_shape"},
    "native_layer_norm_backward": {0: "input", 1: "normalized_shape"},
    "_fused_rms_norm": {0: "input", 1: "normalized_shape"},
    "_fused_rms_norm_backward": {0: "input", 1: "normalized_shape"},
    "threshold_backward": {0: "grad_output"},
    **{f"{name}_backward": {0: "grad_output"} for name in ("tanh", "sigmoid", "gelu", "silu")},
    "copy_": {0: "self", 1: "src"},
    **{
        name: {0: "input", 1: "hx", 4: "num_layers", 7: "bidirectional", 8: "batch_first"}
        for name in ("lstm", "gru", "rnn_tanh")
    },
    **{
        name: {0: "input", 1: "weight", 3: "stride", 4: "padding", 5: "dilation", 6: "transposed"}
        | {7: "output_padding", 8: "groups"}
        for name in ("convolution", "_convolution")
    },
    "convolution_backward": {0: "grad_output", 1: "input", 2: "weight", 4: "stride", 5: "padding"}
    | {6: "dilation", 7: "transposed", 8: "output_padding", 9: "groups", 10: "output_mask"},
    "mkldnn_rnn_layer_backward": {0: "input", 2: "weight2", 14: "mode", 15: "hidden_size"},
}


@pytest.mark.parametrize("name", [name.removeprefix("aten::") for name in READERS])
def test_places_of_inputs_are_those_of_torchs_schemas(torch, name):
    packet = getattr(torch.ops.aten, name)
    schemas = [[one.name for one in getattr(packet, kind)._schema.arguments] for kind in packet.overloads()]
    told = getattr(READERS[f"aten::{name}"], "args", ())
    first = next((place for place in told if isinstance(place, int)), 0)
    expected = [(first + place, said) for place, said in PLACES.get(name, {0: "self"}).items()]
    if name.startswith("_scaled_dot_product"):
        _, query, causal, mask, _ = told
        expected = [(query, "query"), (query + 1, "key"), (query + 2, "value"), (causal, "is_causal")]
        expected += [] if mask is None else [(mask, "attn_mask" if "cpu" in name else "attn_bias")]
    assert any(
        all(place < len(names) and names[place] == said for place, said in expected) for names in schemas
    ), schemas


# -- of a GPU ------------------------------------------------------------------------------


def test_an_operation_takes_the_time_in_which_its_kernels_run(tmp_path):
    """Two kernels that overlap and a third after a pause: 10 to 25 and 40 to 45 are 20 µs."""
    path = write(
        tmp_path / "gpu.json",
        [
            op("aten::linear", 0, 30, 1, bf16(64, 512), bf16(256, 512)),
            op("aten::mm", 2, 20, 2, bf16(64, 512), bf16(512, 256)),
            kernel("gemm", 10, 10, 2),
            kernel("gemm_part", 15, 10, 2),
            kernel("reduce", 40, 5, 2),
        ],
        H200,
    )
    (row,) = read_trace(path).to_dict("records")
    assert (row["gpu"], row["op"], row["m"], row["n"], row["k"]) == (H200, "gemm", 64, 256, 512)
    assert row["latency_s"] == pytest.approx(20e-6)
    assert (row["kernel"], row["grid"], row["timer"]) == ("gemm", 256, "kernel-time")


def test_calls_of_one_kind_are_one_row_with_their_median(tmp_path):
    events = []
    for call, took in enumerate((3, 5, 40), 1):
        events += [
            op("aten::relu", 100 * call, 9, call, bf16(8, 16)),
            kernel("relu", 500 + call * 99, took, call),
        ]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert (row["calls"], row["op"]) == (3, "relu")
    assert row["latency_s"] == pytest.approx(5e-6)
    assert row["total_s"] == pytest.approx(48e-6)


def test_attention_is_read_where_its_sizes_are_named_and_has_its_kernels_time(tmp_path):
    """FlashAttention's own operation has lengths before heads; the one that calls it is read."""
    q, kv = bf16(2, 32, 512, 128), bf16(2, 8, 512, 128)
    inner = bf16(2, 512, 32, 128)
    path = write(
        tmp_path / "gpu.json",
        [
            op(
                "aten::_scaled_dot_product_flash_attention", 0, 50, 1,
                q, kv, kv, number("0."), number("True"), number("False"), NONE,
            ),
            op("aten::_flash_attention_forward", 5, 40, 2, inner, inner, inner),
            kernel("pytorch_flash::flash_fwd_kernel", 60, 30, 2),
        ],
        H200,
    )  # fmt: skip
    (row,) = read_trace(path).to_dict("records")
    assert (row["op"], row["kernel"], row["direction"]) == ("attention_prefill", "fa2", "fwd")
    assert (row["seq_q"], row["heads_q"], row["heads_kv"]) == (512, 32, 8)
    assert row["latency_s"] == pytest.approx(30e-6)


def test_attention_with_a_mask_of_its_own_is_not_described(tmp_path):
    q = bf16(2, 32, 512, 128)
    mask = bf16(2, 32, 512, 512)
    rest = (number("True"), number("0."), number("False"), NONE)
    name = "aten::_scaled_dot_product_efficient_attention"
    path = write(
        tmp_path / "gpu.json",
        [
            op(name, 0, 5, 1, q, q, q, mask, *rest),
            op(name, 9, 5, 2, q, q, q, NONE, *rest),
            kernel("fmha_cutlassF_bf16_aligned", 20, 30, 1),
            kernel("fmha_cutlassF_bf16_aligned", 50, 30, 2),
        ],
        H200,
    )
    assert set(read_trace(path)["op"]) == {name, "attention_prefill_noncausal"}


def test_recurrent_layers_take_the_time_to_their_last_step(tmp_path):
    """The pauses between dependent steps are the layer's."""
    states = ([[1, 8, 64], [1, 8, 64]], "TensorList", "")
    flags = [number(text) for text in ("True", "1", "0.", "False", "False", "False")]
    path = write(
        tmp_path / "gpu.json",
        [
            op("aten::lstm", 0, 90, 1, fp32(50, 8, 32), states, ([[256, 32]], "TensorList", ""), *flags),
            op("aten::_cudnn_rnn", 5, 80, 2, fp32(50, 8, 32)),
            kernel("elemWiseRNNcell", 30, 5, 2),
            kernel("elemWiseRNNcell", 10, 5, 2),
            kernel("gemm", 16, 8, 2),
        ],
        H200,
    )
    (row,) = read_trace(path).to_dict("records")
    assert (row["op"], row["seq"], row["batch"], row["hidden"]) == ("lstm", 50, 8, 64)
    assert row["latency_s"] == pytest.approx(25e-6)
    assert row["kernel"] == "gemm"  # the longest


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("ampere_sgemm_128x64_tn", "fp32"),
        ("cutlass_80_tensorop_s1688gemm_128x128_16x5_nn_align4", "tf32"),
        ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32", "tf32"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize32x32x8_stage3", "fp32"),
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm_128x128_8x4_nn_align1>(…)", "fp32"),
        ("nvjet_sm120_sss_tf32_mma_32x64x32_splitK_TNNN", "tf32"),
        ("Cijk_Alik_Bljk_S_MX_B_Bias_HA_S_SAV_UserArgs_MT256x256x32_MI16x16x1", "tf32"),
        ("Cijk_Ailk_Bljk_S_B_MT128x128x16_MI32x32x2x1_SN", "fp32"),
    ],
)
def test_fp32_operands_on_tensor_cores_are_tf32(tmp_path, name, dtype):
    """A second kernel, which adds up parts and takes longer, does not hide the first."""
    events = [
        op("aten::mm", 0, 9, 1, fp32(64, 64), fp32(64, 64)),
        kernel(name, 20, 5, 1),
        kernel("void cublasLt::splitKreduce_kernel<32, 16, int, float, float>(…)", 25, 7, 1),
    ]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert row["dtype"] == dtype


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        ("nvjet_sm100_sss_128x128_64x4_TNT", fp32, "nvjet"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNN", bf16, ""),
    ],
)
def test_a_kernel_that_does_not_say_how_it_multiplies_fp32_has_no_prediction(tmp_path, name, dtype, said):
    """On Blackwell cuBLAS may emulate fp32 with bf16; a bound at fp32's rate would not hold."""
    events = [op("aten::mm", 0, 9, 1, dtype(64, 64), dtype(64, 64)), kernel(name, 20, 5, 1)]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert (row["op"] == "aten::mm") == bool(said)
    assert said in row["unread"]


def test_attention_that_multiplies_fp32_three_times_in_tf32_has_no_prediction(tmp_path):
    """torch's ``gemm_kernel_utils.h``: OpMultiplyAddFastF32 from sm80 on; before, CUDA cores."""
    q, rest = fp32(2, 8, 512, 64), (NONE, number("True"), number("0."), number("False"), NONE)
    name = "aten::_scaled_dot_product_efficient_attention"
    events = [
        op(name, 0, 9, 1, q, q, q, *rest),
        op(name, 10, 9, 2, q, q, q, *rest),
        kernel("fmha_cutlassF_f32_aligned_64x64_rf_sm80(…)", 20, 30, 1),
        kernel("fmha_cutlassF_f32_aligned_64x64_rf_sm75(…)", 50, 20, 2),
    ]
    first, second = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert (first["op"], second["op"]) == (name, "attention_prefill_noncausal")
    assert "three times in TF32" in first["unread"]


MI250X = "AMD Instinct MI250X"


@pytest.mark.parametrize(
    ("name", "units", "given", "found"),
    [
        (MI250X, 110, None, "amd/mi250x-gcd"),
        (MI250X, None, None, "amd/mi250x-gcd"),
        (f"{MI250X} / MI250", 104, None, "amd/mi250-gcd"),
        (f"{MI250X} / MI250", 110, None, "amd/mi250x-gcd"),
        (f"{MI250X} / MI250", None, "mi250-gcd", "mi250-gcd"),
        (H200, None, "mi250x", "amd/mi250x-gcd"),
        ("Tesla K80", 13, None, "nvidia/k80-gpu"),
        (H200, 132, None, H200),
    ],
)
def test_of_a_module_of_two_dies_a_program_sees_one(tmp_path, name, units, given, found):
    path = write(tmp_path / "gpu.json", [CALL, kernel("relu", 20, 5, 1)], name)
    trace = json.loads(path.read_text(encoding="utf-8"))
    trace["deviceProperties"][0] |= {"numSms": units} if units else {}
    path.write_text(json.dumps(trace), encoding="utf-8")
    assert set(read_trace(path, gpu=given)["gpu"]) == {found}


def test_times_of_a_cpu_are_not_those_of_a_gpu(tmp_path):
    """Without a GPU's kernels a trace has the host's times, which a GPU's predictions are not of."""
    path = write(tmp_path / "cpu.json", [CALL])
    with pytest.raises(TableError, match="nothing ran on a GPU, and nvidia/t4 is no CPU; say which it is"):
        read_trace(path, gpu="t4")


def test_which_of_two_modules_it_was_has_to_be_said(tmp_path):
    path = write(tmp_path / "gpu.json", [CALL, kernel("relu", 20, 5, 1)], f"{MI250X} / MI250")
    with pytest.raises(TableError, match="say which it is: amd/mi250x-gcd or amd/mi250-gcd"):
        read_trace(path)


def test_copies_that_leave_the_device_are_no_copies_on_it(tmp_path):
    events = []
    names = (
        "Memcpy HtoD (Pageable -> Device)",
        "Memcpy PtoP (Device -> Device)",
        "Memcpy 3 (0x7f00 -> 0x7f80)",  # of AMD's tracer, with its number of the kind
    )
    for call, name in enumerate((*names, "Memcpy DtoD (Device -> Device)"), 1):
        events += [
            op("aten::copy_", 100 * call, 9, call, bf16(8, 16), bf16(8, 16), number("False")),
            kernel(name, 100 * call + 20, 5, call, cat="gpu_memcpy"),
        ]
    table = read_trace(write(tmp_path / "gpu.json", events, H200))
    assert dict(zip(table["kernel"], table["op"], strict=True)) == {
        **dict.fromkeys(names, "aten::copy_"),
        "Memcpy DtoD (Device -> Device)": "copy",
    }


def test_kernels_of_no_operation_are_rows_too(tmp_path):
    """As those of a replayed graph: they count for the whole, without a prediction."""
    events = [
        op("aten::relu", 0, 9, 1, bf16(8, 16)),
        kernel("triton_fused", 20, 5, None),
        kernel("x", 30, 5, 77),
    ]
    table = read_trace(write(tmp_path / "gpu.json", events, H200))
    assert set(table["op"]) == {"triton_fused", "x"}
    assert table["total_s"].sum() == pytest.approx(10e-6)


def test_rows_are_listed_most_time_first(tmp_path):
    """Two calls of 4 µs are more than one of 7."""
    events = [op("aten::relu", 0, 9, 1, bf16(8, 16))]
    events += [
        kernel(name, 10 * i, took, None) for i, (name, took) in enumerate((("b", 7), ("a", 4), ("a", 4)))
    ]
    assert list(read_trace(write(tmp_path / "gpu.json", events, H200))["op"]) == ["a", "b"]


def test_each_gpu_is_called_by_its_name(tmp_path):
    events = [
        op("aten::relu", 0, 9, 1, bf16(8, 16)),
        op("aten::relu", 10, 9, 2, bf16(8, 16)),
        kernel("relu", 20, 5, 1, device=0),
        kernel("relu", 20, 5, 2, device=1),
    ]
    path = write(tmp_path / "gpu.json", events, H200, "NVIDIA A40")
    assert set(read_trace(path)["gpu"]) == {H200, "NVIDIA A40"}
    assert set(read_trace(path, gpu="t4")["gpu"]) == {"t4"}
    unnamed = write(tmp_path / "unnamed.json", events, H200)
    with pytest.raises(TableError, match="does not name GPU 1"):
        read_trace(unnamed)
    unknown = write(tmp_path / "unknown.json", events, H200, "Voodoo 2")
    with pytest.raises(TableError, match="ran on 'Voodoo 2', of which there is no spec"):
        read_trace(unknown)
    with pytest.raises(UnknownNameError, match="unknown device 'h300'"):
        read_trace(path, gpu="h300")


def test_a_packed_trace_is_read_as_the_other(tmp_path):
    path = write(
        tmp_path / "gpu.json", [op("aten::relu", 0, 9, 1, bf16(8, 16)), kernel("relu", 20, 5, 1)], H200
    )
    packed = tmp_path / "gpu.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    pd.testing.assert_frame_equal(read_trace(packed), read_trace(path))


def saying(event: dict[str, object], **args: object) -> dict[str, object]:
    """Return an event that says more, or less where an argument is None."""
    said = {**event["args"], **args}
    return {**event, "args": {name: value for name, value in said.items() if value is not None}}


def test_a_kernel_with_its_own_number_is_nobodys_unless_launched_by_that_operation(tmp_path):
    """Kineto before October 2024 gives kernels of CUDA graphs their correlation number as External id."""
    launch = {"ph": "X", "cat": "cuda_runtime", "pid": 1, "tid": 1, "dur": 2}
    events = [
        op("aten::relu", 0, 9, 5, bf16(8, 16)),
        {**launch, "name": "cudaGraphLaunch", "ts": 50, "args": {"correlation": 5}},
        saying(kernel("of_a_graph", 60, 7, 5), correlation=5),
        op("aten::relu", 100, 9, 6, bf16(8, 16)),
        {**launch, "name": "cudaLaunchKernel", "ts": 104, "args": {"correlation": 6}},
        saying(kernel("relu", 120, 3, 6), correlation=6),
    ]
    table = read_trace(write(tmp_path / "gpu.json", events, H200))
    assert dict(zip(table["op"], table["kernel"], strict=True)) == {
        "of_a_graph": "of_a_graph",
        "relu": "relu",
    }


def test_a_kernel_is_its_operations_whatever_other_launch_has_the_operations_number(tmp_path):
    """Operations and launches are counted apart: number 5 is one of each."""
    launch = {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "dur": 2}
    events = [
        {**launch, "ts": 1, "args": {"correlation": 5}},
        op("aten::relu", 100, 9, 5, bf16(8, 16)),
        {**launch, "ts": 104, "args": {"correlation": 6}},
        saying(kernel("relu_kernel", 120, 3, 5), correlation=6),
    ]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert (row["op"], row["kernel"]) == ("relu", "relu_kernel")


def test_a_kernel_whose_launch_is_not_recorded_is_the_operations_that_has_its_number(tmp_path):
    events = [op("aten::relu", 0, 9, 5, bf16(8, 16)), saying(kernel("relu_kernel", 20, 3, 5), correlation=5)]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert (row["op"], row["kernel"]) == ("relu", "relu_kernel")


def test_kernels_belong_to_operations_of_any_thread(tmp_path):
    """The backward pass runs on a thread of its own, beside operations that begin and end with its own."""
    events = [op("aten::relu", 0, 9, 1, bf16(8, 16)), op("aten::exp", 0, 9, 2, bf16(8, 16), tid=2)]
    events += [kernel("r", 20, 5, 1), kernel("e", 30, 5, 2)]
    table = read_trace(write(tmp_path / "gpu.json", events, H200))
    assert dict(zip(table["op"], table["kernel"], strict=True)) == {"relu": "r", "exp": "e"}


def test_number_0_is_no_operations(tmp_path):
    """Of a profiler that was told not to link anything."""
    events = [op("aten::relu", 0, 9, 0, bf16(8, 16)), kernel("x", 20, 5, 0)]
    assert set(read_trace(write(tmp_path / "gpu.json", events, H200))["op"]) == {"x"}


def test_kernels_that_say_nothing_are_rows_of_their_gpu(tmp_path):
    """AMD's tracer leaves the arguments out; a copy between two GPUs has a device "in" which it ran."""
    silent = {name: value for name, value in kernel("silent", 20, 5, 1).items() if name != "args"}
    peer = saying(kernel("Memcpy PtoP (Device -> Device)", 40, 5, None), device=None, inDevice=1)
    events = [op("aten::relu", 0, 9, 1, bf16(8, 16)), {**silent, "pid": 1}, peer]
    table = read_trace(write(tmp_path / "gpu.json", events, H200, "NVIDIA A40"))
    assert list(table["gpu"]) == ["NVIDIA A40"] * 2
    assert table["total_s"].sum() == pytest.approx(10e-6)


def test_what_events_say_in_another_form_is_as_if_they_did_not(tmp_path):
    """Numbers and names of other types; a launch without a grid. A GPU without a number is the first."""
    events = [
        saying(op("aten::relu", 0, 9, 1, bf16(8, 16)), **{"External id": [1]}),
        {**saying(kernel("no_number", 20, 5, None), device="0", grid=[]), "pid": "GPU"},
        saying(kernel("text", 30, 4, None), grid=[2, "x", 1]),
        saying(kernel("side", 40, 3, None), **{"External id": [1]}),
    ]
    path = write(tmp_path / "gpu.json", events, H200)
    trace = json.loads(path.read_text(encoding="utf-8"))
    trace["deviceProperties"] += ["NVIDIA A40", {"id": 2}]
    path.write_text(json.dumps(trace), encoding="utf-8")
    table = read_trace(path)
    assert set(table["gpu"]) == {H200}
    assert dict(zip(table["kernel"], table["grid"].fillna(0), strict=True)) == {
        "no_number": 0,
        "text": 0,
        "side": 32 * 4 * 2,
    }


def test_times_below_zero_count_as_none_and_short_ones_in_full(tmp_path):
    """A clock that is set meanwhile; an operation that ends before one it called does."""
    kernels = [kernel("short", 20, 0.25, None), kernel("odd", 30, -4, None)]
    path = write(tmp_path / "gpu.json", [op("aten::relu", 0, 9, 1, bf16(8, 16)), *kernels], H200)
    table = read_trace(path)
    assert dict(zip(table["op"], table["latency_s"], strict=True)) == pytest.approx(
        {"short": 0.25e-6, "odd": 0}
    )
    calls = [op("aten::outer", 0, 10, 1), op("aten::inner", 5, 15, 2), op("aten::odd", 50, -3, 3)]
    calls.append(op("aten::relu", 60, 1, 4, fp32(8, 16)))
    table = read_trace(write(tmp_path / "cpu.json", calls), gpu="cpu/xeon-8480plus").set_index("op")[
        "latency_s"
    ]
    assert (table["aten::outer"], table["aten::odd"]) == (0, 0)
    assert table["aten::inner"] == pytest.approx(15e-6)


def test_of_two_operations_that_start_together_the_longer_one_calls(tmp_path):
    """Whichever is listed first: 10 µs of which 4 are the inner one's."""
    calls = [op("aten::relu", 0, 4, 2, fp32(8, 16)), op("aten::outer", 0, 10, 1)]
    for order in (calls, calls[::-1]):
        table = read_trace(write(tmp_path / "cpu.json", order), gpu="cpu/xeon-8480plus")
        times = dict(zip(table["op"], table["latency_s"], strict=True))
        assert times == pytest.approx({"aten::outer": 6e-6, "relu": 4e-6})


def test_a_single_row_is_read_once_whatever_its_stride(tmp_path):
    row = saying(op("aten::relu", 0, 9, 1, fp32(1, 48)), **{"Input Strides": [[0, 1]]})
    assert list(read_trace(write(tmp_path / "cpu.json", [row]), gpu="cpu/xeon-8480plus")["op"]) == ["relu"]


def test_two_processes_in_one_trace_are_refused_where_kernels_have_to_be_told_apart(tmp_path):
    calls = [op("aten::relu", 0, 9, 1, bf16(8, 16)), {**op("aten::exp", 0, 9, 1, bf16(8, 16)), "pid": 2}]
    with pytest.raises(TableError, match="2 processes in one trace; wanted a trace for each"):
        read_trace(write(tmp_path / "gpu.json", [*calls, kernel("relu", 20, 5, 1)], H200))
    assert set(read_trace(write(tmp_path / "cpu.json", calls), gpu="cpu/xeon-8480plus")["op"]) == {
        "relu",
        "exp",
    }


@pytest.mark.parametrize("epoch", [0, 1_656_000_000_000_000])
def test_calls_one_right_after_the_other_do_not_call_each_other(tmp_path, epoch):
    """Earlier releases write microseconds since 1970."""
    events = [op("aten::relu", epoch + 3 * call, 3, call + 1, fp32(8, 16)) for call in range(200)]
    (row,) = read_trace(write(tmp_path / "cpu.json", events), gpu="cpu/xeon-8480plus").to_dict("records")
    assert row["calls"] == 200


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20))), st.randoms())
def test_time_in_which_kernels_run_counts_moments(spans, shuffled):
    """Whole microseconds: as many as lie in one of the kernels at least."""
    shuffled.shuffle(spans)
    kernels = [Kernel("k", 0, float(start), float(took), None) for start, took in spans]
    moments = {moment for start, took in spans for moment in range(start, start + took)}
    assert busy(kernels) == pytest.approx(len(moments))


# -- what is no trace ----------------------------------------------------------------------

CALL = op("aten::relu", 0, 9, 1, bf16(8, 16))
BARE = {**CALL, "args": {"External id": 1}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not readable as JSON"),
        ("[]", "wanted a JSON object with traceEvents"),
        ('{"traceEvents": 5}', "wanted a JSON object with traceEvents"),
        (json.dumps({"traceEvents": [None, 5, {"cat": "cpu_op"}]}), "names no operation of torch"),
        (json.dumps({"traceEvents": [BARE]}), "record_shapes=True"),
        (json.dumps({"traceEvents": [CALL]}), "does not name its CPU"),
        ("\x1f\x8bcut short", "not readable as JSON"),
        (gzip.compress(b"[]", mtime=0)[:10].decode("latin-1") + "\xff" * 20, "not readable as JSON"),
        (json.dumps({"traceEvents": [{**CALL, "ts": float("nan")}]}), "names no operation of torch"),
        (json.dumps({"traceEvents": [{**CALL, "args": 5}]}), "record_shapes=True"),
        (json.dumps({"deviceProperties": 5, "traceEvents": [CALL, kernel("x", 1, 1, 1)]}), "not name GPU 0"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "trace.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TableError, match=said) as refusal:
        read_trace(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(TableError, match="is a folder"):
        read_trace(tmp_path)
    with pytest.raises(TableError, match="no such file"):
        read_trace(tmp_path / "none.json")


def test_inputs_of_another_release_are_no_rows_of_ours(tmp_path):
    """Fewer inputs than the schema has, or other kinds: torch's name stays."""
    strange = [
        op("aten::mm", 0, 9, 1, bf16(8, 16)),
        op("aten::native_layer_norm", 10, 9, 2, bf16(8, 16), NONE),
        op("aten::bmm", 20, 9, 3, bf16(8, 16), bf16(8, 16)),
        op("aten::mm", 30, 9, 4, bf16(8, 16), fp32(16, 8)),
    ]
    table = read_trace(write(tmp_path / "cpu.json", strange), gpu="cpu/xeon-8480plus")
    assert all(name.startswith("aten::") for name in table["op"])


# -- masks, gradients of recurrences, products of whole numbers ------------------------------------


@pytest.mark.parametrize(
    ("mask", "described"),
    [((1, 1, 48, 48), True), ((2, 1, 1, 48), True), ((2, 3, 48, 48), False)],
    ids=["one for all", "one row for each sequence", "one for each head"],
)
def test_attention_with_a_mask_that_is_small_beside_its_operands(torch, tmp_path, mask, described):
    """Queries, like keys, have 2 × 3 × 48 × 16 numbers; a mask for each head three times as many."""
    q, k, v = (torch.randn(2, 3, 48, 16) for _ in range(3))
    bias = torch.zeros(mask)
    attention = torch.nn.functional.scaled_dot_product_attention
    path = record(tmp_path / "cpu.json", lambda: attention(q, k, v, attn_mask=bias))
    rows = read_trace(path, gpu="cpu/xeon-8480plus")
    rows = rows[rows["torch_op"].str.contains("flash_attention_for_cpu")]
    (row,) = rows.to_dict("records")
    assert (row["op"] == "attention_prefill_noncausal") == described


def test_the_gradient_of_a_recurrent_layer_on_a_cpu_is_one_layer_and_direction_each(torch, tmp_path):
    counter = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
    lstm = torch.nn.LSTM(12, 16, num_layers=2)
    x = torch.randn(5, 3, 12)
    path = record(tmp_path / "cpu.json", lambda: lstm(x)[0].sum().backward())
    rows = read_trace(path, gpu="cpu/xeon-8480plus").query("op == 'lstm'").to_dict("records")
    gradients = [row for row in rows if row["direction"] == "bwd"]
    assert sum(row["calls"] for row in gradients) == 2
    assert {(row["input"], row["hidden"]) for row in gradients} == {(12, 16), (16, 16)}
    assert all((row["batch"], row["seq"], row["num_layers"]) == (3, 5, 1) for row in gradients)
    # Two products for each of forward's: of a step's input and state with four gates.
    with counter(display=False) as counted:
        torch.randn(15, 28) @ torch.randn(28, 64)
    layer = OPERATIONS_MEASURED["lstm"].layer("fp32", gradients[0])
    sizes = {"batch": 3, "seq": 5, "input": 12, "hidden": 16, "num_layers": 1}
    assert evaluate(layer, **sizes)["matrix_flops"] == 2 * counted.get_total_flops()


@pytest.mark.parametrize(("width", "described"), [(10, True), (4, False)])
def test_the_gradient_of_a_recurrent_layer_with_another_state_is_not_described(tmp_path, width, described):
    """An LSTM's state of 10 units; with projections its second weights have fewer columns."""
    name, rest = "aten::mkldnn_rnn_layer_backward", (*[NONE] * 11, number("2"), number("10"))
    call = op(name, 0, 9, 1, fp32(7, 3, 8), fp32(40, 8), fp32(40, width), *rest)
    (row,) = read_trace(write(tmp_path / "cpu.json", [call]), gpu="cpu/xeon-8480plus").to_dict("records")
    assert row["op"] == ("lstm" if described else name)


def test_the_gradient_of_attention_of_one_query_is_no_step_of_decoding(torch, tmp_path):
    q, k = (torch.randn(2, 4, length, 16, requires_grad=True) for length in (1, 48))
    attention = torch.nn.functional.scaled_dot_product_attention
    path = record(tmp_path / "cpu.json", lambda: attention(q, k, k).sum().backward())
    table = read_trace(path, gpu="cpu/xeon-8480plus")
    rows = table[table["torch_op"].str.contains("flash_attention")].set_index("direction")
    assert rows["op"].to_dict() == {"fwd": "attention_decode", "bwd": "attention_prefill_noncausal"}
    assert (rows.loc["bwd", "seq_q"], rows.loc["bwd", "seq_kv"]) == (1, 48)


def test_a_norm_over_several_dimensions_has_rows_of_all_of_them(torch, tmp_path):
    norm, x = torch.nn.LayerNorm((3, 32)), torch.randn(5, 6, 3, 32, requires_grad=True)
    path = record(tmp_path / "cpu.json", lambda: norm(x).sum().backward())
    table = read_trace(path, gpu="cpu/xeon-8480plus").query("op == 'layernorm'")
    assert set(table["direction"]) == {"fwd", "bwd"}
    assert (table[["m", "n"]] == [30, 96]).all(axis=None)


def test_products_of_whole_numbers_have_their_format(torch, tmp_path):
    a, b = (torch.ones(32, 32, dtype=torch.int8) for _ in range(2))
    read = read_trace(record(tmp_path / "cpu.json", lambda: torch._int_mm(a, b)), gpu="cpu/xeon-8480plus")
    (row,) = read[read["torch_op"] == "aten::_int_mm"].to_dict("records")
    assert (row["op"], row["dtype"], row["m"], row["n"], row["k"]) == ("gemm", "int8", 32, 32, 32)
