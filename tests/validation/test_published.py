"""Published runtimes: which rows can be compared, units converted to seconds, and fits on these rows."""

import re

import pandas as pd
import pytest

import costmodel as cm
from costmodel import calibration
from costmodel.errors import TableError
from costmodel.validation import calibrate_published as published_fit
from costmodel.validation import heldout, published
from costmodel.validation.calibrate_published import calibrate_published
from costmodel.validation.heldout import NEVER_FITTED, held_out
from costmodel.validation.pooled import fit_together


@pytest.fixture(scope="module")
def rows(shared):
    return published.read(shared / "reference")


@pytest.fixture(scope="module")
def printed(shared):
    return pd.read_csv(shared / "reference" / "published_runtimes.csv", low_memory=False)


def test_every_row_is_read_in_order(rows, printed):
    assert list(rows["source"]) == list(printed["source"])
    assert list(rows["kernel"].head(50)) == list(printed["impl"].head(50))


def test_outliers_and_unstated_devices_have_reasons(rows, printed):
    outlier = printed["note"].astype(str).str.contains("OUTLIER")
    unstated = printed["gpu"].str.contains("NOT STATED")
    assert outlier.sum() == 62
    assert (rows.loc[outlier | unstated, "reason"] != "").all()


def test_approximate_attention_is_not_dense_attention(rows):
    names = (
        "Linformer",
        "Local Attention",
        "Longformer",
        "Block-Sparse FlashAttention",
        "Reformer",
        "BigBird",
    )
    assert (rows.loc[rows["kernel"].isin(names), "reason"].str.contains("not dense")).all()


def test_loops_of_frameworks_have_a_reason(rows):
    loops = rows[rows["kernel"].str.contains("loop")]
    assert len(loops)
    assert (loops["reason"] != "").all()


def test_printed_rate_becomes_the_time_of_its_flops(rows, printed):
    # FlashAttention-2's benchmark: 4·B·N²·h·d FLOP forward, 3.5 times that with backward, half if causal.
    rated = printed["unit"].str.startswith("TFLOP/s (FLOPs=3.5*") & printed["causal"].isin(("1", "0"))
    flops = 3.5 * 4 * printed["batch"] * printed["seq"] ** 2 * printed["heads"] * printed["head_dim"]
    flops = flops.where(printed["causal"] != "1", flops / 2)[rated]
    done = rows.loc[rated, "latency_s"] * printed.loc[rated, "value"] * 1e12
    assert len(flops) > 100
    assert done.to_numpy() == pytest.approx(flops.to_numpy(), rel=1e-9)


def test_recurrent_rows_have_every_size_a_prediction_needs(rows):
    ready = rows[(rows["reason"] == "") & rows["op"].isin(("rnn", "lstm", "gru"))]
    assert len(ready) > 700
    assert ready[["batch", "seq", "hidden", "latency_s"]].notna().all(axis=None)
    assert set(ready["direction"]) <= {"fwd", "bwd_data", "bwd_weights", "fwd+bwd"}


def test_folder_without_the_table_is_one_clear_line(tmp_path):
    with pytest.raises(TableError, match="cannot read the published runtimes"):
        published.read(tmp_path)


def test_shipped_recurrent_constants_are_what_published_rows_fit_to(shared):
    """To a tolerance, as processors round differently."""
    fits = calibrate_published(shared / "reference", date="2026-01-01")
    assert {fit.file.device for fit in fits} >= {"nvidia/m40", "nvidia/v100-sxm2-16gb", "amd/mi25"}
    assert not {fit.file.device for fit in fits} & NEVER_FITTED
    for fit in fits:
        there = {s.cell: s for s in calibration.load(fit.file.device) if s.kernel == "recurrence"}
        assert there.keys() == {section.cell for section in fit.file.sections}
        for section in fit.file.sections:
            shipped = there[section.cell]
            assert shipped.constants == pytest.approx(section.constants, rel=1e-3), section.cell
            assert [r.above for r in shipped.spread] == pytest.approx(
                [r.above for r in section.spread], rel=1e-3
            )
            for regime, again in zip(shipped.spread, section.spread, strict=True):
                assert regime.q == pytest.approx(again.q, rel=1e-3)
            told, again = (s.provenance.model_dump() for s in (shipped, section))
            assert told == pytest.approx(again, abs=0.02)


def test_intervals_of_a_librarys_recurrences_are_pooled_over_devices(shared):
    """One device has only a row or two held out of each op, too few for quantiles."""
    sections = [s for fit in calibrate_published(shared / "reference") for s in fit.file.sections]
    pooled = {}
    for section in sections:
        assert section.spread
        if section.provenance.rows_held_out < 8:
            pooled.setdefault((section.framework, section.direction), set()).add(section.spread)
    assert set(pooled) >= {
        ("cudnn", "fwd"),
        ("cudnn", "bwd_data"),
        ("cudnn", "bwd_weights"),
        ("miopen", "fwd"),
    }
    assert all(len(spreads) == 1 for spreads in pooled.values())
    rows = published.chains(shared / "reference")
    held = rows[held_out(rows)]
    for (library, direction), (spread,) in pooled.items():
        alike = held[held["framework"].str.startswith(library) & (held["direction"] == direction)]
        refused = alike[(alike["device"] == "nvidia/m40") & (direction == "bwd_data")]
        assert sum(regime.rows for regime in spread) == len(alike) - len(refused)


def test_published_fits_are_refused_like_all_others(rows, shared, monkeypatch):
    """For too few rows, and for held-out rows that are unlike the fitted ones."""
    alike = (
        (rows["device"] == "nvidia/v100-sxm2-16gb") & (rows["dtype"] == "fp32") & (rows["direction"] == "fwd")
    )
    part = rows[alike & rows["framework"].str.startswith("cudnn") & rows["op"].isin(("lstm", "gru"))]
    out = held_out(part)
    few = pd.concat([part[~out].iloc[:5], part[out]])
    other = part.assign(latency_s=part["latency_s"].where(out, 30 * part["latency_s"]))
    for odd, why in (
        (few, r"5 rows to fit on and . to judge by; wanted 8 and 1"),
        (other, r".* % off on . held-out rows"),
    ):
        (fit,) = fit_together(
            odd, ["device"], published_fit._operations, what="recurrence", hashes={}, date=None
        )
        assert fit.file.sections == ()
        assert re.fullmatch(rf"recurrence : {why}.*", *fit.refused)
    monkeypatch.setattr(heldout, "FEWEST", 1000)
    for fit in calibrate_published(shared / "reference"):
        assert fit.file.sections == ()
        assert all("wanted 1000" in reason for reason in fit.refused)


def test_causal_and_full_attention_have_the_same_relative_error(rows):
    """FlashAttention-2's paper times attention alone, without a cache write, as a layer's prediction does.

    The kernel is the same but for the tiles it skips: whatever its constants, both errors are alike.
    """
    flash = rows[(rows.framework == "flashattention-2") & (rows.device == "nvidia/a100-sxm-80gb")]
    off = {}
    for row in flash.itertuples():
        layer = cm.TiledAttention(dtype=row.dtype, causal=bool(row.causal), direction=row.direction)
        sizes = {name: getattr(row, name) for name in ("batch", "heads", "seq", "head_dim")}
        off[bool(row.causal), row.seq, row.head_dim] = (
            cm.predict(layer, row.device, sizes).seconds / row.latency_s
        )
    assert len(off) == 24
    for (causal, seq, width), error in off.items():
        assert error == pytest.approx(off[not causal, seq, width], rel=0.08)
