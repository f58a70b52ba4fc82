"""A spec measured for a device that has none: valid, and marked as measured."""

import dataclasses
import subprocess
import types
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import costmodel
from costmodel import calibration, hardware, units
from costmodel.errors import UnavailableError
from costmodel.validation import (
    measuring,
    microbench,
    places,
    sensors,
    spec,
    spec_cpu,
    spec_figures,
    spec_gpu,
    torch_env,
)
from costmodel.validation.cpu_clock import clock_hz
from costmodel.validation.torch_env import cpu_caches

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")


@pytest.fixture(scope="module")
def measured(here):
    """Return microbenchmarks of the working sets of a small cache: they test the code, not the machine."""
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


@pytest.fixture
def plausible(measured):
    """Return `measured` with bandwidths that fall with the working set: a busy machine's mean nothing."""
    if not cpu_caches():
        pytest.skip("this system does not tell its caches")
    table, small = measured
    rates = 3e10 * (small.cache_bytes / table["bytes"].clip(lower=1)).clip(1, 8)
    return table.assign(best=table["best"].where(table["quantity"] != "bandwidth", rates)), small


def test_measured_spec_is_valid_and_marked_as_measured(plausible, here, tmp_path):
    table, small = plausible
    path = spec.write(spec_cpu.cpu_spec(small, table), tmp_path / "here.yaml")
    assert hardware.check(path) == []
    device = hardware.load(path)
    assert device.name == spec.spec_name(here)
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
    monkeypatch.setattr(spec_cpu, "cpu_caches", list)
    with pytest.raises(UnavailableError, match="write a spec by hand"):
        spec_cpu.cpu_spec(small, table)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("AMD EPYC (family 25, model 17)", "cpu/amd-epyc-family-25-model-17-2-threads"),
        ("Intel(R) Xeon(R) Platinum 8480+ @ 2.00GHz", "cpu/intel-xeon-platinum-8480-2-threads"),
        ("13th Gen Intel(R) Core(TM) i9-13900K", "cpu/13th-gen-intel-core-i9-13900k-2-threads"),
        ("", "cpu/unknown-2-threads"),
    ],
)
def test_cpus_are_named_after_title_and_threads(title, name, here):
    assert spec_cpu.cpu_name(dataclasses.replace(here, title=title, units=2)) == name


