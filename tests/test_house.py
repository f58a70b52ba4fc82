"""Rules of the repository: which module imports which, what starting loads, what files may not contain."""

import ast
import csv
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Folder → package, as pyproject's package-dir has them.
PACKAGES = {
    "costmodel": "costmodel",
    "hardware": "costmodel.hardware",
    "reports": "costmodel.reports",
    "validation": "costmodel.validation",
}

GROUND = ("arguments", "errors", "units", "dtypes", "symbols", "files", "notebook", "_version")
#: Who may import whom inside the package: the table of architecture.md. Everything may import GROUND.
MAY_IMPORT = {
    **dict.fromkeys(GROUND, ()),
    "cost": (),
    "hardware": (),
    "layers": ("cost",),
    "calibration": ("hardware", "implementations"),
    "carrying": ("calibration", "hardware", "implementations", "kernels"),
    "spreads": ("calibration", "hardware", "implementations"),
    "choosing": ("calibration", "carrying", "hardware", "harness", "implementations", "kernels", "spreads"),
    "harness": ("hardware",),
    "implementations": ("hardware", "kernels"),
    "evaluate": ("cost", "layers"),
    "asymptotics": ("cost", "layers"),
    "vega": (),
    "programs": ("cost", "layers", "vega"),
    "kernels": ("hardware",),
    "plan": (
        "cost", "layers", "evaluate", "kernels", "hardware", "calibration", "choosing", "implementations",
        "harness",
    ),
    "answer": ("prediction",),
    "prediction": (
        "cost", "layers", "evaluate", "kernels", "hardware", "calibration", "plan", "answer",
    ),
    "predict": (
        "layers", "evaluate", "hardware", "calibration", "implementations", "harness", "plan", "prediction",
    ),
    "models": ("cost", "layers", "evaluate", "predict", "prediction", "hardware"),
    "capture": ("cost", "layers", "evaluate", "predict", "models"),
    "explain": ("layers", "predict", "prediction", "hardware"),
    "parallel": ("layers", "evaluate", "plan", "predict", "prediction", "hardware", "kernels", "models"),
    "crossing": ("answer", "layers", "evaluate", "predict", "hardware"),
    "sweep": ("layers", "evaluate", "plan", "predict", "prediction", "hardware"),
    "measured": ("layers", "evaluate", "predict", "hardware", "kernels"),
    "tables": (),
    "score": ("layers", "evaluate", "predict", "prediction", "hardware", "measured", "tables"),
    "traces": ("hardware", "measured"),
    "reports": ("tables",),
    "validation": (
        "cost", "layers", "evaluate", "kernels", "hardware", "calibration", "choosing", "implementations",
        "harness", "predict", "prediction", "sweep", "crossing", "measured", "tables", "score", "models",
        "capture", "parallel", "reports",
    ),
}  # fmt: skip
#: The facade, the story and the command line stand above all of it.
TOP = {
    "", "__main__", "story", "systems", "facts", "explore", "cli",
    "model_story", "model_memory", "model_plans",
}  # fmt: skip
#: `reports.compare(frame)` alone has to work: one function asks for the devices' facts itself.
EXCEPTIONS = {("reports", "facts")}

#: Modules that make tables, and may import pandas.
TABLES = {
    "sweep", "tables", "measured", "score", "traces", "explain", "parallel", "reports", "validation",
    "story", "systems", "facts", "explore", "model_story", "model_plans",
}  # fmt: skip
#: Third-party packages → the modules that may import them.
OUTSIDE = {
    "pandas": TABLES | {"cli"},
    "scipy": {"validation"},
    "sympy": {
        "symbols", "cost", "layers", "evaluate", "asymptotics", "explain", "vega", "programs", "models",
        "capture", "model_memory", "cli",
    },
    "pydantic": {"hardware", "calibration", "models", "validation"},
    "yaml": {"hardware", "calibration", "models", "validation"},
    "altair": {"reports"},
    "vl_convert": {"reports"},
    "rich": {"cli", "validation"},
    "typer": {"cli"},
    "torch": {"capture", "validation"},
    "triton": {"validation"},
}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of the package with its file."""
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def unit(module: str) -> str:
    """Return which row of the table a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Yield the full names that a file imports; only those made on its own import if `top_level`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    if top_level:
        lazy = {
            inner
            for node in nodes
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
            for inner in ast.walk(node)
        }
        nodes = [node for node in nodes if node not in lazy]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = dict(modules())


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_table(module):
    here = unit(module)
    for name in imports(MODULES[module]):
        first, _, rest = name.partition(".")
        if first != "costmodel":
            if first in OUTSIDE:
                assert here in OUTSIDE[first], f"{module} imports {name}"
            continue
        there = rest.split(".")[0]
        if here in TOP or there == here or there in GROUND or there == "__version__":
            continue
        assert there in MAY_IMPORT[here] or (here, there) in EXCEPTIONS, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_only_when_used(module):
    heavy = {"torch", "triton", "altair", "vl_convert", "rich"}
    if unit(module) not in TABLES:
        heavy |= {"pandas", "scipy"}
    # Triton compiles a kernel from its module, which is itself imported only when a case needs it.
    if module.startswith("costmodel.validation.triton_"):
        heavy -= {"torch", "triton"}
    found = {name.partition(".")[0] for name in imports(MODULES[module], top_level=True)}
    assert not heavy & found


