"""Look-ups and additions by index, sparse tensors and random numbers: bytes against torch's own tensors."""

import pandas as pd
import pytest
from recorded import fp32, kernel, number, op, record, write

from costmodel.score import score
from costmodel.traces import read_trace

CPU, H200 = "cpu/xeon-8480plus", "NVIDIA H200"


def _row(path, name: str) -> dict:
    table = read_trace(path, gpu=CPU)
    (row,) = table[table["torch_op"] == name].to_dict("records")
    return {key: value for key, value in row.items() if not pd.isna(value)}


class Tensors:
    """A table, rows for some places of it, and the places: some of them several times."""

    def __init__(self, torch):
        self.torch = torch
        self.table, self.rows = torch.randn(50, 8), torch.randn(120, 8)
        self.places = torch.randint(0, 50, (120,))
        self.each = self.places[:, None].expand(120, 8)
        self.all = self.each.contiguous()
        self.longs = torch.zeros(50, dtype=torch.int64)
        self.ones = torch.ones(120, dtype=torch.int64)


#: Operation → the call; the pass; what is read beside rows of the table; is anything added to these?
INTO = {
    "aten::index_add_": (lambda t: t.table.index_add_(0, t.places, t.rows), "scatter_add", "rows places"),
    "aten::index_copy_": (lambda t: t.table.index_copy_(0, t.places, t.rows), "scatter", "rows places"),
    "aten::scatter_add_": (lambda t: t.table.scatter_add_(0, t.all, t.rows), "scatter_add", "rows all"),
    "aten::scatter_": (lambda t: t.table.scatter_(0, t.all, t.rows), "scatter", "rows all"),
    "aten::scatter_ number": (lambda t: t.table.scatter_(0, t.all, 1.0), "scatter", "all"),
    "aten::_index_put_impl_": (lambda t: t.table.index_put_((t.places,), t.rows), "scatter", "rows"),
    "aten::_index_put_impl_ adds": (
        lambda t: t.table.index_put_((t.places,), t.rows, accumulate=True),
        "scatter_add",
        "rows",
    ),
    "aten::scatter_add_ expanded": (
        lambda t: t.table.scatter_add_(0, t.each, t.rows),
        "scatter_add",
        "rows places",
    ),
}


@pytest.mark.parametrize("case", INTO)
def test_what_goes_to_places_of_a_table_may_all_go_to_one(torch, tmp_path, case):
    """120 rows of 8 numbers; in any case what is written is read, and one row is written, here one byte."""
    call, kind, reads = INTO[case]
    t = Tensors(torch)
    path = record(tmp_path / "cpu.json", lambda: call(t))
    table = read_trace(path, gpu=CPU)
    (row,) = table[table["op"].str.startswith("pass_scatter")].to_dict("records")
    added = 120 * 8 * 4 if kind == "scatter_add" else 0
    needed = sum(getattr(t, name).nbytes for name in reads.split())
    assert row["op"] == f"pass_{kind}"
    assert row["read_bytes"] == needed + added
    assert row["written_bytes"] == 120 * 8 * 4
    assert (row["least_bytes"], row["least_written_bytes"]) == (needed, 1)


def test_of_more_values_than_places_only_some_are_read(torch, tmp_path):
    t = Tensors(torch)
    half = t.all[:60]
    row = _row(record(tmp_path / "cpu.json", lambda: t.table.scatter_(0, half, t.rows)), "aten::scatter_")
    assert row["read_bytes"] == half.nbytes + 60 * 8 * 4
    assert row["least_bytes"] <= row["read_bytes"]
    assert row["written_bytes"] == 60 * 8 * 4


def test_values_that_are_repeated_do_not_tell_how_many_are_written(torch, tmp_path):
    t = Tensors(torch)
    path = record(tmp_path / "cpu.json", lambda: t.table.index_put_((t.places,), t.rows[:1]))
    assert not read_trace(path, gpu=CPU)["op"].str.startswith("pass_scatter").any()


@pytest.mark.parametrize("name", ["scatter_add", "index_add", "scatter"])
def test_a_result_that_is_new_is_written_whole(torch, tmp_path, name):
    t = Tensors(torch)
    places = t.places if name == "index_add" else t.all
    path = record(tmp_path / "cpu.json", lambda: getattr(t.table, name)(0, places, t.rows))
    row = _row(path, f"aten::{name}")
    assert row["least_written_bytes"] == t.table.nbytes
    assert row["least_bytes"] == t.rows.nbytes + places.nbytes


