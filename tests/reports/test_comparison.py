"""Comparison pages: which columns become choices, how rows are thinned, and which tables are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import costmodel as cm
from costmodel import reports
from costmodel.errors import CostmodelError, TableError
from costmodel.reports import comparison_page
from costmodel.symbols import DEVICE_SIZES, GLOSSARY


def grown(table: pd.DataFrame, **columns: list[float]) -> pd.DataFrame:
    """Return the table once for every value of each column."""
    for name, values in columns.items():
        table = pd.concat([table.assign(**{name: value}) for value in values], ignore_index=True)
    return table


# -- what is picked by ---------------------------------------------------------------------------


def test_swept_sizes_become_choices(table: pd.DataFrame) -> None:
    table = reports.frames.checked(grown(table, batch=[1.0, 8.0], heads=[4.0, 8.0]))
    assert comparison_page.picked_columns(table, "seq") == ["where", "batch", "heads"]


def test_sizes_that_follow_from_others_are_no_choices(table: pd.DataFrame) -> None:
    table = grown(table, heads=[4.0, 8.0])
    table = reports.frames.checked(table.assign(seq_kv=table["seq"], d_model=64 * table["heads"]))
    assert comparison_page.picked_columns(table, "seq") == ["where", "heads"]


def test_sizes_that_one_layer_lacks_fit_any_choice(table: pd.DataFrame, facts: reports.Facts) -> None:
    table = grown(table, heads=[4.0, 8.0])
    table.loc[table["layer"] == "chain", "heads"] = np.nan
    page = reports.compare(table.drop_duplicates(), facts=facts)
    assert [pick.column for pick in page.picks] == ["where", "heads"]
    rows = next(f for s in page.sections for f in s.figures if f.name == "time")
    chosen = reports.figure.choose(rows.frame, {"where": "maker/one", "heads": 8.0})
    assert set(chosen["layer"]) == {"chain", "pairs"}


def test_axis_is_the_length_if_it_varies(table: pd.DataFrame) -> None:
    assert reports.frames.axis_of(grown(table, batch=[1.0, 2.0, 4.0, 8.0, 16.0, 32.0])) == "seq"
    assert reports.frames.axis_of(grown(table, batch=[1.0, 2.0]).query("seq == 128")) == "batch"


def test_state_of_caches_is_no_size(table: pd.DataFrame) -> None:
    assert "state" not in reports.frames.sizes_of(table)
    assert "state" in reports.frames.sizes_of(table.assign(state=16.0))


# -- how much is shown ---------------------------------------------------------------------------


def test_large_table_is_thinned_and_says_so(table: pd.DataFrame, facts: reports.Facts) -> None:
    large = grown(table, batch=[float(b) for b in range(1, 401)], heads=[1.0, 2.0])
    page = reports.compare(large, facts=facts)
    shown = next(f for s in page.sections for f in s.figures if f.name == "time").frame
    assert len(shown) <= 5000
    assert set(shown["seq"]) == set(table["seq"])
    assert {1.0, 400.0} <= set(shown["batch"])
    assert f"{len(large):,} rows" in page.asked[-1]
    assert f"{len(shown):,} of them" in page.asked[-1]
    assert len(page.html.encode()) < 3_000_000


def test_small_table_is_shown_whole(page: reports.Page, table: pd.DataFrame) -> None:
    shown = next(f for s in page.sections for f in s.figures if f.name == "time").frame
    assert len(shown) == len(table)
    assert "of them" not in " ".join(page.asked)


def test_table_of_one_point_has_a_report(table: pd.DataFrame, facts: reports.Facts) -> None:
    page = reports.compare(table.query("seq == 128 and device == 'maker/one'"), facts=facts)
    assert page.picks == ()
    assert "128 tokens" in page.findings[0]
    assert page.html


def test_single_layer_has_no_crossovers(table: pd.DataFrame, facts: reports.Facts) -> None:
    page = reports.compare(table[table["layer"] == "chain"], facts=facts)
    assert "crossovers" not in {section.name for section in page.sections}


def test_devices_without_a_spec_are_named(table: pd.DataFrame, facts: reports.Facts) -> None:
    table["device"] = table["device"].replace("maker/two", "mine/chip")
    page = reports.compare(table, facts=facts)
    assert any("mine/chip" in text for section in page.sections for text in section.text)
    roofline = next(f for s in page.sections for f in s.figures if f.name == "roofline")
    assert "roof is not known" in roofline.say({"where": "mine/chip"})
    assert page.html


def test_facts_come_from_the_shipped_specs_when_not_given(table: pd.DataFrame) -> None:
    table["device"] = table["device"].replace({"maker/one": "nvidia/h200-sxm", "maker/two": "h200-sxm*"})
    page = reports.compare(table)
    tables = {t.name: t.frame for s in page.sections for t in s.tables}
    figures, sources = tables["figures"], tables["sources"].set_index("source")["document"]
    bandwidth = figures[figures["figure"] == "memory.hbm.bandwidth"]
    assert bandwidth[["value", "status"]].to_numpy().tolist() == [["4800 GB/s", "confirmed"]]
    documents = [sources[key] for key in bandwidth["source"].iloc[0].split(", ")]
    assert any("ml-engineering" in document for document in documents)


def test_swept_state_size_is_a_choice_and_an_axis() -> None:
    """A table's `state` is cold or warm; the size has a column of its own."""
    swept = cm.sweep(
        cm.Mamba(), "nvidia/h200-sxm", rung="bound", batch=1, d_model=1024, seq=[128, 256], state=[16, 64]
    )
    page = reports.compare(swept)
    assert [(pick.label, pick.values) for pick in page.picks] == [("State entries", (16.0, 64.0))]
    along = reports.compare(swept[swept["seq"] == 128])
    assert along.asked == ("mamba[bf16] on nvidia/h200-sxm, for state entries from 16 to 64.",)


