"""A spec for a device that has none: measured, marked so, and sound."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from costmodel import calibration, hardware
from costmodel.errors import UnavailableError
from costmodel.validation import microbench, places, spec
from costmodel.validation.cpu_clock import clock_hz
from costmodel.validation.torch_env import cpu_caches

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")


@pytest.fixture(scope="module")
def measured(here):
    """Return microbenchmarks of working sets that a small cache would have: the code, not the machine."""
    small = dataclasses.replace(here, cache_bytes=2**18)
    return microbench.microbenchmarks(small, budget_s=0.2), small


def test_microbenchmarks_cover_every_level_and_engine(measured, here):
    table, small = measured
    sizes = microbench.working_sets(small)
    assert sizes[0] == 2**14
    assert sizes[-1] >= microbench.BEYOND_CACHE * small.cache_bytes
    bandwidth = table[table["quantity"] == "bandwidth"]
    assert set(bandwidth["bytes"]) == set(sizes)
    assert set(bandwidth["pattern"]) == {"copy", "sum", "scale"}
    assert set(table["quantity"]) == {"bandwidth", "matmul", "launch", "step"}
    rates = table[table["unit"] != "s"]
    assert (rates["best"] >= rates["value"]).all()
    assert (table[table["unit"] == "s"]["value"] > 0).all()


def test_largest_working_set_leaves_memory_for_others(here):
    little = dataclasses.replace(here, memory_bytes=2**22, cache_bytes=2**30)
    assert max(microbench.working_sets(little)) <= 2**20


def test_measured_spec_is_sound_and_says_that_it_is_measured(measured, here, tmp_path):
    if not cpu_caches():
        pytest.skip("this system does not tell its caches")
    table, small = measured
    # What a busy machine moves a second says nothing: bandwidths that fall with the working set instead.
    plausible = 3e10 * (small.cache_bytes / table["bytes"].clip(lower=1)).clip(1, 8)
    table = table.assign(best=table["best"].where(table["quantity"] != "bandwidth", plausible))
    path = spec.write(spec.cpu_spec(small, table), tmp_path / "here.yaml")
    assert hardware.check(path) == []
    device = hardware.load(path)
    assert device.name == spec.cpu_name(here)
    assert device.units == here.units
    figures = device.quantities
    assert figures["memory.hbm.bandwidth"].status == "measured"
    assert figures["latency.launch"].status == "measured"
    # Cores × lanes × clock is above every product that was measured.
    assert device.boost_peak("fp32") >= table[table["quantity"] == "matmul"]["best"].max()
    # Figures are written with four digits.
    assert device.boost_peak("fp64") * 2 == pytest.approx(device.boost_peak("fp32"), rel=1e-3)


def test_spec_of_a_machine_that_hides_its_caches_is_refused(measured, monkeypatch):
    table, small = measured
    monkeypatch.setattr(spec, "cpu_caches", list)
    with pytest.raises(UnavailableError, match="write a spec by hand"):
        spec.cpu_spec(small, table)
    with pytest.raises(UnavailableError, match="for CPUs only"):
        spec.cpu_spec(dataclasses.replace(small, kind="cuda"), table)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("AMD EPYC", "cpu/amd-epyc-2-threads"),
        ("Intel(R) Xeon(R) Platinum 8480+ @ 2.00GHz", "cpu/intel-xeon-platinum-8480-2-threads"),
        ("13th Gen Intel(R) Core(TM) i9-13900K", "cpu/13th-gen-intel-core-i9-13900k-2-threads"),
        ("", "cpu/unknown-2-threads"),
    ],
)
def test_names_of_cpus(title, name, here):
    assert spec.cpu_name(dataclasses.replace(here, title=title, units=2)) == name


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H200", "nvidia/h200-sxm"),
        ("Tesla T4", "nvidia/t4"),
        ("NVIDIA A100-SXM4-80GB", "nvidia/a100-sxm-80gb"),
        ("NVIDIA L40S", "nvidia/l40s"),
    ],
)
def test_drivers_names_are_known(title, name, here):
    assert places.find_device(dataclasses.replace(here, kind="cuda", title=title)).name == name


def test_devices_without_a_spec_say_what_to_do(here, tmp_path):
    with pytest.raises(UnavailableError, match=r"--spec SPEC\.yaml"):
        places.find_device(dataclasses.replace(here, kind="cuda", title="NVIDIA Z9000"))
    with pytest.raises(UnavailableError, match="costmodel validate --record"):
        places.find_device(here, tmp_path)


def test_calibration_of_a_measured_spec_does_not_go_into_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.path_of("cpu/amd-epyc-2-threads").parent == tmp_path / "costmodel"
    assert calibration.path_of("nvidia/t4").parent == Path(hardware.__file__).parent / "nvidia"


def test_clock_is_that_of_a_processor():
    clock = clock_hz(tries=5)
    if clock is None:
        pytest.skip("no loop of one cycle a turn on this architecture")
    assert 4e8 < clock < 1e10


def test_bandwidth_is_of_working_sets_beyond_the_caches():
    rows = [("copy", 2**20, 9e9), ("copy", 2**27, 3e9), ("sum", 2**28, 4e9)]
    table = pd.DataFrame([{"quantity": "bandwidth", "pattern": p, "bytes": b, "best": v} for p, b, v in rows])
    machine = type("Machine", (), {"cache_bytes": 2**25})
    assert spec._main_memory(table, machine) == (4e9, "highest seen: sum over 256 MiB")
