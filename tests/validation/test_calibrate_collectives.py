"""All-reduces fitted on two and eight devices, judged on four and on devices that nothing was fitted on."""

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware
from costmodel.errors import TableError
from costmodel.validation import posted
from costmodel.validation.calibrate_collectives import calibrate_collectives, is_collectives, seconds
from costmodel.validation.heldout import NEVER_FITTED

FITTED = pd.read_csv(posted.COLLECTIVES_FITTED).fillna({"algorithm": ""})


@pytest.fixture(scope="module")
def fits():
    return calibrate_collectives(date="2026-01-01")


@pytest.fixture(scope="module")
def exchanged():
    return posted.collectives()


def test_the_shipped_constants_come_from_the_shipped_rows(fits):
    assert {fit.file.device for fit in fits} == {
        "nvidia/a100-sxm-80gb", "nvidia/h200-sxm", "nvidia/b200-sxm",
    }  # fmt: skip
    for fit in fits:
        (made,) = fit.file.sections
        (shipped,) = (s for s in calibration.load(fit.file.device) if s.kernel == "collective")
        assert shipped.constants == pytest.approx(made.constants, rel=1e-3)
        assert shipped.provenance.table_hash == made.provenance.table_hash
        assert not fit.refused


def test_no_row_is_both_fitted_and_judged_and_none_is_of_a_device_kept_aside():
    told = pd.read_csv(posted.COLLECTIVES)
    keys = ["gpu", "devices", "bytes", "source"]
    assert FITTED.merge(told, on=keys).empty
    assert not {hardware.load(name).name for name in FITTED["gpu"].unique()} & NEVER_FITTED


def test_the_same_number_of_devices_is_never_fitted_and_judged(fits):
    assert set(FITTED["devices"]) == {2, 8}
    for fit in fits:
        assert set(fit.held_out["devices"]) == {4}


@pytest.mark.parametrize("gpu", ["a100-sxm-80gb", "h200-sxm", "b200-sxm"])
def test_four_devices_are_as_constants_of_two_and_eight_say(exchanged, gpu):
    rows = exchanged[(exchanged["gpu"] == gpu) & (exchanged["devices"] == 4)]
    assert len(rows) == 23
    assert rows["error"].abs().median() < 6
    assert rows["error"].abs().max() < 25


def test_blackwell_ultra_is_as_blackwells_constants_say(exchanged):
    rows = exchanged[exchanged["gpu"].isin(["b300-sxm", "gb300"])]
    assert set(rows["constants_from"]) == {"nvidia/b200-sxm"}
    assert len(rows) == 115
    assert rows["error"].abs().median() < 8


def test_another_source_posted_what_the_constants_say_of_long_messages(exchanged):
    """Azure's guide, fp32 on eight devices, 64 MiB and more: no row of it was fitted on."""
    rows = exchanged[exchanged["source"].str.startswith("AI-benchmarking-guide/ND_")]
    rows = rows[rows["gpu"].isin(["a100-sxm-80gb", "h200-sxm"]) & (rows["bytes"] >= 2**26)]
    rows = rows[rows["collective"] == "all-reduce"]
    assert len(rows) == 16
    assert rows["error"].abs().median() < 4


def test_rings_come_to_a_share_of_the_links_and_one_pass_over_the_buffer():
    """Two unknowns, A100's times of 1 GiB on two and eight devices; four devices, and other links, agree."""
    told = pd.concat([FITTED, pd.read_csv(posted.COLLECTIVES).fillna({"algorithm": ""})])
    long = told[(told["bytes"] == 2**30) & (told["dtype"] == "bf16") & (told["algorithm"] == "")]

    def time(gpu, devices):
        (found,) = long[(long["gpu"] == gpu) & (long["devices"] == devices)]["latency_s"]
        return found

    shares = []
    for gpu, one, other in (("a100-sxm-80gb", 2, 8), ("h200-sxm", 2, 4), ("b200-sxm", 2, 4)):
        sent = [2 * (p - 1) / p * 2**30 for p in (one, other)]
        per_byte, per_pass = np.linalg.solve(
            [[sent[0], 2**30], [sent[1], 2**30]], [time(gpu, p) for p in (one, other)]
        )
        shares.append(1 / per_byte / hardware.load(gpu).link_bandwidth)
        if gpu == "a100-sxm-80gb":
            assert 1.5 * 2**30 * per_byte + 2**30 * per_pass == pytest.approx(time(gpu, 4), rel=0.02)
    assert shares == pytest.approx([0.94] * 3, abs=0.02)


def test_a_table_is_known_by_its_name():
    assert is_collectives(posted.COLLECTIVES_FITTED)
    assert not is_collectives(posted.FITTED)


def test_times_of_a_table_are_in_its_order():
    device = hardware.load("nvidia/h200-sxm")
    rows = FITTED[FITTED["gpu"] == "h200-sxm"].sample(frac=1, random_state=0)
    each = [seconds(device, {}, rows.iloc[[place]])[0] for place in range(len(rows))]
    assert seconds(device, {}, rows) == pytest.approx(each)


def test_a_table_that_is_missing_is_refused(tmp_path):
    with pytest.raises(TableError, match="collectives_fitted"):
        calibrate_collectives(tmp_path / "collectives_fitted.csv")
