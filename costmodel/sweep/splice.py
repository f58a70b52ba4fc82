"""Concatenation of Parquet files of the same schema by copying their bytes, without decoding them.

A Parquet file consists of column chunks and a footer with their offsets. To join files, the chunks are copied
as they are, and one footer is written with the row groups of all, each offset shifted as far as its file
moved. The footer is a struct in Thrift's compact protocol; it is read as a tree of fields and written back,
so that fields unknown here are preserved.

Apache Parquet, ``parquet.thrift`` (``FileMetaData``, ``RowGroup``, ``ColumnChunk``, ``ColumnMetaData``);
Apache Thrift, "Thrift Compact protocol encoding". Encrypted files are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from costmodel.errors import TableError

_MAGIC = b"PAR1"
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = (*range(1, 11), 12)
_INTEGERS = (_I16, _I32, _I64)
#: A struct: field number → its type and value.
Struct = dict[int, tuple[int, Any]]

#: Fields of ``parquet.thrift``, by number.
_ROWS, _GROUPS = 3, 4
_COLUMNS, _GROUP_OFFSET, _ORDINAL = 1, 5, 7
_CHUNK_OFFSET, _METADATA, _CHUNK_INDEXES = 2, 3, (4, 6)
#: Offsets of a column's data, index and dictionary pages, and of its Bloom filter.
_PAGES = (9, 10, 11, 14)


def footer(path: Path) -> tuple[bytes, int]:
    """Return a Parquet file's footer, and the offset where it begins.

    Raises
    ------
    TableError
        If the file is incomplete.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        end = file.read()
        length = int.from_bytes(end[:4], "little")
        if end[4:] != _MAGIC or length + 12 > size:
            raise TableError(f"{path}: not a whole Parquet file")
        file.seek(size - 8 - length)
        return file.read(length), size - 8 - length


def splice(parts: Sequence[Path], out: Path) -> None:
    """Write the row groups of several Parquet files, in order, to one file.

    Parameters
    ----------
    parts : sequence of Path
        At least one file; all have the schema of the first.
    out : Path
        The file to write; an existing one is replaced.

    Raises
    ------
    TableError
        If a part is incomplete.
    """
    whole: Struct = {}
    groups: list[Struct] = []
    rows = 0
    with out.open("wb") as target:
        target.write(_MAGIC)
        for part in parts:
            text, end = footer(part)
            metadata = _Reader(text).struct()
            whole = whole or metadata
            moved = target.tell() - len(_MAGIC)
            rows += metadata[_ROWS][1]
            for group in metadata[_GROUPS][1][1]:
                if group[1][1][1]:  # one without columns has no place in the file
                    groups.append(_moved(group, moved, len(groups)))
            with part.open("rb") as source:
                source.seek(len(_MAGIC))
                _copy(source, target, end - len(_MAGIC))
        whole[_ROWS] = (_I64, rows)
        whole[_GROUPS] = (_LIST, (_STRUCT, groups))
        written = _struct(whole)
        target.write(written + len(written).to_bytes(4, "little") + _MAGIC)


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count > 0:
        block = source.read(min(count, 1 << 22))
        if not block:
            raise TableError("a part of the sweep was cut short while it was read")
        target.write(block)
        count -= len(block)


def _moved(group: Struct, by: int, ordinal: int) -> Struct:
    """Return a row group with its offsets shifted by `by` bytes."""
    _shift(group, (_GROUP_OFFSET,), by)
    if _ORDINAL in group:
        # The ordinal has 16 bits; files with more row groups leave it out.
        group.pop(_ORDINAL)
        if ordinal < 2**15:
            group[_ORDINAL] = (_I16, ordinal)
    for column in group[_COLUMNS][1][1]:
        _shift(column, (_CHUNK_OFFSET, *_CHUNK_INDEXES), by)
        if _METADATA in column:
            _shift(column[_METADATA][1], _PAGES, by)
    return group


def _shift(struct: Struct, fields: Sequence[int], by: int) -> None:
    for number in fields:
        # An offset of 0 means "none": a file begins with its magic bytes.
        if number in struct and struct[number][1] > 0:
            kind, value = struct[number]
            struct[number] = (kind, value + by)


# -- Thrift's compact protocol -----------------------------------------------------------------


class _Reader:
    """Reads one struct from bytes."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0
        self._readers: dict[int, Callable[[], Any]] = {
            **dict.fromkeys((_TRUE, _FALSE), lambda: None),  # the type is the value
            **dict.fromkeys(_INTEGERS, self._signed),
            **dict.fromkeys((_LIST, _SET), self._list),
            _BYTE: lambda: self._take(1),
            _DOUBLE: lambda: self._take(8),
            _BINARY: lambda: self._take(self._unsigned()),
            _STRUCT: self.struct,
        }

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._text[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._text[self._at - count : self._at]

    def struct(self) -> Struct:
        """Read the fields of a struct up to its end byte."""
        fields: Struct = {}
        number = 0
        while header := self._take(1)[0]:
            delta, kind = header >> 4, header & 0x0F
            number = number + delta if delta else self._signed()
            fields[number] = (kind, self._value(kind))
        return fields

    def _list(self) -> tuple[int, list[Any]]:
        header = self._take(1)[0]
        count, inner = header >> 4, header & 0x0F
        count = self._unsigned() if count == 15 else count
        # In a list, a boolean is a byte of its own.
        inside = _BYTE if inner in (_TRUE, _FALSE) else inner
        return inner, [self._value(inside) for _ in range(count)]

    def _value(self, kind: int) -> Any:
        if kind not in self._readers:
            raise TableError(f"a Parquet footer has a field of type {kind}, which this program does not read")
        return self._readers[kind]()


def _unsigned(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _signed(value: int) -> bytes:
    return _unsigned(value << 1 if value >= 0 else (-value << 1) - 1)


def _struct(fields: Struct) -> bytes:
    written = bytearray()
    last = 0
    for number in sorted(fields):
        kind, value = fields[number]
        delta = number - last
        written += bytes([delta << 4 | kind]) if delta < 16 else bytes([kind]) + _signed(number)
        written += _written(kind, value)
        last = number
    return bytes(written) + b"\0"


def _written(kind: int, value: Any) -> bytes:
    if kind in (_TRUE, _FALSE):
        return b""
    if kind in _INTEGERS:
        return _signed(value)
    if kind == _BINARY:
        return _unsigned(len(value)) + bytes(value)
    if kind in (_LIST, _SET):
        inner, items = value
        count = len(items)
        header = bytes([count << 4 | inner]) if count < 15 else bytes([0xF0 | inner]) + _unsigned(count)
        inside = _BYTE if inner in (_TRUE, _FALSE) else inner
        return header + b"".join(_written(inside, item) for item in items)
    return _struct(value) if kind == _STRUCT else bytes(value)
