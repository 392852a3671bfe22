"""What would wait for ever does not, and says why (design §4, Backstop)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest
from doubles import Counting, ManualClock
from msgspec import Raw

from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.bus.topology import BusSettings
from noetl_worker.daemons.backstop import Backstop, BackstopPorts, BackstopSettings
from noetl_worker.daemons.owner import Owner, OwnerPorts
from noetl_worker.daemons.ownership import (
    Ownership,
    OwnershipPorts,
    OwnershipSettings,
)
from noetl_worker.daemons.playbooks import Playbooks
from noetl_worker.results.values import Values
from state_builder.drive import DriveLimits
from state_builder.ids import Shard
from state_builder.ports import CatalogEntry, Delivery
from state_builder.records import (
    Event,
    Genesis,
    Record,
    decode_append,
    encode_json,
    timestamp,
)

pytestmark = pytest.mark.anyio

HEAD = (
    "apiVersion: noetl.io/v2\nkind: Playbook\nmetadata: {name: x, path: x}\nworkflow:"
)
ONE = HEAD + "\n  - {step: start, tool: {kind: python, code: x}}\n"
LOOP = HEAD + (
    "\n  - step: start\n    loop: {in: [1, 2, 3], iterator: i, spec: {mode: sequential}}"
    "\n    tool: {kind: python, code: x}\n"
)
EID = "7000"
DAY_S = 86_400.0


@dataclass
class Owned:
    """One shard, its owner, and a backstop that looks when told."""

    text: str = ONE
    room: int = 1 << 24
    index_bytes_max: int = 1 << 24
    clock: ManualClock = field(default_factory=ManualClock)
    observer: Counting = field(default_factory=Counting)

    async def open(self, tasks: anyio.abc.TaskGroup) -> None:
        settings = BusSettings(shard_count=1, log_bytes_max=self.room)
        self.broker = MemoryBroker(self.clock, settings)
        self.broker.create(settings)
        self.bus = MemoryBus(self.broker)
        log, signals = self.bus.log, self.bus.signals
        owner = Owner(
            OwnerPorts(
                log=log,
                signals=signals,
                clock=self.clock,
                observer=self.observer,
                playbooks=Playbooks(self, self.clock),
                values=Values(MemoryResults(), self.clock, self.observer),
            ),
            tasks,
            DriveLimits(),
            1,
        )
        ownership = Ownership(
            OwnershipPorts(
                log=log,
                members=self.bus.members,
                snapshots=self.bus.blobs("s"),
                clock=self.clock,
                observer=self.observer,
            ),
            owner,
            tasks,
            OwnershipSettings(
                member="me", shard_count=1, index_bytes_max=self.index_bytes_max
            ),
            lambda owned: None,
        )
        self.shards = ownership.shards
        self.backstop = Backstop(
            BackstopPorts(
                log=log,
                commands=self.bus.commands,
                clock=self.clock,
                observer=self.observer,
                shards=ownership.shards.values,
                catch_up=ownership.catch_up,
            ),
            owner,
            BackstopSettings(lost_after_s=60.0, start_timeout_s=DAY_S),
        )
        tasks.start_soon(owner.run)
        tasks.start_soon(ownership.run)
        genesis = Genesis(catalog_id="1", path="x", version=1)
        context = Raw(encode_json(genesis))
        await self.append("playbook_started", context=context)
        await self.until("command.issued")

    async def entry(self, catalog_id: str) -> CatalogEntry:
        return CatalogEntry("1", "x", 1, "playbook", self.text)

    async def resolve(self, path: str, version: int | None) -> CatalogEntry | None:
        return None

    async def append(self, type: str, **more: Any) -> None:
        at = timestamp(self.clock.now())
        event = Event(type=type, at=at, **more)
        record = Record(execution_id=EID, events=[event])
        await self.bus.log.append(Shard(0), [record], message_id=f"{type}:{at}")

    def events(self) -> list[Event]:
        return [
            event
            for stored in self.broker.after(0)
            if stored.message.kind != "lease"
            for record in decode_append(stored.message.data).records
            for event in record.events
        ]

    async def until(self, type: str, count: int = 1) -> list[Event]:
        """Events of a type once there are so many, folded by the owner."""
        with anyio.fail_after(5):
            while True:
                found = [event for event in self.events() if event.type == type]
                owned = self.shards.get(0)
                last = self.broker.last
                if len(found) >= count and owned and owned.index.position >= last:
                    return found
                await anyio.sleep(0)

    async def take(self) -> Delivery:
        """A worker takes the command and is heard of no more."""
        async for batch in self.bus.commands.pull(["shared"], 1):
            return batch[0]
        raise AssertionError


async def test_a_command_whose_answer_got_lost_is_issued_again() -> None:
    """Acknowledged, no answer up to the log's end: the next attempt, loudly."""
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        (await owned.take()).ack()
        owned.clock.advance(59)
        await owned.backstop.look()
        assert owned.observer.counts.get("noetl_commands_lost_total", 0) == 0
        owned.clock.advance(2)
        await owned.backstop.look()
        first, second = await owned.until("command.issued", 2)
        assert (first.attempt, second.attempt) == (1, 2)
        assert second.context == first.context
        assert owned.observer.counts["noetl_commands_lost_total"] == 1
        await owned.backstop.look()
        assert owned.observer.counts["noetl_commands_lost_total"] == 1
        await owned.append("call.done", step="start", command_id=second.command_id)
        await owned.append(
            "command.completed", step="start", command_id=second.command_id
        )
        await owned.until("playbook.completed")
        tasks.cancel_scope.cancel()


