"""What the log lost comes back from the rows as it was (RT-IDX-6)."""

from __future__ import annotations

import anyio
import pytest
from doubles import Counting
from world import EXECUTION, World

from materializer.daemon import Materializer, MaterializerPorts, MaterializerSettings
from materializer.memory import MemoryDatabase, MemoryReader, MemoryRows
from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.topology import BusSettings
from noetl_worker.daemons.repair import Repair, Repaired, RepairPorts
from noetl_worker.daemons.snapshots import Snapshots
from noetl_worker.lifecycle import SystemClock
from state_builder.ids import Shard
from state_builder.records import encode_json

pytestmark = pytest.mark.anyio

SETTINGS = BusSettings(shard_count=1)
TEXT = """
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: x, path: x}
workload: {n: 1}
workflow:
  - step: start
    tool: {kind: python, code: x}
    set: {seen: "{{ start.a }}"}
    next: [left, right]
  - step: left
    loop: {in: [1, 2, 3], iterator: i, spec: {mode: parallel, max_in_flight: 2}}
    tool: {kind: python, code: x}
    next: both
  - {step: right, tool: {kind: python, code: x}, next: both}
  - {step: both, tool: {kind: noop}}
"""


class Lost:
    """An execution part of the way, in rows; and a log that may have lost it."""

    def __init__(self, finished: int) -> None:
        self.clock = SystemClock()
        self.observer = Counting()
        self.database = MemoryDatabase(self.clock)
        self.world = World(TEXT, answers={"start": {"a": 7}})
        self.world.start()
        self.world.settle()
        for _ in range(finished):
            self.world.finish(*self.world.ready()[0])
            self.world.settle()

    def broker(self, generation: int = 0, keep: bool = False) -> MemoryBroker:
        """A broker, with the messages of the execution if it kept them."""
        broker = MemoryBroker(self.clock, SETTINGS)
        broker.create(SETTINGS)
        broker.generation = generation
        for message in self.world.log if keep else []:
            broker.store((Shard(0), message.kind, ""), message.data, message_id="")
        return broker

    async def materialize(self) -> None:
        """The rows, out of the log as it was."""
        bus = MemoryBus(self.broker(keep=True))
        ports = MaterializerPorts(
            log=bus.log,
            rows=MemoryRows(self.database),
            clock=self.clock,
            observer=self.observer,
            settle=anyio.lowlevel.checkpoint,
        )
        daemon = Materializer(ports, MaterializerSettings())
        last = len(self.world.log)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.run, anyio.Event())
            with anyio.fail_after(5):
                while daemon.position is None or daemon.position.sequence < last:
                    await anyio.sleep(0)
            tasks.cancel_scope.cancel()

    async def repair(self, broker: MemoryBroker, *, dry: bool = False) -> Repaired:
        bus = MemoryBus(broker)
        ports = RepairPorts(
            log=bus.log,
            snapshots=bus.blobs("s"),
            rows=MemoryReader(self.database),
            clock=self.clock,
            observer=self.observer,
        )
        with anyio.fail_after(5):
            return await Repair(ports).run(dry=dry)


@pytest.mark.parametrize("finished", range(6))
async def test_an_execution_comes_back_as_it_was(finished: int) -> None:
    """Folded from its rows it is what its owner had folded from the log."""
    lost = Lost(finished)
    await lost.materialize()
    broker = lost.broker(generation=1)
    found = await lost.repair(broker)
    if lost.world.terminal is not None:
        assert found.open == 0
        return
    assert found.restored == [EXECUTION]
    bus = MemoryBus(broker)
    snapshots = Snapshots(bus.blobs("s"), lost.observer)
    index = await snapshots.restore(0, await bus.log.info())
    assert index is not None
    restored = index.open[EXECUTION].state
    assert encode_json(restored) == encode_json(lost.world.index.open[EXECUTION].state)
    # Its next owner needs nothing of the old log.
    assert index.needed(index.position) == index.position + 1


async def test_what_the_log_still_has_is_left_alone() -> None:
    lost = Lost(1)
    await lost.materialize()
    broker = lost.broker(keep=True)
    found = await lost.repair(broker)
    assert (found.open, found.missing) == (1, [])
    assert broker.lease(Shard(0)) == 0, "no owner was sent away"


async def test_repairing_twice_changes_nothing() -> None:
    lost = Lost(1)
    await lost.materialize()
    broker = lost.broker(generation=1)
    await lost.repair(broker)
    last = broker.last
    found = await lost.repair(broker)
    assert (found.missing, broker.last) == ([], last)


async def test_looking_only_changes_nothing() -> None:
    lost = Lost(1)
    await lost.materialize()
    broker = lost.broker(generation=1)
    found = await lost.repair(broker, dry=True)
    assert (found.missing, found.restored) == ([EXECUTION], [])
    assert broker.last == 0
    assert not broker.buckets.get("s")


async def test_an_execution_without_a_beginning_is_named() -> None:
    lost = Lost(1)
    await lost.materialize()
    rows = lost.database.events[int(EXECUTION)]
    del rows[min(rows)]
    found = await lost.repair(lost.broker(generation=1))
    assert (found.restored, found.beyond_repair) == ([], [EXECUTION])
