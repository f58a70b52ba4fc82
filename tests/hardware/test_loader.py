"""Finding a device by its name, short name, alias or path."""

import subprocess
import sys

import pytest

from costmodel.errors import SpecError, UnknownNameError
from costmodel.hardware import Device, available, load, loader, resolve
from costmodel.hardware.tables import FOLDER
from costmodel.layers.matmul import Matmul
from costmodel.predict import predict


def test_names_are_discovered_and_sorted():
    names = available()
    assert names == sorted(names)
    assert not any("calibration" in name for name in names)
    assert all(name.count("/") == 1 for name in names)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("nvidia/h200-sxm", "nvidia/h200-sxm"),
        ("h200-sxm", "nvidia/h200-sxm"),
        (" H200-SXM ", "nvidia/h200-sxm"),
        ("NVIDIA/H200-SXM", "nvidia/h200-sxm"),
        ("H200 SXM", "nvidia/h200-sxm"),
        ("Tesla P100 (PCIe host; xlsx does not state form factor)", "nvidia/p100-pcie-16gb"),
        ("V100 (DGX-1, i.e. SXM2)", "nvidia/v100-sxm2-16gb"),
        ("TPU v5e", "google/tpu-v5e"),
        ("tpu7x", "google/tpu-v7"),
        ("i9-13900K", "cpu/i9-13900k"),
        # As torch.cuda.get_device_name() returns them.
        ("NVIDIA H100 80GB HBM3", "nvidia/h100-sxm"),
        ("NVIDIA GeForce RTX 4090", "nvidia/rtx-4090"),
        ("NVIDIA TITAN X (Pascal)", "nvidia/titan-x-pascal"),
        ("GeForce GTX TITAN X", "nvidia/titan-x-maxwell"),
        ("Tesla K40m", "nvidia/k40"),
        ("AMD Instinct MI210", "amd/mi210"),
        ("NVIDIA A10G", "nvidia/a10g"),
        ("NVIDIA RTX A6000", "nvidia/rtx-a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "nvidia/rtx-6000-ada"),
        ("NVIDIA H20", "nvidia/h20"),
        ("NVIDIA H800 PCIe", "nvidia/h800-pcie"),
        ("NVIDIA A800 80GB PCIe", "nvidia/a800-pcie-80gb"),
        ("NVIDIA L20", "nvidia/l20"),
        ("NVIDIA H100 NVL", "nvidia/h100-nvl"),
        ("NVIDIA GeForce RTX 3080", "nvidia/rtx-3080-10gb"),
        ("NVIDIA GeForce RTX 3090 Ti", "nvidia/rtx-3090-ti"),
        ("NVIDIA GeForce RTX 3060", "nvidia/rtx-3060-12gb"),
        ("NVIDIA GeForce RTX 4080", "nvidia/rtx-4080"),
        ("NVIDIA GeForce RTX 4070 SUPER", "nvidia/rtx-4070-super"),
        ("NVIDIA GeForce RTX 4060 Ti", "nvidia/rtx-4060-ti-16gb"),
        ("NVIDIA GeForce RTX 5080", "nvidia/rtx-5080"),
        ("NVIDIA GeForce RTX 5070", "nvidia/rtx-5070"),
        ("NVIDIA GeForce RTX 5060 Ti", "nvidia/rtx-5060-ti-16gb"),
    ],
)
def test_names_and_aliases_are_resolved(given, name):
    assert resolve(given) == name
    assert load(given).name == name


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="nvidia/h200-sxm"):
        load("nvidia/h200-smx")
    with pytest.raises(UnknownNameError, match="'a100-pcie-40gb' or 'a100-pcie-80gb' or 'a100-sxm-40gb'"):
        load("NVIDIA A100")
    with pytest.raises(UnknownNameError, match="unknown device"):
        load("")


@pytest.mark.parametrize(
    "given", ["NVIDIA GeForce RTX 3080 Laptop GPU", "NVIDIA GeForce RTX 3080 Ti", "NVIDIA GeForce RTX 4060"]
)
def test_boards_of_a_similar_name_are_not_taken_for_each_other(given):
    with pytest.raises(UnknownNameError, match="unknown device"):
        load(given)


def test_name_of_two_devices_is_refused_with_both(monkeypatch):
    monkeypatch.setattr(loader, "_names", lambda: ("amd/x1", "nvidia/x1"))
    with pytest.raises(UnknownNameError, match="not unique: give one of amd/x1, nvidia/x1"):
        resolve("x1")


def test_path_is_accepted_in_place_of_a_name(sound, write):
    path = write(sound)
    assert load(path) == load(str(path)) == load("nvidia/h100-sxm")
    assert isinstance(load(path), Device)
    with pytest.raises(SpecError, match="No such file"):
        load("nowhere/at-all.yaml")


def test_changed_spec_under_a_shipped_name_is_a_what_if(tmp_path):
    """It takes that device's constants as any what-if does, and is not the device that was measured."""
    shipped = FOLDER / "nvidia" / "h200-sxm.yaml"
    same, other = tmp_path / "same.yaml", tmp_path / "other.yaml"
    text = shipped.read_text(encoding="utf-8")
    assert text.count("4800 GB/s") == 1
    same.write_text(text, encoding="utf-8")
    other.write_text(text.replace("4800 GB/s", "2400 GB/s"), encoding="utf-8")
    assert load(same) == load(shipped) == load("nvidia/h200-sxm")
    assert load(other).name == "nvidia/h200-sxm*"
    sizes = {"m": 64, "n": 4096, "k": 4096}
    changed = predict(Matmul(), load(other), **sizes)
    assert (changed.rung, changed.constants_from) == ("kernel", "nvidia/h200-sxm")
    assert changed.seconds == predict(Matmul(), load("h200-sxm").replace(hbm="2400 GB/s"), **sizes).seconds


def test_spec_measured_here_is_found_by_name(sound, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = tmp_path / "costmodel" / "nvidia-my-big-one.yaml"
    own.parent.mkdir()
    own.write_text(sound.replace("nvidia/h100-sxm", "nvidia/my-big-one"), encoding="utf-8")
    own.with_name("nvidia-my-big-one.calibration.yaml").write_text("", encoding="utf-8")
    assert load("nvidia/my-big-one").name == load("My_Big_One").name == "nvidia/my-big-one"
    assert load("nvidia/h100-sxm").name == "nvidia/h100-sxm"
    own.unlink()
    with pytest.raises(UnknownNameError, match="unknown device"):
        load("nvidia/my-big-one")


def test_device_is_loaded_once():
    assert load("nvidia/h200-sxm") is load("H200")


def test_listing_devices_imports_no_heavy_package():
    code = (
        "import sys, costmodel.hardware as h; h.available(); "
        "assert not {'pandas', 'torch', 'sympy', 'altair', 'numpy', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("part", "whole"),
    [
        ("a100", ["a100-pcie-40gb", "a100-pcie-80gb", "a100-sxm-40gb", "a100-sxm-80gb"]),
        ("mi250", ["mi250-gcd"]),
    ],
)
def test_part_of_a_name_is_refused_with_the_whole_names_first(part, whole):
    with pytest.raises(UnknownNameError) as error:
        load(part)
    assert f"did you mean {' or '.join(map(repr, whole))}" in str(error.value)
