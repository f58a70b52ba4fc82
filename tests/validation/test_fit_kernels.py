"""Fits of memory-bound, scan and recurrent kernels, judged on measured rows that they have not seen."""

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware
from costmodel.kernels import conv, delta, recurrence, state_update, stream
from costmodel.score import score
from costmodel.validation import calibrate, cells, fit_scan, fit_stream, log_fit, published
from costmodel.validation.fit_recurrence import fit_ops


def judge(model, recipe, rows, device):
    """Fit on two rows of three, and return the mean error on the third."""
    rows = rows.sort_values("row_id").reset_index(drop=True)
    held_out = rows.index % 3 == 0
    constants = recipe.fit(rows[~held_out], device, {})
    got = model.seconds(device, constants, **cells.arguments(rows[held_out], device)).seconds
    return constants, np.abs(got / rows.loc[held_out, "latency_s"].to_numpy(dtype=float) - 1).mean()


@pytest.mark.parametrize(("op", "limit"), [("relu", 0.02), ("elementwise_add", 0.02), ("layernorm", 0.06)])
def test_memory_bound_fits_predict_held_out_rows(shared, op, limit):
    table = pd.read_parquet(shared / "measurements" / "memops.parquet")
    rows = table[(table["gpu"] == "v100-pcie-32gb") & (table["op"] == op)].iloc[::2]
    constants, error = judge(stream, fit_stream, rows, hardware.load("nvidia/v100-pcie-32gb"))
    assert error < limit
    assert len(constants) <= 13
    for name, value in constants.items():
        assert stream.CONSTANTS[name].low <= value <= stream.CONSTANTS[name].high


@pytest.mark.parametrize(
    ("op", "model", "limit"),
    [
        ("gdn_chunk_prefill", delta, 0.06),
        ("gdn_recurrent_decode", state_update, 0.06),
        ("causal_conv1d_prefill", conv, 0.06),
    ],
)
def test_scan_fits_predict_held_out_rows(shared, op, model, limit):
    table = pd.read_parquet(shared / "measurements" / "scan.parquet")
    rows = table[(table["gpu"] == "h200-sxm") & (table["op"] == op)]
    _, error = judge(model, fit_scan, rows, hardware.load("nvidia/h200-sxm"))
    assert error < limit


def test_recurrent_fits_predict_held_out_rows(shared):
    rows = published.read(shared / "reference")
    rows = rows[(rows["reason"] == "") & (rows["device"] == "nvidia/v100-sxm2-16gb") & rows["recurrent_only"]]
    rows = rows[(rows["dtype"] == "fp32") & (rows["direction"] == "bwd_data")].reset_index(drop=True)
    device = hardware.load("nvidia/v100-sxm2-16gb")
    held_out = rows.index % 4 == 0
    constants = fit_ops(rows[~held_out], device)
    errors = []
    for op, part in rows[held_out].groupby("op"):
        got = recurrence.seconds(device, constants[op], **cells.arguments(part, device)).seconds
        errors.extend(np.abs(got / part["latency_s"].to_numpy() - 1))
    assert np.mean(errors) < 0.2


def test_fit_finds_the_constants_that_made_the_times():
    device = hardware.load("nvidia/v100-pcie-32gb")
    sizes = {"rows": np.geomspace(1, 1e6, 60), "cols": 1024.0, "reads": 1.0}
    truth = {"bandwidth_share": 0.73, "start_s": 4e-6, "warm_share": 0.0}
    measured = stream.seconds(device, truth, **sizes).seconds
    _, found = log_fit.least_log_error(
        lambda c: stream.seconds(device, c, **sizes).seconds,
        measured,
        stream.CONSTANTS,
        ("bandwidth_share", "start_s"),
        [{"warm_share": 0.0}],
    )
    assert found["bandwidth_share"] == pytest.approx(0.73, rel=1e-3)
    assert found["start_s"] == pytest.approx(4e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("expected", "start_s"),
    [
        (log_fit.known(stream.CONSTANTS, {"bandwidth_share": 0.9, "start_s": 1.5e-6}), 1.5e-6),
        (
            log_fit.defaults(stream.CONSTANTS, ("bandwidth_share", "start_s")),
            stream.CONSTANTS["start_s"].default,
        ),
    ],
)
def test_constant_that_rows_do_not_determine_stays_at_its_expected_value(expected, start_s):
    """Passes of milliseconds determine the bandwidth and not a kernel's start, wherever the fit begins."""
    device = hardware.load("nvidia/v100-pcie-32gb")
    sizes = {"rows": np.geomspace(1e6, 1e9, 60), "cols": 1024.0, "reads": 1.0}
    measured = stream.seconds(device, {"bandwidth_share": 0.73, "warm_share": 0.0}, **sizes).seconds
    _, found = log_fit.least_log_error(
        lambda c: stream.seconds(device, c, **sizes).seconds,
        measured,
        stream.CONSTANTS,
        ("bandwidth_share", "start_s"),
        [{"warm_share": 0.0, "start_s": stream.CONSTANTS["start_s"].low}],
        expected=expected,
    )
    assert found["bandwidth_share"] == pytest.approx(0.73, rel=0.01)
    assert found["start_s"] == pytest.approx(start_s, rel=0.05)


