"""Calibration: constants put into made-up rows come out again, and no fit worse than before is kept."""

import numpy as np
import pandas as pd
import pytest

from costmodel import calibration, hardware
from costmodel.calibration import Wanted
from costmodel.errors import CostmodelError, TableError
from costmodel.kernels import cpu_gemm, cpu_recurrence, cpu_stream
from costmodel.validation import calibrate, cells, fit_cpu, log_fit, residuals, sections, uncertainty
from costmodel.validation.heldout import held_out


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Refit only three times for intervals, whose accuracy other tests check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uncertainty, "DRAWS", 3)
        yield


DEVICE = hardware.load("cpu/i9-13900k")
TRUE = {
    "peak_share": 0.8, "pack_cycles": 1.0, "edge_rows": 3.0, "start_s": 5e-6, "fork_s": 2e-5,
}  # fmt: skip


def table(count=120, seed=1, **columns):
    """Return products of random sizes on a made-up machine whose constants are known."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame({name: 2.0 ** draw.uniform(4, 11, count) // 1 for name in ("m", "n", "k")})
    exact = cpu_gemm.seconds(DEVICE, TRUE, **{n: frame[n].to_numpy() for n in ("m", "n", "k")}).seconds
    frame = frame.assign(
        latency_s=exact * np.exp(draw.normal(0, 0.01, count)),
        gpu=DEVICE.name, op="gemm", dtype="fp32", framework="pytorch 2.13.0", kernel="torch.matmul",
        timer="perf_counter-median", direction="fwd", source="own", licence="Apache-2.0",
    )  # fmt: skip
    return frame.assign(**columns)


@pytest.fixture(scope="module")
def result():
    return calibrate.calibrate(table(), DEVICE, date="2025-01-01")


def test_fit_finds_the_constants_that_made_the_rows(result):
    (section,) = result.file.sections
    assert (section.kernel, section.op, section.dtype, section.framework) == (
        "cpu_gemm", "gemm", "fp32", "pytorch",
    )  # fmt: skip
    for name in ("peak_share", "start_s", "fork_s"):
        assert section.constants[name] == pytest.approx(TRUE[name], rel=0.1), name
    # The noise put in is 1 %: its median magnitude is 0.67 %.
    assert section.provenance.mdape < 1.5
    assert abs(section.provenance.bias) < 1.0


def test_fit_is_judged_on_held_out_rows(result):
    (section,) = result.file.sections
    rows = table()
    out = held_out(rows)
    assert section.provenance.rows_fitted == (~out).sum()
    assert section.provenance.rows_held_out == out.sum() == len(result.held_out)
    assert section.sizes["m"] == (rows.loc[~out, "m"].min(), rows.loc[~out, "m"].max())


def test_fit_does_not_look_at_held_out_rows(result):
    rows = table()
    out = held_out(rows)
    spoiled = rows.assign(latency_s=np.where(out, rows["latency_s"] * 1.2, rows["latency_s"]))
    again = calibrate.calibrate(spoiled, DEVICE, date="2025-01-01")
    assert again.file.sections[0].constants == result.file.sections[0].constants
    assert again.file.sections[0].provenance.bias == pytest.approx(-16.7, abs=1.5)


def test_same_rows_give_the_same_file(result, tmp_path):
    shuffled = calibrate.calibrate(table(), DEVICE, date="2025-01-01")
    one, other = (
        calibrate.write(r, tmp_path / f"{i}.calibration.yaml") for i, r in enumerate((result, shuffled))
    )
    assert one.read_bytes() == other.read_bytes()
    assert calibration.read(one, DEVICE.name) == result.file


def test_order_of_rows_does_not_matter(result):
    rows = table()
    turned = pd.concat([rows.iloc[60:], rows.iloc[:60]]).sample(frac=1.0, random_state=3)
    assert calibrate.calibrate(turned, DEVICE, date="2025-01-01").file == result.file


def test_constant_that_rows_do_not_determine_stays_at_its_default():
    """Rows of B are shorter than a page, so the cost of a page translation has no effect on them."""
    rows = table()
    short = rows[rows["n"] * 4 < 4096]
    (section,) = calibrate.calibrate(short, DEVICE, date="2025-01-01").file.sections
    default = cpu_gemm.CONSTANTS["page_cycles"].default
    assert section.constants["page_cycles"] == pytest.approx(default, rel=0.02)


def test_interval_of_80_per_cent_holds_about_80_per_cent_of_new_rows(result):
    """Quantiles of measured over predicted time, checked on a second sample."""
    (section,) = result.file.sections
    fresh = table(count=400, seed=2)
    sizes = {name: fresh[name].to_numpy() for name in ("m", "n", "k")}
    predicted = cpu_gemm.seconds(DEVICE, section.constants, **sizes).seconds
    low, high = calibration.interval(section.spread, predicted, 80)
    inside = ((fresh["latency_s"] >= low) & (fresh["latency_s"] <= high)).mean()
    assert 0.6 < inside < 0.95


def test_regimes_are_quarters_of_the_predicted_times():
    predicted = np.geomspace(1e-6, 1e-2, 200)
    regimes = residuals.spread(predicted, predicted * np.where(predicted < 1e-4, 1.3, 1.0))
    assert [r.rows for r in regimes] == [50, 50, 50, 50]
    assert [r.above for r in regimes] == sorted(r.above for r in regimes)
    assert regimes[0].above == 0.0
    assert regimes[0].q == (1.3, 1.3, 1.3, 1.3)
    assert regimes[3].q == (1.0, 1.0, 1.0, 1.0)
    assert residuals.spread(predicted[:5], predicted[:5]) == ()
    assert len(residuals.spread(predicted[:20], predicted[:20])) == 1


def test_constants_that_make_it_worse_are_refused():
    """The fitted shapes come from another machine than the held-out ones, so the fit must be worse there."""
    rows = table()
    sizes = {name: rows[name].to_numpy() for name in ("m", "n", "k")}
    default = cpu_gemm.seconds(DEVICE, {}, **sizes).seconds
    rows["latency_s"] = np.where(held_out(rows), default, default * 5)
    got = calibrate.calibrate(rows, DEVICE, date="2025-01-01")
    assert got.file.sections == ()
    assert "% without it" in got.refused[0]
    with pytest.raises(TableError, match="nothing to write"):
        calibrate.write(got)


def test_too_few_rows_are_refused():
    got = calibrate.calibrate(table(count=6), DEVICE)
    assert got.file.sections == ()
    assert "wanted 8" in got.refused[0]


def test_unusable_rows_are_left_out():
    rows = table(count=12)
    for name, value in (("direction", "bwd"), ("state", "cold"), ("status", "incorrect"), ("latency_s", 0.0)):
        assert cells.usable(rows.assign(**{name: value})).empty
    assert cells.usable(rows.assign(bench="lstm-loop")).empty
    assert cells.usable(rows.assign(op="no_such_operation")).empty
    # Whole models are chains of kernels: no single kernel model is fitted to them.
    assert cells.usable(rows.assign(op="model_end_to_end")).empty
    # Passes of a trace are predicted with the constants of copies and additions: they have none of their own.
    moved = rows.assign(op="pass_cast", written_bytes=8, read_bytes=16, least_bytes=16)
    assert cells.usable(moved).empty
    with pytest.raises(TableError, match="no single kernel model"):
        cells.model_of("no_such_operation", DEVICE)
    assert len(cells.usable(rows)) == 12
    # Where a campaign has replays, calls launched one by one are left out: they measure the host too.
    ways = ["eager"] * 5 + ["graph"] * 7
    assert list(cells.usable(rows.assign(launch=ways))["launch"]) == ["graph"] * 7
    assert len(cells.usable(rows.assign(launch="eager"))) == 12


def test_broken_rows_change_nothing_for_the_others(tmp_path):
    """Invalid sizes, times and formats: the rest is fitted, and the report says what was lost."""
    whole, path = table(), tmp_path / "rows.csv"
    spoilt = [
        ("m", ""), ("m", "0"), ("n", "-5"), ("k", "2.5"), ("k", "inf"), ("m", "many"),
        ("latency_s", "inf"), ("latency_s", "soon"), ("latency_s", ""), ("dtype", ""),
    ]  # fmt: skip
    frame = whole.astype(str)
    for place, (name, value) in enumerate(spoilt):
        frame.loc[10 * place, name] = value
    frame.to_csv(path, index=False)
    (got,) = calibrate.calibrate_tables([path], date="2025-01-01")
    alone = calibrate.calibrate(whole.drop(index=range(0, 100, 10)), DEVICE, date="2025-01-01")
    (section,), (same,) = got.file.sections, alone.file.sections
    assert section.constants == same.constants
    assert (section.provenance.rows_fitted, section.provenance.mape) == (
        same.provenance.rows_fitted, same.provenance.mape,
    )  # fmt: skip
    assert "6 rows of gemm: a size is empty, or no whole number" in got.refused[0]
    # A column that the operation needs is missing.
    with pytest.raises(TableError, match=r"no row is .* whole sizes"):
        calibrate.calibrate(whole.drop(columns="k"), DEVICE)


def test_invalid_case_is_one_clear_line():
    rows = table(case="{}", status="ok", state="warm")
    with pytest.raises(TableError, match=r"column case: wanted a case as .* got '\{\}'"):
        calibrate.calibrate(rows, DEVICE)
    # Rows without a status are no chains; their products are fitted all the same.
    assert len(calibrate.calibrate(rows.drop(columns="status"), DEVICE).file.sections) == 1


def test_fit_without_a_predicted_time_is_refused():
    """Otherwise a campaign would end in a traceback after everything has been measured."""
    described = {"start_s": cpu_gemm.CONSTANTS["start_s"]}
    with pytest.raises(TableError, match="1 of 2 rows to fit on have no predicted"):
        log_fit.least_log_error(
            lambda _: np.array([1.0, np.nan]), np.ones(2), described, ("start_s",), [{"start_s": 1e-6}]
        )
    with pytest.raises(TableError, match="nan % off"):
        residuals.checked(np.full(9, np.nan), np.ones(9), np.ones(9))


@pytest.mark.parametrize("name", ["nvidia/h100-sxm", "amd/mi100"])
def test_devices_kept_aside_are_never_fitted(name):
    device = hardware.load(name)
    for one in (device, device.replace(hbm="1 TB/s")):  # a what-if of the same device too
        with pytest.raises(TableError, match="nothing is fitted on this device"):
            calibrate.calibrate(table(), one)


def test_copied_spec_under_another_name_may_be_fitted(tmp_path, monkeypatch):
    """As the refusal advises. The constants go to the user's cache, not into the package."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shipped = calibration.path_of("nvidia/l4").with_name("l4.yaml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(shipped.replace("name: nvidia/l4\n", "name: nvidia/my-l4\n"), encoding="utf-8")
    calibrate.check_fittable(hardware.load(mine))
    assert calibration.path_of("nvidia/my-l4") == tmp_path / "costmodel" / "nvidia-my-l4.calibration.yaml"


