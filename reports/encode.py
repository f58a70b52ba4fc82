"""Encoding of frames and text inside a page, so that no content is taken for HTML or script."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

#: Characters that could end a script element or a string in one, with their JSON escapes.
_UNSAFE = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}


def to_json(value: Any) -> str:
    """Return JSON that is safe inside a script element, whatever text it contains."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escaped in _UNSAFE.items():
        text = text.replace(character, escaped)
    return text


class Columns:
    """Columns of frames, each distinct one stored once: charts of one table share most columns."""

    def __init__(self) -> None:
        self.distinct: list[Any] = []
        self._index: dict[str, int] = {}

    def add(self, frame: pd.DataFrame) -> dict[str, Any]:
        """Add a frame; return its number of rows, and the index of each column among the distinct ones.

        Numbers are stored as a list, text as distinct values and indices. Whole numbers are exact, others
        have 7 digits; missing values are null.
        """
        return {"rows": len(frame), "columns": {str(name): self._add(frame[name]) for name in frame}}

    def _add(self, values: pd.Series) -> int:
        column = _column(values)
        key = f"{len(values)} {json.dumps(column)}"
        if key not in self._index:
            self._index[key] = len(self.distinct)
            self.distinct.append(column)
        return self._index[key]


def _column(values: pd.Series) -> Any:
    if pd.api.types.is_bool_dtype(values.dtype) or not pd.api.types.is_numeric_dtype(values.dtype):
        codes, distinct = pd.factorize(values.astype(object).where(values.notna(), None))
        return {"text": [str(name) for name in distinct], "codes": codes.tolist()}
    numbers = [_number(value) for value in values.astype(float).tolist()]
    if len(numbers) > 1 and len(set(numbers)) == 1:
        return {"same": numbers[0]}
    return numbers


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    if value.is_integer() and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.7g}")
