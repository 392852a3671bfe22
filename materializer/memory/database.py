"""What the materializer writes, in dictionaries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
from msgspec import DecodeError
from msgspec.json import Decoder

from materializer.errors import RowError, StalePositionError
from state_builder.chain import ChainHead
from state_builder.errors import UnavailableError
from state_builder.ports import Clock
from state_builder.records import TERMINAL_STATUS
from state_builder.rows import (
    CommandRow,
    EventRow,
    ExecutionHead,
    ExecutionRow,
    OpenCommand,
    Position,
    QuarantineRow,
    RowBatch,
)
from state_builder.sealed import AuditRow, CredentialRow, KeychainRow
from state_builder.stores import CatalogRow, RuntimeRow, StreamLife

OPEN_COMMAND = frozenset({"PENDING", "CLAIMED", "RUNNING"})
OPEN_EXECUTION = frozenset({"PENDING", "RUNNING"})

_ENVELOPE_KEYS = frozenset({"status", "context", "reference"})
_json = Decoder()


class MemoryDatabase:
    """All tables.

    Attributes:
        events: execution → event id → row, ids ascending.
        away: why nothing answers; empty while everything does.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.away = ""
        self.events: dict[int, dict[int, EventRow]] = defaultdict(dict)
        self.commands: dict[tuple[int, str], CommandRow] = {}
        self.executions: dict[int, ExecutionRow] = {}
        self.quarantined: dict[tuple[int, int, int], QuarantineRow] = {}
        self.positions: dict[str, Position] = {}
        self.lives: dict[str, StreamLife] = {}
        self.catalog: dict[str, CatalogRow] = {}
        self.claims: dict[tuple[str, str], tuple[str, float]] = {}
        self.runtimes: dict[tuple[str, str], RuntimeRow] = {}
        self.credentials: dict[str, CredentialRow] = {}
        self.keychain: dict[str, KeychainRow] = {}
        self.audit: list[AuditRow] = []
        self.leads: dict[str, anyio.Lock] = defaultdict(anyio.Lock)

    def check(self) -> None:
        """Answer, or raise UnavailableError."""
        if self.away:
            raise UnavailableError(f"database: {self.away}")


class MemoryRows:
    """RowStore: rows and position together, by one writer a group."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    @asynccontextmanager
    async def lead(self, group: str) -> AsyncIterator[_Writer]:
        """Be the group's only writer; waits while another is."""
        self._database.check()
        async with self._database.leads[group]:
            yield _Writer(self._database, group)

    async def durable_positions(self) -> dict[str, Position]:
        """The positions; memory loses everything or nothing."""
        self._database.check()
        return dict(self._database.positions)


