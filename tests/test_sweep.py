"""Sweeps: every combination once, the same numbers as single predictions, tidy columns."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import costmodel as cm
from costmodel.errors import SizeError, UnknownNameError
from costmodel.sweep import as_frame, best, make_grid, product

SIZES = {"batch": [1, 8], "hidden": 256, "heads": 8, "head_dim": 64}


@given(start=st.integers(1, 2**20), factor=st.floats(1, 5000))
def test_log2_range_doubles_as_long_as_it_fits(start, factor):
    stop = int(start * factor)
    found = cm.log2_range(start, stop)
    assert found[0] == start
    assert np.array_equal(found[1:], 2 * found[:-1])
    assert found[-1] <= stop < 2 * found[-1]


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 8), (8, 4), (-1, 4), (1, 2**70), (3.5, 100), ("1", 8), (None, 8), ([1, 2], 8)]
)
def test_log2_range_refuses_invalid_bounds(start, stop):
    with pytest.raises(SizeError, match=r"1 <= start <= stop|wanted start to be a number, got"):
        cm.log2_range(start, stop)


def test_product_is_every_combination_in_order():
    found = product({"a": [1, 2, 3], "b": 7, "c": [4, 5]})
    rows = list(zip(*(found[name] for name in "abc"), strict=True))
    assert rows == list(itertools.product([1, 2, 3], [7], [4, 5]))
    with pytest.raises(SizeError, match="2 axes"):
        product({"a": [[1, 2], [3, 4]]})


@pytest.mark.parametrize("values", [{1, 2}, (2**i for i in range(3)), iter([1, 2])])
def test_values_without_an_order_or_a_length_are_refused_as_what_they_are(values):
    with pytest.raises(SizeError, match=r"size seq: wanted one value or a list of them, got (\{1, 2\}|a )"):
        cm.sweep(cm.LSTM(), "nvidia/h200-sxm", batch=1, hidden=8, seq=values)


def test_what_is_given_twice_is_in_a_table_once():
    twice = cm.sweep(
        [cm.LSTM(), cm.LSTM(dtype="bf16"), cm.LSTM(dtype="fp16")],
        ["nvidia/h200-sxm", "h200", cm.hardware.load("nvidia/h200-sxm")],
        rung="bound",
        **{"batch": [4, 1, 4], "hidden": 8, "seq": 2},
    )
    assert twice[["dtype", "batch"]].to_numpy().tolist() == [
        ["bf16", 4],
        ["bf16", 1],
        ["fp16", 4],
        ["fp16", 1],
    ]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return cm.sweep(
        [cm.TiledAttention(causal=True), cm.LSTM(direction="fwd+bwd")],
        ["nvidia/h200-sxm", "google/tpu-v5e"],
        rung="bound",
        seq=cm.log2_range(128, 1024),
        **SIZES,
    )


def test_every_row_is_the_prediction_of_its_sizes(frame):
    assert len(frame) == 2 * 2 * 4 * 2
    for row in frame.sample(8, random_state=0).itertuples():
        if row.layer == "lstm":
            layer, sizes = cm.LSTM(direction=row.direction), {"hidden": row.hidden}
        else:
            layer, sizes = cm.TiledAttention(causal=True), {"heads": row.heads, "head_dim": row.head_dim}
        p = cm.predict(layer, row.device, rung="bound", batch=row.batch, seq=row.seq, **sizes)
        assert (row.seconds, row.lower_s, row.serial_s) == (p.seconds, p.lower_s, p.serial_s)
        assert (row.bound, row.depth, row.hbm_bytes) == (p.bound, p.depth, p.hbm_bytes)
        assert (row.options, row.rung, row.constants_from) == (layer.label, "bound", "none")


def test_the_table_is_tidy(frame):
    assert not frame.duplicated(["options", "device", "batch", "seq"]).any()
    assert {"seconds", "lower_s", "hbm_bytes", "matrix_flops", "footprint_bytes"} <= set(frame)
    assert frame["seconds"].notna().all()
    assert (frame["lower_s"] <= frame["seconds"] * (1 + 1e-9)).all()
    # A size that a layer does not take is missing, not zero.
    lstm = frame[frame["layer"] == "lstm"]
    assert lstm["heads"].isna().all()
    assert frame.loc[frame["layer"] != "lstm", "hidden"].isna().all()


def test_table_survives_parquet_and_csv(frame, tmp_path):
    frame.to_parquet(tmp_path / "x.parquet")
    back = pd.read_parquet(tmp_path / "x.parquet")
    assert np.array_equal(back["seconds"], frame["seconds"])
    assert list(back["bound"]) == list(frame["bound"])
    frame.to_csv(tmp_path / "x.csv", index=False)
    # The file has every digit; the reader of pandas 2 is an ulp off.
    np.testing.assert_array_max_ulp(pd.read_csv(tmp_path / "x.csv")["seconds"], frame["seconds"])


def test_single_layer_and_device_need_no_list():
    one = cm.sweep(cm.LSTM(), cm.hardware.load("h200-sxm"), rung="bound", batch=1, seq=[1, 2], hidden=8)
    assert list(one["seq"]) == [1, 2]


def test_layers_with_different_options_have_separate_rows():
    both = cm.sweep(
        [cm.LSTM(), cm.LSTM(bidirectional=True)], "h200-sxm", rung="bound", batch=1, seq=[8, 16], hidden=8
    )
    assert list(both["options"].unique()) == ["lstm[bf16]", "lstm[bf16,bidirectional=true]"]
    flops = both.groupby("options", observed=True)["matrix_flops"].sum()
    assert flops.iloc[1] == 2 * flops.iloc[0]


@pytest.mark.parametrize(
    ("layers", "devices", "sizes", "error", "text"),
    [
        ([], "h200-sxm", {}, SizeError, "at least one layer and one device, got 0 and 1"),
        ([cm.LSTM()], [], {}, SizeError, "at least one layer and one device, got 1 and 0"),
        ([cm.LSTM(), cm.GRU()], "h200-sxm", {"heads": 8}, UnknownNameError, "size 'heads' of lstm, gru"),
        ([cm.LSTM()], "h200-sxm", {"batch": 1, "seq": [], "hidden": 8}, SizeError, "empty"),
        ([cm.LSTM()], "h200-sxm", {"batch": 1, "seq": [8, -8], "hidden": 8}, SizeError, "size seq"),
        ([cm.LSTM()], "h200-sxm", {"batch": 1, "seq": 8}, SizeError, "needs hidden"),
    ],
)
def test_bad_sweeps_are_refused(layers, devices, sizes, error, text):
    with pytest.raises(error, match=text):
        cm.sweep(layers, devices, rung="bound", **sizes)


def test_link_bytes_are_a_column_only_where_a_layer_communicates():
    """(P − 1)/P of a buffer in an all-gather, twice that in an all-reduce (Chan et al. 2007, Table 1)."""
    gather, total = (cm.layers.get("collective")(collective=c) for c in ("all-gather", "all-reduce"))
    sizes = {"m": 64, "n": [512, 1024], "devices": [2, 8]}
    frame = cm.sweep([gather, total, cm.Matmul()], "h200-sxm", {**sizes, "k": 32})
    sent = frame["link_bytes"] / (2.0 * frame["m"] * frame["n"])
    share = (frame["devices"] - 1) / frame["devices"]
    times = frame["options"].map({gather.label: 1.0, total.label: 2.0, cm.Matmul().label: 0.0}).astype(float)
    assert np.allclose(sent, times * share.fillna(1.0))
    assert "link_bytes" not in cm.sweep(cm.Matmul(), "h200-sxm", m=64, n=64, k=64)
    least = best(make_grid([gather, total], ["h200-sxm"], sizes), "link_bytes")
    assert (least["options"][0], least["devices"][0], least["n"][0]) == (gather.label, 2, 512)
    p = cm.predict(total, "h200-sxm", m=64, n=np.array([512, 1024]), devices=8)
    assert as_frame(p)["link_bytes"].tolist() == p.counts["link_bytes"].tolist()


# -- models that several devices share ---------------------------------------------------------


def _shares(*devices):
    return [cm.models.load("llama-3.1-8b").tensor_parallel(n).decode("bf16") for n in devices]


def test_rows_of_shared_models_say_among_how_many_and_what_all_of_them_take():
    """Times are the model's, counts one device's; energy and cost by hand from all devices' TDP and price."""
    found = cm.sweep(
        _shares(1, 2, 8), ["h200-sxm"], batch=[1, 16], seq_kv=2048, prices={"h200-sxm": 3.5}
    ).set_index(["tensor", "batch"])
    for devices, share in zip((1, 2, 8), _shares(1, 2, 8), strict=True):
        one = cm.predict(share, "h200-sxm", batch=16, seq_kv=2048)
        row = found.loc[(devices, 16)]
        assert row["seconds"] == pytest.approx(one.seconds)
        assert row["footprint_bytes"] == one.counts["footprint_bytes"]
        assert row["energy_j"] == pytest.approx(devices * 700 * one.seconds)
        assert row["cost"] == pytest.approx(devices * 3.5 / 3600 * one.seconds)