def test_layers_without_matrix_products_have_a_report() -> None:
    """They have no place under the roofline and no matrix FLOPs."""
    sizes = {"m": [16, 64, 256], "n": 4096}
    norm = cm.sweep(cm.layers.get("norm")(), "nvidia/h200-sxm", rung="bound", **sizes)
    page = reports.compare(norm)
    names = [figure.name for section in page.sections for figure in section.figures]
    assert names == ["time", "traffic", "depth", "binding", "memory"]
    assert "No layer here has a matrix product" in page.html
    # Whichever device such a layer is on, and whether or not that device is shown first.
    product = cm.sweep(cm.Matmul(), "nvidia/a100-sxm-80gb", rung="bound", **sizes, k=64)
    both = reports.compare(pd.concat([norm, product]))
    assert both.picks[0].values == ("nvidia/h200-sxm", "nvidia/a100-sxm-80gb")
    assert "No layer here has a matrix product" not in both.html


def test_layers_without_the_axis_are_left_out(
    table: pd.DataFrame, facts: reports.Facts, page: reports.Page
) -> None:
    product = table[table["layer"] == "pairs"].head(2)
    product = product.assign(layer="matmul", options="matmul[bf16]", seq=np.nan, m=[8.0, 16.0])
    with_product = reports.compare(pd.concat([table, product]), facts=facts, title=page.title)
    assert with_product.asked == (
        *page.asked,
        "Left out, because they have no sequence length: matmul[bf16].",
    )
    assert with_product.picks == page.picks
    assert with_product.findings == page.findings
    assert "matmul" not in with_product.html.replace(with_product.asked[1], "")


# -- what is there twice -------------------------------------------------------------------------


def test_equal_rows_count_once(table: pd.DataFrame, facts: reports.Facts, page: reports.Page) -> None:
    """As when a device is given by its short and full name, or with `batch=1,1`."""
    again = reports.compare(pd.concat([table, table.iloc[::2]]), facts=facts, title=page.title)
    assert again.html == page.html


def test_size_without_an_axis_becomes_a_choice(table: pd.DataFrame, facts: reports.Facts) -> None:
    twice = pd.concat([table.assign(globals=n, seconds=n * table["seconds"]) for n in (1.0, 2.0)])
    assert [pick.column for pick in reports.compare(twice, facts=facts).picks] == ["where", "globals"]


def test_every_size_is_known_to_reports() -> None:
    assert {*GLOSSARY, "tensor"} - set(DEVICE_SIZES) == set(reports.frames.SIZES)


def test_numbers_of_devices_that_share_a_model_become_a_choice(facts: reports.Facts) -> None:
    model = cm.models.load("gpt2")
    shares = [model.tensor_parallel(n).decode("bf16") for n in (1, 2)]
    rows = cm.sweep(shares, "h200-sxm", batch=[1, 8], seq_kv=64)
    assert [pick.column for pick in reports.compare(rows, facts=facts).picks] == ["tensor"]


