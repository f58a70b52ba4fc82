"""Wheel and source distribution: every file needed is inside, and the package works elsewhere."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Folder of the project → folder in the wheel.
INSTALLED = {
    "costmodel": "costmodel",
    "hardware": "costmodel/hardware",
    "reports": "costmodel/reports",
    "validation": "costmodel/validation",
}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy: a build leaves files behind, and a second one would ship them."""
    pytest.importorskip("setuptools", minversion="77", reason="building the wheel needs setuptools >= 77")
    source = tmp_path_factory.mktemp("source")
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in INSTALLED:
        shutil.copytree(ROOT / folder, source / folder, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source], check=True
    )
    (built,) = out.glob("*.whl")
    return built


def test_every_file_of_the_packages_is_inside(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in INSTALLED.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - inside == set()
    assert {name for name in inside if ".dist-info/" not in name} == wanted


def test_licence_and_notice_are_inside(wheel):
    inside = [name.rpartition("/")[2] for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in name]
    assert {"LICENSE", "NOTICE", "METADATA", "entry_points.txt"} <= set(inside)


def test_source_distribution_has_the_whole_suite(tmp_path):
    """By default setuptools includes tests by their names, but not the modules that they import."""
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools >= 77")
    source = tmp_path / "source"
    folders = (*INSTALLED, "tests", "docs", "benchmarks")
    for folder in folders:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("*.egg-info"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert wanted - inside == set()
    assert {"Makefile", "constraints.txt", "mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"} <= inside
    assert not any("__pycache__" in name for name in inside)


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """Return the interpreter of an environment that has the wheel and nothing of this checkout.

    Dependencies come from this environment's folder through a .pth file. The editable install there is not
    followed, because .pth files inside such a folder are not read.
    """
    folder = tmp_path_factory.mktemp("elsewhere") / "env"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [*PIP, "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True
    )
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def test_readmes_example_runs_from_the_wheel(bare, tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, output = re.findall(r"```python\n(.*?)```\s*```text\n(.*?)```", text, re.DOTALL)[0]
    ended = subprocess.run([bare, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == (output, "")
    where = subprocess.run(
        [bare, "-c", "import costmodel, costmodel.hardware as h; print(costmodel.__file__, h.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert all(path.startswith(str(bare.parents[1])) for path in where.stdout.split())


def test_command_runs_from_the_wheel(bare, tmp_path):
    words = ["predict", "lstm", "-m", "h200-sxm", "-D", "batch=8", "seq=64", "hidden=256", "--json"]
    ended = subprocess.run(
        [bare.parent / "costmodel", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert '"device": "nvidia/h200-sxm"' in ended.stdout
    assert list(tmp_path.iterdir()) == []
