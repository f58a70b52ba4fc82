"""What the site's builder calls: charts are drawn and stand where they are named, layers are listed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from charts import CHARTS

from costmodel.layers import classes

_CHART = re.compile(r"!\[([^\]]*)\]\(chart:(\w+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace ``![what it shows](chart:name)`` by the picture and its text, ``(layers)`` by every layer."""
    listed = markdown.replace("\n(layers)\n", f"\n{layers()}\n")
    return _CHART.sub(lambda found: f"![{found[1]}](charts/{found[2]}.svg)", listed)


def layers() -> str:
    """Return what asks for the documentation of every layer, by family."""
    families: dict[str, list[str]] = {}
    for layer in classes().values():
        families.setdefault(layer.family, []).append(f"::: {layer.__module__}.{layer.__name__}\n")
    return "\n".join(f"### {name.capitalize()}\n\n{''.join(of)}" for name, of in sorted(families.items()))


def on_post_build(config: Any, **_: Any) -> None:
    """Draw every chart into the site."""
    folder = Path(config["site_dir"]) / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in CHARTS.items():
        chart().save(folder / f"{name}.svg")
