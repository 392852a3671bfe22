"""A server edge on the bus in memory, with rows projected from its log on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
from msgspec import Raw
from msgspec.structs import replace

from materializer.projection import Projector, decode_messages
from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.topology import BusSettings
from noetl_worker.lifecycle import SnowflakeIds, SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.server import (
    Edge,
    EdgeSettings,
    ServerPorts,
    create_app,
    create_edge,
    daemons,
)
from noetl_worker.settings import Server, load
from state_builder.errors import UnavailableError
from state_builder.ids import Shard, shard_of
from state_builder.records import (
    JSON,
    TERMINAL_STATUS,
    Event,
    Record,
    decode_append,
    encode_json,
    timestamp,
)
from state_builder.rows import EventRow, Position, time_of_micros
from state_builder.stores import (
    CatalogDocument,
    CatalogRow,
    EventFilter,
    EventPage,
    EventView,
    ExecutionCounts,
    ExecutionFilter,
    ExecutionView,
    RuntimeRow,
    StepView,
)

SHARDS = 4
TOKEN = "internal-token"
PLAYBOOK = """\
apiVersion: noetl.io/v2
kind: Playbook
metadata:
  name: hello
  path: tests/hello
  description: says hello
  labels: {team: core}
workload:
  name: world  # ui:description=who is greeted
  depth: {a: 1, b: 2}
workflow:
  - step: start
    tool: {kind: noop}
"""


class Away:
    """Can be told that the database is away."""

    def __init__(self) -> None:
        self.away = False

    def check(self) -> None:
        if self.away:
            raise UnavailableError("the database is away")


class LogRows(Away):
    """Rows of the log as the materializer's own projection makes them."""

    def __init__(self) -> None:
        super().__init__()
        self._projector = Projector(0)
        self._sequence = 0
        self._views: dict[str, ExecutionView] = {}
        self.events_: list[EventView] = []
        self.idle: list[str] = []
        self.below: dict[str, list[str]] = {}

    async def catch_up(self, bus: MemoryBus) -> None:
        """Materialize everything that is in the log now."""
        last = (await bus.log.info()).last_sequence
        messages = [await bus.log.read(n) for n in range(self._sequence + 1, last + 1)]
        entries = decode_messages([m for m in messages if m is not None]).entries
        position = Position(0, last)
        done = self._projector.project(
            entries, after=Position(0, self._sequence), position=position
        )
        self._sequence = last
        self.events_ += map(_event_view, done.batch.events)
        for row in done.batch.executions:
            self._views[str(row.execution_id)] = ExecutionView(
                execution_id=str(row.execution_id),
                catalog_id=str(row.catalog_id),
                path=row.path,
                version=row.version,
                status=row.status,
                start_time=time_of_micros(row.start_time),
                end_time=_time(row.end_time),
                parent_execution_id=_text(row.parent_execution_id),
                result=_raw(row.result),
                error=row.error,
                workload=_raw(row.workload),
                event_count=row.event_count,
                last_event_type=row.last_event_type,
                last_node_name=row.last_node_name,
                head_event_id=str(row.head_event_id),
            )
        for change in done.batch.execution_changes:
            view = self._views[str(change.execution_id)]
            self._views[view.execution_id] = replace(
                view,
                status=change.status,
                head_event_id=str(change.head_event_id),
                last_event_type=change.last_event_type,
                event_count=change.event_count,
                end_time=_time(change.end_time),
                result=_raw(change.result),
                error=change.error,
            )

    async def executions(self, wanted: ExecutionFilter) -> list[ExecutionView]:
        self.check()
        found = [
            replace(view, workload=None)
            for view in reversed(self._views.values())
            if wanted.path in ("", view.path)
            and wanted.catalog_id in ("", view.catalog_id)
            and wanted.status.upper() in ("", view.status)
        ]
        return found[wanted.offset : wanted.offset + wanted.limit]

    async def execution(self, execution_id: str) -> ExecutionView | None:
        self.check()
        return self._views.get(execution_id)

    async def events(self, execution_id: str, wanted: EventFilter) -> EventPage:
        self.check()
        found = [
            view
            for view in self.events_
            if view.execution_id == execution_id
            and int(view.event_id) > wanted.since
            and (not wanted.until or int(view.event_id) <= wanted.until)
            and wanted.event_type in ("", view.event_type)
        ]
        ordered = found if wanted.ascending else found[::-1]
        page = ordered[wanted.offset : wanted.offset + wanted.limit]
        return EventPage(events=page, total=len(found))

    async def event(self, event_id: str) -> EventView | None:
        return next((v for v in self.events_ if v.event_id == event_id), None)

    async def steps(self, execution_id: str) -> list[StepView]:
        self.check()
        words = {"step.enter": "running", "step.exit": "completed"}
        found: dict[str, StepView] = {}
        for view in self.events_:
            if view.execution_id == execution_id and view.event_type in words:
                name = str(view.node_name)
                status = words[view.event_type]
                found[name] = StepView(step=name, status=status, entered=view.event_id)
        return list(found.values())

    async def descendants(self, execution_id: str) -> list[str]:
        self.check()
        return self.below.get(execution_id, [])

    async def idle_executions(self, before: datetime) -> list[str]:
        self.check()
        return self.idle if before < datetime.now(UTC) else []

    async def open_executions(self, catalog_id: str) -> int:
        return sum(
            view.catalog_id == catalog_id and view.status == "RUNNING"
            for view in self._views.values()
        )

    async def counts(self) -> ExecutionCounts:
        self.check()
        statuses = [view.status for view in self._views.values()]
        return ExecutionCounts(
            total=len(statuses),
            running=statuses.count("RUNNING"),
            completed=statuses.count("COMPLETED"),
            failed=statuses.count("FAILED"),
            cancelled=statuses.count("CANCELLED"),
        )

    async def materialized(self) -> int:
        self.check()
        return self._sequence


