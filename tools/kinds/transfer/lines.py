"""Values as lines of COPY, which the server converts to its types (TL-TR-05)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from state_builder.records import JSON, encode_json
from tools.values import json_of

NULL: Final = "\\N"
_ESCAPES: Final = str.maketrans(
    {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
)


def lines_of(rows: Iterable[Iterable[Any]], types: list[str]) -> bytes:
    """Rows of a chunk; ``types`` are those of the columns they go into."""
    arrays = [kind.endswith("[]") for kind in types]
    return "".join(
        "\t".join(_text(value, array) for value, array in zip(row, arrays, strict=True))
        + "\n"
        for row in rows
    ).encode()


def _text(value: Any, array: bool) -> str:
    if type(value) is str:
        return value.translate(_ESCAPES)
    if value is None:
        return NULL
    if type(value) is int or type(value) is float:
        return repr(value)
    if type(value) is bool:
        return "t" if value else "f"
    if isinstance(value, bytes | bytearray):
        return "\\\\x" + value.hex()
    if array and isinstance(value, list | tuple):
        return _array(value).translate(_ESCAPES)
    plain = json_of(value)
    text = plain if isinstance(plain, str) else encode_json(plain).decode()
    return text.translate(_ESCAPES)


def _array(items: Iterable[Any]) -> str:
    return "{" + ",".join(_element(item) for item in items) + "}"


def _element(item: Any) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, list | tuple):
        return _array(item)
    plain: JSON = json_of(item)
    if isinstance(item, bytes):
        plain = "\\x" + item.hex()
    text = plain if isinstance(plain, str) else encode_json(plain).decode()
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def pick(names: list[str], wanted: tuple[str, ...]) -> Callable[[Any], list[Any]]:
    """From a row in the order of ``names`` the values of ``wanted``."""
    places = [names.index(name) for name in wanted]
    return lambda row: [row[place] for place in places]