class _Writer:
    """RowWriter."""

    def __init__(self, database: MemoryDatabase, group: str) -> None:
        self._database = database
        self._group = group

    async def position(self, generation: int) -> Position:
        self._database.check()
        return self._database.positions.setdefault(self._group, Position(generation, 0))

    async def heads(self, execution_ids: Sequence[int]) -> dict[int, ExecutionHead]:
        self._database.check()
        known = self._database.executions
        heads = {each: _head(known[each]) for each in execution_ids if each in known}
        for (execution_id, command_id), row in self._database.commands.items():
            if execution_id in heads and row.status in OPEN_COMMAND:
                heads[execution_id].commands[command_id] = _open_command(row)
        return heads

    async def write(self, batch: RowBatch) -> int:
        await anyio.lowlevel.checkpoint()
        database = self._database
        database.check()
        if database.positions.get(self._group) != batch.after:
            raise StalePositionError(
                f"position of {self._group!r} is not {batch.after} any more: another "
                "process writes this shard group"
            )
        for row in batch.events:
            self._check(row)
        for command in batch.commands:
            _check_json("command.context", command.context)
        for execution in batch.executions:
            _check_json("execution.workload", execution.workload)
        # Nothing can fail from here on, and nobody runs in between.
        new = self._add_events(batch)
        self._move_commands(batch)
        self._move_executions(batch)
        for apart in batch.quarantined:
            key = (apart.generation, apart.sequence, apart.idx)
            database.quarantined.setdefault(key, apart)
        database.positions[self._group] = batch.position
        return new

    def _check(self, row: EventRow) -> None:
        for name in ("context", "result", "meta"):
            _check_json(f"event.{name}", getattr(row, name))
        if row.catalog_id == 0:
            raise RowError("event without a catalog_id")
        if row.result is not None:
            envelope = _json.decode(row.result)
            if (
                not isinstance(envelope, dict)
                or not isinstance(envelope.get("status"), str)
                or envelope.keys() - _ENVELOPE_KEYS
            ):
                raise RowError("event.result is no envelope")
        known = self._database.events.get(row.execution_id, {})
        if row.event_id in known:
            return
        if row.prev_event_id is None and any(
            each.prev_event_id is None for each in known.values()
        ):
            raise RowError("a second root")
        if row.event_type in TERMINAL_STATUS and any(
            each.event_type in TERMINAL_STATUS for each in known.values()
        ):
            raise RowError("a second terminal")

    def _add_events(self, batch: RowBatch) -> int:
        new = 0
        for row in batch.events:
            rows = self._database.events[row.execution_id]
            new += row.event_id not in rows
            rows.setdefault(row.event_id, row)
        return new

    def _move_commands(self, batch: RowBatch) -> None:
        commands = self._database.commands
        for row in batch.commands:
            key = (row.execution_id, row.command_id)
            if key not in commands or (
                commands[key].latest_event_id < row.latest_event_id
            ):
                commands[key] = row
        for change in batch.command_changes:
            key = (change.execution_id, change.command_id)
            known = commands.get(key)
            if known is not None and known.latest_event_id < change.latest_event_id:
                commands[key] = known._replace(**change._asdict())

    def _move_executions(self, batch: RowBatch) -> None:
        executions = self._database.executions
        for row in batch.executions:
            known = executions.get(row.execution_id)
            if known is None or known.head_event_id < row.head_event_id:
                executions[row.execution_id] = row
        for change in batch.execution_changes:
            known = executions.get(change.execution_id)
            if known is None or known.head_event_id >= change.head_event_id:
                continue
            kept = {
                name: value
                for name, value in change._asdict().items()
                if value is not None or name not in {"end_time", "result", "error"}
            }
            executions[change.execution_id] = known._replace(**kept)


class MemoryLives:
    """StreamLives."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def stream_life(self, stream: str) -> StreamLife | None:
        """What is known of the stream."""
        self._database.check()
        life = self._database.lives.get(stream)
        if life is None:
            return None
        reached = [
            position.sequence
            for position in self._database.positions.values()
            if position.generation == life.generation
        ]
        return life._replace(last_sequence=max([life.last_sequence, *reached]))

    async def begin_life(
        self, stream: str, *, known: StreamLife | None, now: StreamLife, after: int
    ) -> bool:
        """Record a life; False when another caller changed what is known."""
        self._database.check()
        found = self._database.lives.get(stream)
        if (found is None) != (known is None):
            return False
        if found is not None and known is not None:
            if found[:2] != known[:2]:
                return False
            for group, position in self._database.positions.items():
                if position.generation < now.generation:
                    moved = Position(now.generation, after)
                    self._database.positions[group] = moved
        self._database.lives[stream] = now
        return True


def _check_json(what: str, document: bytes | None) -> None:
    if document is None:
        return
    try:
        _json.decode(document)
    except DecodeError as error:
        raise RowError(f"{what} is no JSON: {error}") from error


def _head(row: ExecutionRow) -> ExecutionHead:
    return ExecutionHead(
        chain=ChainHead(
            event_id=row.head_event_id,
            count=row.event_count,
            terminal="" if row.status in OPEN_EXECUTION else row.status,
        ),
        catalog_id=row.catalog_id,
        path=row.path,
        parent_execution_id=row.parent_execution_id,
        parent_command_id=row.parent_command_id,
        commands={},
        last_event_type=row.last_event_type,
        last_node_name=row.last_node_name,
        steps_known=row.steps_known,
        steps_done=row.steps_done,
    )


def _open_command(row: CommandRow) -> OpenCommand:
    return OpenCommand(
        issued=row.event_id,
        step=row.step_name,
        kind=row.tool_kind,
        status=row.status,
        answer=row.answer,
        parked=row.parked,
        worker_id=row.worker_id,
        claimed_at=row.claimed_at,
        started_at=row.started_at,
        error=row.error,
        latest=row.latest_event_id,
        previous=row.prev_event_id,
    )