def test_rows_that_take_no_time_are_left_out_and_counted() -> None:
    layer = cm.layers.get("collective")()
    frame = cm.sweep(layer, "h200-sxm", {"devices": [1, 2]}, m=[8, 64], n=8)
    assert (frame.loc[frame["devices"] == 1, "seconds"] == 0).all()
    page = reports.compare(frame)
    assert "Left out: 2 rows in which no work is done." in page.asked
    assert set(comparison_page.checked(frame)["devices"]) == {2.0}
    with pytest.raises(TableError, match="no row of the table takes any time"):
        reports.compare(frame[frame["devices"] == 1])


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (lambda t: t.drop(columns=["seconds", "depth"]), "lacks seconds, depth"),
        (lambda t: t.drop(columns=["layer", "device"]), "lacks layer, device"),
        (lambda t: t.assign(device=[*t["device"][:-1], None]), "^device in row 16: empty, and every row"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: pd.concat([t, t[["seconds"]]], axis=1), "more than one column seconds"),
        (lambda t: t.assign(seconds=["fast", *t["seconds"][1:]]), "seconds in row 1: wanted a number"),
        (lambda t: t.assign(hbm_bytes=np.nan), "hbm_bytes in row 1: wanted a number of at least 0, got nan$"),
        (lambda t: t.assign(depth=[*t["depth"][:-1], -1.0]), "depth in row 16: .* got -1.0"),
        (lambda t: t.assign(seconds=[1e-6, 0.0, *t["seconds"][2:]]), "seconds in row 2: .* above 0, got 0.0"),
        (lambda t: t.drop(columns=["seq", "batch"]), "no size"),
        (lambda t: t.assign(seq=np.nan, batch=np.nan), "no size"),
        (
            lambda t: pd.concat([t, t.iloc[[2]].assign(seconds=0.5)]),
            r"^rows 3 and 17 are both chain\[bf16\] on maker/one at seq = 2,048, batch = 8, "
            r"with seconds 0.002048 and 0.5: keep one of them$",
        ),
        (lambda t: pd.concat([t, t.assign(bound="link")]), "rows 1 and 17 .* with bound 'hbm' and 'link'"),
    ],
)
def test_bad_tables_are_refused_with_one_line(table: pd.DataFrame, spoil: object, wanted: str) -> None:
    assert callable(spoil)
    with pytest.raises(TableError, match=wanted) as caught:
        reports.compare(spoil(table))
    assert "\n" not in str(caught.value)


def test_rows_that_contradict_each_other_are_named_without_the_sizes_that_they_lack(
    table: pd.DataFrame,
) -> None:
    """Rows 3 and 18 are of a layer without heads, rows 17 and 19 differ in them."""
    table.loc[table["layer"] != "chain", "heads"] = 8.0
    assert table["layer"][2] == "chain"
    pairs = table[table["layer"] == "pairs"].iloc[[0]]
    more = [pairs.assign(heads=16.0), table.iloc[[2]].assign(seconds=0.5), pairs.assign(heads=32.0)]
    with pytest.raises(
        TableError, match=r"^rows 3 and 18 are both chain.* at seq = 2,048, batch = 8, with sec"
    ):
        reports.compare(pd.concat([table, *more]))
    assert len(reports.frames.checked(pd.concat([table, more[0], more[2]]))) == len(table) + 2


def test_words_of_values_are_in_the_order_of_their_table() -> None:
    words = {"b": ("Beta", "β"), "a": ("Alpha", "α"), "c": ("Gamma", "γ")}
    found = reports.frames.in_words(["z", "a", "b", "a", *"yxwv"], words)
    assert list(found) == ["z", "Alpha", "Beta", "Alpha", *"yxwv"]
    assert list(found.categories) == ["Beta", "Alpha", *"vwxyz"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.csv", None),
        ("table.txt", b"a,b"),
        ("empty.csv", b""),
        ("broken.parquet", b"not parquet"),
        ("binary.csv", b"\x00\xff\xfe\x00" * 9),
    ],
)
def test_bad_files_are_refused_with_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CostmodelError) as caught:
        reports.compare(reports.read(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_read_from_a_file_gives_the_same_report(
    table: pd.DataFrame, facts: reports.Facts, page: reports.Page, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"table.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    assert reports.compare(reports.read(path), facts=facts).findings == page.findings


def test_layers_at_different_rungs_are_compared(table: pd.DataFrame, facts: reports.Facts) -> None:
    """The default rung is the best of each layer and device, so it must not separate them."""
    table["rung"] = np.where(table["layer"] == "chain", "calibrated", "kernel")
    page = reports.compare(table, facts=facts)
    assert [pick.column for pick in page.picks] == ["where"]
    both = pd.concat([table, table.assign(rung="bound")])
    assert [pick.column for pick in reports.compare(both, facts=facts).picks] == ["where", "rung"]
