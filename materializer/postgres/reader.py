"""RowReader: history, lists and audits, as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from msgspec import Raw

from materializer.postgres.database import Database
from state_builder.stores import (
    EventFilter,
    EventPage,
    EventView,
    ExecutionCounts,
    ExecutionFilter,
    ExecutionView,
    StepView,
    Waiting,
)

ID_MAX: Final = 2**63 - 1

_EXECUTION_IDS: Final = ("execution_id", "catalog_id", "head_event_id")
_EXECUTION_IDS_MAYBE: Final = ("parent_execution_id",)
_EVENT_IDS: Final = ("execution_id", "event_id", "catalog_id")
_EVENT_IDS_MAYBE: Final = ("parent_execution_id", "parent_event_id", "prev_event_id")

_STEP_STATUS: Final = {
    "step.enter": "running",
    "step.exit": "completed",
    "step.skipped": "skipped",
    "step_failed": "failed",
}


class PostgresReader:
    """Reads what the materializer wrote."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = database.sql

    async def executions(self, wanted: ExecutionFilter) -> list[ExecutionView]:
        """Newest first, without workloads."""
        catalog_id = number(wanted.catalog_id)
        if wanted.catalog_id and catalog_id is None:
            return []
        async with self._database.session() as connection:
            rows = await connection.fetch(
                self._sql["executions"],
                catalog_id,
                wanted.path or None,
                wanted.status.upper() or None,
                wanted.limit,
                wanted.offset,
            )
        return [_execution(row) for row in rows]

    async def execution(self, execution_id: str) -> ExecutionView | None:
        """One, with its workload."""
        async with self._database.session() as connection:
            row = await connection.fetchrow(
                self._sql["execution"], number(execution_id)
            )
        return _execution(row) if row is not None else None

    async def events(self, execution_id: str, wanted: EventFilter) -> EventPage:
        """A page of an execution's events."""
        bounds = (
            number(execution_id),
            wanted.above,
            wanted.until or ID_MAX,
            wanted.until_time,
            wanted.event_type or None,
        )
        name = "events_oldest" if wanted.ascending else "events_newest"
        async with self._database.session() as connection:
            total = await connection.fetchval(self._sql["events_total"], *bounds)
            rows = await connection.fetch(
                self._sql[name], *bounds, wanted.limit, wanted.offset
            )
        return EventPage(events=[_event(row) for row in rows], total=total)

    async def event(self, event_id: str) -> EventView | None:
        """One event by its position alone."""
        async with self._database.session() as connection:
            row = await connection.fetchrow(self._sql["event_at"], number(event_id))
        return _event(row) if row is not None else None

    async def steps(self, execution_id: str) -> list[StepView]:
        """Every step entered or skipped so far."""
        async with self._database.session() as connection:
            rows = await connection.fetch(self._sql["steps"], number(execution_id))
        return [
            StepView(
                step=row["node_name"],
                status="failed"
                if row["last_status"] == "FAILED"
                else _STEP_STATUS[row["last_type"]],
                entered=str(row["entered"] or 0),
            )
            for row in rows
        ]

    async def descendants(self, execution_id: str) -> list[str]:
        """Executions below it that are not over, nearest first."""
        return await self._ids("descendants", number(execution_id))

    async def idle_executions(self, before: datetime) -> list[str]:
        """Not over and without a sign of life since."""
        return await self._ids("idle_executions", before)

    async def waiting_executions(self, before: datetime) -> list[Waiting]:
        """Not over and begun before, by what they wait for."""
        async with self._database.session() as connection:
            rows = await connection.fetch(self._sql["waiting_executions"], before)
        return [Waiting(reason, count, str(oldest)) for reason, count, oldest in rows]

    async def open_executions(self, catalog_id: str) -> int:
        """How many executions of a catalog entry are not over."""
        async with self._database.session() as connection:
            query = self._sql["open_executions"]
            return int(await connection.fetchval(query, number(catalog_id)))

    async def counts(self) -> ExecutionCounts:
        """Executions by status."""
        async with self._database.session() as connection:
            row = await connection.fetchrow(self._sql["execution_counts"])
        assert row is not None
        return ExecutionCounts(**row)

    async def materialized(self) -> int:
        """Lowest sequence every shard group has reached."""
        async with self._database.session() as connection:
            return int(await connection.fetchval(self._sql["positions_lowest"]))

    async def _ids(self, name: str, argument: object) -> list[str]:
        async with self._database.session() as connection:
            rows = await connection.fetch(self._sql[name], argument)
        return [str(row["execution_id"]) for row in rows]


def number(text: str) -> int | None:
    """An id as the tables have it; None for what can be no id."""
    if not (text.isascii() and text.isdecimal()):
        return None
    value = int(text)
    return value if value <= ID_MAX else None


def documents(row: Any, *names: str) -> dict[str, Raw | None]:
    """JSON columns as raw documents."""
    return {name: Raw(row[name]) if row[name] is not None else None for name in names}


def _execution(row: Any) -> ExecutionView:
    fields = dict(row)
    _ids_as_text(fields, _EXECUTION_IDS, _EXECUTION_IDS_MAYBE)
    fields |= documents(fields, "result")
    if fields.get("workload") is not None:
        fields["workload"] = Raw(fields["workload"])
    return ExecutionView(**fields)


def _event(row: Any) -> EventView:
    fields = dict(row)
    _ids_as_text(fields, _EVENT_IDS, _EVENT_IDS_MAYBE)
    fields |= documents(fields, "context", "result", "meta")
    return EventView(**fields)


def _ids_as_text(
    fields: dict[str, Any], always: tuple[str, ...], maybe: tuple[str, ...]
) -> None:
    for name in always:
        fields[name] = str(fields[name])
    for name in maybe:
        if fields[name] is not None:
            fields[name] = str(fields[name])
