"""Passes over memory: the bytes that a trace's shapes and formats tell are those of torch's own tensors."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from recorded import NONE, bf16, fp32, kernel, number, op, record, write

from costmodel.layers.memory_pass import OPERATIONS
from costmodel.score import score
from costmodel.traces import _lists, read_trace
from costmodel.traces._lists import _each
from costmodel.traces._operands import NUMBERED, WIDTHS, _elements
from costmodel.traces._passes import READERS
from costmodel.traces._pointwise import _normalised, pointwise
from costmodel.traces._windows import _COPIED, _PADS, _WEIGHED

H200 = "NVIDIA H200"


def passes(table: pd.DataFrame, torch_op: str) -> list[dict[str, object]]:
    """Return what the rows of passes say, those of an operation."""
    rows = table[(table["torch_op"] == torch_op) & table["op"].str.startswith("pass_")].to_dict("records")
    return [{name: value for name, value in row.items() if not pd.isna(value)} for row in rows]


# -- recorded on this CPU: bytes against the tensors themselves ----------------------------


class Tensors:
    """Tensors that the cases below work on."""

    def __init__(self, torch):
        self.torch = torch
        draw = torch.randn
        self.x, self.y, self.row, self.column = draw(6, 40), draw(6, 40), draw(40), draw(6, 1)
        self.bf, self.half, self.wide = self.x.bfloat16(), self.x.half(), self.x.double()
        self.mask, self.long, self.few = self.x > 0, self.x.long(), torch.randint(0, 6, (4, 3))
        self.left = draw(6, 20)
        self.number = torch.tensor(1)  # as which the profiler sees the 7 of ``x // 7``
        self.byte = torch.randint(0, 99, (6, 40), dtype=torch.uint8)
        self.columns = torch.zeros(6, 5, dtype=torch.int64)
        self.flat = torch.randint(0, 6, (9,))
        self.image, self.pooled = draw(2, 3, 4, 5), draw(2, 3, 2, 2)
        self.places = torch.zeros(2, 3, 2, 2, dtype=torch.int64)


#: Operation → the call, what it reads, and what it writes if that is not what it returns.
CASES = {
    "aten::copy_ cast": (lambda t: t.x.bfloat16(), "x"),
    "aten::copy_ widen": (lambda t: t.half.float(), "half"),
    "aten::copy_ flags": (lambda t: t.mask.float(), "mask"),
    "aten::copy_ whole": (lambda t: t.x.long(), "x"),
    "aten::copy_ repeat": (lambda t: t.row.expand(6, 40).contiguous(), "row"),
    "aten::add": (lambda t: t.x + t.row, "x row"),
    "aten::add formats": (lambda t: t.x + t.bf, "x bf"),
    "aten::add halves": (lambda t: t.half + t.bf, "half bf"),
    "aten::mul": (lambda t: t.column * t.x, "column x"),
    "aten::mul outer": (lambda t: t.column * t.row, "column row"),
    "aten::mul flags": (lambda t: t.x * t.mask, "x mask"),
    "aten::div": (lambda t: t.x / t.wide, "x wide"),
    "aten::sub": (lambda t: t.long - t.x, "long x"),
    "aten::rsub": (lambda t: 1 - t.x, "x"),
    "aten::pow": (lambda t: t.x**t.row, "x row"),
    "aten::neg": (lambda t: -t.bf, "bf"),
    "aten::abs": (lambda t: t.wide.abs(), "wide"),
    "aten::rsqrt": (lambda t: t.x.rsqrt(), "x"),
    "aten::clamp": (lambda t: t.x.clamp(0, 1), "x"),
    "aten::gt": (lambda t: t.x > 0, "x"),
    "aten::eq": (lambda t: t.x == t.bf, "x bf"),
    "aten::where": (lambda t: t.x.where(t.mask, t.row), "x mask row"),
    "aten::where format": (lambda t: t.bf.where(t.mask, t.bf), "bf mask bf"),
    "aten::where numbers": (lambda t: t.torch.where(t.mask, t.bf, 0.0), "mask bf"),
    "aten::masked_fill whole": (lambda t: t.long.masked_fill(t.mask, 3), "long mask"),
    "aten::add whole": (lambda t: t.long + t.byte, "long byte"),
    "aten::add a number": (lambda t: t.byte + 1, "byte number"),
    "aten::bitwise_and": (lambda t: t.byte & 15, "byte"),
    "aten::bitwise_and flags": (lambda t: t.mask & t.mask, "mask mask"),
    "aten::__rshift__": (lambda t: t.byte >> 4, "byte"),
    "aten::remainder": (lambda t: t.long % 7, "long"),
    "aten::floor_divide": (lambda t: t.x // t.row, "x row"),
    "aten::floor_divide whole": (lambda t: t.long // 7, "long number"),
    "aten::eq whole": (lambda t: t.long == t.byte, "long byte"),
    "aten::sum whole": (lambda t: t.byte.sum(1), "byte"),
    "aten::sum said": (lambda t: t.byte.sum(0, dtype=t.torch.int32), "byte"),
    "aten::sum flags": (lambda t: t.mask.sum(), "mask"),
    "aten::cumsum whole": (lambda t: t.byte.cumsum(0), "byte"),
    "aten::amax whole": (lambda t: t.byte.amax(1), "byte"),
    "aten::aminmax": (lambda t: t.x.aminmax(dim=1), "x"),
    "aten::copy_ long": (lambda t: t.long.contiguous().t().contiguous(), "long"),
    "aten::neg whole": (lambda t: -t.long, "long"),
    "aten::softplus": (lambda t: t.torch.nn.functional.softplus(t.x), "x"),
    "aten::hardswish": (lambda t: t.torch.nn.functional.hardswish(t.bf), "bf"),
    "aten::glu": (lambda t: t.torch.nn.functional.glu(t.x), "x"),
    "aten::glu_backward": (lambda t: t.torch.ops.aten.glu_backward(t.left, t.x, -1), "left x"),
    "aten::gt out": (lambda t: t.torch.gt(t.x, t.y, out=t.mask), "x y"),
    "aten::mse_loss": (lambda t: t.torch.nn.functional.mse_loss(t.x, t.y), "x y"),
    "aten::smooth_l1_loss": (
        lambda t: t.torch.nn.functional.smooth_l1_loss(t.x, t.y, reduction="none"),
        "x y",
    ),
    "aten::log_sigmoid_forward": (lambda t: t.torch.ops.aten.log_sigmoid_forward(t.x), "x"),
    "aten::native_dropout": (lambda t: t.torch.ops.aten.native_dropout(t.bf, 0.5, True), "bf"),
    "aten::_prelu_kernel_backward": (
        lambda t: t.torch.ops.aten._prelu_kernel_backward(t.y, t.x, t.row),
        "y x row",
    ),
    "aten::native_dropout_backward": (
        lambda t: t.torch.ops.aten.native_dropout_backward(t.x, t.mask, 2.0),
        "x mask",
    ),
    "aten::hardswish_backward": (lambda t: t.torch.ops.aten.hardswish_backward(t.x, t.y), "x y"),
    "aten::leaky_relu_backward": (
        lambda t: t.torch.ops.aten.leaky_relu_backward(t.x, t.y, 0.1, False),
        "x y",
    ),
    "aten::hardtanh_backward": (lambda t: t.torch.ops.aten.hardtanh_backward(t.x, t.y, -1.0, 1.0), "x y"),
    "aten::softplus_backward": (lambda t: t.torch.ops.aten.softplus_backward(t.x, t.y, 1.0, 20.0), "x y"),
    "aten::mse_loss_backward": (
        lambda t: t.torch.ops.aten.mse_loss_backward(t.x, t.y, t.x, 0),
        "x y x",
    ),
    "aten::avg_pool2d_backward": (
        lambda t: t.torch.ops.aten.avg_pool2d_backward(
            t.pooled, t.image, [2, 2], [2, 2], [0, 0], False, True, None
        ),
        "pooled",
    ),
    "aten::max_pool2d_with_indices_backward": (
        lambda t: t.torch.ops.aten.max_pool2d_with_indices_backward(
            t.pooled, t.image, [2, 2], [2, 2], [0, 0], [1, 1], False, t.places
        ),
        "pooled places",
    ),
    "aten::_adaptive_avg_pool2d_backward": (
        lambda t: t.torch.ops.aten._adaptive_avg_pool2d_backward(t.pooled, t.image),
        "pooled",
    ),
    "aten::adaptive_max_pool2d_backward": (
        lambda t: t.torch.ops.aten.adaptive_max_pool2d_backward(t.pooled, t.image, t.places),
        "pooled places",
    ),
    "aten::upsample_nearest2d_backward": (
        lambda t: t.torch.ops.aten.upsample_nearest2d_backward(t.image, [4, 5], [2, 3, 2, 2], None, None),
        "image",
    ),
    "aten::upsample_bilinear2d_backward": (
        lambda t: t.torch.ops.aten.upsample_bilinear2d_backward(
            t.image, [4, 5], [2, 3, 2, 2], False, None, None
        ),
        "image",
    ),
    "aten::upsample_bicubic2d": (
        lambda t: t.torch.ops.aten.upsample_bicubic2d(t.image, [8, 10], False, None, None),
        "image",
    ),
    "aten::replication_pad2d": (lambda t: t.torch.ops.aten.replication_pad2d(t.image, [1, 2, 0, 3]), "image"),
    "aten::maximum": (lambda t: t.x.maximum(t.row), "x row"),
    "aten::logical_and": (lambda t: t.mask.logical_and(t.long), "mask long"),
    "aten::logical_not": (lambda t: t.x.logical_not(), "x"),
    "aten::fmod": (lambda t: t.x.fmod(t.column), "x column"),
    "aten::atan2": (lambda t: t.half.atan2(t.y), "half y"),
    "aten::native_group_norm": (
        lambda t: t.torch.nn.functional.group_norm(t.image, 1),
        "image",
    ),
    "aten::_softmax": (lambda t: t.x.softmax(0), "x"),
    "aten::bucketize": (lambda t: t.torch.bucketize(t.x, t.few[:1, :1].flatten().float()), "x"),
    "aten::bucketize narrow": (
        lambda t: t.torch.bucketize(t.x, t.few[:1, :1].flatten().float(), out_int32=True),
        "x",
    ),
    "aten::masked_fill": (lambda t: t.x.masked_fill(t.mask, 0.0), "x mask"),
    "aten::lerp": (lambda t: t.x.lerp(t.y, 0.5), "x y"),
    "aten::addcmul": (lambda t: t.x.addcmul(t.y, t.row), "x y row"),
    "aten::add_": (lambda t: t.x.add_(t.row), "x row"),
    "aten::addcdiv_": (lambda t: t.x.addcdiv_(t.x, t.y), "x x y"),
    "aten::fill_": (lambda t: t.bf.fill_(1.0), ""),
    "aten::zero_": (lambda t: t.half.zero_(), ""),
    "aten::sum": (lambda t: t.x.sum(), "x"),
    "aten::sum rows": (lambda t: t.bf.sum(0), "bf"),
    "aten::sum wider": (lambda t: t.bf.sum((0, 1), dtype=t.x.dtype), "bf"),
    "aten::mean": (lambda t: t.image.mean((2, 3), keepdim=True), "image"),
    "aten::amax": (lambda t: t.x.amax(-1), "x"),
    "aten::argmax": (lambda t: t.x.argmax(1), "x"),
    "aten::max": (lambda t: t.x.max(1), "x"),
    "aten::max all": (lambda t: t.x.max(), "x"),
    "aten::linalg_vector_norm": (lambda t: t.x.norm(), "x"),
    "aten::var": (lambda t: t.x.var(1), "x"),
    "aten::any": (lambda t: t.mask.any(), "mask"),
    "aten::cumsum": (lambda t: t.x.cumsum(-1), "x"),
    "aten::native_batch_norm": (
        lambda t: t.torch.nn.functional.batch_norm(t.image, None, None, training=True),
        "image",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bytes_are_those_of_the_tensors(torch, tmp_path, case):
    call, reads = CASES[case]
    t = Tensors(torch)
    result = call(t)
    results = result if isinstance(result, tuple) else (result,)
    # Before the call: what is replaced has the size that it had.
    path = record(tmp_path / "cpu.json", lambda: call(t))
    (row,) = passes(read_trace(path, gpu="cpu/xeon-8480plus"), case.split()[0])
    assert row.get("read_bytes", 0) == sum(getattr(t, name).nbytes for name in reads.split())
    assert row["written_bytes"] == sum(each.nbytes for each in results)
    assert row.get("least_bytes", 0) <= row.get("read_bytes", 0)
    assert row["in_place"] == (case.split()[0].endswith("_") and row["op"] not in _NEW)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        ("aten::div", "fp64"),  # fp32 over fp64
        ("aten::add formats", "fp32"),  # and bf16
        ("aten::mul flags", "fp32"),  # and flags
        ("aten::sub", "fp32"),  # whole numbers of 64 bits less fp32
        ("aten::neg", "bf16"),
    ],
)
def test_the_format_is_the_widest_floating_point_one(torch, tmp_path, case, dtype):
    t = Tensors(torch)
    path = record(tmp_path / "cpu.json", lambda: CASES[case][0](t))
    (row,) = passes(read_trace(path, gpu="cpu/xeon-8480plus"), case.split()[0])
    assert row["dtype"] == dtype


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((6, 40), (40, 1)),
        ((40, 6), (1, 40)),
        ((6, 40), (0, 1)),
        ((6, 4, 40), (100, 0, 1)),  # columns of a wider table, each row repeated
        ((91, 10), (1, 1)),  # windows that overlap
        ((6, 91, 10), (0, 1, 1)),
        ((3, 5), (50, 7)),
        ((), ()),
    ],
)
def test_a_view_covers_as_many_elements_as_it_has_places_in_memory(shape, strides):
    memory = np.arange(2000)
    view = np.lib.stride_tricks.as_strided(memory, shape, [step * memory.itemsize for step in strides])
    assert _elements(shape, strides) == len(np.unique(view))


def test_a_gpu_keeps_no_exponentials_of_a_log_sigmoid(tmp_path):
    events = [op("aten::log_sigmoid_forward", 0, 9, 1, fp32(6, 40)), kernel("log_sigmoid", 20, 5, 1)]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert row["written_bytes"] == row["least_written_bytes"] == 6 * 40 * 4


def test_flags_and_a_number_give_whole_numbers_whose_width_is_not_told(torch, tmp_path):
    flags = torch.zeros(6, 40, dtype=torch.bool)
    path = record(tmp_path / "cpu.json", lambda: (flags + 1, flags & 5))
    read = read_trace(path, gpu="cpu/xeon-8480plus")
    assert {"aten::add", "aten::bitwise_and"} <= set(read["torch_op"])
    assert not passes(read, "aten::add")
    assert not passes(read, "aten::bitwise_and")


def test_a_gated_units_table_is_its_result(torch, tmp_path):
    x = torch.randn(6, 40)
    path = record(tmp_path / "cpu.json", lambda: torch.nn.functional.glu(x))
    (row,) = passes(read_trace(path, gpu="cpu/xeon-8480plus"), "aten::glu")
    assert row["m"] * row["n"] == torch.nn.functional.glu(x).numel()


#: Passes that write what they do not read, whatever the operation's name.
_NEW = ("pass_fill", "pass_cast", "pass_copy")


@pytest.mark.parametrize(
    ("name", "call", "index"),
    [
        ("aten::embedding", lambda torch, t: torch.nn.functional.embedding(t.few, t.x), "few"),
        ("aten::index_select", lambda _, t: t.x.index_select(0, t.flat), "flat"),
        ("aten::gather", lambda _, t: t.x.gather(1, t.columns), "columns"),
    ],
)
def test_a_look_up_reads_its_indices_and_what_it_returns(torch, tmp_path, name, call, index):
    """In any case it reads the indices: all may be the same."""
    t = Tensors(torch)
    result, indices = call(torch, t), getattr(t, index)
    path = record(tmp_path / "cpu.json", lambda: call(torch, t))
    (row,) = passes(read_trace(path, gpu="cpu/xeon-8480plus"), name)
    assert (row["op"], row["written_bytes"]) == ("pass_gather", result.nbytes)
    assert row["read_bytes"] == result.nbytes + indices.nbytes
    assert row["least_bytes"] == indices.nbytes


def test_gradients_of_look_ups_and_of_a_loss_write_whole_tables(torch, tmp_path):
    functional = torch.nn.functional
    table, scores = (torch.randn(50, 8, requires_grad=True) for _ in range(2))
    chosen = torch.randint(0, 8, (50,))

    def program() -> None:
        functional.embedding(chosen, table).sum().backward()
        functional.nll_loss(scores, chosen).backward()

    read = read_trace(record(tmp_path / "cpu.json", program), gpu="cpu/xeon-8480plus")
    (rows,) = passes(read, "aten::embedding_dense_backward")
    assert rows["written_bytes"] == table.grad.nbytes
    # A sum's gradient is one number, expanded to all rows.
    assert rows["read_bytes"] == 4 + chosen.nbytes
    (loss,) = passes(read, "aten::nll_loss_backward")
    assert (loss["written_bytes"], loss["read_bytes"]) == (scores.grad.nbytes, chosen.nbytes)
    (forward,) = passes(read, "aten::nll_loss_forward")
    assert (forward["written_bytes"], forward["read_bytes"]) == (4, 50 * 4 + chosen.nbytes)


def test_operands_that_may_be_one_tensor_are_read_once_in_any_case(torch, tmp_path):
    """``v.addcmul_(g, g)`` reads two tables, not three; the trace shows three shapes that are the same."""
    v, g, row = torch.randn(6, 40), torch.randn(6, 40), torch.randn(40)
    path = record(tmp_path / "cpu.json", lambda: (v.addcmul_(g, g), v.addcmul(g, row)))
    read = read_trace(path, gpu="cpu/xeon-8480plus")
    (one,), (other,) = passes(read, "aten::addcmul_"), passes(read, "aten::addcmul")
    assert (one["read_bytes"], one["least_bytes"]) == (3 * v.nbytes, v.nbytes)
    assert (other["read_bytes"], other["least_bytes"]) == (2 * v.nbytes + row.nbytes, v.nbytes)


def test_windows_that_overlap_cover_a_stretch(torch, tmp_path):
    x = torch.randn(100)
    path = record(tmp_path / "cpu.json", lambda: x.unfold(0, 10, 1).sum())
    (row,) = passes(read_trace(path, gpu="cpu/xeon-8480plus"), "aten::sum")
    assert row["read_bytes"] == x.nbytes


def test_what_the_shapes_do_not_tell_keeps_torchs_name(torch, tmp_path):
    """Whole numbers, whose results have formats of their own; indices and lists, which are not recorded."""
    t = Tensors(torch)

    def program() -> None:
        t.byte + t.columns.char()[:, :1]
        t.long / 3
        t.long * 0.5
        t.mask + 1
        t.x[t.flat[:3] * 0]
        torch.cat((t.x, t.y))

    read = read_trace(record(tmp_path / "cpu.json", program), gpu="cpu/xeon-8480plus")
    names = {"aten::add", "aten::div", "aten::mul", "aten::index", "aten::cat"}
    assert names <= set(read.loc[~read["op"].str.startswith("pass_"), "op"])
    why = read.set_index("torch_op")["unread"]
    assert "formats of tensors in a list" in why["aten::cat"]
    assert "indices" in why["aten::index"]
    assert why["aten::div"] == ""


def test_a_training_step_in_mixed_precision_is_mostly_predicted(torch, tmp_path):
    """Casts, sums and the optimizer's passes included."""
    functional = torch.nn.functional
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    x = torch.randn(512, 256)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.mse_loss(model(x).float(), x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    scored = score(read_trace(record(tmp_path / "cpu.json", step), gpu="cpu/xeon-8480plus"))
    unread = set(scored.loc[scored["seconds"].isna(), "torch_op"])
    moved = {name for name in READERS if name not in _lists.READERS}
    assert not unread & moved
    assert scored.loc[scored["op"].str.startswith("pass_"), "seconds"].notna().all()
    assert {"pass_cast", "pass_sum", "pass_multiply_add"} <= set(scored["op"])
    assert (scored["lower_s"].dropna() <= scored.loc[scored["seconds"].notna(), "latency_s"]).all()


# -- the table against torch's schemas ---------------------------------------------------------

#: Of (image, widths, strides, paddings, …).
PLACES_OF_WINDOWS = {0: "self", 1: "kernel_size", 2: "stride", 3: "padding"}
#: Inputs by the names that torch's schemas have for them.
PLACES = {
    "native_dropout": {0: "input"},
    "copy_": {0: "self", 1: "src"},
    "masked_fill_": {0: "self", 1: "mask", 2: "value"},
    "where": {0: "condition", 1: "self", 2: "other"},
    "glu_backward": {0: "grad_output", 1: "self"},
    "log_sigmoid_backward": {0: "grad_output", 1: "self", 2: "buffer"},
    "_prelu_kernel_backward": {0: "grad_output", 1: "self", 2: "weight"},
    "_embedding_bag": {0: "weight", 1: "indices", 2: "offsets", 7: "include_last_offset"},
    "_embedding_bag_forward_only": {0: "weight", 1: "indices", 2: "offsets", 7: "include_last_offset"},
    "_embedding_bag_dense_backward": {0: "grad", 1: "indices", 5: "num_weights"},
    "_index_put_impl_": {0: "self", 2: "values", 3: "accumulate"},
    "index_put_": {0: "self", 2: "values", 3: "accumulate"},
    "bucketize": {0: "self", 2: "out_int32"},
    **{
        name + ending: {0: "self", 2: "index", 3: "source" if name.startswith("index") else "src"}
        for name in ("scatter", "scatter_add", "scatter_reduce", "index_copy", "index_add")
        for ending in ("", "_")
    },
    **{f"max_pool{n}d_with_indices": PLACES_OF_WINDOWS | {4: "dilation", 5: "ceil_mode"} for n in (2, 3)},
    "max_pool1d": PLACES_OF_WINDOWS | {4: "dilation", 5: "ceil_mode"},
    **{f"avg_pool{n}d": PLACES_OF_WINDOWS | {4: "ceil_mode"} for n in (2, 3)},
    **{f"max_pool{n}d_with_indices_backward": {0: "grad_output", 1: "self", 7: "indices"} for n in (2, 3)},
    **{f"adaptive_max_pool{n}d_backward": {0: "grad_output", 1: "self", 2: "indices"} for n in (2, 3)},
    **{
        f"{name}{n}d": {0: "self", 1: "output_size"}
        for name in ("_adaptive_avg_pool", "adaptive_max_pool")
        for n in (2, 3)
    },
    **{
        f"{name}_backward": {0: "grad_output", 1: "output_size", 2: "input_size"}
        for name in (*_COPIED, *_WEIGHED)
    },
    **{name: {0: "self", 1: "output_size"} for name in _COPIED},
    **{name: {0: "input" if name.endswith("_aa") else "self", 1: "output_size"} for name in _WEIGHED},
    **{name: {0: "self", 1: "padding"} for name in _PADS},
    **{f"{name}_backward": {0: "grad_output", 1: "self"} for name in _PADS},
    **{
        name: {0: "self", 1: "target", 2: "reduction"}
        for name in ("mse_loss", "smooth_l1_loss", "huber_loss")
    },
    "aminmax": {0: "self", 1: "dim"},
    **{f"{name}_backward_data": {0: "grad_output", 1: "output"} for name in ("_softmax", "_log_softmax")},
    **{name: {0: "self", 2: "half_to_float"} for name in ("_softmax", "_log_softmax")},
    "embedding": {0: "weight", 1: "indices"},
    "index_select": {0: "self", 1: "dim", 2: "index"},
    "gather": {0: "self", 2: "index"},
    "embedding_dense_backward": {0: "grad_output", 1: "indices", 2: "num_weights"},
    **{f"nll_loss{n}_forward": {0: "self", 1: "target", 3: "reduction"} for n in ("", "2d")},
    **{f"nll_loss{n}_backward": {1: "self", 2: "target"} for n in ("", "2d")},
    "sum": {0: "self", 1: "dim", 3: "dtype"},
    "mean": {0: "self", 1: "dim", 3: "dtype"},
    "prod": {0: "self", 1: "dim", 3: "dtype"},
    "linalg_vector_norm": {0: "self", 2: "dim", 4: "dtype"},
    "cumsum": {0: "self", 1: "dim", 2: "dtype"},
    "cat": {0: "tensors", 1: "dim"},
    **{name: {0: "self", 1: "dim"} for name in ("var", "std", "amax", "amin", "argmax", "argmin", "max")},
    **{f"_fused_{name}_": {1: "grads", 2: "exp_avgs", 3: "exp_avg_sqs"} for name in ("adam", "adamw")},
}


def _schemas(torch, name):
    packet = getattr(torch.ops.aten, name)
    return [getattr(packet, kind)._schema.arguments for kind in packet.overloads()]


@pytest.mark.parametrize("name", [name.removeprefix("aten::") for name in READERS])
def test_places_of_inputs_are_those_of_torchs_schemas(torch, name):
    schemas, reader = _schemas(torch, name), READERS[f"aten::{name}"]
    expected = PLACES.get(name, {0: schemas[0][0].name})
    assert any(
        all(place < len(schema) and schema[place].name == said for place, said in expected.items())
        for schema in schemas
    ), schemas
    if getattr(reader, "func", None) is pointwise:
        _, operands, _ = reader.args
        kinds = [[str(one.type) for one in schema if one.name != "out"] for schema in schemas]
        assert any(
            all("Tensor" in kind for kind in schema[:1])
            and not any("Tensor" in kind for kind in schema[operands:])
            for schema in kinds
        ), schemas
    if getattr(reader, "func", None) is _each:
        _, reads, writes = reader.args
        lists = [[place for place, one in enumerate(s) if "List[Tensor]" in str(one.type)] for s in schemas]
        assert any(set(reads) | set(writes) <= set(places) for places in lists), schemas
    if getattr(reader, "func", None) is _normalised:
        (operands,) = reader.args
        assert all("Tensor" in str(one.type) for one in schemas[0][:operands])


@pytest.mark.parametrize("numbered", NUMBERED)
def test_formats_are_numbered_as_torch_does(torch, tmp_path, numbered):
    """A trace writes the number of a format: 15 for bf16."""
    names = {"float": "float32", "double": "float64", "c10::Half": "half", "c10::BFloat16": "bfloat16"}
    names |= {"unsigned char": "uint8", "signed char": "int8", "short": "int16", "int": "int32"}
    names |= {"long": "int64", "bool": "bool"}
    x, dtype = (
        torch.zeros(3, dtype=torch.int64 if numbered != "4" else torch.int8),
        getattr(torch, names[NUMBERED[numbered]]),
    )
    text = record(tmp_path / "cpu.json", lambda: x.to(dtype)).read_text(encoding="utf-8")
    (cast,) = (e for e in json.loads(text)["traceEvents"] if e.get("name") == "aten::_to_copy")
    assert cast["args"]["Concrete Inputs"][1] == numbered
    assert dtype.itemsize == WIDTHS[NUMBERED[numbered]]


def test_every_pass_is_one_of_the_layers():
    kinds = {
        reader.args[0] for reader in READERS.values() if getattr(reader, "func", None) in (_each, pointwise)
    }
    assert kinds <= set(OPERATIONS)
    assert all(math.log2(width).is_integer() for width in WIDTHS.values())


# -- inputs that fit no schema --------------------------------------------------------------------


def test_a_cast_on_its_way_to_the_host_is_no_pass_on_the_device(tmp_path):
    events = [
        op("aten::copy_", 0, 9, 1, fp32(8, 16), bf16(8, 16), number("False")),
        kernel("Memcpy DtoH (Device -> Pageable)", 20, 5, 1, cat="gpu_memcpy"),
    ]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert row["op"] == "aten::copy_"


@pytest.mark.parametrize(
    "call",
    [
        op("aten::sum", 0, 9, 1, bf16(8, 16), ([], "ScalarList", "[5]"), number("False"), NONE),
        op("aten::add", 0, 9, 1, bf16(8, 16), bf16(3, 16), number("1")),
        op("aten::add", 0, 9, 1, bf16(8, 16), bf16(16), number("1"), bf16(4, 16)),
        op("aten::add", 0, 9, 1, bf16(8, 16), bf16(16), bf16(8, 16), number("1")),
        op("aten::neg", 0, 9, 1),
        op("aten::neg", 0, 9, 1, fp32(0, 16)),
    ],
)
def test_inputs_that_do_not_fit_are_no_passes(tmp_path, call):
    (row,) = read_trace(write(tmp_path / "cpu.json", [call]), gpu="cpu/xeon-8480plus").to_dict("records")
    assert row["op"] == call["name"]


def test_the_lower_bound_is_that_of_the_least_bytes():
    """An operand that is read twice counts once, and a cache saves what is replaced both ways."""
    names = {"torch_op": "", "inputs": "", "calls": 1, "total_s": 1.0, "latency_s": 1.0}
    size = 2**30
    rows = pd.DataFrame(
        {"gpu": "h200-sxm", "op": "pass_arithmetic", "dtype": "fp32", "m": 1, "n": size // 4}
        | {"read_bytes": 2 * size, "written_bytes": size, "least_bytes": [2 * size, size, size]}
        | {"in_place": [False, False, True], **names}
    )
    apart, one, replaced = score(rows, rung="bound")["lower_s"]
    assert apart - one == pytest.approx(size / 4.8e12, rel=1e-6)
    assert one - replaced == pytest.approx(50 * 2**20 / 4.8e12, rel=0.05)
