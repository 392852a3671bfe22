"""A whole fleet in one process: the real daemons on the memory bus.

A process is a task group with a bus of its own. It dies as ``kill -9`` has it: from one
instant to the next nothing it says is heard any more, and nothing is put in order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any

import anyio
from anyio.abc import TaskGroup
from doubles import Counting
from jumping import LoopClock
from msgspec import Raw

from materializer.daemon import Materializer, MaterializerPorts, MaterializerSettings
from materializer.memory import MemoryDatabase, MemoryRows
from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.bus.topology import SNAPSHOT_BUCKET, BusSettings
from noetl_worker.daemons.answers import AnswerPorts, Answers
from noetl_worker.daemons.backstop import Backstop, BackstopPorts, BackstopSettings
from noetl_worker.daemons.executor import Executor, ExecutorPorts, ExecutorSettings
from noetl_worker.daemons.janitor import Janitor, JanitorPorts, JanitorSettings
from noetl_worker.daemons.owner import Owner, OwnerPorts
from noetl_worker.daemons.ownership import (
    Ownership,
    OwnershipPorts,
    OwnershipSettings,
)
from noetl_worker.daemons.playbooks import Playbooks
from noetl_worker.daemons.references import CommandValues
from noetl_worker.daemons.rounds import Rounds
from noetl_worker.results.values import Values
from state_builder.drive import DriveLimits
from state_builder.ids import shard_of
from state_builder.ports import CatalogEntry, Command, LogMessage
from state_builder.records import (
    TERMINAL_STATUS,
    Event,
    Genesis,
    Record,
    ToolFailure,
    ToolOutcome,
    decode_append,
    encode_json,
    timestamp,
)

SHARDS = 4
SETTINGS = BusSettings(shard_count=SHARDS, ack_wait_s=5.0, member_ttl_s=5.0)
LOST_AFTER_S = 60.0


class Catalog:
    """The Catalog port on a few documents."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        self.entries = {
            path: CatalogEntry(str(number), path, 1, "playbook", text)
            for number, (path, text) in enumerate(documents.items(), 1)
        }

    async def entry(self, catalog_id: str) -> CatalogEntry | None:
        found = self.entries.values()
        return next((one for one in found if one.catalog_id == catalog_id), None)

    async def resolve(self, path: str, version: int | None) -> CatalogEntry | None:
        return self.entries.get(path)


class Tools:
    """A ToolRunner that counts effects; what a step's name says happens."""

    def __init__(self, process: Process, chance: random.Random) -> None:
        self._process = process
        self._chance = chance

    async def run(self, command: Command) -> ToolOutcome:
        """Take some time, leave an effect, then end as the step wants it."""
        fleet = self._process.fleet
        await anyio.sleep(self._chance.choice([0, 0, 0.01, 0.3, 4, 12]))
        fleet.effects[command.execution_id, command.step, command.iteration] += 1
        if command.step == "kills":
            self._process.kill()
            await anyio.sleep_forever()
        if command.step == "fails":
            failure = ToolFailure(kind="exception", message="wanted")
            return ToolOutcome(failed=True, error=failure)
        await anyio.sleep(self._chance.choice([0, 0, 0.01]))
        return ToolOutcome(data=Raw(encode_json({"step": command.step})))

    async def hold(self, command_id: str) -> None:
        """Nothing is taken from outside."""

    async def settle(self, command_id: str, kept: bool) -> None:
        """Nothing waits for the end of a command."""

    async def close(self) -> None:
        """Nothing to close."""


Body = Callable[["Process"], Awaitable[None]]