def test_shared_tables_fit_no_device_kept_aside(tmp_path):
    """Not even if asked for by name: their rows are skipped."""
    path = tmp_path / "rows.csv"
    table(gpu="nvidia/l4").to_csv(path, index=False)
    assert calibrate.calibrate_tables([path]) == []
    assert calibrate.calibrate_tables([path], only=["nvidia/l4"]) == []


def test_missing_or_incomplete_table_is_one_clear_line(tmp_path):
    with pytest.raises(TableError, match="no such file"):
        cells.rows_of([tmp_path / "none.parquet"])
    (tmp_path / "bad.csv").write_text("gpu,op\na,b\n")
    with pytest.raises(TableError, match="lacks the columns dtype, framework, latency_s, timer"):
        cells.rows_of([tmp_path / "bad.csv"])
    with pytest.raises(TableError, match="no table was given"):
        cells.rows_of([])


def test_every_measured_operation_has_a_fit():
    gpu = hardware.load("nvidia/h200-sxm")
    for op in (
        "gemm",
        "bmm",
        "softmax",
        "attention_prefill",
        "attention_decode",
        "gdn_chunk_prefill",
        "gdn_recurrent_decode",
        "causal_conv1d_decode",
        "lstm",
    ):
        for device in (gpu, DEVICE):
            model = cells.model_of(op, device)
            assert hasattr(cells.recipe(model), "fit"), model
    assert cells.model_of("gemm", DEVICE) == "cpu_gemm"
    assert cells.model_of("gemm", gpu) == "gemm"
    with pytest.raises(CostmodelError, match="nothing fits the kernel model no-such"):
        cells.recipe("no-such")