def test_additions_of_whole_numbers_count_their_bytes_only(torch, tmp_path):
    t = Tensors(torch)
    row = _row(
        record(tmp_path / "cpu.json", lambda: t.longs.scatter_add_(0, t.places, t.ones)), "aten::scatter_add_"
    )
    assert (row["op"], row["written_bytes"]) == ("pass_integer", 120 * 8)
    assert row["read_bytes"] == 3 * 120 * 8


@pytest.mark.parametrize("include_last", [False, True])
def test_sums_of_looked_up_rows(torch, tmp_path, include_last):
    t = Tensors(torch)
    offsets = torch.arange(0, 121 if include_last else 120, 10)
    bag = torch.nn.EmbeddingBag(50, 8, mode="sum", include_last_offset=include_last)
    result = bag(t.places, offsets)
    path = record(tmp_path / "cpu.json", lambda: bag(t.places, offsets).sum().backward())
    row = _row(path, "aten::_embedding_bag")
    assert row["read_bytes"] == 120 * 8 * 4 + t.places.nbytes + offsets.nbytes
    assert (row["written_bytes"], row["least_bytes"]) == (result.nbytes, t.places.nbytes)
    gradient = _row(path, "aten::_embedding_bag_dense_backward")
    assert gradient["written_bytes"] == bag.weight.grad.nbytes
    assert (gradient["read_bytes"], gradient["least_bytes"]) == (120 * (8 * 4 + 8), t.places.nbytes)


@pytest.mark.parametrize("index", ["places", "mask", "pair"])
def test_the_memory_that_a_look_up_allocates_tells_its_result(torch, tmp_path, index):
    t = Tensors(torch)
    chosen = {"places": t.places, "mask": t.table[:, 0] > 0, "pair": (t.places, t.places % 8)}[index]
    path = record(tmp_path / "cpu.json", lambda: t.table[chosen], memory=True)
    row = _row(path, "aten::index")
    assert row["op"] == "pass_gather"
    assert row["read_bytes"] == row["written_bytes"] == t.table[chosen].nbytes
    assert row["least_bytes"] == 1  # the indices are not recorded, and may all be the same


def test_a_sparse_tensor_has_no_bytes_that_a_trace_tells(torch, tmp_path):
    """Two of 5,000 rows: a bound on all of them would be above what it takes."""
    table = torch.zeros(5000, 64)
    rows = torch.sparse_coo_tensor(
        torch.tensor([[3, 9]]), torch.ones(2, 64), (5000, 64), check_invariants=True
    )
    path = record(tmp_path / "cpu.json", lambda: table.add_(rows))
    scored = score(read_trace(path, gpu=CPU))
    sparse = scored[scored["torch_op"].isin(["aten::add", "aten::add_"]) & (scored["total_s"] > 0)]
    assert sparse["lower_s"].isna().all()
    assert sparse["unread"].str.contains("sparse").all()


def test_a_fill_by_a_mask_may_write_nothing(torch, tmp_path):
    x, mask = torch.randn(50, 8), torch.zeros(50, 8, dtype=torch.bool)
    row = _row(record(tmp_path / "cpu.json", lambda: x.masked_fill_(mask, 0.0)), "aten::masked_fill_")
    assert (row["read_bytes"], row["written_bytes"]) == (x.nbytes + mask.nbytes, x.nbytes)
    assert (row["least_bytes"], row["least_written_bytes"]) == (mask.nbytes, 1)


def test_random_numbers_are_a_fill_on_a_gpu_and_a_sequence_on_a_cpu(torch, tmp_path):
    x = torch.empty(50, 8)
    row = _row(record(tmp_path / "cpu.json", x.exponential_), "aten::exponential_")
    assert row["op"] == "aten::exponential_"
    assert "one after another" in row["unread"]
    call = op("aten::exponential_", 0, 9, 1, fp32(50, 8), number("1."))
    events = [call, kernel("distribution_elementwise_grid_stride_kernel", 20, 5, 1)]
    (row,) = read_trace(write(tmp_path / "gpu.json", events, H200)).to_dict("records")
    assert (row["op"], row["written_bytes"]) == ("pass_fill", x.nbytes)


def test_no_measurement_here_is_below_the_lower_bound(torch, tmp_path):
    """Also not where all indices are the same, and what they name stays in a cache."""
    t = Tensors(torch)
    wide = torch.randn(2000, 512)
    same = torch.zeros(60000, dtype=torch.int64)

    def program() -> None:
        for call, *_ in INTO.values():
            call(t)
        wide.index_select(0, same)
        torch.zeros(2000, 512).index_add_(0, same, torch.ones(1, 512).expand(60000, 512))

    scored = score(read_trace(record(tmp_path / "cpu.json", program, memory=True), gpu=CPU))
    known = scored[scored["lower_s"].notna()]
    assert len(known) > 8
    assert (known["lower_s"] <= known["latency_s"]).all()
