"""Operations on lists of tensors: what tells the formats that a trace does not record."""

import pytest
from recorded import kernel, number, op, record, write

from costmodel.traces import read_trace

H200 = "NVIDIA H200"


def shapes(*each: tuple[int, ...]) -> tuple[list[object], str, str]:
    """Return an input: a list of tensors."""
    return [list(one) for one in each], "TensorList", ""


CAT = (
    "void at::native::(anonymous namespace)::CatArrayBatchedCopy_aligned16_contig<"
    "{}, unsigned int, 2, 128, 1>(…)"
)


@pytest.mark.parametrize(
    ("piece", "width"),
    [
        ("at::native::(anonymous namespace)::OpaqueType<2u>", 2),
        ("at::native::<unnamed>::OpaqueType<(unsigned int)4>", 4),
        ("at::native::(anonymous namespace)::OpaqueType<8u>", 8),
    ],
)
def test_a_concatenations_kernel_says_how_wide_its_elements_are(tmp_path, piece, width):
    """Names as profiles of torch 2 have them."""
    events = [
        op("aten::cat", 0, 9, 1, shapes((4, 6), (0,), (10, 6)), number("0")),
        kernel(CAT.format(piece), 20, 5, 1),
    ]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert (row["op"], row["m"], row["n"]) == ("pass_concatenate", 14, 6)
    assert row["read_bytes"] == row["written_bytes"] == 14 * 6 * width
    assert row["least_bytes"] == 10 * 6 * width  # the pieces may be parts of one


def test_another_kernel_says_nothing_of_a_concatenation(tmp_path):
    events = [op("aten::cat", 0, 9, 1, shapes((4, 6), (4, 6)), number("0")), kernel("mystery", 20, 5, 1)]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert row["op"] == "aten::cat"
    assert "formats of tensors in a list" in row["unread"]


FOREACH = (
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
    "TensorListMetadata<2>, at::native::(anonymous namespace)::{}, std::plus<float>, float>(…)"
)
ADAM = (
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
    "FusedOptimizerTensorListMetadata<4>, at::native::(anonymous namespace)::FusedAdamMathFunctor<float, 4, "
    "(at::native::ADAM_MODE)1, false>, float*, double>(…)"
)


def test_one_kernel_over_a_list_computes_in_the_format_that_its_name_has(tmp_path):
    """p, g, m and v are read; p, m and v written: 28 bytes per fp32 parameter, as an optimizer's step has."""
    lists = [shapes((30, 10), (20,))] * 4
    rest = [shapes(), shapes((), ()), *[number("0.1")] * 5]
    events = [
        op("aten::_foreach_addcmul_", 0, 9, 1, *lists[:3], number("0.1")),
        kernel(FOREACH.format("PointwiseOpScalarFunctor<c10::BFloat16, 3, 3, 0>"), 20, 5, 1),
        op("aten::_fused_adamw_", 30, 9, 2, *lists, *rest),
        kernel(ADAM, 50, 9, 2),
    ]
    adam, foreach = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert (adam["op"], adam["dtype"]) == ("pass_multiply_add", "fp32")
    assert (adam["read_bytes"], adam["written_bytes"]) == (16 * 320, 12 * 320)
    assert adam["least_bytes"] == 16 * 320
    assert (foreach["dtype"], foreach["read_bytes"], foreach["written_bytes"]) == ("bf16", 6 * 320, 2 * 320)
    assert foreach["least_bytes"] == 4 * 320  # both factors may be one list
    assert (foreach["in_place"], adam["in_place"]) == (True, True)


def test_a_list_that_is_scaled_in_place_is_read_once(tmp_path):
    events = [
        op("aten::_foreach_mul_", 0, 9, 1, shapes((30, 10), (20,)), number("0.9")),
        kernel(FOREACH.format("BinaryOpScalarFunctor<float, 1, 1, 0>"), 20, 5, 1),
    ]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert row["read_bytes"] == row["least_bytes"] == row["written_bytes"] == 4 * 320


def test_a_list_that_is_not_updated_in_place_is_read_whole(tmp_path):
    events = [
        op("aten::_foreach_sqrt", 0, 9, 1, shapes((30, 10), (20,))),
        kernel(FOREACH.format("UnaryOpFunctor<float, 2, 1, 1>"), 20, 5, 1),
    ]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert (row["op"], row["in_place"]) == ("pass_function", False)
    assert row["read_bytes"] == row["least_bytes"] == row["written_bytes"] == 4 * 320


