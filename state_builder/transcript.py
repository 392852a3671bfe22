"""An execution copied out of the log: what `export` writes and `replay` reads.

JSON lines, so that a run of any length is written and read as it comes: a head, then
in log order the records of the execution and of all it started, each playbook before
the first record that needs it, and an end that tells a whole file from a torn one.
A record is the very bytes that were appended. Nothing here decides or folds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from msgspec import DecodeError, Raw, Struct, ValidationError, field
from msgspec.json import Decoder

from state_builder.errors import InvalidError
from state_builder.ids import event_id
from state_builder.ports import CatalogEntry, LogMessage
from state_builder.records import GENESIS, TERMINAL_STATUS, Event, Genesis, encode_json

FORMAT: Final = "noetl-transcript"
FORMAT_VERSION: Final = 1


class TranscriptError(InvalidError):
    """Lines that are no transcript; the message names the line."""

    code = "transcript"


Source = Literal["log", "rows"]


class Head(Struct, frozen=True, kw_only=True, tag_field="line", tag="head"):
    """The first line.

    Attributes:
        through: sequence of the log up to which it was read.
        shard, shard_count: where the execution lives, for the ids of its children.
        limits: fields of ``DriveLimits`` that differ from the defaults, if known.
        source: ``rows`` when the log was trimmed and records were made again from the
            database: their meaning is the same, their bytes may not be.
    """

    format: str
    v: int
    execution_id: str
    generation: int
    through: int
    shard: int = 0
    shard_count: int = 1
    limits: dict[str, int] = field(default_factory=dict)
    source: Source = "log"


class PlaybookLine(Struct, frozen=True, kw_only=True, tag_field="line", tag="playbook"):
    """One entry of the catalog that the executions run."""

    catalog_id: str
    path: str
    version: int
    kind: str
    content: str


class RecordLine(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="line",
    tag="record",
):
    """One record of the log.

    Attributes:
        generation: of the log, where it is not the head's.
        sequence: of its message; records of one message were stored together.
        index: place of its first event in the message.
        stored_at: when the broker stored it, Unix seconds.
        record: the bytes as appended.
    """

    sequence: int
    index: int
    stored_at: float
    record: Raw
    generation: int | None = None


class End(Struct, frozen=True, kw_only=True, tag_field="line", tag="end"):
    """The last line; ``records`` is their number."""

    records: int


Line = Head | PlaybookLine | RecordLine | End


class LoggedRecord(Struct, frozen=True, kw_only=True):
    """A record as read back.

    Attributes:
        ids: of its events.
        data: its bytes.
    """

    execution_id: str
    sequence: int
    stored_at: float
    events: list[Event]
    ids: list[int]
    data: bytes


class Transcript(Struct, frozen=True, kw_only=True):
    """A whole transcript; ``records`` in log order, ``playbooks`` by catalog id."""

    head: Head
    playbooks: dict[str, PlaybookLine]
    records: list[LoggedRecord]

    def of(self, execution_id: str) -> list[LoggedRecord]:
        """The records of one execution."""
        return [one for one in self.records if one.execution_id == execution_id]

    def executions(self) -> list[str]:
        """Every execution in it, in the order they began; the exported one first."""
        return list(dict.fromkeys(one.execution_id for one in self.records))


class _Append(Struct):
    records: list[Raw]


class _Record(Struct):
    execution_id: str
    events: list[Event]


_append = Decoder(_Append)
_record = Decoder(_Record)
_genesis = Decoder(Genesis)
_line = Decoder(Line)


def encode_line(line: Line) -> bytes:
    """One line, its newline included."""
    # A newline between tokens is white space; inside a text JSON escapes it.
    return encode_json(line).replace(b"\n", b" ") + b"\n"


def playbook_line(entry: CatalogEntry) -> PlaybookLine:
    """The line of a catalog entry."""
    return PlaybookLine(**entry._asdict())


class Gathering:
    """Picks an execution and all it started out of messages read in log order.

    Attributes:
        wanted: ids of the executions so far.
        records: how many were picked.
    """

    def __init__(self, execution_id: str) -> None:
        self.wanted = {execution_id}
        self.records = 0
        self._entries: set[str] = set()
        self._ended: set[str] = set()

    @property
    def over(self) -> bool:
        """Everything that was begun has ended."""
        return self.wanted == self._ended

    def add(self, line: RecordLine) -> list[str]:
        """A record that was found elsewhere; catalog ids not heard of before."""
        entries: list[str] = []
        self._is_wanted(_record.decode(line.record), entries)
        self.records += 1
        return entries

    def take(self, message: LogMessage) -> tuple[list[str], list[RecordLine]]:
        """Catalog ids not heard of before, and the lines of one message.

        A message nobody can read has no part in any execution.
        """
        if message.kind == "lease":
            return [], []
        try:
            records = _append.decode(message.data).records
            found = [(raw, _record.decode(raw)) for raw in records]
        except (ValidationError, DecodeError):
            return [], []
        entries: list[str] = []
        lines: list[RecordLine] = []
        index = 0
        for raw, record in found:
            if record.events and self._is_wanted(record, entries):
                lines.append(
                    RecordLine(
                        sequence=message.sequence,
                        index=index,
                        stored_at=message.stored_at,
                        record=raw,
                    )
                )
            index += len(record.events)
        self.records += len(lines)
        return entries, lines

    def _is_wanted(self, record: _Record, entries: list[str]) -> bool:
        first = record.events[0]
        known = record.execution_id in self.wanted
        if known and any(event.type in TERMINAL_STATUS for event in record.events):
            self._ended.add(record.execution_id)
        if first.type != GENESIS or not first.context:
            return known
        try:
            genesis = _genesis.decode(first.context)
        except (ValidationError, DecodeError):
            return known
        if not known and genesis.parent_execution_id not in self.wanted:
            return False
        self.wanted.add(record.execution_id)
        if genesis.catalog_id not in self._entries:
            self._entries.add(genesis.catalog_id)
            entries.append(genesis.catalog_id)
        return True


def read_transcript(lines: Iterable[bytes]) -> Transcript:
    """A whole transcript.

    Raises:
        TranscriptError: what is wrong, and in which line.
    """
    head: Head | None = None
    end: End | None = None
    playbooks: dict[str, PlaybookLine] = {}
    records: list[LoggedRecord] = []
    number = 0
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        line = _decoded(text, number)
        if end is not None:
            raise TranscriptError(f"line {number}: nothing may follow the end")
        if isinstance(line, Head):
            head = _checked(line, number, first=head is None)
        elif head is None:
            raise TranscriptError(f"line {number}: a transcript begins with its head")
        elif isinstance(line, PlaybookLine):
            playbooks[line.catalog_id] = line
        elif isinstance(line, RecordLine):
            records.append(_logged(line, head, number))
        else:
            end = line
    if head is None:
        raise TranscriptError("it is empty")
    if end is None or end.records != len(records):
        wanted = "" if end is None else f" of {end.records}"
        raise TranscriptError(
            f"it is torn after line {number}: {len(records)}{wanted} records, "
            "export it again"
        )
    return Transcript(head=head, playbooks=playbooks, records=records)


def _decoded(text: bytes, number: int) -> Line:
    try:
        line: Line = _line.decode(text)
    except (ValidationError, DecodeError) as error:
        raise TranscriptError(f"line {number}: no line of a transcript: {error}") from (
            error
        )
    return line


def _checked(head: Head, number: int, *, first: bool) -> Head:
    if not first:
        raise TranscriptError(f"line {number}: a second head")
    if (head.format, head.v) != (FORMAT, FORMAT_VERSION):
        raise TranscriptError(
            f"line {number}: format {head.format} version {head.v}, "
            f"this build reads {FORMAT} version {FORMAT_VERSION}"
        )
    return head


def _logged(line: RecordLine, head: Head, number: int) -> LoggedRecord:
    # A copy of its own: the line it is a view of need not stay in memory.
    data = bytes(line.record)
    try:
        record = _record.decode(data)
    except (ValidationError, DecodeError) as error:
        raise TranscriptError(f"line {number}: not a record: {error}") from error
    if not record.events:
        raise TranscriptError(f"line {number}: a record without events")
    generation = head.generation if line.generation is None else line.generation
    return LoggedRecord(
        execution_id=record.execution_id,
        sequence=line.sequence,
        stored_at=line.stored_at,
        events=record.events,
        ids=[
            event_id(generation, line.sequence, line.index + offset)
            for offset in range(len(record.events))
        ],
        data=data,
    )


def event_bytes(record: LoggedRecord) -> list[Raw]:
    """The bytes of each event of a record."""
    return _events.decode(record.data).events


class _Events(Struct):
    events: list[Raw]


_events = Decoder(_Events)
