"""A server edge on the bus in memory, with rows projected from its log on demand."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
from msgspec import Raw

from materializer.memory import (
    MemoryDatabase,
    MemoryReader,
    MemoryRows,
    MemorySecrets,
    MemoryTables,
)
from materializer.memory.notes import MemoryNotes
from materializer.memory.results import MemoryResultRows
from materializer.projection import Projector, decode_messages
from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.bus.topology import BusSettings
from noetl_worker.lifecycle import SnowflakeIds, SystemClock
from noetl_worker.metrics import PrometheusObserver
from noetl_worker.results.values import Values
from noetl_worker.server import (
    PLUGIN_BUCKET,
    Edge,
    EdgeSettings,
    ServerPorts,
    create_app,
    create_edge,
    daemons,
)
from noetl_worker.settings import Server, load
from noetl_worker.wallet import Keeper, KeeperPorts, Keyring, ProviderSettings
from noetl_worker.wallet.keys import LocalKeys
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
from state_builder.rows import Position
from state_builder.stores import CatalogRow
from tools.manual import known_fields

_numbers = itertools.count(1)
SHARDS = 4
GROUP = "all"
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


def local_keyring(version: str = "v1", **previous: bytes) -> Keyring:
    """A key of the tests' own, and older ones by version."""
    return Keyring(
        LocalKeys({**previous, version: version.encode().ljust(32)}, version)
    )


class CountedTables(MemoryTables):
    """Tables that count how often the catalog was asked."""

    asked = 0

    async def catalog_version(
        self, path: str, version: int | None
    ) -> CatalogRow | None:
        self.asked += 1
        return await super().catalog_version(path, version)


@dataclass
class Fleet:
    """A server and what stands around it."""

    edge: Edge
    broker: MemoryBroker
    bus: MemoryBus
    database: MemoryDatabase
    tables: CountedTables
    http: httpx.AsyncClient
    stop: anyio.Event
    answers: dict[str, dict[str, JSON]] = field(default_factory=dict)
    opened: dict[str, list[JSON]] = field(default_factory=dict)

    async def materialize(self) -> None:
        """Bring the rows up to the end of the log."""
        last = (await self.bus.log.info()).last_sequence
        projector = Projector(0)
        async with MemoryRows(self.database).lead(GROUP) as writer:
            after = await writer.position(0)
            numbers = range(after.sequence + 1, last + 1)
            read = [await self.bus.log.read(number) for number in numbers]
            entries = decode_messages([m for m in read if m is not None]).entries
            projector.learn(await writer.heads(projector.unknown(entries)))
            done = projector.project(entries, after=after, position=Position(0, last))
            await writer.write(done.batch)

    async def append(self, execution_id: str, *events: Event, **more: Any) -> int:
        """What owners and workers append."""
        stored = await self.bus.log.append(
            shard_of(execution_id, SHARDS),
            [Record(execution_id=execution_id, events=list(events))],
            message_id=more.get("message_id", f"test:{next(_numbers)}"),
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
        eid = record.execution_id
        place = await self.append(eid, end, message_id=f"{eid}:end")
        self.bus.signals.ended(eid, place)


def event(kind: str, step: str = "", /, **more: Any) -> Event:
    """An event of now."""
    at = timestamp(datetime.now(UTC).timestamp())
    for name in ("context", "result", "meta"):
        if name in more:
            more[name] = Raw(encode_json(more[name]))
    return Event(type=kind, step=step, at=at, **more)


def _keeper(
    database: MemoryDatabase,
    tables: CountedTables,
    bus: MemoryBus,
    observer: PrometheusObserver,
    ids: SnowflakeIds,
) -> Keeper:
    return Keeper(
        KeeperPorts(
            rows=MemorySecrets(database),
            tables=tables,
            signals=bus.signals,
            clock=SystemClock(),
            observer=observer,
            mint_id=ids.mint,
        ),
        load({}, "worker").wallet,
        local_keyring(),
        ProviderSettings(),
        SHARDS,
    )


@asynccontextmanager
async def running_edge(**server: Any) -> AsyncIterator[Fleet]:
    """A server edge with its daemons, reached in process."""
    clock = SystemClock()
    broker = MemoryBroker(clock, BusSettings(shard_count=SHARDS))
    bus = MemoryBus(broker)
    await bus.ensure_log(create=True)
    database, observer = MemoryDatabase(clock), PrometheusObserver()
    tables = CountedTables(database)
    # Nothing is materialized until a test asks for it.
    database.positions[GROUP] = Position(0, 0)
    ids = SnowflakeIds(1, clock.now)
    keeper = _keeper(database, tables, bus, observer, ids)
    ports = ServerPorts(
        log=bus.log,
        commands=bus.commands,
        signals=bus.signals,
        rows=MemoryReader(database),
        tables=tables,
        notes=MemoryNotes(database),
        vault=keeper,
        plugins=bus.blobs(PLUGIN_BUCKET),
        values=Values(MemoryResults(), clock, observer),
        result_rows=MemoryResultRows(database),
        clock=clock,
        ids=ids,
        observer=observer,
        known_fields=known_fields,
        connected=lambda: bus.connected,
        metrics_page=observer.page,
        pool_status=lambda: {"pool_size": 1, "status": "ok"},
    )
    sizes = {
        name: server.pop(name)
        for name in ("workload_bytes_max", "playbook_bytes_max")
        if name in server
    }
    chosen = {"append_s": 1.0, "ask_s": 0.2, "end_wait_s": 0.5, **server}
    defaults = load({}, "worker").server
    settings = EdgeSettings(
        server=Server(**{**vars(defaults), **chosen}),
        shard_count=SHARDS,
        **sizes,
        internal_token=TOKEN,
        version="1.2.3",
    )
    edge = create_edge(ports, settings)
    app = create_app(edge)
    stop = anyio.Event()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with keeper, anyio.create_task_group() as tasks:
        for daemon in daemons(edge).values():
            tasks.start_soon(daemon, stop)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            fleet = Fleet(edge, broker, bus, database, tables, http, stop)
            await _answer_for_owners(fleet)
            yield fleet
        stop.set()
        tasks.cancel_scope.cancel()


async def _answer_for_owners(fleet: Fleet) -> None:
    async def answer(question: dict[str, JSON]) -> dict[str, JSON] | None:
        execution_id = str(question["execution_id"])
        if question["kind"] in ("open", "parked"):
            opened = fleet.opened.get(execution_id)
            return None if opened is None else {"commands": opened}
        return fleet.answers.get(execution_id)

    for shard in range(SHARDS):
        await fleet.bus.signals.answer(Shard(shard), answer)