class Process:
    """One process of the fleet; started again some time after it died."""

    def __init__(self, fleet: SimFleet, name: str, body: Body) -> None:
        self.fleet = fleet
        self.name = name
        self.boots = 0
        self.bus: MemoryBus
        self._body = body
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Live, die, come back."""
        while True:
            self.boots += 1
            self.bus = MemoryBus(self.fleet.broker, SETTINGS)
            with anyio.CancelScope() as self._scope:
                with suppress(anyio.get_cancelled_exc_class()):
                    await self._body(self)
            self.bus.log.close()
            await anyio.sleep(self.fleet.chance.uniform(0, 8))

    def kill(self) -> None:
        """From now on nothing it says is heard."""
        self.bus.disconnect()
        self._scope.cancel()

    async def cut_off(self, seconds: float) -> None:
        """Out of reach for a while, as a frozen process is."""
        bus = self.bus
        bus.disconnect()
        await anyio.sleep(seconds)
        if bus is self.bus:
            bus.reconnect()

    @property
    def identity(self) -> str:
        return f"{self.name}-{self.boots}"


def values_of(process: Process) -> Values:
    """Values behind references, on the fleet's own broker."""
    fleet = process.fleet
    return Values(fleet.results, fleet.clock, fleet.observer)


async def system(process: Process) -> None:
    """The system role, as ``roles.system`` puts it together."""
    fleet, bus = process.fleet, process.bus
    clock, observer = fleet.clock, fleet.observer
    await bus.ensure_log(create=False)
    async with anyio.create_task_group() as tasks:
        ports = OwnerPorts(
            log=bus.log,
            signals=bus.signals,
            clock=clock,
            observer=observer,
            playbooks=fleet.playbooks,
            values=values_of(process),
        )
        owner = Owner(ports, tasks, DriveLimits(), SHARDS)
        answers = Answers(
            AnswerPorts(log=bus.log, signals=bus.signals, clock=clock), owner
        )
        ownership = Ownership(
            OwnershipPorts(
                log=bus.log,
                members=bus.members,
                snapshots=bus.blobs(SNAPSHOT_BUCKET),
                clock=clock,
                observer=observer,
            ),
            owner,
            tasks,
            OwnershipSettings(
                member=process.identity,
                shard_count=SHARDS,
                snapshot_every_events=fleet.chance.choice([3, 20, 5000]),
                snapshot_every_s=5.0,
                idle_snapshot_messages=5,
                renew_look_s=3.0,
                renew_after_messages=20,
            ),
            lambda owned: tasks.start_soon(answers.open, owned),
        )
        backstop = Backstop(
            BackstopPorts(
                log=bus.log,
                commands=bus.commands,
                clock=clock,
                observer=observer,
                shards=ownership.shards.values,
                catch_up=ownership.catch_up,
            ),
            owner,
            BackstopSettings(lost_after_s=LOST_AFTER_S),
        )
        for daemon in (owner.run, ownership.run, backstop.run):
            tasks.start_soon(daemon)


async def worker(process: Process) -> None:
    """The worker role, with tools that count."""
    fleet, bus = process.fleet, process.bus
    await bus.ensure_log(create=False)
    ports = ExecutorPorts(
        log=bus.log,
        commands=bus.commands,
        signals=bus.signals,
        runner=Tools(process, fleet.chance),
        values=CommandValues(values_of(process)),
        clock=fleet.clock,
        observer=fleet.observer,
    )
    settings = ExecutorSettings(worker_id=process.identity, slots=3, ack_wait_s=5.0)
    await Executor(ports, settings).run(anyio.Event())


async def materializer(process: Process) -> None:
    """The materializer on tables in memory, and a janitor that keeps nothing long."""
    fleet = process.fleet

    async def settle() -> None:
        """The log has one life here."""

    ports = MaterializerPorts(
        log=process.bus.log,
        rows=MemoryRows(fleet.database),
        clock=fleet.clock,
        observer=fleet.observer,
        settle=settle,
    )
    settings = MaterializerSettings(batch_max=fleet.chance.choice([1, 7, 200]))
    janitor = Janitor(
        JanitorPorts(
            log=process.bus.log,
            snapshots=process.bus.blobs(SNAPSHOT_BUCKET),
            positions=ports.rows.durable_positions,
            clock=fleet.clock,
            observer=fleet.observer,
        ),
        JanitorSettings(retention_s=0.0, trim_messages_min=1),
    )
    rounds = Rounds(
        name="janitor",
        look=janitor.trim,
        every_s=2.0,
        alone=nullcontext,
        clock=fleet.clock,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rounds.run, anyio.Event())
        tasks.start_soon(Materializer(ports, settings).run, anyio.Event())