def test_arithmetic_is_separated_from_memory_by_a_plain_passes_share():
    """Rows of one operation do not show which of the two limits it; the share of a plain pass does."""
    device = hardware.load("amd/mi210")
    n = np.repeat(2.0 ** np.arange(8, 14), 8)
    rows = pd.DataFrame({
        "op": "elementwise_pow", "dtype": "fp32", "timer": "event-best5of25",
        "m": np.tile(2.0 ** np.arange(10, 18), 6), "n": n,
    })  # fmt: skip
    truth = {"bandwidth_share": 0.77, "element_cycles": 190.0, "dispatch_s": 1.5e-5, "record_s": 2e-6}
    rows["latency_s"] = stream.seconds(device, truth, **cells.arguments(rows, device)).seconds
    found = fit_stream.fit(rows, device, {"bandwidth_share": 0.77})
    assert found["bandwidth_share"] == pytest.approx(0.77, rel=0.02)
    assert found["element_cycles"] == pytest.approx(190.0, rel=0.05)
    assert "element_cycles" not in fit_stream.free(rows.assign(op="elementwise_mul"), device)


@pytest.mark.parametrize("name", ["amd/mi210", "nvidia/v100-pcie-32gb", "nvidia/t4", "nvidia/a100-pcie-80gb"])
def test_passes_with_the_same_operands_have_the_same_bandwidth_share(name):
    """Memory does not depend on what is done with an element; only the time for that differs."""
    fitted = {s.op: s.constants for s in calibration.load(name) if s.kernel == "stream" and s.dtype == "fp32"}
    for ops in (("mul", "div", "pow"), ("add_scalar", "mul_scalar", "div_scalar", "pow_scalar")):
        shares = [fitted[f"elementwise_{op}"]["bandwidth_share"] for op in ops]
        assert max(shares) / min(shares) < 1.04
    # The same function, whether its exponent is a number or a tensor.
    by_table, by_number = (fitted[f"elementwise_{op}"]["element_cycles"] for op in ("pow", "pow_scalar"))
    assert by_number == pytest.approx(by_table, rel=0.5)


@pytest.mark.parametrize("table", cells.TABLES)
def test_rows_are_fitted_by_the_model_that_predicts_them(shared, table):
    """With a cell's constants a row has the same time in the fit as in a prediction."""
    rows, _ = cells.rows_of([shared / "measurements" / f"{table}.parquet"])
    judged = 0
    for name, part in rows.groupby("gpu"):
        device = hardware.load(name)
        sections = {section.cell: section for section in calibration.load(device.name)}
        for cell, its in cells.cells(cells.usable(part), device):
            section = sections.get(cell.key)
            if section is not None:
                some = its.iloc[:: 1 + len(its) // 30]
                fitted = calibrate.seconds_of(cell, section.constants, some, device)
                assert fitted == pytest.approx(score(some)["seconds"].to_numpy(), rel=1e-9), cell
                judged += 1
    assert judged > 5


@pytest.mark.parametrize(
    ("gpu", "framework", "steps", "often"),
    [
        ("h200-sxm", "cudnn 9.1", 66, 1),
        ("nvidia/h200-sxm", "pytorch 2.11", 66, 1),
        ("cpu/i9-13900k", "pytorch 2.11", 64, 3),
        ("mi210", "miopen 3", 64, 3),
    ],
)
def test_stack_is_a_wavefront_on_cudnn_and_separate_recurrences_elsewhere(gpu, framework, steps, often):
    sizes = {"batch": 8, "seq": 64, "hidden": 512, "input": 512, "num_layers": 3}
    rows = pd.DataFrame([{"op": "lstm", "dtype": "fp32", "framework": framework, "gpu": gpu, **sizes}])
    assert cells.arguments(rows, hardware.load(gpu))["steps"] == steps
    assert cells.repeats(rows) == often
