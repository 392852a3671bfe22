"""What stays open for long is told by what it waits for (RT-HSK-3), in both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import anyio
import pytest
from doubles import Counting
from pg_service import PgServer, pg_server  # noqa: F401 - a fixture
from world import EXECUTION, World

from materializer.daemon import Materializer, MaterializerPorts, MaterializerSettings
from materializer.memory import MemoryDatabase, MemoryReader, MemoryRows
from materializer.postgres import (
    Database,
    DatabaseSettings,
    PostgresReader,
    PostgresRows,
    PostgresTables,
)
from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.topology import BusSettings
from noetl_worker.daemons.housekeeper import Housekeeper, HousekeeperPorts
from noetl_worker.lifecycle import SystemClock
from noetl_worker.rehearsal.world import EPOCH_S
from state_builder.ids import Shard
from state_builder.records import Event, Record
from state_builder.rows import RowStore
from state_builder.stores import RowReader, Waiting

pytestmark = pytest.mark.anyio

SETTINGS = BusSettings(shard_count=1)
TEXT = """
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: x, path: x}
workflow: [{step: start, tool: {kind: python, code: x}}]
"""
LATER = datetime.fromtimestamp(EPOCH_S + 7200, UTC)


class Store:
    """Rows as one of the two stores has them."""

    def __init__(self, rows: RowStore, reader: RowReader) -> None:
        self.rows = rows
        self.reader = reader

    async def hold(self, world: World) -> None:
        """Materialize all that happened in a world."""
        clock = SystemClock()
        broker = MemoryBroker(clock, SETTINGS)
        broker.create(SETTINGS)
        for message in world.log:
            broker.store((Shard(0), message.kind, ""), message.data, message_id="")
        ports = MaterializerPorts(
            log=MemoryBus(broker).log,
            rows=self.rows,
            clock=clock,
            observer=Counting(),
            settle=anyio.lowlevel.checkpoint,
        )
        daemon = Materializer(ports, MaterializerSettings())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.run, anyio.Event())
            with anyio.fail_after(20):
                while daemon.position is None or daemon.position.sequence < broker.last:
                    await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()


@pytest.fixture(params=["memory", "postgres"])
async def store(
    request: pytest.FixtureRequest,
    pg_server: PgServer,  # noqa: F811
) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryDatabase(SystemClock())
        yield Store(MemoryRows(memory), MemoryReader(memory))
        return
    dsn = pg_server.create_database()
    async with Database(DatabaseSettings(dsn=dsn)) as database:
        await PostgresTables(database).apply_schema()
        yield Store(PostgresRows(database), PostgresReader(database))


def world_with(*events: str, pending: bool = False) -> World:
    """An execution whose command was issued, and what was said of it since."""
    world = World(TEXT)
    world.start()
    world.settle()
    ((_, command_id),) = world.ready()
    for kind in events:
        event = Event(
            type=kind,
            at="2026-01-01T00:00:01Z",
            step="start",
            visit=1,
            command_id=command_id,
            pending=pending and kind == "command.completed",
        )
        world.append([Record(execution_id=EXECUTION, events=[event])])
    return world


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((), "unclaimed"),
        (("command.started",), "running"),
        (("command.started", "command.completed"), "parked"),
    ],
)
async def test_what_is_open_says_what_it_waits_for(
    store: Store, events: tuple[str, ...], reason: str
) -> None:
    await store.hold(world_with(*events, pending=True))
    found = await store.reader.waiting_executions(LATER)
    assert found == [Waiting(reason, 1, EXECUTION)]
    began = datetime.fromtimestamp(EPOCH_S, UTC)
    assert await store.reader.waiting_executions(began) == []


async def test_what_is_over_waits_for_nothing(store: Store) -> None:
    world = World(TEXT)
    world.run()
    await store.hold(world)
    assert await store.reader.waiting_executions(LATER) == []


async def test_the_housekeeper_shows_every_reason(store: Store) -> None:
    """A gauge by reason; every reason is there, at zero when nothing waits."""
    shown: dict[str, float] = {}

    class Shown(Counting):
        def gauge(self, name: str, value: float, **labels: str) -> None:
            shown[labels["reason"]] = value

    ports = HousekeeperPorts(rows=store.reader, clock=SystemClock(), observer=Shown())
    housekeeper = Housekeeper(ports)
    await store.hold(world_with())
    await housekeeper.look()
    assert shown == {"unclaimed": 1, "running": 0, "parked": 0, "other": 0}
