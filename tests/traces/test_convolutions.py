"""Convolutions in a trace: FLOPs against torch's counter, bytes against torch's tensors."""

import importlib

import pandas as pd
import pytest
from recorded import NONE, fp32, kernel, number, op, record, write

from costmodel.evaluate import compile_expressions, evaluate
from costmodel.measured import OPERATIONS_MEASURED
from costmodel.score import score
from costmodel.traces import read_trace

CPU, H200 = "cpu/xeon-8480plus", "NVIDIA H200"


#: Name of the function in torch, shapes of the image and of the weights, further arguments.
CASES = {
    "3 × 3": ("conv2d", (2, 6, 11, 9), (8, 6, 3, 3), {"padding": 1}),
    "1 × 1": ("conv2d", (2, 6, 11, 9), (8, 6, 1, 1), {}),
    "stride over places": ("conv2d", (2, 6, 11, 9), (8, 6, 1, 1), {"stride": 2}),
    "dilated": ("conv2d", (2, 6, 11, 9), (8, 6, 3, 2), {"dilation": (2, 3), "stride": (1, 2)}),
    "grouped": ("conv2d", (2, 6, 11, 9), (9, 2, 3, 3), {"groups": 3}),
    "depthwise": ("conv2d", (2, 6, 11, 9), (12, 1, 3, 3), {"groups": 6, "padding": 1}),
    "sequence": ("conv1d", (3, 4, 33), (5, 4, 7), {"stride": 3, "padding": 2}),
    "volume": ("conv3d", (2, 3, 5, 6, 7), (4, 3, 3, 3, 3), {"padding": 1}),
    "transposed": ("conv_transpose2d", (2, 6, 5, 4), (6, 8, 4, 4), {"stride": 2, "padding": 1}),
    "transposed, uneven": (
        "conv_transpose2d",
        (2, 6, 5, 4),
        (6, 4, 3, 3),
        {"stride": 2, "output_padding": 1, "groups": 2},
    ),
    "transposed sequence": ("conv_transpose1d", (2, 6, 15), (6, 8, 4), {"stride": 2}),
}


def _rows(path) -> list[dict]:
    table = read_trace(path, gpu=CPU)
    rows = table[table["op"].str.startswith("convolution")].to_dict("records")
    return [{key: value for key, value in row.items() if not pd.isna(value)} for row in rows]


def _flops(row: dict) -> float:
    """Return the FLOPs of a row's layer."""
    operation = OPERATIONS_MEASURED[row["op"]]
    sizes = {size: row[column] for column, size in operation.columns.items()}
    counts = evaluate(operation.layer(row["dtype"], row), **sizes)
    return float(counts["matrix_flops"] + counts["vector_flops"])


def _case(torch, case):
    name, image, weights, rest = CASES[case]
    x, w = (torch.randn(*shape, requires_grad=True) for shape in (image, weights))
    function = getattr(importlib.import_module("torch.nn.functional"), name)
    return x, w, lambda: function(x, w, **rest)


@pytest.mark.parametrize("case", CASES)
def test_counts_and_bytes_are_torchs(torch, tmp_path, case):
    """FlopCounterMode counts the weight gradient of G groups as G times as large: exact counts do not."""
    counter = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode
    x, w, call = _case(torch, case)
    with counter(display=False) as counted:
        y = call()
    path = record(tmp_path / "cpu.json", lambda: call().sum().backward())
    forward, backward = sorted(_rows(path), key=lambda row: row["direction"], reverse=True)
    assert (forward["direction"], backward["direction"]) == ("fwd", "bwd")
    assert _flops(forward) == counted.get_total_flops()
    assert _flops(backward) == 2 * counted.get_total_flops()
    assert forward["read_bytes"] == x.nbytes + w.nbytes
    assert forward["written_bytes"] == y.nbytes
    # The gradient of a sum is expanded from one number.
    assert backward["read_bytes"] == x.nbytes + w.nbytes + 4
    assert backward["written_bytes"] == x.nbytes + w.nbytes


@pytest.mark.parametrize("case", CASES)
def test_no_more_has_to_be_read_than_changes_the_result(torch, tmp_path, case):
    """Places of the image whose gradient is 0 whatever the weights are need not be read."""
    x, w, call = _case(torch, case)
    (row,) = _rows(record(tmp_path / "cpu.json", call))
    function = CASES[case][0]
    (gradient,) = torch.autograd.grad(
        getattr(torch.nn.functional, function)(x, torch.ones_like(w), **CASES[case][3]).sum(), x
    )
    assert row["least_bytes"] == 4 * int((gradient != 0).sum()) + w.nbytes


def test_a_gradient_that_is_the_input_itself_is_read_once(torch, tmp_path):
    """Of a loss of y · x: the trace shows two shapes that are the same."""
    x, w = torch.randn(2, 6, 5, 4, requires_grad=True), torch.randn(6, 6, 1, 1, requires_grad=True)
    path = record(tmp_path / "cpu.json", lambda: torch.conv2d(x, w).backward(x.detach()))
    (row,) = (row for row in _rows(path) if row["direction"] == "bwd")
    assert row["least_bytes"] == x.nbytes + w.nbytes
    assert row["read_bytes"] == 2 * x.nbytes + w.nbytes


