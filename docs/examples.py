"""Run the examples of the documentation; ``python docs/examples.py`` rewrites their output.

The Python blocks of a page share one namespace, and its commands one folder. The output of a block is in the
text block after it; a block without one is not run.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

from costmodel import cli

FOLDER = Path(__file__).parent
#: A block of Python or of commands, and the output after it.
BLOCKS = re.compile(r"(```(python|console)\n((?:(?!```).)*)```\n\n```text\n)(.*?)(```)", re.DOTALL)
COMMANDS = re.compile(r"^\$ costmodel (.*)$", re.MULTILINE)


def pages() -> list[Path]:
    """Return every page."""
    return sorted(FOLDER.glob("*.md"))


def printed(language: str, text: str, names: dict[str, Any]) -> str:
    """Return what a block prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if language == "python":
            exec(compile(text, "<page>", "exec"), names)
        for command in COMMANDS.findall(text) if language == "console" else ():
            if cli.run(shlex.split(command)):
                raise SystemExit(f"this did not work: costmodel {command}")
    return out.getvalue()


def filled(text: str) -> str:
    """Return a page with the output of its examples as it is now."""
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return BLOCKS.sub(lambda found: found[1] + printed(found[2], found[3], names) + found[5], text)


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
