"""Which program made a part of a sweep: its version, and a hash of its text, which changes more often."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from pathlib import Path

from costmodel._version import __version__

#: Folders that no number of a sweep depends on.
_NOT_COUNTED = ("cli", "reports", "validation")


@lru_cache(maxsize=1)
def program() -> str:
    """Return the version with a hash of the sources: ``0.1.0+1a2b3c4d5e6f``.

    Devices are not in it: a grid knows the specs and constants that its predictions rest on.
    """
    texts: dict[str, bytes] = {}
    # Two packages, as in a working copy the second lies beside the first.
    for package, prefix in (("costmodel", ""), ("costmodel.hardware", "hardware")):
        folder = Path(str(resources.files(package)))
        # Tables of families and hosts lie beside the code.
        for path in (*folder.rglob("*.py"), *folder.glob("*.yaml")):
            name = Path(prefix, path.relative_to(folder))
            if name.parts[0] not in _NOT_COUNTED:
                texts[name.as_posix()] = path.read_bytes()
    told = hashlib.sha256()
    for place, text in sorted(texts.items()):
        told.update(f"{place} {len(text)} ".encode() + text)
    return f"{__version__}+{told.hexdigest()[:12]}"