def test_a_long_list_has_no_shapes(tmp_path):
    """torch records none of more than a few dozen tensors."""
    events = [
        op("aten::_foreach_mul_", 0, 9, 1, ([], "TensorList", ""), number("0.9")),
        kernel(FOREACH.format("BinaryOpScalarFunctor<float, 1, 1, 0>"), 20, 5, 1),
    ]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert row["op"] == "aten::_foreach_mul_"


def test_pieces_that_are_expanded_from_one_number_need_not_be_read(tmp_path):
    """Strides of 0; the kernel's name says 4 bytes per element."""
    call = op("aten::cat", 0, 9, 1, shapes((4, 6), (4, 6)), number("0"))
    call["args"]["Input Strides"] = [[[0, 0], [6, 1]], []]
    piece = kernel(CAT.format("at::native::(anonymous namespace)::OpaqueType<4u>"), 20, 5, 1)
    (row,) = read_trace(write(tmp_path / "gpu.json", [call, piece], H200)).to_dict("records")
    assert (row["read_bytes"], row["least_bytes"]) == (2 * 4 * 6 * 4, 1)


# -- on this CPU: by the memory that the result takes ------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool", "float64"])
def test_the_memory_that_a_concatenation_allocates_tells_its_format(torch, tmp_path, dtype):
    x, y = (torch.zeros(rows, 7, dtype=getattr(torch, dtype)) for rows in (3, 5))
    kept = []
    path = record(tmp_path / "cpu.json", lambda: kept.append(torch.cat((x, y))), memory=True)
    rows = read_trace(path, gpu="cpu/xeon-8480plus")
    (row,) = rows[rows["torch_op"] == "aten::cat"].to_dict("records")
    assert (row["op"], row["m"], row["n"]) == ("pass_concatenate", 8, 7)
    assert row["read_bytes"] == row["written_bytes"] == kept[0].nbytes
    assert row["least_bytes"] == y.nbytes


@pytest.mark.parametrize(
    ("when", "device", "more", "told"),
    [
        *((when, 0, 0, True) for when in (10, 12, 15)),
        *((when, 0, 0, False) for when in (9, 16)),
        (12, 1, 0, False),
        (12, 0, 2, False),  # no multiple of the elements
    ],
)
def test_memory_of_the_host_is_an_operations_from_its_start_to_its_end(tmp_path, when, device, more, told):
    """Marks in Kineto's form [µs]; a GPU's memory (device type 1) is no result of an operation here."""
    call = op("aten::cat", 10, 5, 1, shapes((4, 6), (10, 6)), number("0"))
    said = {"Addr": 64, "Bytes": 14 * 6 * 2 + more, "Device Type": device}
    mark = {
        "ph": "i",
        "cat": "cpu_instant_event",
        "name": "[memory]",
        "pid": 1,
        "tid": 1,
        "ts": when,
        "args": said,
    }
    (row,) = read_trace(write(tmp_path / "cpu.json", [mark, call]), gpu="cpu/xeon-8480plus").to_dict(
        "records"
    )
    assert row["op"] == ("pass_concatenate" if told else "aten::cat")
    if told:
        assert row["written_bytes"] == 14 * 6 * 2


def test_memory_that_is_freed_again_is_no_result(tmp_path):
    """What an operation needs while it runs."""
    call = op("aten::cat", 10, 5, 1, shapes((4, 6), (10, 6)), number("0"))
    mark = {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 1, "tid": 1}
    result, needed = 14 * 6 * 4, 1000
    changes = ((11, 64, needed), (12, 128, result), (13, 64, -needed))
    marks = [
        {**mark, "ts": when, "args": {"Addr": place, "Bytes": size, "Device Type": 0}}
        for when, place, size in changes
    ]
    (row,) = read_trace(write(tmp_path / "cpu.json", [*marks, call]), gpu="cpu/xeon-8480plus").to_dict(
        "records"
    )
    assert (row["op"], row["written_bytes"]) == ("pass_concatenate", result)


def test_without_it_the_reason_says_how_to_record_it(torch, tmp_path):
    x = torch.zeros(3, 7)
    rows = read_trace(record(tmp_path / "cpu.json", lambda: torch.cat((x, x))), gpu="cpu/xeon-8480plus")
    (row,) = rows[rows["torch_op"] == "aten::cat"].to_dict("records")
    assert row["op"] == "aten::cat"
    assert "profile_memory=True" in row["unread"]
