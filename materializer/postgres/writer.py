"""RowStore: rows and position of a shard group in one transaction (RT-MAT-2).

The connection that holds the group's advisory lock is the one that writes: when it
breaks, lock and writer are gone together, and nothing has to be noticed in time.

It does not wait for the disk at commit (``synchronous_commit = off``). That is safe
because the log is the truth: rows and position are in one transaction, so a database
that loses its last moments comes back with an older position and its rows, and the
same messages are read again. Only the log must still have them: what may be trimmed
is asked for by :meth:`PostgresRows.durable_positions`, which does wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import anyio
import asyncpg

from materializer.errors import StalePositionError
from materializer.postgres.database import Database, translated
from state_builder.chain import ChainHead
from state_builder.errors import UnavailableError
from state_builder.rows import (
    CommandRow,
    EventRow,
    ExecutionHead,
    Micros,
    OpenCommand,
    Position,
    RowBatch,
    micros_of,
)

_SESSION: Final = {
    "synchronous_commit": "off",
    # Every statement looks rows up by key, whatever the statistics say: plan once.
    "plan_cache_mode": "force_generic_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "jit": "off",
}

_OPEN: Final = frozenset({"PENDING", "RUNNING"})


class PostgresRows:
    """The tables as the materializer may touch them."""

    def __init__(self, database: Database, *, standby_poll_s: float = 1.0) -> None:
        self._database = database
        self._standby_poll_s = standby_poll_s

    @asynccontextmanager
    async def lead(self, group: str) -> AsyncIterator[_Writer]:
        """Be the group's only writer; waits while another is."""
        database = self._database
        async with database.direct(_SESSION) as connection:
            name = f"{database.settings.schema}.materializer:{group}"
            # Asked again and again: a statement that waits for the lock would keep
            # its snapshot, and vacuum could clean nothing for as long.
            while not await connection.fetchval(  # noqa: ASYNC110
                database.sql["try_lead"], name
            ):
                await anyio.sleep(self._standby_poll_s)
            yield _Writer(database, connection, group)

    async def durable_positions(self) -> dict[str, Position]:
        """Positions that are on disk, as is all before them."""
        async with self._database.session() as connection:
            rows = await connection.fetch(self._database.sql["positions_flush"])
        return {group: Position(*position) for group, *position in rows}


class _Writer:
    """RowWriter on one connection; heads are read on others meanwhile."""

    def __init__(
        self,
        database: Database,
        connection: asyncpg.Connection[asyncpg.Record],
        group: str,
    ) -> None:
        self._database = database
        self._connection = connection
        self._group = group
        self._sql = database.sql
        self._schema = database.settings.schema

    async def position(self, generation: int) -> Position:
        with translated():
            await self._connection.execute(
                self._sql["position_begin"], self._group, generation
            )
            row = await self._connection.fetchrow(
                self._sql["position_read"], self._group
            )
        if row is None:
            raise UnavailableError(f"the position of {self._group!r} was taken away")
        return Position(*row)

    async def heads(self, execution_ids: Sequence[int]) -> dict[int, ExecutionHead]:
        async with self._database.session() as connection:
            rows = await connection.fetch(self._sql["heads"], execution_ids)
            heads = {row["execution_id"]: _head(row) for row in rows}
            running = [each for each, head in heads.items() if not head.chain.terminal]
            if running:
                for row in await connection.fetch(self._sql["open_commands"], running):
                    commands = heads[row["execution_id"]].commands
                    commands[row["command_id"]] = _open_command(row)
        return heads

    async def write(self, batch: RowBatch) -> int:
        with translated():
            try:
                async with self._connection.transaction():
                    await self._advance(batch)
                    await self._copy("event", EventRow._fields, batch.events)
                    await self._copy("command", CommandRow._fields, batch.commands)
                    await self._change(batch)
                return len(batch.events)
            except asyncpg.UniqueViolationError:
                # Some rows are there already; that happens when the tables were
                # repaired by hand, and is worth the slower way only then.
                return await self._merge(batch)

    async def _merge(self, batch: RowBatch) -> int:
        async with self._connection.transaction():
            await self._advance(batch)
            await self._connection.execute(self._sql["incoming_events"])
            await self._copy("incoming_event", EventRow._fields, batch.events)
            done = await self._connection.execute(self._sql["merge_events"])
            await self._connection.execute(self._sql["incoming_commands"])
            await self._copy("incoming_command", CommandRow._fields, batch.commands)
            await self._connection.execute(self._sql["merge_commands"])
            await self._change(batch)
        return int(done.rpartition(" ")[2])

    async def _advance(self, batch: RowBatch) -> None:
        """Take the position's row first: it keeps any other writer out meanwhile."""
        moved = await self._connection.fetchval(
            self._sql["position_advance"], self._group, *batch.after, *batch.position
        )
        if not moved:
            raise StalePositionError(
                f"position of {self._group!r} is not {batch.after} any more: another "
                "process writes this shard group"
            )

    async def _copy(
        self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        if rows:
            await self._connection.copy_records_to_table(
                table,
                schema_name=None if table.startswith("incoming_") else self._schema,
                columns=columns,
                records=rows,
            )

    async def _change(self, batch: RowBatch) -> None:
        for name, rows in (
            ("change_commands", batch.command_changes),
            ("add_executions", batch.executions),
            ("change_executions", batch.execution_changes),
            ("add_quarantined", batch.quarantined),
        ):
            if rows:
                columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True))
                await self._connection.execute(self._sql[name], *columns)


def _head(row: asyncpg.Record) -> ExecutionHead:
    status = row["status"]
    return ExecutionHead(
        chain=ChainHead(
            event_id=row["head_event_id"],
            count=row["event_count"],
            terminal="" if status in _OPEN else status,
        ),
        catalog_id=row["catalog_id"],
        path=row["path"],
        parent_execution_id=row["parent_execution_id"],
        parent_command_id=row["parent_command_id"],
        commands={},
        last_event_type=row["last_event_type"],
        last_node_name=row["last_node_name"],
        steps_known=row["steps_known"],
        steps_done=row["steps_done"],
    )


def _open_command(row: asyncpg.Record) -> OpenCommand:
    return OpenCommand(
        issued=row["event_id"],
        step=row["step_name"],
        kind=row["tool_kind"],
        status=row["status"],
        answer=row["answer"],
        parked=row["parked"],
        worker_id=row["worker_id"],
        claimed_at=_micros(row["claimed_at"]),
        started_at=_micros(row["started_at"]),
        error=row["error"],
        latest=row["latest_event_id"],
        previous=row["prev_event_id"],
    )


def _micros(time: datetime | None) -> Micros | None:
    return micros_of(time) if time is not None else None
