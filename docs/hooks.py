"""What the site's builder calls: charts are drawn, layers and sizes are listed, where a page names them."""

from __future__ import annotations

import re
import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from charts import CHARTS

from costmodel.layers import classes, option_text
from costmodel.layers._options import option_meanings
from costmodel.symbols import GLOSSARY

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

    from costmodel.layers import Layer

#: Options of every layer, described once.
_EVERYWHERE = ("dtype", "direction", "convention")
_CHART = re.compile(r"!\[([^\]]*)\]\(chart:(\w+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a picture for ``![what it shows](chart:name)``, and lists for ``(layers)`` and ``(sizes)``."""
    for name, made in (("layers", layers), ("sizes", sizes)):
        if f"\n({name})\n" in markdown:
            markdown = markdown.replace(f"\n({name})\n", f"\n{made()}\n")
    return _CHART.sub(lambda found: f"![{found[1]}](charts/{found[2]}.svg)", markdown)


def layers() -> str:
    """Return what asks for the documentation of every layer, by family."""
    families: dict[str, list[str]] = {}
    for layer in classes().values():
        families.setdefault(layer.family, []).append(_layer(layer))
    return "\n".join(f"### {name.capitalize()}\n\n{''.join(of)}" for name, of in sorted(families.items()))


def _layer(layer: type[Layer]) -> str:
    """Return what asks for a layer's description, and its sizes, options, source and what is left out."""
    found = layer()
    needed = [f"`{size}`" for size in found.required]
    given = [f"`{size}={value}`" for size, value in layer.defaults.items()]
    words = option_meanings(layer)
    options = [
        f"- `{name}={option_text(value)}`: {re.sub('`+', '`', words[name])}\n"
        for name, value in found.options.items()
        if name not in _EVERYWHERE
    ]
    return (
        f"::: {layer.__module__}.{layer.__name__}\n    options:\n      members: false\n"
        "      show_docstring_parameters: false\n\n"
        f"**Sizes** of `{layer.name}`: {', '.join([*needed, *given])}\n\n"
        f"**Options:**{' none' if not options else ''}\n\n{''.join(options)}\n"
        f"**Source:** {_plain(layer.source)}\n\n"
        f"**Not counted:** {_plain(layer.not_counted)}\n\n"
    )


def _plain(text: str) -> str:
    """Return text whose signs Markdown leaves alone."""
    return re.sub(r"([*_<])", r"\\\1", text)


def sizes() -> str:
    """Return a table of every size that layers are described in."""
    rows = [f"| `{size.name}` | {_plain(size.meaning)} |" for size in GLOSSARY.values()]
    return "\n".join(["| size | what it is |", "|---|---|", *rows])


def on_files(files: Files, config: Any) -> None:
    """Draw every chart into the site's files, so that a link to one that is not there is found."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - the tests of this file have no builder

    for name, chart in CHARTS.items():
        drawn = StringIO()
        chart().save(drawn, format="svg")
        files.append(File.generated(config, f"charts/{name}.svg", content=drawn.getvalue()))
