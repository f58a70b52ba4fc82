"""Calibration files: written and read back unchanged, found beside a spec, and refused when damaged."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from costmodel import calibration, files, kernels
from costmodel.calibration import File, Provenance, Section, Spread
from costmodel.errors import SpecError
from costmodel.hardware import load
from costmodel.layers.matmul import Matmul
from costmodel.predict import predict

PROVENANCE = Provenance(
    source="somebody/measured @1234567",
    licence="MIT",
    versions="torch 2.13",
    table_hash="0123456789ab",
    rows_fitted=70,
    rows_held_out=30,
    mdape=3.0,
    mape=4.0,
    bias=-0.5,
)


def test_files_forget_drops_cached_predictions_too(monkeypatch):
    """Fit, write and predict in one session: predictions made after `files.forget` have the new constants."""
    sizes = {"m": 64, "n": 4096, "k": 4096}
    before = predict(Matmul(), "nvidia/h200-sxm", **sizes)
    monkeypatch.setattr(calibration, "path_of", lambda _: Path("nowhere.yaml"))
    files.forget()
    after = predict(Matmul(), "nvidia/h200-sxm", **sizes)
    monkeypatch.undo()
    files.forget()
    assert (before.rung, after.rung) == ("calibrated", "kernel")
    assert predict(Matmul(), "nvidia/h200-sxm", **sizes).seconds == before.seconds != after.seconds


def section(**changes):
    cell = {"kernel": "gemm", "op": "gemm", "dtype": "bf16", "framework": "trtllm"}
    return Section(**(cell | {"constants": {"efficiency": 0.8}, "provenance": PROVENANCE} | changes))


def file(*sections, device="nvidia/h200-sxm"):
    return File(
        schema=calibration.SCHEMA, device=device, program="0.1.0", date="2026-01-01", sections=sections
    )


# -- the file ----------------------------------------------------------------------------------


def test_calibration_file_survives_a_round_trip(tmp_path):
    whole = file(
        section(
            constants={"efficiency": 1 / 3, "overhead_s": 2.5e-6},
            sizes={"m": (1.0, 65536.0)},
            kernels=("cutlass", "cublas"),
            spread=(
                Spread(above=0.0, rows=20, q=(0.8, 0.9, 1.1, 1.3)),
                Spread(above=1e-4, rows=10, q=(0.95, 0.97, 1.02, 1.05)),
            ),
        ),
        section(op="bmm", harness="eager-events"),
    )
    path = tmp_path / "h200-sxm.calibration.yaml"
    calibration.dump(path, whole)
    assert calibration.read(path, "nvidia/h200-sxm") == whole
    first = path.read_bytes()
    calibration.dump(path, calibration.read(path))
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda t: t.replace("schema: 1", "schema: 99"), "schema 99, wanted 1"),
        (
            lambda t: t.replace("efficiency: 0.8", "efficiency: much"),
            r"not a calibration file: sections\.0\.constants\.efficiency: ",
        ),
        (
            lambda t: t.replace("framework:", "framwork:"),
            r"not a calibration file: sections\.0\.framework: Field required",
        ),
        (lambda t: t[: len(t) // 2] + "\n\t{", "not a calibration file"),
        (lambda t: "", "not a calibration file"),
        (lambda t: t.replace("nvidia/h200-sxm", "nvidia/t4"), "is of nvidia/t4, wanted nvidia/h200-sxm"),
    ],
)
def test_damaged_file_is_refused_with_one_line(tmp_path, damage, text):
    path = tmp_path / "h200-sxm.calibration.yaml"
    calibration.dump(path, file(section()))
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(SpecError, match=text) as caught:
        calibration.read(path, "nvidia/h200-sxm")
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def beside_a_spec(folder, name="nvidia/mine"):
    """Return the path of a user's own spec, H200's figures, with constants beside it."""
    text = (calibration.path_of("nvidia/h200-sxm").parent / "h200-sxm.yaml").read_text(encoding="utf-8")
    spec = folder / "mine.yaml"
    spec.write_text(text.replace("name: nvidia/h200-sxm", f"name: {name}"), encoding="utf-8")
    whole = file(section(spread=(Spread(above=0.0, rows=20, q=(0.8, 0.9, 1.1, 1.3)),)), device=name)
    calibration.dump(folder / "mine.calibration.yaml", whole)
    return spec


SIZES = {"m": 512, "n": 4096, "k": 4096}


def test_constants_beside_a_users_spec_serve_that_device(tmp_path, monkeypatch):
    own = predict(Matmul(), beside_a_spec(tmp_path), **SIZES)
    assert (own.rung, own.constants_from) == ("calibrated", "self")
    assert own.lo80_s == pytest.approx(max(0.9 * own.seconds, own.lower_s))
    # A what-if of the device uses them too and names the device. The spec's path may be relative.
    device = load(tmp_path / "mine.yaml")
    other = predict(Matmul(), device.replace(hbm="2x"), **SIZES)
    assert (other.rung, other.constants_from) == ("kernel", "nvidia/mine")
    monkeypatch.chdir(tmp_path)
    assert predict(Matmul(), "mine.yaml", **SIZES).seconds == own.seconds
    # The same spec without constants beside it is another device, which takes a relative's.
    (tmp_path / "alone").mkdir()
    alone = (tmp_path / "mine.yaml").rename(tmp_path / "alone" / "mine.yaml")
    assert load(alone) != device
    assert predict(Matmul(), alone, **SIZES).constants_from == "nvidia/h200-sxm"


def test_constants_beside_a_copied_spec_replace_the_shipped_ones(tmp_path):
    path = beside_a_spec(tmp_path, "nvidia/h200-sxm")
    mine, shipped = (predict(Matmul(), device, **SIZES) for device in (path, "nvidia/h200-sxm"))
    assert mine.constants_from == shipped.constants_from == "self"
    assert mine.plan.phases[0].choice.constants != shipped.plan.phases[0].choice.constants


def test_damaged_file_beside_a_spec_is_refused_with_one_line(tmp_path):
    path = beside_a_spec(tmp_path)
    (tmp_path / "mine.calibration.yaml").write_text("constants: {}", encoding="utf-8")
    with pytest.raises(SpecError, match=r"^mine\.calibration\.yaml: not a calibration file: .*; refit it$"):
        predict(Matmul(), path, **SIZES)
    assert predict(Matmul(), path, rung="bound", **SIZES).rung == "bound"


@pytest.mark.parametrize("device", calibration.calibrated_devices())
def test_every_shipped_calibration_is_readable_and_has_provenance(device):
    sections = calibration.load(device)
    assert sections
    for part in sections:
        assert part.provenance.rows_fitted > 0
        assert part.provenance.rows_held_out > 0
        assert part.provenance.licence
        assert set(part.constants) <= set(kernels.model(part.kernel).CONSTANTS), part.cell
        assert load(device).name == device


@pytest.mark.parametrize("device", calibration.calibrated_devices())
def test_a_shipped_calibration_is_written_as_it_was_read(device, tmp_path):
    """So a refit changes those lines whose constants changed, and no others."""
    shipped, again = calibration.path_of(device), tmp_path / "again.yaml"
    calibration.dump(again, calibration.read(shipped))
    assert again.read_bytes() == shipped.read_bytes()


def test_what_was_read_cannot_be_changed():
    """One reading serves all predictions: a change would reach them all."""
    part = calibration.load("nvidia/h200-sxm")[0]
    for content in (part, part.provenance, part.spread[0], file(part)):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(content, next(iter(type(content).model_fields)), None)


#: Kept aside: accuracy is scored on them, so nothing may be fitted there.
KEPT_ASIDE = {
    "nvidia/h100-sxm", "nvidia/gb200", "nvidia/rtx-pro-6000-server", "nvidia/l4", "amd/mi100",
    "amd/mi250-gcd", "nvidia/gtx-1080-ti", "nvidia/titan-xp",
}  # fmt: skip


def test_nothing_was_fitted_on_devices_kept_aside():
    assert not KEPT_ASIDE & set(calibration.calibrated_devices())


def test_intervals_are_the_quantiles_of_the_regime():
    part = section(
        spread=(
            Spread(above=0.0, rows=20, q=(0.5, 0.8, 1.5, 2.0)),
            Spread(above=1e-5, rows=20, q=(0.9, 0.95, 1.05, 1.1)),
        )
    )
    seconds = np.array([1e-6, 1e-5, 1e-3])
    low, high = calibration.interval(part.spread, seconds, 80)
    assert low == pytest.approx(seconds * [0.8, 0.95, 0.95])
    assert high == pytest.approx(seconds * [1.5, 1.05, 1.05])
    wide = calibration.interval(part.spread, seconds, 95)
    assert (wide[0] < low).all()
    assert (wide[1] > high).all()
