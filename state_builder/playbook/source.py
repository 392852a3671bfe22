"""From YAML or JSON text to a plain JSON value that knows its lines (PB-001, PB-002).

The only room that imports ruamel.yaml, and of it only scanner and parser: what a scalar
means, which keys repeat and what an alias may cost is decided here. Aliases share the
value they name, so what they expand to is counted before anybody writes it out. Reading
is total: a document, or one :class:`SourceError` with line and column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from msgspec import Struct
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError

from state_builder.errors import InvalidError
from state_builder.records import JSON

SOURCE_BYTES_MAX: Final = 1 << 20
"""Size of a playbook's source."""

NODES_MAX: Final = 100_000
"""Scalars, lists, maps and aliases in a document."""

EXPANDED_MAX: Final = 2 << 20
"""Characters plus nodes of a document with every alias written out."""

DEPTH_MAX: Final = 64
"""Maps and lists inside each other."""

DIGITS_MAX: Final = 64
"""Longest number; more digits are a text that lost its quotes."""

Path: TypeAlias = tuple[str | int, ...]


class SourceError(InvalidError):
    """Text that is no document.

    Attributes:
        line: 1-based.
    """

    code = "playbook"

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(f"Invalid YAML: {problem}, line {line} column {column}")
        self.line = line


class Lines(Struct, frozen=True):
    """Where a value and what is in it stand; a map's members stand at their keys."""

    line: int
    parts: dict[str | int, Lines]


class Document(Struct, frozen=True):
    """A map, and the line of everything in it. Values named by an alias are shared."""

    value: dict[str, JSON]
    lines: Lines

    def line_of(self, path: Path) -> int:
        """The line of a place, or of the nearest place around it that exists."""
        found = self.lines
        for key in path:
            inner = found.parts.get(key)
            if inner is None:
                break
            found = inner
        return found.line


class _Node(Struct, frozen=True):
    """A value, the lines of its members, its size with aliases written out.

    ``text`` is a scalar as written, for map keys; None for maps and lists.
    """

    value: JSON
    parts: dict[str | int, Lines]
    size: int
    text: str | None = None


_NO_PARTS: dict[str | int, Lines] = {}
_TAG = "tag:yaml.org,2002:"
_CONSTANTS: dict[str, JSON] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read(source: str | bytes) -> Document:
    """Read one document whose root is a map.

    Raises:
        SourceError: anything else.
    """
    reader = _Reader(_events(_text_of(source)))
    root = reader.document()
    if not isinstance(root.value, dict):
        problem = f"the root must be a map, got {type_name(root.value)}"
        raise SourceError(problem, 1, 1)
    return Document(root.value, Lines(1, root.parts))


def type_name(value: JSON) -> str:
    """What a value is, in the words of the messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "number"
    return "list" if isinstance(value, list) else "map"


def _text_of(source: str | bytes) -> str:
    data = source.encode(errors="replace") if isinstance(source, str) else source
    if len(data) > SOURCE_BYTES_MAX:
        raise SourceError(f"longer than {SOURCE_BYTES_MAX} bytes", 1, 1)
    if isinstance(source, str):
        return source.removeprefix("\ufeff")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = source[: error.start]
        column = error.start - (before.rfind(b"\n") + 1) + 1
        line = before.count(b"\n") + 1
        raise SourceError("not UTF-8 text", line, column) from error


def _events(text: str) -> Iterator[Any]:
    """The parser's events; its errors become ours."""
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise SourceError(problem or "unreadable", line, column) from error
    except ReaderError as error:
        before = text[: error.position]
        column = error.position - (before.rfind("\n") + 1) + 1
        problem = f"character {error.character!r} is not allowed"
        raise SourceError(problem, before.count("\n") + 1, column) from error
    except (YAMLError, OverflowError, ValueError) as error:
        # The scanner lets through what chr() says of an escape beyond Unicode.
        problem = " ".join(str(error).split()) or "unreadable"
        raise SourceError(problem, 1, 1) from error