def test_only_the_gradients_that_are_wanted_count(torch, tmp_path):
    """The first layer of a network has no input gradient; of frozen weights there is none."""
    x, w, call = _case(torch, "3 × 3")
    for wanted, other, direction in ((w, x, "bwd_weights"), (x, w, "bwd_data")):
        wanted.requires_grad_(True)
        other.requires_grad_(False)
        grad = torch.randn_like(call())
        rows = _rows(record(tmp_path / "cpu.json", lambda grad=grad: call().backward(grad)))
        (row,) = (row for row in rows if row["direction"] != "fwd")
        assert row["direction"] == direction
        assert row["written_bytes"] == wanted.nbytes
        assert row["read_bytes"] == other.nbytes + grad.nbytes
        assert _flops(row) == 2 * 2 * 11 * 9 * 8 * 6 * 9  # 2 FLOP, images, places, channels, taps


def test_the_lower_bound_leaves_room_for_winograd(torch, tmp_path):
    """F(2 × 2, 3 × 3) multiplies 16 times for 4 outputs, not 36 (Lavin & Gray, arXiv 1509.09308, §4.1).

    F(m, r) multiplies m + r − 1 times per side: towards once for each output, as m grows.
    """
    x, w = torch.randn(1, 64, 64, 64), torch.randn(64, 64, 3, 3)
    conv2d = torch.nn.functional.conv2d
    (row,) = _rows(record(tmp_path / "cpu.json", lambda: conv2d(x, w, padding=1)))
    operation = OPERATIONS_MEASURED["convolution"]
    cost = operation.layer("fp32", row).cost
    sizes = {size: row[column] for column, size in operation.columns.items()}
    totals = compile_expressions([cost.least_flops.total, cost.flops.total], tuple(sizes))
    least, direct = totals(*sizes.values())
    assert direct == 2 * 64 * 64 * 64 * 64 * 9
    for m in (2, 4, 6, 100):
        assert least <= direct / 9 * (m + 2) ** 2 / m**2
    assert least == direct / 9


def test_no_measurement_here_is_below_the_lower_bound(torch, tmp_path):
    """On the bound of a whole socket, of which this CPU has a few cores."""
    for case in CASES:
        _, _, call = _case(torch, case)
        path = record(tmp_path / "cpu.json", lambda call=call: call().sum().backward())
        scored = score(read_trace(path, gpu=CPU))
        known = scored[scored["op"].str.startswith("convolution")]
        assert known["seconds"].notna().all(), known["reason"].tolist()
        assert (known["lower_s"] <= known["latency_s"]).all()


def test_depthwise_ones_are_passes_on_a_gpu_and_thin_products_on_a_cpu(torch, tmp_path):
    """A pass on a CPU is timed by its elements and bytes, whatever the taps."""
    x, w, call = _case(torch, "depthwise")
    (row,) = _rows(record(tmp_path / "cpu.json", call))
    assert (row["op"], row["b"], row["n"], row["k"]) == ("convolution_grouped", 6, 2, 1)
    shapes = fp32(*x.shape), fp32(*w.shape)
    sides = (number("[1, 1]"), number("[1, 1]"), number("[1, 1]"), number("False"), number("[0, 0]"))
    event = op("aten::convolution", 0, 9, 1, *shapes, NONE, *sides, number("6"))
    run = kernel("void at::native::conv_depthwise2d_forward_kernel<3, float, int>(…)", 20, 5, 1)
    (row,) = read_trace(write(tmp_path / "gpu.json", [event, run], H200)).to_dict("records")
    assert (row["op"], row["b"], row["n"], row["k"]) == ("convolution_depthwise", 6, 2, 1)


def test_windows_in_the_padding_are_not_described(torch, tmp_path):
    """Their results are 0 without any multiplication."""
    x, w = torch.randn(1, 2, 8, 8), torch.randn(4, 2, 3, 3)
    assert not _rows(record(tmp_path / "cpu.json", lambda: torch.conv2d(x, w, padding=5)))


def _on_gpu(tmp_path, name: str) -> dict:
    flags = (number("[1, 1]"), number("[1, 1]"), number("[1, 1]"), number("False"), number("[0, 0]"))
    call = op("aten::convolution", 0, 9, 1, fp32(2, 8, 9, 9), fp32(4, 8, 3, 3), NONE, *flags, number("1"))
    (row,) = read_trace(write(tmp_path / "gpu.json", [call, kernel(name, 20, 5, 1)], H200)).to_dict("records")
    return row


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688fprop_optimized_tf32_64x64_32x5_nhwc>", "tf32"),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16", "tf32"),
        ("void implicit_convolve_sgemm<float, float, 1024, 5, 5, 3, 3, 3, 1, false, false, true>(…)", "fp32"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize32x32x8", "fp32"),
    ],
)
def test_a_kernel_says_in_which_format_it_multiplied_fp32(tmp_path, name, dtype):
    row = _on_gpu(tmp_path, name)
    assert (row["op"], row["dtype"]) == ("convolution", dtype)


def test_a_kernel_that_does_not_say_it_has_no_prediction(tmp_path):
    """cuDNN rounds to TF32 unless a program forbids it (torch.backends.cudnn.allow_tf32)."""
    row = _on_gpu(tmp_path, "cudnn_generated_fort_native_engine")
    assert row["op"] == "aten::convolution"
    assert "does not say" in row["unread"]
