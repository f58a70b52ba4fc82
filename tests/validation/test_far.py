"""Rows that are far off: counted by cell, the farthest named, none left out."""

import pandas as pd

from costmodel.validation.far import far

ROWS = pd.DataFrame(
    [
        ("t4", "gemm", 8, 1e-5, 1.29e-5),  # +29 %
        ("t4", "gemm", 16, 1e-5, 1.31e-5),  # +31 %, short
        ("t4", "gemm", 32, 1e-3, 0.5e-3),  # half: as far as twice
        ("t4", "gemm", 64, 1e-3, 1.9e-3),
        ("p4", "gemm", 8, 1e-3, 1e-3),
        ("p4", "bmm", 8, 1e-3, 2e-3),
    ],
    columns=["gpu", "op", "m", "latency_s", "seconds"],
).assign(k=float("nan"))


def test_cells_with_most_rows_far_off_come_first():
    found = far(ROWS, ["gpu", "op"])
    assert found[["gpu", "op"]].to_numpy().tolist() == [["t4", "gemm"], ["p4", "bmm"]]
    assert found["rows"].tolist() == [4, 1]
    assert found["far"].tolist() == [3, 1]
    assert found["too short"].tolist() == [1, 0]
    assert found["under 20 µs"].tolist() == [1, 0]


def test_farthest_row_is_chosen_by_its_ratio_and_named_by_its_sizes():
    assert far(ROWS, ["gpu", "op"])["farthest"].tolist() == ["m=32: 1 ms, -50 %", "m=8: 1 ms, +100 %"]


def test_no_row_far_off_gives_an_empty_table():
    found = far(ROWS.assign(seconds=ROWS["latency_s"]), ["gpu", "op"])
    assert found.empty
    assert "farthest" in found
