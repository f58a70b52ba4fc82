"""The examples of the documents: found, run, and (``python docs/examples.py``) their output written.

A page's blocks of Python share one namespace, in order. What a block prints stands in the block of text
after it.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
#: A block of Python and the output after it.
BLOCKS = re.compile(r"(```python\n(.*?)```\n\n```text\n)(.*?)(```)", re.DOTALL)
COMMANDS = re.compile(r"^\$ costmodel (.*)$", re.MULTILINE)


def pages() -> list[Path]:
    """Return every page."""
    return sorted(FOLDER.glob("*.md"))


def run(code: str, names: dict[str, Any]) -> str:
    """Return what code prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<page>", "exec"), names)
    return printed.getvalue()


def filled(text: str) -> str:
    """Return a page with the output of its examples as it is now."""
    names: dict[str, Any] = {}
    return BLOCKS.sub(lambda found: found[1] + run(found[2], names) + found[4], text)


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
