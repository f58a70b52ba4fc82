"""What the site's builder calls: charts are drawn, and stand in the place of their names."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from charts import CHARTS

_CHART = re.compile(r"!\[([^\]]*)\]\(chart:(\w+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace ``![what it shows](chart:name)`` by the picture, its text for those who cannot see it."""
    return _CHART.sub(lambda found: f"![{found[1]}](charts/{found[2]}.svg)", markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Draw every chart into the site."""
    folder = Path(config["site_dir"]) / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in CHARTS.items():
        chart().save(folder / f"{name}.svg")
