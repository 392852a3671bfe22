"""A log written by hand: messages as the fleet's roles append them, for any reader."""

from __future__ import annotations

from msgspec import Raw

from materializer.projection import Projected, Projector, decode_messages
from state_builder.ids import Shard, command_id
from state_builder.ports import LogMessage
from state_builder.records import (
    Event,
    Genesis,
    Record,
    encode_append,
    encode_json,
)
from state_builder.rows import Position, RowBatch

AT = "2026-11-20T10:00:00.250000Z"
STORED_AT = 1_795_168_800.5


def raw(value: object) -> Raw:
    """A payload."""
    return Raw(encode_json(value))


def genesis(execution_id: str, **changes: object) -> Record:
    """The record that begins an execution."""
    fields: dict[str, object] = {
        "catalog_id": "7001",
        "path": "tests/plain",
        "version": 3,
        "workload": raw({"a": 1}),
    }
    started = Genesis(**(fields | changes))
    event = Event(type="playbook_started", at=AT, context=raw(started))
    return Record(execution_id=execution_id, events=[event])


def issue(execution_id: str, step: str, attempt: int = 1, cause: str = "") -> Record:
    """A pass with one command."""
    issued = Event(
        type="command.issued",
        at=AT,
        step=step,
        visit=1,
        kind="python",
        command_id=command_id(execution_id, step, 1, attempt),
        attempt=attempt,
        pool="shared",
        context=raw({"tool_config": {"kind": "python"}, "args": {"x": 1}}),
        meta=raw({"path": "tests/plain"}),
    )
    enter = Event(type="step.enter", at=AT, step=step, visit=1)
    return Record(execution_id=execution_id, events=[enter, issued], cause=cause)


def fact(execution_id: str, step: str, event_type: str, **changes: object) -> Record:
    """One event about a command, as a worker or the owner says it."""
    fields: dict[str, object] = {
        "type": event_type,
        "at": AT,
        "step": step,
        "command_id": command_id(execution_id, step, 1, 1),
        "attempt": 1,
        "worker_id": "worker-1",
    }
    event = Event(**(fields | changes))
    return Record(execution_id=execution_id, events=[event])


def answer(execution_id: str, step: str, worker_id: str = "worker-1") -> Record:
    """What a worker appends for a finished command."""
    result = {"status": "success", "context": {"data": {"n": 1}, "duration_ms": 1500}}
    kinds = (
        ("command.started", {"delivery": 1}),
        ("call.done", {"status": "COMPLETED", "result": raw(result)}),
        ("command.completed", {"status": "success"}),
    )
    events = [
        fact(execution_id, step, kind, worker_id=worker_id, **more).events[0]
        for kind, more in kinds
    ]
    return Record(execution_id=execution_id, events=events)


def failure(execution_id: str, step: str) -> Record:
    """What a worker appends for a command that failed."""
    kinds = (
        ("command.started", {}),
        ("call.error", {"status": "FAILED", "error": "no such table"}),
        ("command.failed", {"status": "FAILED", "error": "no such table"}),
    )
    events = [fact(execution_id, step, kind, **more).events[0] for kind, more in kinds]
    return Record(execution_id=execution_id, events=events)


def end(execution_id: str, event_type: str = "playbook.completed") -> Record:
    """The terminal, with the last step's exit before it."""
    output = {"status": "COMPLETED", "context": {"data": {"sum": 3}}}
    events = [
        Event(type="step.exit", at=AT, step="load", visit=1, status="COMPLETED"),
        Event(type=event_type, at=AT, result=raw(output)),
    ]
    return Record(execution_id=execution_id, events=events)


def whole(execution_id: str, steps: int = 3) -> list[Record]:
    """All records of an execution, in order."""
    names = [f"step_{number}" for number in range(steps)]
    records = [genesis(execution_id)]
    for name in names:
        records += [issue(execution_id, name), answer(execution_id, name)]
    return [*records, end(execution_id)]


def stored(*records: Record, first: int = 1) -> list[LogMessage]:
    """Each record as a message of its own, sequences from ``first``."""
    return [
        message(sequence, encode_append([record]))
        for sequence, record in enumerate(records, first)
    ]


def message(sequence: int, data: bytes, kind: str = "events") -> LogMessage:
    """Bytes in the log."""
    return LogMessage(sequence, Shard(0), kind, data, STORED_AT)


def project(
    messages: list[LogMessage], projector: Projector | None = None, generation: int = 0
) -> Projected:
    """All messages as one batch."""
    projector = projector or Projector(generation)
    position = Position(generation, messages[-1].sequence)
    return projector.project(
        decode_messages(messages).entries,
        after=Position(generation, messages[0].sequence - 1),
        position=position,
    )


def rows_of(*records: Record) -> RowBatch:
    """The rows of all records, read as one batch."""
    return project(stored(*records)).batch
