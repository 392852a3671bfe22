"""RowReader on dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from msgspec import Raw
from msgspec.json import Decoder
from msgspec.structs import replace

from materializer.memory.database import OPEN_COMMAND, OPEN_EXECUTION, MemoryDatabase
from state_builder.rows import (
    EventRow,
    ExecutionRow,
    Micros,
    micros_of,
    time_of_micros,
)
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

_STEP_STATUS = {
    "step.enter": "running",
    "step.exit": "completed",
    "step.skipped": "skipped",
    "step_failed": "failed",
}
_json = Decoder(dict[str, object])


class MemoryReader:
    """Reads what the materializer wrote."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def executions(self, wanted: ExecutionFilter) -> list[ExecutionView]:
        """Newest first, without workloads."""
        self._database.check()
        status = wanted.status.upper()
        rows = [
            row
            for _, row in sorted(self._database.executions.items(), reverse=True)
            if (not wanted.catalog_id or str(row.catalog_id) == wanted.catalog_id)
            and (not wanted.path or row.path == wanted.path)
            and (not status or row.status == status)
        ]
        page = rows[wanted.offset : wanted.offset + wanted.limit]
        return [replace(_execution(row), workload=None) for row in page]

    async def execution(self, execution_id: str) -> ExecutionView | None:
        """One, with its workload."""
        self._database.check()
        row = self._database.executions.get(_number(execution_id))
        return _execution(row) if row is not None else None

    async def events(self, execution_id: str, wanted: EventFilter) -> EventPage:
        """A page of an execution's events."""
        self._database.check()
        time = wanted.until_time
        until = micros_of(time) if time is not None else None
        rows = [
            row
            for row in self._events(execution_id)
            if row.event_id > wanted.above
            and (not wanted.until or row.event_id <= wanted.until)
            and (until is None or row.created_at <= until)
            and (not wanted.event_type or row.event_type == wanted.event_type)
        ]
        rows.sort(key=lambda row: row.event_id, reverse=not wanted.ascending)
        page = rows[wanted.offset : wanted.offset + wanted.limit]
        return EventPage(events=[_event(row) for row in page], total=len(rows))

    async def event(self, event_id: str) -> EventView | None:
        """One event by its position alone."""
        self._database.check()
        number = _number(event_id)
        for rows in self._database.events.values():
            if number in rows:
                return _event(rows[number])
        return None

    async def steps(self, execution_id: str) -> list[StepView]:
        """Every step entered or skipped so far."""
        self._database.check()
        found: dict[str, StepView] = {}
        for row in self._events(execution_id):
            if row.event_type not in _STEP_STATUS or row.status == "IGNORED":
                continue
            assert row.node_name is not None
            entered = found[row.node_name].entered if row.node_name in found else "0"
            if row.event_type in {"step.enter", "step.skipped"}:
                entered = str(row.event_id)
            failed = row.status == "FAILED"
            status = "failed" if failed else _STEP_STATUS[row.event_type]
            view = StepView(step=row.node_name, status=status, entered=entered)
            found[row.node_name] = view
        return list(found.values())

    async def descendants(self, execution_id: str) -> list[str]:
        """Executions below it that are not over, nearest first."""
        self._database.check()
        found: list[ExecutionRow] = []
        level = {_number(execution_id)}
        while level:
            below = [
                row
                for _, row in sorted(self._database.executions.items())
                if row.parent_execution_id in level and row not in found
            ]
            found += below
            level = {row.execution_id for row in below}
        return [str(row.execution_id) for row in found if row.status in OPEN_EXECUTION]

    async def idle_executions(self, before: datetime) -> list[str]:
        """Not over and without a sign of life since."""
        self._database.check()
        bound = micros_of(before)
        return [
            str(execution_id)
            for execution_id, row in sorted(self._database.executions.items())
            if row.status in OPEN_EXECUTION
            and row.updated_at < bound
            and not self._waits(execution_id)
        ]

    async def waiting_executions(self, before: datetime) -> list[Waiting]:
        """Not over and begun before, by what they wait for."""
        self._database.check()
        limit = micros_of(before)
        found: dict[str, list[int]] = {}
        for eid, row in sorted(self._database.executions.items()):
            if row.status in OPEN_EXECUTION and row.start_time < limit:
                found.setdefault(self._reason(eid), []).append(eid)
        return [
            Waiting(reason, len(ids), str(ids[0]))
            for reason, ids in sorted(found.items())
        ]

    def _reason(self, execution_id: int) -> str:
        open_ones = [
            command
            for (eid, _), command in self._database.commands.items()
            if eid == execution_id and command.status in OPEN_COMMAND
        ]
        working = [command for command in open_ones if not command.parked]
        if any(command.started_at is None for command in working):
            return "unclaimed"
        if working:
            return "running"
        return "parked" if open_ones else "other"

    async def open_executions(self, catalog_id: str) -> int:
        """How many executions of a catalog entry are not over."""
        self._database.check()
        return sum(
            str(row.catalog_id) == catalog_id and row.status in OPEN_EXECUTION
            for row in self._database.executions.values()
        )

    async def counts(self) -> ExecutionCounts:
        """Executions by status."""
        self._database.check()
        states = [row.status for row in self._database.executions.values()]
        return ExecutionCounts(
            total=len(states),
            running=sum(state in OPEN_EXECUTION for state in states),
            completed=states.count("COMPLETED"),
            failed=states.count("FAILED"),
            cancelled=states.count("CANCELLED"),
        )

    async def materialized(self) -> int:
        """Lowest sequence every shard group has reached."""
        self._database.check()
        positions = self._database.positions.values()
        newest = max((each.generation for each in positions), default=0)
        return min(
            (each.sequence for each in positions if each.generation == newest),
            default=0,
        )

    def _events(self, execution_id: str) -> list[EventRow]:
        rows = self._database.events.get(_number(execution_id), {})
        return [row for _, row in sorted(rows.items())]

    def _waits(self, execution_id: int) -> bool:
        """For a call-back, a command that runs, or a timer (RT-EXN-9)."""
        for (owner, _), command in self._database.commands.items():
            if (
                owner == execution_id
                and command.status in OPEN_COMMAND
                and (command.parked or command.started_at is not None)
            ):
                return True
        return bool(set(self._timers(execution_id)))

    def _timers(self, execution_id: int) -> Iterator[object]:
        """Names of timers that are set and have not fired."""
        names: set[object] = set()
        for row in self._events(str(execution_id)):
            if row.event_type in {"timer.set", "timer.fired"} and row.meta is not None:
                name = _json.decode(row.meta).get("timer")
                if row.event_type == "timer.set":
                    names.add(name)
                else:
                    names.discard(name)
        yield from names


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else -1


