"""Read a YAML file strictly, with the line number of every value.

PyYAML silently keeps the last of two equal keys, and it expands aliases, a few lines of which can produce
gigabytes. Here both are faults, as are deep nesting, large files, tags, and placeholders instead of values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from costmodel.errors import SpecError, first_line

Keys = tuple[str, ...]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
_PLACEHOLDERS = {"", "?", "-", "tbd", "tba", "todo", "fixme", "xxx", "unknown", "n/a", "na", "none", "null"}

#: The parser in C is ten times faster; not every build of PyYAML has it.
LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, order=True)
class Fault:
    """Something wrong with a file.

    Attributes
    ----------
    line : int
        Line number, starting at 1.
    keys : tuple of str
        The path of keys to it; empty for the file as a whole.
    message : str
        What was expected, what was found, and how to correct it.
    """

    line: int
    keys: Keys
    message: str

    def __str__(self) -> str:
        """Render as ``line 12: memory.hbm.bandwidth: wanted …``."""
        where = f"{'.'.join(self.keys)}: " if self.keys else ""
        return f"line {self.line}: {where}{self.message}"


@dataclass
class Document:
    """The content of a file: plain data, the line of each path, and its faults.

    ``built`` has the ids of the YAML nodes that were converted.
    """

    data: dict[str, object] = field(default_factory=dict)
    lines: dict[Keys, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    built: set[int] = field(default_factory=set)

    def line(self, keys: Keys) -> int:
        """Return the line of a path, or of its nearest existing parent."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises
    ------
    SpecError
        If there is no such file, or it cannot be a spec: too large, or not text.
    """
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from error
    if raw is None:
        raise SpecError(f"{path} is larger than {MAX_BYTES // 1024} KiB: no spec is")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not text in UTF-8") from error


def parse(text: str) -> Document:
    """Parse a YAML text; its errors are in ``faults`` of the document."""
    document = Document()
    try:
        if not _shallow(text, document):
            return document
        node = yaml.compose(text, Loader=LOADER)
    except (yaml.YAMLError, RecursionError) as error:
        document.faults.append(_syntax_fault(error))
        return document
    if not isinstance(node, yaml.MappingNode):
        document.faults.append(Fault(1, (), "wanted a mapping of keys to values, such as 'name: …'"))
        return document
    document.data = _mapping(node, (), document)
    return document


def _syntax_fault(error: Exception) -> Fault:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or first_line(error)
    return Fault(mark.line + 1 if mark else 1, (), f"not YAML: {problem}")


def _shallow(text: str, document: Document) -> bool:
    """Check the event stream for aliases and deep nesting; return whether the text may be composed."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            document.faults.append(Fault(line, (), f"alias *{event.anchor}: write the value out"))
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                document.faults.append(Fault(line, (), f"nested deeper than {MAX_DEPTH} levels"))
                return False
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return True


def _construct(node: yaml.Node, keys: Keys, document: Document) -> object:
    document.lines.setdefault(keys, node.start_mark.line + 1)
    if id(node) in document.built:  # an alias, which has been reported; do not expand it
        return None
    document.built.add(id(node))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, keys, document)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(part, (*keys, str(i)), document) for i, part in enumerate(node.value)]
    return _scalar(node, keys, document)


def _mapping(node: yaml.MappingNode, keys: Keys, document: Document) -> dict[str, object]:
    data: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a collection"
        path = (*keys, key)
        if key in data:
            first = document.lines[path]
            document.faults.append(Fault(line, path, f"duplicate key, first on line {first}"))
            continue
        document.lines[path] = line
        data[key] = _construct(value_node, path, document)
    return data


def _scalar(node: yaml.Node, keys: Keys, document: Document) -> object:
    try:
        value: object = yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError):
        document.faults.append(Fault(node.start_mark.line + 1, keys, f"wanted plain text, got {node.tag}"))
        return None
    if value is None or (isinstance(value, str) and value.strip().lower() in _PLACEHOLDERS):
        message = f"placeholder {node.value!r}: give the figure with its source, or leave the key out"
        document.faults.append(Fault(node.start_mark.line + 1, keys, message))
        return None
    return value