def test_only_tables_with_shared_models_have_a_column_for_it():
    sizes = {"batch": 1, "seq_kv": 64}
    assert "tensor" not in cm.sweep(_shares(1), "h200-sxm", **sizes)
    (share,) = _shares(4)
    assert as_frame(cm.predict(share, "h200-sxm", **sizes))["tensor"].tolist() == [4]
    mixed = cm.sweep([*_shares(4), cm.Matmul()], "h200-sxm", **sizes, m=8, n=8, k=8)
    assert mixed["tensor"].tolist() == [4, 1]


def test_the_best_batch_is_found_for_each_number_of_devices():
    grid = make_grid(_shares(1, 4), ["h200-sxm"], {"batch": [1, 64], "seq_kv": 2048}, prices={"h200-sxm": 1})
    found = best(grid, "cost", by=["tensor"])
    assert found["tensor"].tolist() == [1, 4]
    assert found["batch"].tolist() == [1, 1]
    alone = make_grid(_shares(1), ["h200-sxm"], {"batch": [1, 64], "seq_kv": 2048})
    with pytest.raises(UnknownNameError, match="column to group by"):
        best(alone, "seconds", by=["tensor"])


def test_a_share_is_another_sweep_than_the_whole_model():
    """Otherwise an interrupted sweep would go on with the other's parts."""
    grids = [make_grid(_shares(n), ["h200-sxm"], {"batch": 1, "seq_kv": 64}) for n in (1, 2, 4)]
    assert len({grid.identity for grid in grids}) == 3
