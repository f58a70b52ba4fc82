"""Identity of the program that made a part of a sweep: its version and a hash of its sources."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from pathlib import Path

from costmodel._version import __version__

#: Folders that a sweep's numbers do not depend on.
_NOT_COUNTED = ("cli", "reports", "validation")


@lru_cache(maxsize=1)
def program() -> str:
    """Return the version with a hash of the sources: ``0.1.0+1a2b3c4d5e6f``.

    Devices are not hashed here: a grid's identity includes the specs and constants it uses.
    """
    texts: dict[str, bytes] = {}
    # Two packages, because in a working copy `hardware` is beside `costmodel`.
    for package, prefix in (("costmodel", ""), ("costmodel.hardware", "hardware")):
        folder = Path(str(resources.files(package)))
        # Tables of families and harnesses are beside the code.
        for path in (*folder.rglob("*.py"), *folder.glob("*.yaml")):
            name = Path(prefix, path.relative_to(folder))
            if name.parts[0] not in _NOT_COUNTED:
                texts[name.as_posix()] = path.read_bytes()
    told = hashlib.sha256()
    for place, text in sorted(texts.items()):
        told.update(f"{place} {len(text)} ".encode() + text)
    return f"{__version__}+{told.hexdigest()[:12]}"