def rates(device):
    """Return microbenchmarks of a GPU that reaches nine tenths of its datasheet."""
    cache = int(device.l2_capacity)
    reached = 0.9 * device.hbm_bandwidth
    rows = [
        ("bandwidth", "copy", size, reached * (3 if size <= cache else 1), "B/s")
        for size in (2**20, cache // 4, 8 * cache)
    ]
    rows += [("matmul", name, 2**26, 0.9 * device.peak(name), "FLOP/s") for name in ("fp16", "fp32")]
    rows += [("launch", "graph", 4, 2e-6, "s"), ("step", "persistent, all units", 4, 1.5e-6, "s")]
    table = pd.DataFrame(rows, columns=["quantity", "pattern", "bytes", "value", "unit"])
    return table.assign(best=table["value"])


@pytest.mark.parametrize(
    ("name", "capability", "megahertz"),
    [
        ("nvidia/v100-sxm2-16gb", "7.0", 1530),
        ("nvidia/t4", "7.5", 1590),
        ("nvidia/a100-sxm-80gb", "8.0", 1410),
        ("nvidia/a40", "8.6", 1740),
        ("nvidia/l40s", "8.9", 2490),
        ("nvidia/h200-sxm", "9.0", 1830),
    ],
)
def test_measured_spec_of_a_gpu_has_its_datasheets_peaks(
    name, capability, megahertz, here, monkeypatch, tmp_path
):
    """Units × FLOP per clock × clock is the vendor's dense peak at the clock stated for it."""
    shipped = hardware.load(name)
    machine = dataclasses.replace(
        here, kind="cuda", title="NVIDIA Z9000 Ti", capability=capability, units=int(shipped.units),
        cache_bytes=int(shipped.l2_capacity), memory_bytes=int(shipped.hbm_capacity),
    )  # fmt: skip
    monkeypatch.setattr(spec_gpu, "_highest_clock", lambda: megahertz * 1e6)
    path = spec.write(spec_gpu.gpu_spec(machine, rates(shipped)), tmp_path / "z9000.yaml")
    assert hardware.check(path) == []
    got = hardware.load(path)
    assert (got.name, got.family) == ("nvidia/z9000-ti", shipped.family)
    assert got.peak("fp16") == pytest.approx(shipped.peak("fp16"), rel=0.02)
    assert got.quantities["memory.hbm.bandwidth"].status == "measured"
    assert got.hbm_bandwidth == pytest.approx(0.9 * shipped.hbm_bandwidth, rel=1e-3)
    answer = costmodel.predict(costmodel.Matmul(dtype="fp16"), got, m=4096, n=4096, k=4096)
    assert answer.lower_s <= answer.seconds
    assert answer.rung == "kernel"


@given(value=st.floats(1e6, 1e16))
def test_limits_are_rounded_up(value):
    """A product at 274.229 GFLOP/s would be faster than a spec rounded down to 274.2."""
    said = units.parse(spec_figures.at_least(value, "FLOP/s"), "FLOP/s")
    assert value * (1 - 1e-9) <= said < value * 1.0011


def test_gpu_of_unknown_architecture_or_clock_is_refused(here, monkeypatch):
    machine = dataclasses.replace(here, kind="cuda", title="NVIDIA Z9000", capability="99.0")
    table = rates(hardware.load("nvidia/t4"))
    monkeypatch.setattr(spec_gpu, "_highest_clock", lambda: 1e9)
    with pytest.raises(UnavailableError, match=r"architecture is not known; .* --spec SPEC.yaml"):
        spec_gpu.gpu_spec(machine, table)
    monkeypatch.setattr(spec_gpu, "_highest_clock", lambda: None)
    with pytest.raises(UnavailableError, match="does not state its clock"):
        spec_gpu.gpu_spec(dataclasses.replace(machine, capability="8.0"), table)


@pytest.mark.parametrize(
    ("said", "hertz"),
    [
        ("GPU-aa, 1980\n", 1.98e9),
        ("GPU-aa, [N/A]\n", None),
        ("", None),
        ("1980\n", None),
        ("GPU-bb, 1590\nGPU-aa, 1980\n", 1.98e9),  # the driver's first is hidden from torch
        ("GPU-bb, 1980\nGPU-cc, 1980\n", 1.98e9),  # not identified, but both clocks are equal
        ("GPU-bb, 1590\nGPU-cc, 1980\n", None),
    ],
)
def test_highest_clock_is_the_drivers(said, hertz, monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout=said)
    monkeypatch.setattr(spec_gpu.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(spec_gpu, "_uuid", lambda: "aa")
    assert spec_gpu._highest_clock() == hertz


def test_uuid_is_empty_if_torch_does_not_give_one(monkeypatch):
    facts = types.SimpleNamespace(uuid="3f-aa")
    cuda = types.SimpleNamespace(get_device_properties=lambda _: facts)
    monkeypatch.setattr(spec_gpu, "load_torch", lambda: types.SimpleNamespace(cuda=cuda))
    assert spec_gpu._uuid() == "3f-aa"
    del facts.uuid
    assert spec_gpu._uuid() == ""


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H200", "nvidia/h200-sxm"),
        ("Tesla T4", "nvidia/t4"),
        ("NVIDIA A100-SXM4-80GB", "nvidia/a100-sxm-80gb"),
        ("NVIDIA L40S", "nvidia/l40s"),
    ],
)
def test_gpus_are_found_by_their_drivers_names(title, name, here):
    assert places.find_device(dataclasses.replace(here, kind="cuda", title=title)).name == name


def test_device_without_a_spec_is_refused_with_what_to_do(here, tmp_path):
    with pytest.raises(UnavailableError, match=r"--spec SPEC\.yaml"):
        places.find_device(dataclasses.replace(here, kind="cuda", title="NVIDIA Z9000"))
    with pytest.raises(UnavailableError, match="`costmodel validate` measures one"):
        places.find_device(here, tmp_path)


def test_calibration_of_a_measured_spec_does_not_go_into_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.path_of("cpu/amd-epyc-2-threads").parent == tmp_path / "costmodel"
    assert calibration.path_of("nvidia/t4").parent == Path(hardware.__file__).parent / "nvidia"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("AMD EPYC 9654 96-Core Processor", "AMD EPYC 9654 96-Core Processor"),
        # Virtual machines hide the model: every generation would have the first one's spec and constants.
        ("AMD EPYC", "AMD EPYC (family 25, model 17)"),
        ("Intel(R) Xeon(R) Processor @ 2.60GHz", "Intel(R) Xeon(R) Processor (family 25, model 17)"),
    ],
)
def test_processor_without_a_number_is_told_by_family_and_model(name, title, monkeypatch):
    facts = {"model name": name, "cpu family": "25", "model": "17"}
    monkeypatch.setattr(torch_env, "cpu_facts", lambda: facts)
    assert torch_env.machine("cpu").title == title