def test_every_module_is_in_the_table_of_imports():
    assert {unit(module) for module in MODULES} - TOP == set(MAY_IMPORT)


#: What a process may have loaded after a statement.
HEAVY = ("torch", "altair", "vl_convert", "pandas", "scipy", "pint", "rich", "matplotlib", "IPython")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import costmodel", (*HEAVY, "sympy", "pydantic")),
        ("import costmodel, sys; costmodel.hardware.load('nvidia/h200-sxm')", (*HEAVY, "sympy")),
        (
            "from costmodel.cli import run; run("
            "'predict lstm -m h200-sxm -D batch=1 seq=8 hidden=8 --rung bound'.split())",
            HEAVY,
        ),
        ("import costmodel.validation, costmodel.reports", ("torch", "altair", "vl_convert")),
    ],
)
def test_starting_loads_no_more_than_it_needs(statement, absent):
    code = f"{statement}; import sys; print([m for m in {list(absent)} if m in sys.modules], file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == "[]"


# -- what is shipped ---------------------------------------------------------------------------


def test_packages_in_pyproject_are_those_of_the_tree():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {
        name
        for name, path in MODULES.items()
        if path.name == "__init__.py" and "__pycache__" not in path.parts
    }
    assert set(tool["packages"]) == found
    assert tool["package-dir"] == {package: folder for folder, package in PACKAGES.items()}


def tracked() -> list[Path]:
    """Return the files that are, or are about to be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip("not a git checkout: there is no list of files")
    return [path for line in ended.stdout.splitlines() if (path := ROOT / line).is_file()]


#: Written apart, so that this file does not say them itself.
FORBIDDEN = (
    "/wo" "rk/", "/fa" "rm/", "/ro" "ot/", "/opt/" "wheels", "fa" "rm-bench", "fa" "rm-studio",
    "/.lib" "rary", "before-" "stop", "pypi." "org", "python" "hosted", "down" "load.pytorch",
    "cdn." "jsdelivr", "unpkg." "com",
)  # fmt: skip


def test_no_file_names_this_machine_or_a_registry():
    words = re.compile("|".join(map(re.escape, FORBIDDEN)))
    told = {}
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a table of our own measurements
        if match := words.search(text):
            told[str(path.relative_to(ROOT))] = match.group()
    assert told == {}


def test_no_table_measured_by_others_is_shipped():
    """Only constants fitted on their tables are shipped; posted figures are quoted, each with its address."""
    tables = [p for p in tracked() if p.suffix in (".parquet", ".csv", ".feather")]
    quoted = ROOT / "validation" / "posted"
    ours = [ROOT / "tests" / "golden", ROOT / "validation" / "measurements", quoted]
    assert [p for p in tables if not any(folder in p.parents for folder in ours)] == []
    known = {line.partition(",")[0] for line in (quoted / "sources.csv").read_text("utf-8").splitlines()}
    for table in (p for p in tables if quoted in p.parents and p.name != "sources.csv"):
        header, *rows = csv.reader(table.read_text("utf-8").splitlines())
        assert {row[header.index("source")] for row in rows} < known


def test_every_golden_figure_has_its_source():
    for path in (ROOT / "tests" / "golden").glob("*.csv"):
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        assert "source" in header.split(","), path.name
        assert rows, path.name
