"""What a batch has found out about events, commands and executions → their rows."""

from __future__ import annotations

from msgspec import Struct, field

from materializer.projection.entries import Entry
from materializer.projection.fields import (
    ERROR_TEXT_MAX,
    IGNORED,
    Envelope,
    iteration_index,
    meta_of,
    parts_of,
    status_of,
)
from state_builder.records import Event, Genesis
from state_builder.rows import (
    CommandChange,
    CommandRow,
    EventRow,
    ExecutionChange,
    ExecutionHead,
    ExecutionRow,
    Micros,
    OpenCommand,
)


class Issue(Struct, frozen=True, kw_only=True):
    """What a command is issued with, and keeps."""

    created_at: Micros
    pool: str | None
    attempt: int
    max_attempts: int
    iter_index: int | None
    context: bytes | None
    meta: bytes | None


class Touched(Struct, kw_only=True):
    """What a batch does to one execution; ``genesis`` when it begins in it.

    Attributes:
        commands: those that moved, as they stand now; of those begun in the batch
            ``issued`` holds the rest.
    """

    head: ExecutionHead
    open_before: int
    stored_at: Micros
    genesis: Genesis | None = None
    start_time: Micros | None = None
    end_time: Micros | None = None
    result: bytes | None = None
    error: str | None = None
    moved: bool = False
    issued: dict[str, Issue] = field(default_factory=dict)
    commands: dict[str, OpenCommand] = field(default_factory=dict)


class Seen(Struct):
    """One event with all that was found out about it.

    Attributes:
        ignored: why it changes nothing; empty when it does.
        command: the open command it belongs to.
    """

    entry: Entry
    event: Event
    event_id: int
    previous: int
    at: Micros
    envelope: Envelope | None
    command: OpenCommand | None
    ignored: str


def event_row(seen: Seen, head: ExecutionHead) -> tuple[EventRow, int]:
    """The row of an event, and how often its command may be attempted."""
    entry, event, command = seen.entry, seen.event, seen.command
    issued = command.issued if command is not None else 0
    cause = entry.cause or issued or None
    if event.step:
        node_id = node_name = event.step
        node_type = event.kind or (command.kind if command is not None else None)
    else:
        node_id, node_name, node_type = "playbook", head.path, "execution"
    own = bytes(event.meta)
    stage_id, frame_id, max_attempts = parts_of(own)
    # Past the constructor: half the cost, and thousands of times a second.
    row = EventRow._make(
        (
            entry.execution_id,
            seen.event_id,
            head.catalog_id,
            event.type,
            IGNORED if seen.ignored else status_of(event),
            node_id,
            node_name,
            node_type,
            cause,
            cause,
            seen.previous or None,
            head.parent_execution_id,
            event.command_id or None,
            stage_id,
            frame_id,
            bytes(event.context) or None,
            bytes(event.result) or None,
            meta_of(event, own, issued, seen.ignored),
            event.error[:ERROR_TEXT_MAX] or None,
            event.worker_id or None,
            seen.envelope.duration() if seen.envelope is not None else None,
            seen.at,
            seen.at,
            entry.stored_at,
        )
    )
    return row, max_attempts


def issue_of(seen: Seen, row: EventRow, max_attempts: int) -> Issue:
    """What a ``command.issued`` fixes for its command's row."""
    event = seen.event
    return Issue(
        created_at=seen.at,
        pool=event.pool or None,
        attempt=event.attempt or 1,
        max_attempts=max_attempts,
        iter_index=iteration_index(event),
        context=row.context,
        meta=row.meta,
    )


def command_row(
    execution_id: int,
    command_id: str,
    command: OpenCommand,
    issue: Issue,
    head: ExecutionHead,
) -> CommandRow:
    """A command issued in the batch."""
    return CommandRow._make(
        (
            execution_id,
            command_id,
            command.issued,
            head.catalog_id,
            head.parent_execution_id,
            head.parent_command_id,
            command.step,
            command.kind,
            issue.pool,
            command.status,
            command.answer,
            command.parked,
            command.worker_id,
            command.claimed_at,
            command.started_at,
            command.completed_at,
            issue.attempt,
            issue.max_attempts,
            issue.iter_index,
            issue.context,
            issue.meta,
            _text(command.error),
            command.latest,
            command.previous,
            issue.created_at,
            command.updated_at,
        )
    )


def command_change(
    execution_id: int, command_id: str, command: OpenCommand
) -> CommandChange:
    """A command issued before the batch."""
    return CommandChange._make(
        (
            execution_id,
            command_id,
            command.status,
            command.answer,
            command.parked,
            command.worker_id,
            command.claimed_at,
            command.started_at,
            command.completed_at,
            _text(command.error),
            command.latest,
            command.previous,
            command.updated_at,
        )
    )


def execution_row(
    execution_id: int, touched: Touched, genesis: Genesis
) -> ExecutionRow:
    """An execution begun in the batch."""
    head = touched.head
    assert touched.start_time is not None
    return ExecutionRow(
        execution_id,
        head.catalog_id,
        head.path,
        genesis.version,
        head.parent_execution_id,
        head.parent_command_id,
        head.chain.terminal or "RUNNING",
        genesis.pool,
        head.chain.event_id,
        head.last_event_type,
        head.last_node_name,
        head.chain.count,
        head.steps_known,
        head.steps_done,
        touched.start_time,
        touched.end_time,
        touched.result,
        touched.error,
        bytes(genesis.workload or genesis.workload_ref) or None,
        touched.stored_at,
    )


def execution_change(execution_id: int, touched: Touched) -> ExecutionChange:
    """An execution begun before the batch."""
    head = touched.head
    return ExecutionChange(
        execution_id,
        head.chain.terminal or "RUNNING",
        head.chain.event_id,
        head.last_event_type,
        head.last_node_name,
        head.chain.count,
        head.steps_known,
        head.steps_done,
        touched.end_time,
        touched.result,
        touched.error,
        touched.stored_at,
    )


def _text(error: str | None) -> str | None:
    return error[:ERROR_TEXT_MAX] if error else None
