"""Kernels that never run alone: constants put into the times of whole calls come out again."""

import json

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware
from costmodel.calibration import Provenance, Section
from costmodel.kernels import cpu_gemm, cpu_stream
from costmodel.validation import cells, registry, report
from costmodel.validation.calibrate_chains import Calibrated, calibrate_chains
from costmodel.validation.case import case
from costmodel.validation.chains import chained, chains
from costmodel.validation.heldout import held_out
from costmodel.validation.record import size_columns

DEVICE = hardware.load("cpu/i9-13900k")
PRODUCTS = {"peak_share": 0.7, "pack_cycles": 1.0, "edge_rows": 1.0, "start_s": 5e-6, "fork_s": 4e-6}
SOFTMAX = {"element_cycles": 3.0, "row_cycles": 40.0, "start_s": 2e-6, "fork_s": 2e-6}
PASS = {"element_cycles": 0.5, "start_s": 2e-6, "fork_s": 2e-6}
#: The constants to be found, of the passes that look for rows without a key.
TRUE = {"element_cycles": 7.0, "start_s": 3e-5}


def section(kernel, op, constants):
    nothing = Provenance(
        source="", licence="", versions="", table_hash="", rows_fitted=0, rows_held_out=0,
        mdape=0, mape=0, bias=0,
    )  # fmt: skip
    return Section(
        kernel=kernel, op=op, dtype="fp32", framework="pytorch", harness="perf_counter-median",
        constants=constants, provenance=nothing,
    )  # fmt: skip


KNOWN = [
    section("cpu_gemm", "bmm", PRODUCTS),
    section("cpu_stream", "softmax", SOFTMAX),
    section("cpu_stream", "elementwise_copy", PASS),
]


def by_hand(b, h, n, d):
    """Return the time of the math backend, kernel by kernel."""
    scores = {"rows": b * h * n, "cols": n}
    product = (
        cpu_gemm.seconds(DEVICE, PRODUCTS, batch=b * h, m=m, n=k, k=j).seconds
        for m, k, j in ((n, n, d), (n, d, n))
    )
    scaled = 2 * cpu_stream.seconds(DEVICE, PASS, rows=b * h * n, cols=d).seconds
    softmax = cpu_stream.seconds(DEVICE, SOFTMAX, **scores, pattern="softmax").seconds
    keyless = cpu_stream.seconds(DEVICE, {**PASS, **TRUE}, **scores, reads=2.25, writes=1.25).seconds
    return float(sum(product) + scaled + softmax + keyless)


def rows(count=40, seed=1):
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        sizes = {
            "batch": int(draw.integers(1, 5)), "heads": int(draw.integers(1, 9)),
            "seq": int(draw.integers(32, 700)), "head_dim": int(draw.choice([32, 64, 128])),
        }  # fmt: skip
        one = case("sdpa-math", sizes, options={"causal": False})
        op = registry.find("sdpa-math").op(one)
        found.append({
            **size_columns(one, op), "op": op, "bench": one.bench, "case": json.dumps(one.as_dict()),
            "dtype": "fp32", "framework": "pytorch 2.13.0", "timer": "perf_counter-median", "status": "ok",
            "state": "warm", "direction": "fwd", "kernel": "sdpa math", "gpu": DEVICE.name,
            "source": "own", "licence": "Apache-2.0",
            "latency_s": by_hand(sizes["batch"], sizes["heads"], sizes["seq"], sizes["head_dim"]),
        })  # fmt: skip
    return pd.DataFrame(found)


@pytest.fixture(scope="module")
def found():
    known = Calibrated(sections=list(KNOWN))
    calibrate_chains(chained(rows()), DEVICE, {}, known)
    return known


def test_constants_of_the_one_unknown_kernel_are_found(found):
    (*_, fitted) = found.sections
    assert found.refused == []
    assert (fitted.kernel, fitted.op, fitted.direction) == ("cpu_stream", "safe_softmax", "fwd")
    for name, value in TRUE.items():
        assert fitted.constants[name] == pytest.approx(value, rel=0.05), name
        low, high = fitted.intervals[name]
        assert low <= fitted.constants[name] * 1.01
        assert fitted.constants[name] * 0.99 <= high
    assert fitted.provenance.mdape < 1.0
    assert fitted.provenance.rows_held_out == held_out(rows()).sum()


def test_sizes_of_a_chains_kernel_are_those_of_the_fitted_rows():
    """The score matrix has batch · heads · seq rows of seq_kv columns; here the largest is held out."""
    table = rows(seed=6)
    known = Calibrated(sections=list(KNOWN))
    calibrate_chains(chained(table), DEVICE, {}, known)
    scores, out = table["batch"] * table["heads_q"] * table["seq_q"], held_out(table)
    assert known.sections[-1].sizes["rows"] == (scores[~out].min(), scores[~out].max())
    assert scores[out].max() > scores[~out].max()


def test_fit_of_a_chain_does_not_look_at_held_out_rows(found):
    """With held-out rows 20 % slower the constants are the same, and 1/1.2 − 1 off."""
    table = rows()
    slower = np.where(held_out(table), table["latency_s"] * 1.2, table["latency_s"])
    known = Calibrated(sections=list(KNOWN))
    calibrate_chains(chained(table.assign(latency_s=slower)), DEVICE, {}, known)
    assert known.sections[-1].constants == found.sections[-1].constants
    assert known.sections[-1].intervals == found.sections[-1].intervals
    assert known.sections[-1].provenance.bias == pytest.approx(-16.7, abs=1.0)


def test_chain_with_two_unknown_kernels_is_not_fitted():
    without = [known for known in KNOWN if known.op != "softmax"]
    assert list(chains(chained(rows()), DEVICE, without, [])) == []


def test_kernel_already_tried_is_not_tried_again():
    assert list(chains(chained(rows()), DEVICE, KNOWN, [("cpu_stream", "safe_softmax", "fwd")])) == []


def test_rows_without_a_layer_or_a_valid_run_are_left_out():
    good = rows(12)
    for name, value in (("state", "cold"), ("direction", "fwd+bwd"), ("status", "incorrect")):
        assert chained(good.assign(**{name: value})).empty
    assert chained(good.drop(columns="case")).empty
    loop = case("lstm-loop", {"batch": 1, "seq": 4, "hidden": 8})
    assert chained(good.assign(case=json.dumps(loop.as_dict()))).empty


def test_too_few_rows_are_refused_by_name():
    known = Calibrated(sections=list(KNOWN))
    calibrate_chains(chained(rows(4)), DEVICE, {}, known)
    assert len(known.sections) == len(KNOWN)
    assert known.refused[0].startswith("safe_softmax fp32 fwd pytorch perf_counter-median: ")


def test_chains_are_left_out_of_single_kernel_fits():
    """The single-kernel fit leaves the math backend's rows to the chains."""
    assert cells.usable(rows(4)).empty


def test_fitted_constants_are_tabled_with_unit_and_meaning(found, monkeypatch):
    monkeypatch.setattr(calibration, "load", lambda _: tuple(found.sections))
    table = report.fitted_constants(DEVICE).set_index("constant")
    # Cells without intervals are left out.
    assert set(table["op"]) == {"safe_softmax"}
    assert set(TRUE) <= set(table.index)
    row = table.loc["element_cycles"]
    assert row["unit"] == "cycles"
    assert float(row["low"]) <= float(row["value"]) * 1.01
    assert "per element" in row["meaning"]
