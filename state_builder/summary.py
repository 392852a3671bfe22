"""What is kept in sight of a value that is stored elsewhere (TL-RR-20 ff.).

A navigable miniature of the JSON, at most 4,096 bytes: scalars and short texts as they
are, a list by its first element, what does not fit by a mark. A mark is never mistaken
for data: a map that has a mark's name for a key of its own is not shown. So a reader of
the miniature knows, for every name, whether it sees the value itself.

Works on encoded JSON and decodes only what it looks at: the value may be large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec import DecodeError, Raw
from msgspec.json import Decoder

from state_builder.records import JSON, encode_json

SUMMARY_BYTES_MAX: Final = 4096
PREVIEW_CHARACTERS_MAX: Final = 1000
TEXT_SHOWN_MAX: Final = 512
_SELECTED_TEXT_MAX: Final = 500
_DEPTH_MAX: Final = 8
_KEYS_SHOWN_MAX: Final = 64
COUNTS_MAX: Final = 64
_LOOKED_INTO_MAX: Final = 8 * 1024 * 1024
"""Bytes of a list or map that is still taken apart."""

MARKS: Final = frozenset({"_len", "_count", "_counts", "_keys", "_bytes", "_truncated"})
META: Final = frozenset({"_ref", "_store", "_uri", "_preview", "_size_bytes"})
_PREFERRED: Final = (
    *("status", "id", "error", "message", "code", "count", "row_count", "total"),
    *("success", "failed", "name", "type", "kind", "state", "columns"),
)

_decode_map = Decoder(dict[str, Raw]).decode
_decode_list = Decoder(list[Raw]).decode
_decode = Decoder().decode

Path = tuple[str | int, ...]
Json = bytes | Raw
"""Encoded JSON, not copied while it may be large."""


class Selection(NamedTuple):
    """A path to keep in sight, and the name it gets beside the data (TL-OS-02)."""

    path: Path
    name: str


class Summary(NamedTuple):
    """The miniature, and the selected fields by name."""

    extracted: Raw
    selected: dict[str, JSON]


def summarize(data: bytes, wanted: Sequence[Selection] = ()) -> Summary:
    """The miniature of some JSON; equal data give equal bytes (TL-RR-23)."""
    selected: dict[str, JSON] = {}
    room = SUMMARY_BYTES_MAX
    for selection in wanted:
        value = _selected(data, selection.path)
        if value is not None:
            cost = len(encode_json(value)) + len(encode_json(selection.name)) + 2
            if cost <= room:
                selected[selection.name] = value
                room -= cost
    paths = frozenset(selection.path for selection in wanted)
    miniature = _Miniature(paths)
    shown = miniature.of(data, (), room)
    counts = miniature.counts
    if counts and shown.startswith(b"{") and not _is_mark(shown):
        tail = b',"_counts":' + encode_json(counts) + b"}"
        if len(shown) + len(tail) <= room and len(shown) > len(b"{}"):
            shown = shown[:-1] + tail
    return Summary(Raw(shown), selected)


def preview(data: bytes) -> str:
    """The beginning of the data as text (TL-OS-04)."""
    text = data[: PREVIEW_CHARACTERS_MAX * 4].decode("utf-8", "replace")
    return text[:PREVIEW_CHARACTERS_MAX]


def selections(blocks: Sequence[JSON]) -> tuple[Selection, ...]:
    """``output_select`` entries: a path, or ``{path, as}``."""
    found = []
    for block in blocks:
        text = block.get("path") if isinstance(block, dict) else block
        if not isinstance(text, str) or not text:
            continue
        path = path_of(text)
        named = block.get("as") if isinstance(block, dict) else None
        name = named if isinstance(named, str) and named else _last_name(path)
        found.append(Selection(path, name))
    return tuple(found)


def path_of(text: str) -> Path:
    """``a.b[0].c`` as its parts."""
    parts: list[str | int] = []
    for piece in text.replace("[", ".").replace("]", "").split("."):
        if piece:
            parts.append(int(piece) if piece.isdecimal() else piece)
    return tuple(parts)


def _last_name(path: Path) -> str:
    names = [part for part in path if isinstance(part, str)]
    return names[-1] if names else "value"


def _selected(data: bytes, path: Path) -> JSON:
    """The value at a path, texts cut; None where there is none."""
    here: Json = data
    for part in path:
        found = _item(here, part) if isinstance(part, int) else _member(here, part)
        if found is None:
            return None
        here = found
    if len(here) > SUMMARY_BYTES_MAX:
        return None
    value: JSON = _decode(here)
    if isinstance(value, str) and len(value) > _SELECTED_TEXT_MAX:
        return value[:_SELECTED_TEXT_MAX] + "…"
    return value


def _member(data: Json, name: str) -> Raw | None:
    return _decode_map(data).get(name) if _first(data) == b"{" else None


def _item(data: Json, index: int) -> Raw | None:
    if _first(data) != b"[" or len(data) > _LOOKED_INTO_MAX:
        return None
    items = _decode_list(data)
    return items[index] if index < len(items) else None


def _is_mark(shown: bytes) -> bool:
    return any(shown.startswith(b'{"%b"' % mark.encode()) for mark in MARKS)


class _Miniature:
    """One miniature in the making; ``counts`` gathers the lengths of its lists."""

    def __init__(self, wanted: frozenset[Path]) -> None:
        self._on_the_way = {
            path[:length] for path in wanted for length in range(1, len(path) + 1)
        }
        self.counts: dict[str, int] = {}

    def of(self, data: Json, path: Path, room: int) -> bytes:
        """The value, or as much of it as ``room`` bytes hold."""
        first = _first(data)
        if first == b'"':
            return self._text(data, room)
        if first == b"[":
            return self._list(data, path, room)
        if first == b"{":
            return self._map(data, path, room)
        return bytes(data)

    def _text(self, data: Json, room: int) -> bytes:
        if len(data) <= room and len(data) <= TEXT_SHOWN_MAX * 12:
            text = _decode(data)
            if len(text) <= TEXT_SHOWN_MAX:
                return bytes(data)
        return _mark("_len", len(data) - 2)

    def _list(self, data: Json, path: Path, room: int) -> bytes:
        if len(data) > _LOOKED_INTO_MAX:
            return _mark("_bytes", len(data))
        items = _decode_list(data)
        if len(self.counts) < COUNTS_MAX:
            self.counts[".".join(map(str, path))] = len(items)
        if not items or len(path) >= _DEPTH_MAX:
            return _mark("_count", len(items))
        shown = self.of(items[0], (*path, 0), room - 2)
        if len(shown) + 2 > room:
            return _mark("_count", len(items))
        return b"[" + shown + b"]"

    def _map(self, data: Json, path: Path, room: int) -> bytes:
        if len(data) > _LOOKED_INTO_MAX and path:
            return b'{"_keys":[]}'
        try:
            members = _decode_map(data)
        except DecodeError:
            return b'{"_keys":[]}'
        names = list(members)
        if len(path) >= _DEPTH_MAX or not MARKS.isdisjoint(names):
            keys = encode_json(names[:_KEYS_SHOWN_MAX])
            if len(keys) + 30 > room:
                keys = b"[]"
            return b'{"_keys":%b,"_count":%d}' % (keys, len(names))
        return self._filled(members, path, room)

    def _filled(self, members: dict[str, Raw], path: Path, room: int) -> bytes:
        """As many members as fit, small and telling ones first."""
        left = room - len(b'{,"_truncated":true}')
        # Every name is to be seen, so each has the room of a mark set aside.
        kept: dict[str, int] = {}
        ranked = sorted(members, key=lambda name: self._rank(members[name], name, path))
        for name in ranked:
            least = len(encode_json(name)) + 2 + _least(members[name])
            if least <= left:
                kept[name] = _least(members[name])
                left -= least
        shown: dict[str, bytes] = {}
        for name, least in kept.items():
            shown[name] = self.of(members[name], (*path, name), left + least)
            left -= len(shown[name]) - least
        parts = [encode_json(name) + b":" + shown[name] for name in sorted(shown)]
        if len(shown) < len(members):
            parts.append(b'"_truncated":true')
        return b"{" + b",".join(parts) + b"}"

    def _rank(self, data: Json, name: str, path: Path) -> tuple[int, int, int, str]:
        """Selected ways first, then scalars, small maps, lists, long texts."""
        if (*path, name) in self._on_the_way or (not path and name in META):
            return (0, 0, len(data), name)
        known = _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED)
        first = _first(data)
        if first == b"{":
            return (2, 0, len(data), name)
        if first == b"[":
            return (3, 0, len(data), name)
        short = first != b'"' or len(data) <= TEXT_SHOWN_MAX
        return (1 if short else 4, known, len(data), name)


def _first(data: Json) -> bytes:
    return bytes(memoryview(data)[:1])


def _least(data: Json) -> int:
    """Bytes a member takes at least: of a mark, or of the scalar itself."""
    first = _first(data)
    if first == b'"':
        return min(len(data), len(b'{"_len":}') + 9)
    if first == b"[":
        return len(b'{"_count":}') + 9
    if first == b"{":
        return len(b'{"_keys":[],"_count":}') + 9
    return len(data)


def _mark(name: str, number: int) -> bytes:
    return b'{"%b":%d}' % (name.encode(), number)
