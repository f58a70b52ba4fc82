"""Hooks of MkDocs: draw the charts and list the layers and sizes that pages ask for."""

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
    """Replace ``![what it shows](chart:name)`` by a picture, ``(layers)`` and ``(sizes)`` by lists."""
    for name, made in (("layers", layers), ("sizes", sizes)):
        if f"\n({name})\n" in markdown:
            markdown = markdown.replace(f"\n({name})\n", f"\n{made()}\n")
    return _CHART.sub(lambda found: f"![{found[1]}](charts/{found[2]}.svg)", markdown)


def layers() -> str:
    """Return the Markdown that documents every layer, by family."""
    families: dict[str, list[str]] = {}
    for layer in classes().values():
        families.setdefault(layer.family, []).append(_layer(layer))
    return "\n".join(f"### {name.capitalize()}\n\n{''.join(of)}" for name, of in sorted(families.items()))


def _layer(layer: type[Layer]) -> str:
    """Return the Markdown of a layer: its docstring, sizes, options, source and what is not counted."""
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
    """Return a text with the characters escaped that mean something in Markdown."""
    return re.sub(r"([*_<])", r"\\\1", text)


def sizes() -> str:
    """Return a table of all sizes."""
    rows = [f"| `{size.name}` | {_plain(size.meaning)} |" for size in GLOSSARY.values()]
    return "\n".join(["| size | what it is |", "|---|---|", *rows])


def on_files(files: Files, config: Any) -> None:
    """Add every chart to the site's files, so that links to missing ones are reported."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - the tests of this file have no builder

    for name, chart in CHARTS.items():
        drawn = StringIO()
        chart().save(drawn, format="svg")
        files.append(File.generated(config, f"charts/{name}.svg", content=drawn.getvalue()))
