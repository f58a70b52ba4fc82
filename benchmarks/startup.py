"""The time of starting, relative to that of importing the libraries it needs."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable

from timing import medians, report

QUESTION = "predict tiled-attention -m nvidia/h200-sxm -D batch=4 heads=32 seq=8192 head_dim=128"


def process(*words: str) -> Callable[[], object]:
    """Return a call that runs Python with these arguments."""
    return lambda: subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)


def children() -> float:
    """Return the CPU time of the child processes that have ended [s]."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> bool:
    """Compare imports of the libraries, ours, and whole commands."""
    times = medians(
        {
            "import sympy, numpy": process("-c", "import sympy, numpy"),
            "import sympy, numpy, pydantic": process("-c", "import sympy, numpy, pydantic"),
            "import costmodel": process("-c", "import costmodel"),
            "costmodel predict, bound": process("-m", "costmodel", *QUESTION.split(), "--rung", "bound"),
            "costmodel predict": process("-m", "costmodel", *QUESTION.split()),
        },
        rounds=9,
        clock=children,
    )
    return all(
        [
            report("import costmodel", "import sympy, numpy, pydantic", times, 1.3),
            report("costmodel predict, bound", "import sympy, numpy", times, 2),
            report("costmodel predict", "import sympy, numpy", times, 2),
        ]
    )


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