class DictTables(Away):
    """The server's own tables in dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[CatalogRow] = []
        self.claims: dict[tuple[str, str], str] = {}
        self.runtimes_: dict[tuple[str, str], RuntimeRow] = {}
        self.looked_up = 0

    async def ping(self) -> None:
        self.check()

    async def schema_version(self) -> int:
        return 1

    async def apply_schema(self) -> int:
        return 1

    async def missing(self) -> list[str]:
        return []

    async def register(self, document: CatalogDocument) -> CatalogRow:
        self.check()
        versions = [row.version for row in self.rows if row.path == document.path]
        row = CatalogRow(
            catalog_id=document.catalog_id,
            path=document.path,
            kind=document.kind,
            version=max(versions, default=0) + 1,
            content=document.content,
            created_at=datetime.now(UTC),
            layout=document.layout,
            payload=document.payload,
            meta=document.meta,
        )
        self.rows.append(row)
        return row

    async def catalog(
        self, *, kind: str = "", path: str = "", archived: bool = False
    ) -> list[CatalogRow]:
        self.check()
        return [
            row
            for row in reversed(self.rows)
            if kind in ("", row.kind)
            and (path in ("", row.path) or (path[-1] == "/" and path in row.path))
            and (archived or not row.archived)
        ]

    async def catalog_entry(self, catalog_id: str) -> CatalogRow | None:
        self.check()
        self.looked_up += 1
        return next((row for row in self.rows if row.catalog_id == catalog_id), None)

    async def catalog_version(
        self, path: str, version: int | None
    ) -> CatalogRow | None:
        self.check()
        self.looked_up += 1
        found = [row for row in self.rows if row.path == path]
        if version is not None:
            return next((row for row in found if row.version == version), None)
        return next((row for row in reversed(found) if not row.archived), None)

    async def archive(self, catalog_id: str) -> bool:
        for index, row in enumerate(self.rows):
            if row.catalog_id == catalog_id:
                self.rows[index] = replace(row, archived=True)
                return True
        return False

    async def claim_start(
        self, scope: str, key: str, *, execution_id: str, window_s: float
    ) -> str:
        self.check()
        return self.claims.setdefault((scope, key), execution_id)

    async def register_runtime(self, row: RuntimeRow) -> RuntimeRow:
        old = self.runtimes_.get((row.kind, row.name))
        if old is not None:
            row = replace(row, runtime_id=old.runtime_id, created_at=old.created_at)
        self.runtimes_[(row.kind, row.name)] = row
        return row

    async def beat_runtime(
        self, kind: str, name: str, *, status: str, runtime: Raw | None
    ) -> RuntimeRow | None:
        row = self.runtimes_.get((kind, name))
        if row is not None:
            row = replace(row, heartbeat=datetime.now(UTC), status=status or row.status)
            self.runtimes_[(kind, name)] = row
        return row

    async def drop_runtime(self, kind: str, name: str) -> bool:
        return self.runtimes_.pop((kind, name), None) is not None

    async def runtimes(
        self, *, kind: str = "", status: str = "", name: str = ""
    ) -> list[RuntimeRow]:
        return [
            row
            for row in self.runtimes_.values()
            if kind in ("", row.kind)
            and status in ("", row.status)
            and name in ("", row.name)
        ]

    async def sweep_runtimes(self, older_than_s: float) -> int:
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        silent = [key for key, row in self.runtimes_.items() if row.heartbeat < before]
        for key in silent:
            self.runtimes_[key] = replace(self.runtimes_[key], status="offline")
        return len(silent)

    async def query(
        self, sql: str, parameters: Sequence[str | int | float | bool | None]
    ) -> list[dict[str, object]]:
        self.check()
        return [{"sql": sql, "parameters": list(parameters)}]


@dataclass
class Fleet:
    """A server and what stands around it."""

    edge: Edge
    broker: MemoryBroker
    bus: MemoryBus
    rows: LogRows
    tables: DictTables
    http: httpx.AsyncClient
    answers: dict[str, dict[str, JSON]] = field(default_factory=dict)

    async def append(self, execution_id: str, *events: Event, **more: Any) -> int:
        """What owners and workers append."""
        stored = await self.bus.log.append(
            shard_of(execution_id, SHARDS),
            [Record(execution_id=execution_id, events=list(events))],
            message_id=more.get(
                "message_id", f"{execution_id}:{events[0].at}:{id(events)}"
            ),
        )
        return stored.sequence

    async def start(self, path: str = "tests/hello", **body: Any) -> str:
        """Start an execution over HTTP; its id."""
        answer = await self.http.post("/api/execute", json={"path": path, **body})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["execution_id"])

    async def log(self) -> list[Record]:
        """Everything in the log."""
        last = (await self.bus.log.info()).last_sequence
        messages = [await self.bus.log.read(n) for n in range(1, last + 1)]
        return [
            record
            for message in messages
            if message is not None and message.kind != "lease"
            for record in decode_append(message.data).records
        ]

    async def own(
        self, execution_id: str, status: str = "RUNNING", **more: JSON
    ) -> None:
        """Let an owner answer for an execution."""
        self.answers[execution_id] = {
            "execution_id": execution_id,
            "status": status,
            "path": "tests/hello",
            "catalog_id": "1",
            "version": 1,
            "start_time": "2025-06-01T12:00:00Z",
            **more,
        }

    async def answer_requests(self, wanted: str = "") -> None:
        """An owner that ends every execution that is asked to end."""
        async for batch in self.bus.log.follow(None, after=0):
            for message in batch:
                if message.kind == "lease":
                    continue
                for record in decode_append(message.data).records:
                    await self._end(record, wanted)

    async def _end(self, record: Record, wanted: str) -> None:
        event = record.events[-1]
        kinds = {
            "playbook.cancel_requested": "playbook_cancelled",
            "playbook.finalize_requested": "playbook_failed"
            if event.status == "FAILED"
            else "playbook_completed",
        }
        kind = wanted or kinds.get(event.type, "")
        if event.type not in kinds:
            return
        end = Event(type=kind, at=event.at, status=TERMINAL_STATUS[kind])
        await self.append(
            record.execution_id, end, message_id=f"{record.execution_id}:end"
        )


def event(kind: str, step: str = "", **more: Any) -> Event:
    """An event of now."""
    at = timestamp(datetime.now(UTC).timestamp())
    for name in ("context", "result", "meta"):
        if name in more:
            more[name] = Raw(encode_json(more[name]))
    return Event(type=kind, step=step, at=at, **more)


@asynccontextmanager
async def running_edge(**server: Any) -> AsyncIterator[Fleet]:
    """A server edge with its daemons, reached in process."""
    clock = SystemClock()
    broker = MemoryBroker(clock, BusSettings(shard_count=SHARDS))
    bus = MemoryBus(broker)
    await bus.ensure_log(create=True)
    rows, tables, observer = LogRows(), DictTables(), PrometheusObserver()
    ports = ServerPorts(
        log=bus.log,
        signals=bus.signals,
        rows=rows,
        tables=tables,
        clock=clock,
        ids=SnowflakeIds(1, clock.now),
        observer=observer,
        connected=lambda: bus.connected,
        metrics_page=observer.page,
        pool_status=lambda: {"pool_size": 1, "status": "ok"},
    )
    workload_bytes_max = server.pop("workload_bytes_max", 524_288)
    chosen = {"append_s": 0.2, "ask_s": 0.2, "end_wait_s": 0.5, **server}
    defaults = load({}, "worker").server
    settings = EdgeSettings(
        server=Server(**{**vars(defaults), **chosen}),
        shard_count=SHARDS,
        workload_bytes_max=workload_bytes_max,
        internal_token=TOKEN,
        version="1.2.3",
    )
    edge = create_edge(ports, settings)
    app = create_app(edge)
    stop = anyio.Event()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with anyio.create_task_group() as tasks:
        for daemon in daemons(edge).values():
            tasks.start_soon(daemon, stop)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            fleet = Fleet(edge, broker, bus, rows, tables, http)
            await _answer_for_owners(fleet)
            yield fleet
        stop.set()
        tasks.cancel_scope.cancel()


async def _answer_for_owners(fleet: Fleet) -> None:
    async def answer(question: dict[str, JSON]) -> dict[str, JSON] | None:
        return fleet.answers.get(str(question["execution_id"]))

    for shard in range(SHARDS):
        await fleet.bus.signals.answer(Shard(shard), answer)


def _event_view(row: EventRow) -> EventView:
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


def _time(value: int | None) -> datetime | None:
    return None if value is None else time_of_micros(value)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _raw(value: bytes | None) -> Raw | None:
    return None if value is None else Raw(value)
