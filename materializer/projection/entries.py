"""Bytes of the log → entries, one per event; or one that says what is wrong.

JSON texts may hold two things PostgreSQL stores in no column: the character U+0000 and
halves of surrogate pairs. Both are replaced by U+FFFD before anything is decoded: an
odd character in a payload must not cost an execution its events. The log keeps the
original.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from state_builder.errors import RecordError
from state_builder.ports import LogMessage
from state_builder.records import Event, decode_append, encode_json
from state_builder.rows import Micros

_ID_MAX = 2**63 - 1
_ZERO_UNIX_S = 946_684_800
"""The zero of :data:`state_builder.rows.Micros` in Unix time."""

# Every escape is matched, so that a backslash is never taken for the start of the next.
_ESCAPES = re.compile(
    rb"\\(?:"
    rb"(?P<pair>u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?P<unstorable>u0000|u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|.)",
    re.DOTALL,
)


class Entry(Struct, frozen=True, gc=False):
    """One event and its place in the log.

    Attributes:
        idx: index in the append; −1 when the whole message is meant.
        cause: event id that led to it, as far as the record says.
        event: None when it is not readable; then ``fault`` says why.
        data: the bytes to set apart when ``event`` is None, else empty.
    """

    sequence: int
    idx: int
    stored_at: Micros
    execution_id: int
    cause: int | None
    event: Event | None
    fault: str = ""
    data: bytes = b""


class Decoded(NamedTuple):
    """Entries in log order, and how many messages had characters replaced."""

    entries: list[Entry]
    cleaned: int


def decode_messages(messages: Iterable[LogMessage]) -> Decoded:
    """The events of some messages, in order; leases have none."""
    entries: list[Entry] = []
    cleaned = 0
    for message in messages:
        if message.kind == "lease":
            continue
        data = message.data
        if b"\\u0000" in data or b"\\ud" in data or b"\\uD" in data:
            data = _clean(data)
            cleaned += data != message.data
        stored_at = int((message.stored_at - _ZERO_UNIX_S) * 1_000_000)
        _add_entries(entries, message.sequence, stored_at, data)
    return Decoded(entries, cleaned)


def decimal_id(text: str) -> int | None:
    """An id of the log as a positive 63-bit integer, or None."""
    if not (text.isascii() and text.isdecimal()):
        return None
    number = int(text)
    return number if 0 < number <= _ID_MAX else None


def _clean(data: bytes) -> bytes:
    return _ESCAPES.sub(
        lambda found: b"\\ufffd" if found["unstorable"] else found[0], data
    )


def _add_entries(
    entries: list[Entry], sequence: int, stored_at: Micros, data: bytes
) -> None:
    try:
        append = decode_append(data)
    except RecordError as error:
        fault = str(error)
        entries.append(Entry(sequence, -1, stored_at, 0, None, None, fault, data))
        return
    idx = 0
    for record in append.records:
        execution_id = decimal_id(record.execution_id)
        cause = decimal_id(record.cause) if record.cause else None
        for event in record.events:
            if execution_id is None:
                fault = f"execution_id {record.execution_id[:40]!r} is no decimal id"
                lost = encode_json(event)
                entry = Entry(sequence, idx, stored_at, 0, None, None, fault, lost)
            else:
                own = decimal_id(event.cause) if event.cause else cause
                entry = Entry(sequence, idx, stored_at, execution_id, own, event)
            entries.append(entry)
            idx += 1
