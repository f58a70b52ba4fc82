"""Tables read from files."""

import os
import threading

import pandas as pd
import pytest

from costmodel.errors import TableError
from costmodel.tables import read_as_written, read_table

TEXT = "id,m,kind\n007,1,NA\n010,,b\n"


def test_requested_columns_are_text_or_numbers_and_others_as_written(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(TEXT, encoding="utf-8")
    inferred, written = read_table(path), read_as_written(path, ["kind"], ["m"])
    assert inferred["id"].tolist() == [7, 10]
    assert written["id"].tolist() == ["007", "010"]
    for table in (inferred, written):
        assert table["m"].isna().tolist() == [False, True]
        assert table["m"].dtype == float
        assert table["kind"].isna().tolist() == [True, False]
    # A column that is not requested has no missing values, whatever its text.
    assert read_as_written(path, [], ["m"])["kind"].tolist() == ["NA", "b"]


def test_file_ending_may_be_in_capitals(tmp_path):
    table = pd.DataFrame({"op": ["gemm", "bmm"]})
    table.to_parquet(tmp_path / "A.PARQUET")
    for found in (read_table(tmp_path / "A.PARQUET"), read_as_written(tmp_path / "A.PARQUET", [], [])):
        assert found["op"].equals(table["op"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("m;n\n1;2\n", "wanted commas between its columns, got ';'"),
        ("m\tn\n1\t2\n", r"wanted commas between its columns, got '\\t'"),
        ("m,n,m\n1,2,3\n", "has more than one column m"),
        ('"m","m"\n1,2\n', "has more than one column m"),
        ("m,n\n", "has no rows"),
        ("", "not a readable table"),
        ("m,n\n1,2,3\n4,5,6\n", "has rows of more fields than its header names"),
        ("m,n\n1,2\n4,5,6\n", "not a readable table"),
    ],
)
def test_invalid_table_is_refused_by_name(tmp_path, text, says):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    for read in (read_table, lambda path: read_as_written(path, [], ["m"])):
        with pytest.raises(TableError, match=f"a.csv: {says}"):
            read(path)


def test_several_columns_may_have_no_name(tmp_path):
    (tmp_path / "a.csv").write_text("m,,\n1,2,3\n", encoding="utf-8")
    assert len(read_table(tmp_path / "a.csv").columns) == 3


def test_pipe_is_read_as_a_csv_and_only_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(TEXT,))
    writer.start()
    assert read_as_written(pipe, [], ["m"])["id"].tolist() == ["007", "010"]
    writer.join()