def test_facts_of_the_processor_are_those_of_the_first_core():
    facts = torch_env.cpu_facts()
    if not Path("/proc/cpuinfo").exists():
        assert facts == {}
        return
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    for name, value in facts.items():
        first = next(line for line in lines if line.partition(":")[0].strip() == name)
        assert first.partition(":")[2].strip() == value


@pytest.mark.parametrize(
    ("vendor", "family", "capability", "flop"),
    [
        ("AuthenticAMD", "25", "AVX2", 32),  # Zen 3: two multiply-adds of 8 lanes
        ("AuthenticAMD", "25", "AVX512", 32),  # Zen 4: two of 8 lanes, whatever the instruction's width
        ("AuthenticAMD", "26", "AVX512", 64),  # Zen 5: two of 16 lanes
        ("GenuineIntel", "6", "AVX512", 64),
    ],
)
def test_peak_is_the_units_width_times_two_multiply_adds(
    measured, monkeypatch, vendor, family, capability, flop
):
    if not cpu_caches():
        pytest.skip("this system does not tell its caches")
    table, small = measured
    monkeypatch.setattr(spec_cpu, "cpu_facts", lambda: {"vendor_id": vendor, "cpu family": family})
    monkeypatch.setattr(spec_cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(spec_cpu, "_CLOCK_PAUSE_S", 0.0)
    monkeypatch.setattr(spec_cpu, "clock_hz", lambda tries: 1e12)  # above any product that was measured
    found = spec_cpu.cpu_spec(dataclasses.replace(small, capability=capability, units=3), table)
    peak = units.parse(found["compute"]["vector"]["fp32"]["value"], "FLOP/s")
    assert peak == pytest.approx(3 * flop * 1e12, rel=1e-3)


def test_clock_during_a_campaign_is_measured_not_stated():
    """The system states a constant, and virtual machines the base clock."""
    clock = sensors.sensors("cpu")["clock_hz"]
    if clock is None:
        pytest.skip("no loop of one cycle a turn on this architecture")
    assert 1e8 < clock < 1e10
    assert len({sensors.sensors("cpu")["clock_hz"] for _ in range(5)}) > 1


def test_clock_is_sought_until_a_neighbour_rests(plausible, monkeypatch):
    table, small = plausible
    seen = iter([2e12] * 12 + [3e12] + [2e12] * 12)
    monkeypatch.setattr(spec_cpu, "_CLOCK_PAUSE_S", 0.0)
    monkeypatch.setattr(spec_cpu, "clock_hz", lambda tries: next(seen))
    assert spec_cpu.cpu_spec(small, table)["clocks"]["boost"]["value"] == "3 THz"


def test_a_clock_seen_in_a_campaign_raises_a_measured_specs_bound(plausible, monkeypatch, tmp_path):
    """By the ratio of the clocks, in the file too; predictions rest on the clock of the fit."""
    table, small = plausible
    monkeypatch.setattr(spec_cpu, "_CLOCK_PAUSE_S", 0.0)
    monkeypatch.setattr(spec_cpu, "clock_hz", lambda tries: 6e9)
    path = places.spec_path(small, tmp_path)
    slow = hardware.load(spec.write(spec_cpu.cpu_spec(small, table), path))
    lower = measuring.with_clock_of(pd.DataFrame({"clock_hz": [1e9, None]}), slow, tmp_path)
    assert lower is slow
    fast = measuring.with_clock_of(pd.DataFrame({"clock_hz": [1e9, 9e9, None]}), slow, tmp_path)
    for device in (fast, hardware.load(path)):
        assert device.boost_peak("fp32") == pytest.approx(1.5 * slow.boost_peak("fp32"), rel=1e-3)
        assert device.peak("fp32") == slow.peak("fp32")
    others = hardware.load("cpu/epyc-9654")
    assert measuring.with_clock_of(pd.DataFrame({"clock_hz": [9.9e9]}), others, tmp_path) is others


def test_measured_clock_is_plausible():
    clock = clock_hz(tries=5)
    if clock is None:
        pytest.skip("no loop of one cycle a turn on this architecture")
    assert 4e8 < clock < 1e10


def test_bandwidth_is_that_of_working_sets_beyond_the_caches(here):
    """Four times the cache is still partly cached: use six times or more, or the largest measured."""
    rows = [("copy", 2**20, 9e9), ("copy", 2**27, 5e9), ("sum", 2**28, 4e9)]
    table = pd.DataFrame([{"quantity": "bandwidth", "pattern": p, "bytes": b, "best": v} for p, b, v in rows])
    told, untold = (dataclasses.replace(here, cache_bytes=size) for size in (2**25, 0))
    for machine in (told, untold):
        assert spec_figures.main_memory(table, machine) == (4e9, "highest seen: sum over 256 MiB")