class _Reader:
    """Builds values out of events, in one pass."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, _Node] = {}
        self._open: set[str] = set()
        self._nodes = 0

    def document(self) -> _Node:
        next(self._events)
        first = next(self._events)
        if isinstance(first, StreamEndEvent):
            return _Node(None, _NO_PARTS, 0)
        root = self._node(next(self._events), 0)
        next(self._events)
        after = next(self._events)
        if not isinstance(after, StreamEndEvent):
            raise _problem(after, "several documents in one file")
        return root

    def _node(self, event: Any, depth: int) -> _Node:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise _problem(event, f"more than {NODES_MAX} values")
        anchor = event.anchor
        if isinstance(event, AliasEvent):
            if anchor in self._open:
                raise _problem(event, f"alias '{anchor}' stands inside what it names")
            if anchor not in self._anchors:
                raise _problem(event, f"alias '{anchor}' names nothing above")
            return self._anchors[anchor]
        if anchor is None:
            return self._own(event, depth)
        self._open.add(anchor)
        node = self._own(event, depth)
        self._open.discard(anchor)
        self._anchors[anchor] = node
        return node

    def _own(self, event: Any, depth: int) -> _Node:
        if isinstance(event, ScalarEvent):
            return _scalar(event)
        if depth >= DEPTH_MAX:
            raise _problem(event, f"nested more than {DEPTH_MAX} deep")
        if isinstance(event, SequenceStartEvent):
            _expect_tag(event, "seq")
            return self._sequence(event, depth)
        _expect_tag(event, "map")
        return self._mapping(event, depth)

    def _sequence(self, start: Any, depth: int) -> _Node:
        values: list[JSON] = []
        parts: dict[str | int, Lines] = {}
        size = 1
        while not isinstance(event := next(self._events), SequenceEndEvent):
            node = self._node(event, depth + 1)
            parts[len(values)] = Lines(_line(event), node.parts)
            values.append(node.value)
            size = _grown(size, node, start)
        return _Node(values, parts, size)

    def _mapping(self, start: Any, depth: int) -> _Node:
        values: dict[str, JSON] = {}
        parts: dict[str | int, Lines] = {}
        merged: list[_Node] | None = None
        size = 1
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._node(event, depth + 1)
            at = next(self._events)
            node = self._node(at, depth + 1)
            size = _grown(size, node, start) + key.size
            if key.text is None:
                raise _problem(event, "a map key must be one plain value")
            if key.text in values or (merged is not None and _is_merge(event)):
                raise _problem(event, f"repeated key '{key.text}'")
            if _is_merge(event):
                merged = _merge_sources(node, at)
            else:
                values[key.text] = node.value
                parts[key.text] = Lines(_line(event), node.parts)
        if merged is not None:
            return _with_merged(_Node(values, parts, size), merged)
        return _Node(values, parts, size)


def _grown(size: int, node: _Node, start: Any) -> int:
    if size + node.size > EXPANDED_MAX:
        raise _problem(start, "aliases make the document too large when written out")
    return size + node.size


def _is_merge(event: Any) -> bool:
    """An unquoted ``<<``."""
    return (
        isinstance(event, ScalarEvent)
        and event.value == "<<"
        and event.ctag is None
        and bool(event.implicit[0])
    )


def _merge_sources(node: _Node, event: Any) -> list[_Node]:
    if isinstance(node.value, dict):
        return [node]
    if isinstance(node.value, list) and all(
        isinstance(value, dict) for value in node.value
    ):
        return [
            _Node(value, node.parts[index].parts, 0)
            for index, value in enumerate(node.value)
        ]
    raise _problem(event, "'<<' takes a map or a list of maps")


def _with_merged(own: _Node, merged: list[_Node]) -> _Node:
    """Own keys win over merged ones, an earlier merged map over a later one."""
    values: dict[str, JSON] = {}
    parts: dict[str | int, Lines] = {}
    for node in (*reversed(merged), own):
        assert isinstance(node.value, dict)
        values.update(node.value)
        parts.update(node.parts)
    return _Node(values, parts, own.size)


def _scalar(event: Any) -> _Node:
    text = _characters(event)
    tag = "" if event.ctag is None else str(event.ctag)
    plain = bool(event.implicit[0])
    value: JSON = _plain_value(event, text) if plain and not tag else text
    if tag and tag not in ("!", _TAG + "str"):
        value = _plain_value(event, text)
        if tag != _TAG + _core_tag(value):
            raise _problem(event, f"tag '{_short(tag)}' is not supported here")
    return _Node(value, _NO_PARTS, 1 + len(text), text)


def _characters(event: Any) -> str:
    """The scalar's text; pairs of ``\\u`` escapes (JSON) become one character."""
    text = str(event.value)
    if _SURROGATE.search(text) is None:
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise _problem(event, "half of a surrogate pair") from error


def _plain_value(event: Any, text: str) -> JSON:
    """What an unquoted scalar means by the YAML 1.2 core schema."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        if len(text) > DIGITS_MAX:
            raise _problem(
                event, f"a number of more than {DIGITS_MAX} digits; quote it"
            )
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if _NOT_FINITE.fullmatch(text):
        raise _problem(event, f"'{text}' is no JSON number; quote it")
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise _problem(event, f"number '{text[:40]}' is too large; quote it")
        return number
    return text


def _core_tag(value: JSON) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "str"
    return "int" if isinstance(value, int) else "float"


def _expect_tag(event: Any, wanted: str) -> None:
    tag = "!" if event.ctag is None else str(event.ctag)
    if tag not in ("!", _TAG + wanted):
        raise _problem(event, f"tag '{_short(tag)}' is not supported here")


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")[:80]


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _problem(event: Any, problem: str) -> SourceError:
    mark = event.start_mark
    return SourceError(problem, int(mark.line) + 1, int(mark.column) + 1)
