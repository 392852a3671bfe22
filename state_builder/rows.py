"""Rows the log becomes, and the port through which the one writer stores them.

A row is complete when it leaves the projection: the store adds nothing, orders
nothing and decides nothing. Rows and position are stored together or not at all, so a
crash repeats nothing and loses nothing (RT-MAT-2).

Values are as the tables have them: ids are integers, documents are the bytes of valid
JSON, times are :data:`Micros`. A datetime costs six times as much to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol, TypeAlias

from msgspec import Struct

from state_builder.chain import ChainHead

Micros: TypeAlias = int
"""Microseconds since 2000-01-01T00:00:00Z, the zero of the tables' clock."""

_ZERO: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def micros_of(time: datetime) -> Micros:
    """A time with a zone as rows have it."""
    return (time - _ZERO) // _MICROSECOND


def time_of_micros(micros: Micros) -> datetime:
    """A row's time for people."""
    return _ZERO + timedelta(microseconds=micros)


class EventRow(NamedTuple):
    """One event as audited; field order is column order of the write path.

    Attributes:
        parent_event_id, causation_id: event that provoked this one.
        prev_event_id: chain predecessor; None for the root alone.
        duration: seconds a tool ran, on the answers of tools.
        created_at, event_time: the emitter's clock; never decides order.
        ingest_time: when the log stored it.
    """

    execution_id: int
    event_id: int
    catalog_id: int
    event_type: str
    status: str | None
    node_id: str | None
    node_name: str | None
    node_type: str | None
    parent_event_id: int | None
    causation_id: int | None
    prev_event_id: int | None
    parent_execution_id: int | None
    command_id: str | None
    stage_id: str | None
    frame_id: str | None
    context: bytes | None
    result: bytes | None
    meta: bytes | None
    error: str | None
    worker_id: str | None
    duration: float | None
    created_at: Micros
    event_time: Micros
    ingest_time: Micros


class CommandRow(NamedTuple):
    """A command issued in this batch, as it stands at its end (RT-EVT-25)."""

    execution_id: int
    command_id: str
    event_id: int
    catalog_id: int
    parent_execution_id: int | None
    parent_command_id: str | None
    step_name: str
    tool_kind: str | None
    pool: str | None
    status: str
    answer: str | None
    parked: bool
    worker_id: str | None
    claimed_at: Micros | None
    started_at: Micros | None
    completed_at: Micros | None
    attempt: int
    max_attempts: int
    iter_index: int | None
    context: bytes | None
    meta: bytes | None
    error: str | None
    latest_event_id: int
    prev_event_id: int | None
    created_at: Micros
    updated_at: Micros


class CommandChange(NamedTuple):
    """What became of a command issued in an earlier batch."""

    execution_id: int
    command_id: str
    status: str
    answer: str | None
    parked: bool
    worker_id: str | None
    claimed_at: Micros | None
    started_at: Micros | None
    completed_at: Micros | None
    error: str | None
    latest_event_id: int
    prev_event_id: int | None
    updated_at: Micros


class ExecutionRow(NamedTuple):
    """An execution begun in this batch, as it stands at its end (RT-PRJ-1)."""

    execution_id: int
    catalog_id: int
    path: str
    version: int
    parent_execution_id: int | None
    parent_command_id: str | None
    status: str
    pool: str | None
    head_event_id: int
    last_event_type: str
    last_node_name: str | None
    event_count: int
    steps_known: int
    steps_done: int
    start_time: Micros
    end_time: Micros | None
    result: bytes | None
    error: str | None
    workload: bytes | None
    updated_at: Micros


class ExecutionChange(NamedTuple):
    """What became of an execution begun in an earlier batch.

    ``end_time``, ``result`` and ``error`` are set by its terminal and None before.
    """

    execution_id: int
    status: str
    head_event_id: int
    last_event_type: str
    last_node_name: str | None
    event_count: int
    steps_known: int
    steps_done: int
    end_time: Micros | None
    result: bytes | None
    error: str | None
    updated_at: Micros


class QuarantineRow(NamedTuple):
    """What could not become a row: its place in the log, its bytes, and why.

    ``idx`` is −1 when the whole message is meant.
    """

    generation: int
    sequence: int
    idx: int
    execution_id: int | None
    event_id: int | None
    reason: str
    payload: bytes


class Position(NamedTuple):
    """Up to where a shard group's messages are in the tables."""

    generation: int
    sequence: int


class OpenCommand(Struct, kw_only=True):
    """A command without an accepted answer: what its next events are judged by.

    Attributes:
        issued: event id of its ``command.issued``.
        answer: ``COMPLETED`` or ``FAILED`` once a ``call.done``/``call.error`` came;
            it counts when the command is parked or completed.
        parked: its worker is free, a call-back ends it (RT-DRV-19).
        latest, previous: its last two events.
    """

    issued: int
    step: str
    kind: str | None
    status: str = "PENDING"
    answer: str | None = None
    parked: bool = False
    worker_id: str | None = None
    claimed_at: Micros | None = None
    started_at: Micros | None = None
    completed_at: Micros | None = None
    error: str | None = None
    latest: int = 0
    previous: int | None = None
    updated_at: Micros = 0


class ExecutionHead(Struct, kw_only=True):
    """An execution as far as it is in the tables: what its next events link to.

    Attributes:
        commands: the open ones by id.
        steps_known, steps_done: passes of steps begun or skipped, and over.
    """

    chain: ChainHead
    catalog_id: int
    path: str
    parent_execution_id: int | None
    parent_command_id: str | None
    commands: dict[str, OpenCommand]
    last_event_type: str = ""
    last_node_name: str | None = None
    steps_known: int = 0
    steps_done: int = 0


class RowBatch(NamedTuple):
    """Everything some messages of the log become, in log order.

    Attributes:
        after: the position the batch continues from.
        position: the position once it is stored.
    """

    events: list[EventRow]
    commands: list[CommandRow]
    command_changes: list[CommandChange]
    executions: list[ExecutionRow]
    execution_changes: list[ExecutionChange]
    quarantined: list[QuarantineRow]
    after: Position
    position: Position


class RowWriter(Protocol):
    """Writes one shard group's rows; only ever one at a time holds it."""

    async def position(self, generation: int) -> Position:
        """Where the group stands; before its first batch at 0 of the generation."""

    async def heads(self, execution_ids: Sequence[int]) -> dict[int, ExecutionHead]:
        """Those of the executions that are in the tables, with open commands."""

    async def write(self, batch: RowBatch) -> int:
        """Store rows and position in one transaction; how many event rows were new.

        Rows that are there already stay as they are.

        Raises:
            RowError: some row cannot be stored; nothing was.
            StalePositionError: the position is not ``batch.after`` any more: another
                writer was here. Nothing was stored.
            UnavailableError: the database is away; nothing was stored, or all was.
        """


class RowStore(Protocol):
    """The tables as the materializer alone may touch them."""

    def lead(self, group: str) -> AbstractAsyncContextManager[RowWriter]:
        """Be the group's only writer for a while; waits as a warm standby.

        Raises UnavailableError.
        """

    async def durable_positions(self) -> dict[str, Position]:
        """Of every group, a position no crash of the database can take back any more.

        What lies at or before all of them may be trimmed from the log, if the groups
        are all there are. Raises UnavailableError.
        """