def _raw(document: bytes | None) -> Raw | None:
    return Raw(document) if document is not None else None


def _text(number: int | None) -> str | None:
    return str(number) if number is not None else None


def when(micros: Micros | None) -> datetime | None:
    return time_of_micros(micros) if micros is not None else None


def _execution(row: ExecutionRow) -> ExecutionView:
    return ExecutionView(
        execution_id=str(row.execution_id),
        catalog_id=str(row.catalog_id),
        path=row.path,
        version=row.version,
        status=row.status,
        start_time=time_of_micros(row.start_time),
        end_time=when(row.end_time),
        parent_execution_id=_text(row.parent_execution_id),
        parent_command_id=row.parent_command_id,
        pool=row.pool,
        result=_raw(row.result),
        error=row.error,
        workload=_raw(row.workload),
        event_count=row.event_count,
        steps_known=row.steps_known,
        steps_done=row.steps_done,
        last_event_type=row.last_event_type,
        last_node_name=row.last_node_name,
        head_event_id=str(row.head_event_id),
    )


def _event(row: EventRow) -> EventView:
    return EventView(
        execution_id=str(row.execution_id),
        event_id=str(row.event_id),
        event_type=row.event_type,
        catalog_id=str(row.catalog_id),
        created_at=time_of_micros(row.created_at),
        status=row.status,
        node_id=row.node_id,
        node_name=row.node_name,
        node_type=row.node_type,
        command_id=row.command_id,
        parent_execution_id=_text(row.parent_execution_id),
        parent_event_id=_text(row.parent_event_id),
        prev_event_id=_text(row.prev_event_id),
        worker_id=row.worker_id,
        duration=row.duration,
        context=_raw(row.context),
        result=_raw(row.result),
        meta=_raw(row.meta),
        error=row.error,
    )