def test_memory_constants_of_the_machine_come_from_copies():
    """They are fitted on copies and then held fixed for the other kernels."""
    true = {"l2_bytes_cycle": 30.0, "l3_bytes_cycle": 8.0, "bandwidth_share": 0.6, "element_cycles": 0.02}
    draw = np.random.default_rng(5)
    cells = 2.0 ** draw.uniform(10, 26, 150) // 64 * 64
    common = table(150).drop(columns=["m", "n", "k", "op", "latency_s"])
    copies = common.assign(op="elementwise_copy", m=cells / 64, n=64.0)
    copies["latency_s"] = cpu_stream.seconds(DEVICE, true, rows=cells / 64, cols=64.0).seconds
    got = calibrate.calibrate(pd.concat([table(), copies]), DEVICE, date="2025-01-01")
    fitted = {section.op: section.constants for section in got.file.sections}
    assert fitted["elementwise_copy"]["bandwidth_share"] == pytest.approx(0.6, rel=0.1)
    assert fitted["elementwise_copy"]["l3_bytes_cycle"] == pytest.approx(8.0, rel=0.2)
    assert fitted["gemm"]["l3_bytes_cycle"] == fitted["elementwise_copy"]["l3_bytes_cycle"]


def test_recurrence_is_fitted_to_the_time_without_input_products():
    true = {"step_s": 2e-5, "gate_cycles": 20.0, "peak_share": 0.5}
    draw = np.random.default_rng(6)
    rows = pd.DataFrame({
        "seq": 2.0 ** draw.integers(5, 11, 80), "batch": 4.0 ** draw.integers(0, 4, 80),
        "hidden": 2.0 ** draw.integers(6, 11, 80), "op": "lstm", "dtype": "fp32",
    })  # fmt: skip
    sizes = {"steps": rows["seq"], "batch": rows["batch"], "hidden": rows["hidden"], "gates": 4.0}
    chain = cpu_recurrence.seconds(DEVICE, true, **sizes).seconds
    rows["other_s"] = 0.3 * chain
    got = fit_cpu.fit(rows.assign(latency_s=1.3 * chain), DEVICE, {})
    assert got["step_s"] == pytest.approx(2e-5, rel=0.2)