async def test_a_command_still_in_its_queue_or_with_a_worker_is_not_lost() -> None:
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        owned.clock.advance(100)
        await owned.backstop.look()
        await owned.take()
        owned.clock.advance(100)
        await owned.backstop.look()
        assert owned.observer.counts.get("noetl_commands_lost_total", 0) == 0
        tasks.cancel_scope.cancel()


async def test_a_command_nobody_starts_for_a_day_fails() -> None:
    """RT-LIM-5: a dead pool cannot hold the log for ever."""
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        owned.clock.advance(DAY_S - 1)
        await owned.backstop.look()
        owned.clock.advance(1)
        await owned.backstop.look()
        (failed,) = await owned.until("command.failed")
        assert failed.code == "no_worker"
        assert "pool shared" in failed.error
        await owned.until("playbook.failed")
        tasks.cancel_scope.cancel()


async def test_a_command_that_runs_for_days_goes_on() -> None:
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        delivery = await owned.take()
        command_id = decode_append(delivery.data).records[0].events[-1].command_id
        await owned.append("command.started", step="start", command_id=command_id)
        await owned.until("command.started")
        owned.clock.advance(2 * DAY_S)
        await owned.backstop.look()
        assert "command.failed" not in [event.type for event in owned.events()]
        tasks.cancel_scope.cancel()


async def test_what_waits_for_days_is_packed_when_memory_is_short() -> None:
    """RT-IDX-10: its next event finds it, and nobody acts on it meanwhile."""
    owned = Owned(index_bytes_max=1)
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        delivery = await owned.take()
        command_id = decode_append(delivery.data).records[0].events[-1].command_id
        about: dict[str, Any] = {"step": "start", "command_id": command_id}
        await owned.append("command.started", **about)
        await owned.append("command.completed", pending=True, task="job", **about)
        await owned.until("command.completed")
        entry = owned.shards[0].index.open[EID]
        assert not entry.packed
        with anyio.fail_after(5):
            while not entry.packed:
                owned.clock.advance(31)
                await anyio.sleep(0)
        assert owned.observer.counts["noetl_limit_hits_total.index_bytes_max"] >= 1
        assert owned.observer.gauges["noetl_index_bytes"] == len(entry.packed)
        owned.clock.advance(2 * DAY_S)
        await owned.backstop.look()
        assert entry.packed
        await owned.append("call.done", status="COMPLETED", **about)
        await owned.until("playbook.completed")
        tasks.cancel_scope.cancel()


async def test_a_pool_nobody_serves_is_shown_until_somebody_does() -> None:
    """RT-AFF-1: commands stay queued, and people see why."""
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        await owned.backstop.look()
        assert "noetl_commands_unserved" not in owned.observer.gauges
        owned.clock.advance(31)
        await owned.backstop.look()
        assert owned.observer.gauges["noetl_commands_unserved"] == 1
        await owned.take()
        await owned.backstop.look()
        assert owned.observer.gauges["noetl_commands_unserved"] == 0
        tasks.cancel_scope.cancel()


async def test_loops_issue_nothing_further_while_the_log_is_nearly_full() -> None:
    """Design §4: above 90 % only results, requests, leases and ends get in."""
    owned = Owned(text=LOOP, room=20_000)
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        (first,) = await owned.until("command.issued")
        await owned.append("note", error="x" * (18_500 - owned.broker.info().bytes))
        await owned.backstop.look()
        assert owned.observer.gauges["noetl_loops_held"] == 1
        await owned.append(
            "command.completed", step="start", command_id=first.command_id
        )
        await owned.until("command.completed")
        assert len([e for e in owned.events() if e.type == "command.issued"]) == 1
        owned.broker.settings = replace(owned.broker.settings, log_bytes_max=1 << 24)
        await owned.backstop.look()
        assert owned.observer.gauges["noetl_loops_held"] == 0
        await owned.until("command.issued", 2)
        tasks.cancel_scope.cancel()
