"""The tables beside the specs: architecture families, sources, and fitted tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from costmodel.hardware.yamlfile import LOADER

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Family:
    """An architecture family.

    Attributes
    ----------
    vendor : str
        Manufacturer.
    nearest : tuple of str
        Families with the most similar kernels, best first.
    matrix_16bit, vector_fp32 : float, optional
        Dense FLOP per clock and unit, where known.
    l2_partitions : int
        Number of L2 partitions, each of which caches what its units read.
    process : str or None
        Manufacturing process, if other families have the same one.
    switch_sums : float
        Share of the link bandwidth that sums in the switch reach, relative to copies through it.
    """

    vendor: str
    nearest: tuple[str, ...]
    matrix_16bit: float | None = None
    vector_fp32: float | None = None
    l2_partitions: int = 1
    process: str | None = None
    switch_sums: float = 1.0


@cache
def families() -> dict[str, Family]:
    """Return the families by name."""
    return {
        name: Family(
            vendor=row["vendor"],
            nearest=tuple(row["nearest"]),
            matrix_16bit=row.get("matrix_16bit"),
            vector_fp32=row.get("vector_fp32"),
            l2_partitions=row.get("l2_partitions", 1),
            process=row.get("process"),
            switch_sums=row.get("switch_sums", 1.0),
        )
        for name, row in table("families.yaml").items()
    }


@cache
def sources() -> dict[str, str]:
    """Return the citation of each source key."""
    return {str(key): str(citation) for key, citation in table("sources.yaml").items()}


def table(name: str) -> dict[str, Any]:
    """Return the content of a table beside the specs, such as ``transfer.yaml``."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.load(text, Loader=LOADER)
    return content
