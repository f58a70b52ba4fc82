"""A small comparison whose numbers are known by algebra, and the project's own story."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("altair", reason="needs costmodel[report]")
pytest.importorskip("vl_convert", reason="needs costmodel[report]")

from costmodel import reports, story

STORY_DEVICES = ("nvidia/p100-sxm2-16gb", "nvidia/v100-sxm2-16gb", "nvidia/h200-sxm", "google/tpu-v5e")
LENGTHS = (128, 512, 2048, 8192)
#: Text that ends elements, strings, scripts and comments, and formulas of spreadsheets.
HOSTILE = (
    "</script><script>document.documentElement.dataset.pwned='1'</script>",
    '"><img src=x onerror="document.documentElement.dataset.pwned=\'2\'">',
    "'; document.documentElement.dataset.pwned='3'; //",
    "<!--<script>",
    "=HYPERLINK('evil')",
    "datum['x']);alert(1",
)


def comparison(
    devices: tuple[str, ...] = ("maker/one", "maker/two"), layers: tuple[str, ...] = ("chain", "pairs")
) -> pd.DataFrame:
    """Return a sweep's table: one layer takes 1 µs · n, the other 1 ns · n², twice that on device 2."""
    rows = []
    for (d, device), (k, layer), n in itertools.product(enumerate(devices, 1), enumerate(layers), LENGTHS):
        seconds = d * (1e-6 * n if k == 0 else 1e-9 * n**2)
        rows.append(
            {
                "layer": layer,
                "options": f"{layer}[bf16]",
                "dtype": "bf16",
                "direction": "fwd",
                "device": device,
                "rung": "bound",
                "state": "cold",
                "constants_from": "none",
                "batch": 8.0,
                "seq": float(n),
                "seconds": seconds,
                "lower_s": 0.8 * seconds,
                "serial_s": 2 * seconds,
                "bound": "hbm" if k == 0 else "matrix:bf16",
                "matrix_flops": 1e6 * n if k == 0 else 1e4 * n**2,
                "hbm_bytes": 1e4 * n,
                "depth": float(n) if k == 0 else 1.0,
                "launches": 2.0,
                "footprint_bytes": 1e6 * n if k == 0 else 1e3 * n**2,
            }
        )
    return pd.DataFrame(rows)


def figures(devices: tuple[str, ...] = ("maker/one", "maker/two")) -> reports.Facts:
    """Return facts of the devices: 10 TFLOP/s, 1 TB/s, 2 GB."""
    roofs = [
        {
            "device": device,
            "title": device,
            "dtype": "bf16",
            "peak_flops": 1e13,
            "hbm_bandwidth": 1e12,
            "hbm_capacity_bytes": 2e9,
            "spec_hash": "0123456789ab",
            "missing": device,
        }
        for device in devices
    ]
    sources = [
        {
            "device": device,
            "figure": "memory.hbm.bandwidth",
            "value": "1 TB/s",
            "status": "single",
            "source": device,
            "note": device,
        }
        for device in devices
    ]
    layers = [{"layer": devices[0], "what": devices[0], "source": devices[0], "not_counted": devices[0]}]
    documents = pd.DataFrame({"source": devices, "document": devices})
    return reports.Facts(
        devices=pd.DataFrame(roofs),
        figures=pd.DataFrame(sources),
        sources=documents,
        layers=pd.DataFrame(layers),
        version="0.0-test",
    )


@pytest.fixture
def table() -> pd.DataFrame:
    """Return the small comparison's table."""
    return comparison()


@pytest.fixture(scope="session")
def table_of() -> Callable[..., pd.DataFrame]:
    """Return the function that makes such a table of other devices and layers."""
    return comparison


@pytest.fixture(scope="session")
def facts() -> reports.Facts:
    """Return the facts of its devices."""
    return figures()


@pytest.fixture(scope="session")
def page() -> reports.Page:
    """Return the report of the small comparison."""
    return reports.compare(comparison(), facts=figures(), title="Chain or pairs")


@pytest.fixture(scope="session")
def hostile_page() -> reports.Page:
    """Return the same with every name hostile."""
    frame = comparison(HOSTILE[:4], HOSTILE[:2])
    facts = figures(HOSTILE[:4])
    frame["bound"] = np.where(frame["bound"] == "hbm", HOSTILE[0], HOSTILE[2])
    frame["constants_from"] = HOSTILE[4]
    return reports.compare(frame, facts=facts, title=HOSTILE[0], command=HOSTILE[1])


@pytest.fixture(scope="session")
def frames() -> reports.Frames:
    """Return the story's frames on four of its devices, at the rung that needs no constants."""
    return story.story(rung="bound", devices=STORY_DEVICES)


# -- a browser -----------------------------------------------------------------------------------

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)


@pytest.fixture(scope="session")
def browser() -> str:
    """Return the path of Chromium; without it what needs one is skipped, and says so."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs Chromium to open the pages")
    return found


@pytest.fixture
def drawn(browser: str, tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Return a function that opens a page and gives its elements once drawn, and what was logged."""

    def draw(
        text: str, choice: dict[str, str] | None = None, seconds: int = 30, width: int = 1200
    ) -> tuple[str, str]:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        address = path.as_uri() + (f"#{urlencode(choice)}" if choice else "")
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        budget = f"--virtual-time-budget={seconds * 1000}"
        run = subprocess.run(
            [browser, *FLAGS, f"--window-size={width},900", budget, profile, "--dump-dom", address],
            capture_output=True,
            timeout=240,
            check=True,
            text=True,
        )
        return re.sub(r"<script.*?</script>", "", run.stdout, flags=re.DOTALL), run.stderr

    return draw