class SimFleet:
    """Two system workers, two tool workers, a materializer, and what they share."""

    def __init__(self, seed: int, documents: Mapping[str, str]) -> None:
        self.chance = random.Random(seed)
        self.clock = LoopClock()
        self.observer = Counting()
        self.broker = MemoryBroker(self.clock, SETTINGS)
        self.broker.create(SETTINGS)
        self.history: list[LogMessage] = []
        self.broker.on_change(self._remember)
        self.database = MemoryDatabase(self.clock)
        self.results = MemoryResults()
        self.catalog = Catalog(documents)
        # Immutable, and slow to parse: what a crash does to it is nothing new.
        self.playbooks = Playbooks(self.catalog, self.clock)
        self.effects: Counter[tuple[str, str, str]] = Counter()
        self.client = MemoryBus(self.broker, SETTINGS)
        self.processes = [
            Process(self, "system-a", system),
            Process(self, "system-b", system),
            Process(self, "worker-a", worker),
            Process(self, "worker-b", worker),
            Process(self, "materializer", materializer),
        ]

    def _remember(self) -> None:
        """Keep what is stored: the janitor drops it from the log."""
        for stored in self.broker.after(len(self.history)):
            self.history.append(stored.message)

    def boot(self, tasks: TaskGroup) -> None:
        """Start every process."""
        for process in self.processes:
            tasks.start_soon(process.run)

    async def start(self, execution_id: str, path: str) -> None:
        """What a server appends, twice now and then, as a client that repeats does."""
        entry = self.catalog.entries[path]
        genesis = Genesis(
            catalog_id=entry.catalog_id,
            path=path,
            version=1,
            workload=Raw(b"{}"),
        )
        event = Event(
            type="playbook_started",
            at=timestamp(self.clock.now()),
            status="STARTED",
            context=Raw(encode_json(genesis)),
        )
        for _ in range(self.chance.choice([1, 1, 2])):
            await self._request(execution_id, event, "start")

    async def cancel(self, execution_id: str) -> None:
        """A request to cancel."""
        event = Event(
            type="playbook.cancel_requested",
            at=timestamp(self.clock.now()),
            status="PENDING",
        )
        await self._request(execution_id, event, "cancel")

    async def _request(self, execution_id: str, event: Event, key: str) -> None:
        await self.client.log.try_append(
            shard_of(execution_id, SHARDS),
            [Record(execution_id=execution_id, events=[event])],
            message_id=f"{execution_id}:{key}",
            timeout_s=60.0,
        )

    def at_rest(self, started: Mapping[str, str]) -> bool:
        """What was started and its children are over, and the rows hold all of it."""
        everyone = {*started, *map(str, self.database.executions)}
        position = self.database.positions.get("all")
        return (
            all(self.status(eid) in TERMINAL_STATUS.values() for eid in everyone)
            and position is not None
            and position.sequence == self.broker.last
        )

    def status(self, execution_id: str) -> str:
        """As the tables have it."""
        row: Any = self.database.executions.get(int(execution_id))
        return "" if row is None else str(row.status)

    def story(self, execution_id: str) -> str:
        """What the log says of an execution, a line for each event."""
        lines = [""]
        for message in self.history:
            if message.kind == "lease":
                continue
            for record in decode_append(message.data).records:
                if record.execution_id == execution_id:
                    lines += [
                        f"{message.sequence} {event.at[14:23]} {event.type} "
                        f"{event.step} {event.command_id} {event.worker_id} "
                        f"{event.code} {event.error}"
                        for event in record.events
                    ]
        return "\n".join(lines)