def test_stack_runs_its_recurrence_once_for_each_layer():
    """Rows of one and two layers made from one step's time: the same constants fit both."""
    true = {"step_s": 2e-5, "gate_cycles": 20.0, "peak_share": 0.5, "call_s": 1e-5}
    draw = np.random.default_rng(7)
    rows = pd.DataFrame({
        "seq": 2.0 ** draw.integers(5, 11, 80), "batch": 4.0 ** draw.integers(0, 4, 80),
        "hidden": 2.0 ** draw.integers(6, 11, 80), "num_layers": draw.integers(1, 3, 80).astype(float),
        "op": "gru", "dtype": "fp32",
    })  # fmt: skip
    sizes = {"steps": rows["seq"], "batch": rows["batch"], "hidden": rows["hidden"], "gates": 3.0}
    once = cpu_recurrence.seconds(DEVICE, true, **sizes).seconds
    got = fit_cpu.fit(rows.assign(latency_s=rows["num_layers"] * once), DEVICE, {})
    assert got["step_s"] == pytest.approx(2e-5, rel=0.1)


@pytest.mark.parametrize(
    ("own", "before"),
    [
        # Of ten rows six are a little worse and four much better, whatever the sign: the mean decides.
        ([2, -2] * 3 + [3, -3] * 2, [1, -1] * 3 + [100, -90] * 2),
        # Most are a little better and some much worse: the median decides.
        ([5] * 7 + [300] * 3, [10] * 10),
        # Nearly equal: the device's own are kept.
        ([10.5] * 10, [10] * 10),
    ],
)
def test_constants_not_clearly_worse_are_kept(own, before):
    with_, without = (1 + np.array(percent) / 100 for percent in (own, before))
    assert residuals.checked(with_, without, np.ones(10)) == pytest.approx(own)


@pytest.mark.parametrize("signs", [1, [1, -1] * 5])
def test_constants_worse_in_median_and_mean_are_refused(signs):
    """Errors of opposite signs do not cancel."""
    worse = 1 + 0.05 * np.ones(10) * signs
    with pytest.raises(TableError, match=r"5.0 % off on 10 held-out rows, 1.0 % without it"):
        residuals.checked(worse, np.full(10, 1.01), np.ones(10))


def test_provenance_states_median_and_mean_error_and_bias():
    """Three judged rows by hand: −30, −6 and +9 %."""
    rows = pd.DataFrame({"source": ["b", "b", "a", "a", "a"], "framework": "pytorch 2", "latency_s": 1.0})
    stated = sections.section(
        Wanted(kernel="stream", op="gelu", dtype="fp32", framework="pytorch"),
        {},
        fitted=rows[:2],
        judged=rows[2:],
        predicted=np.array([0.7, 0.94, 1.09]),
        sizes={},
        hashes={},
    ).provenance
    assert (stated.mdape, stated.mape, stated.bias) == (9.0, 15.0, -6.0)
    assert (stated.source, stated.rows_fitted, stated.rows_held_out) == ("a; b", 2, 3)


def test_constants_an_order_of_magnitude_off_are_refused():
    """Even if the constants before were ten times worse."""
    measured = np.ones(10)
    with pytest.raises(TableError, match=r"900.0 % off on 10 held-out rows: no constants of this"):
        residuals.checked(np.full(10, 10.0), np.full(10, 100.0), measured)
    assert np.median(residuals.checked(np.full(10, 1.4), np.full(10, 100.0), measured)) == pytest.approx(40)


@pytest.mark.shared
def test_open_tables_are_fitted_as_own_rows_are(shared):
    (got,) = calibrate.calibrate_tables(
        [shared / "measurements" / "scan.parquet"], only=["nvidia/h200-sxm"], date="2025-01-01"
    )
    assert {section.kernel for section in got.file.sections} == {"conv", "delta", "state_update"}
    for section in got.file.sections:
        assert section.harness == "graph-replay"
        assert section.provenance.mdape < 5.0
        assert section.provenance.source == "ai-dynamo/aiconfigurator"
        assert section.provenance.table_hash.startswith("scan.parquet ")
