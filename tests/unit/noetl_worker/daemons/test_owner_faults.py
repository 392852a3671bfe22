"""One execution's fault ends that execution, and stops nobody else (design §4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from doubles import Counting, ManualClock
from msgspec import Raw
from msgspec.structs import replace
from structlog.testing import capture_logs

import noetl_worker.daemons.owner as owner_module
from noetl_worker.bus.memory import MemoryBroker, MemoryBus
from noetl_worker.bus.memory.results import MemoryResults
from noetl_worker.bus.topology import BusSettings
from noetl_worker.daemons.answers import AnswerPorts, Answers
from noetl_worker.daemons.owner import Owner, OwnerPorts
from noetl_worker.daemons.ownership import (
    Ownership,
    OwnershipPorts,
    OwnershipSettings,
)
from noetl_worker.daemons.playbooks import Playbooks
from noetl_worker.daemons.snapshots import Snapshots
from noetl_worker.results.values import Values
from state_builder.drive import Decision, DriveLimits, Turn, decide
from state_builder.errors import LostDataError
from state_builder.ids import Shard
from state_builder.index import ShardIndex
from state_builder.ports import CatalogEntry, LogMessage
from state_builder.records import (
    CallMode,
    Event,
    Genesis,
    Record,
    decode_append,
    encode_json,
    timestamp,
)

pytestmark = pytest.mark.anyio

TEXT = """
apiVersion: noetl.io/v2
kind: Playbook
metadata: {name: x, path: x}
workflow: [{step: start, tool: {kind: python, code: x}}]
"""

HEAD = TEXT.partition("workflow")[0]
EMPTY = "loop: {in: [], iterator: i}, tool: {kind: noop}"
UNMATCHED = f"""{HEAD}
workflow:
  - {{step: start, {EMPTY}, next: {{spec: {{mode: inclusive}}, arcs: [
      {{step: end, when: false}}]}}}}
"""
ENDLESS = f"""{HEAD}
workflow: [{{step: start, {EMPTY}, next: start}}]
"""


@dataclass
class Owned:
    """One shard and its owner."""

    clock: ManualClock = field(default_factory=ManualClock)
    missing: bool = False
    text: str = TEXT
    observer: Counting = field(default_factory=Counting)
    limits: DriveLimits = field(default_factory=DriveLimits)

    async def open(self, tasks: anyio.abc.TaskGroup) -> None:
        settings = BusSettings(shard_count=1)
        self.broker = MemoryBroker(self.clock, settings)
        self.broker.create(settings)
        self.bus = MemoryBus(self.broker)
        observer = self.observer
        self.owner = Owner(
            OwnerPorts(
                log=self.bus.log,
                signals=self.bus.signals,
                clock=self.clock,
                observer=observer,
                playbooks=Playbooks(self, self.clock),
                values=Values(MemoryResults(), self.clock, observer),
            ),
            tasks,
            self.limits,
            1,
        )
        ports = OwnershipPorts(
            log=self.bus.log,
            members=self.bus.members,
            snapshots=self.bus.blobs("s"),
            clock=self.clock,
            observer=observer,
        )
        settings_of = OwnershipSettings(member="me", shard_count=1)
        self.ownership = Ownership(
            ports, self.owner, tasks, settings_of, lambda owned: None
        )
        tasks.start_soon(self.owner.run)
        tasks.start_soon(self.ownership.run)

    async def entry(self, catalog_id: str) -> CatalogEntry | None:
        if self.missing and catalog_id == "1":
            return None
        return CatalogEntry(catalog_id, "x", 1, "playbook", self.text)

    async def resolve(self, path: str, version: int | None) -> CatalogEntry | None:
        return None

    async def start(self, execution_id: str, **more: object) -> None:
        genesis = Genesis(catalog_id="1", path="x", version=1, **more)  # type: ignore[arg-type]
        event = Event(
            type="playbook_started",
            at=timestamp(self.clock.now()),
            context=Raw(encode_json(genesis)),
        )
        record = Record(execution_id=execution_id, events=[event])
        await self.bus.log.append(Shard(0), [record], message_id=execution_id)

    def records(self, execution_id: str) -> list[Event]:
        return [
            event
            for stored in self.broker.after(0)
            if stored.message.kind != "lease"
            for record in decode_append(stored.message.data).records
            if record.execution_id == execution_id
            for event in record.events
        ]

    async def until(self, execution_id: str, type: str) -> Event:
        with anyio.fail_after(5):
            while True:
                for event in self.records(execution_id):
                    if event.type == type:
                        return event
                await anyio.sleep(0)


def _broken(turn: Turn) -> Decision | None:
    if turn.state.execution_id == "7001":
        raise KeyError("a fault of ours")
    return decide(turn)


async def test_a_fault_in_one_decision_ends_that_execution_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner_module, "decide", _broken)
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        await owned.start("7001")
        ended = await owned.until("7001", "playbook.failed")
        assert ended.code == "internal" and "a fault of ours" in ended.error
        await owned.start("7002")
        await owned.until("7002", "command.issued")
        tasks.cancel_scope.cancel()


async def test_a_fault_while_something_is_looked_up_ends_that_execution_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(catalog_id: str) -> CatalogEntry | None:
        if catalog_id == "1" and not owned.records("7002"):
            raise RuntimeError("an answer nobody can read")
        return CatalogEntry(catalog_id, "x", 1, "playbook", TEXT)

    owned = Owned()
    monkeypatch.setattr(owned, "entry", broken)
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        await owned.start("7001")
        ended = await owned.until("7001", "playbook.failed")
        assert ended.code == "internal" and "nobody can read" in ended.error
        await owned.start("7002")
        await owned.until("7002", "command.issued")
        tasks.cancel_scope.cancel()


def _unwritable(turn: Turn) -> Decision | None:
    decision = decide(turn)
    if decision is not None and turn.state.execution_id == "7001":
        unwritable = [replace(each, error="\ud83d") for each in decision.events]
        decision.events = unwritable
    return decision


async def test_a_pass_no_message_can_hold_ends_that_execution_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RT-LIM-2: refused before it is sent, and its owner goes on."""
    monkeypatch.setattr(owner_module, "decide", _unwritable)
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        await owned.start("7001")
        ended = await owned.until("7001", "playbook.failed")
        assert "cannot be written as JSON" in ended.error
        await owned.start("7002")
        await owned.until("7002", "command.issued")
        tasks.cancel_scope.cancel()


ISSUED = "7001.start.1.1"


@pytest.mark.parametrize(
    "wrong",
    [
        Event(type="step.enter", step="start", visit=2, context=Raw(b'{"items": 7}')),
        Event(type="step.exit", step="start", visit=1, context=Raw(b"[]")),
        Event(type="step.skipped", step="start", context=Raw(b'"x"')),
        Event(type="ctx.updated", step="start", context=Raw(b"{}")),
        Event(type="command.issued", kind="playbook", step="start", visit=1),
        Event(type="call.done", command_id=ISSUED, result=Raw(b'{"status": 1}')),
        Event(
            type="call.done",
            command_id=ISSUED,
            result=Raw(b'{"status": "ok", "context": {"updates": [1]}}'),
        ),
    ],
    ids=lambda event: event.type,
)
async def test_an_event_nobody_can_read_ends_its_execution_alone(wrong: Event) -> None:
    """RT-NATS-46: whoever wrote it, the shard goes on and its workers are told."""
    owned = Owned()
    told: list[str] = []
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        await owned.bus.signals.on_cancelled(told.append)
        await owned.start("7001")
        issued = await owned.until("7001", "command.issued")
        assert issued.command_id == ISSUED
        record = Record(execution_id="7001", events=[wrong])
        await owned.bus.log.append(Shard(0), [record], message_id="wrong")
        ended = await owned.until("7001", "playbook.failed")
        assert ended.code == "damaged"
        assert f"({wrong.type}) cannot be read" in ended.error
        await owned.start("7002")
        await owned.until("7002", "command.issued")
        assert told == ["7001"]
        assert owned.observer.counts["noetl_log_damaged_total.event"] == 1
        tasks.cancel_scope.cancel()


async def test_a_beginning_nobody_can_read_ends_its_execution_alone() -> None:
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        wrong = Event(type="playbook_started", context=Raw(b'{"path": 1}'))
        record = Record(execution_id="7001", events=[wrong])
        await owned.bus.log.append(Shard(0), [record], message_id="wrong")
        assert (await owned.until("7001", "playbook.failed")).code == "damaged"
        await owned.start("7002")
        await owned.until("7002", "command.issued")
        tasks.cancel_scope.cancel()


async def test_a_message_nobody_can_read_is_passed_over_and_counted() -> None:
    """RT-NATS-46."""
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        with anyio.fail_after(5):
            while not owned.ownership.ready:
                await anyio.sleep(0)
        shard = owned.ownership.shards[0]
        lost = LogMessage(shard.index.position + 1, Shard(0), "events", b"{", 0.0)
        owned.owner.read({0: shard}, [lost])
        assert owned.observer.counts["noetl_log_damaged_total.message"] == 1
        newer = LogMessage(shard.epoch + 5, Shard(0), "lease", b"{", 0.0)
        shard.renewing = True
        owned.owner.read({0: shard}, [newer])
        assert shard.lost
        tasks.cancel_scope.cancel()


async def test_workers_are_told_of_an_execution_that_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RT-WRK-13: what still runs for it is stopped."""
    owned = Owned()
    told: list[str] = []
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        await owned.bus.signals.on_cancelled(told.append)
        await owned.start("7001")
        await owned.until("7001", "command.issued")
        monkeypatch.setattr(owner_module, "decide", _broken)
        request = Event(type="playbook.cancel_requested", status="PENDING")
        record = Record(execution_id="7001", events=[request])
        await owned.bus.log.append(Shard(0), [record], message_id="cancel")
        assert (await owned.until("7001", "playbook.failed")).code == "internal"
        with anyio.fail_after(5):
            while told != ["7001"]:
                await anyio.sleep(0)
        tasks.cancel_scope.cancel()


async def test_a_step_whose_arcs_lead_nowhere_is_told_unless_it_is_quiet() -> None:
    """PB-320."""
    owned = Owned()
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            await owned.open(tasks)
            owned.text = UNMATCHED
            await owned.start("7001")
            await owned.until("7001", "playbook.completed")
            tasks.cancel_scope.cancel()
    told = [one["step"] for one in logs if one["event"] == "step.unmatched"]
    assert told == ["start"]


async def test_servers_are_told_where_an_end_is() -> None:
    owned = Owned(missing=True)
    told: list[tuple[str, int]] = []
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        await owned.bus.signals.on_ended(lambda eid, place: told.append((eid, place)))
        await owned.start("7001")
        await owned.until("7001", "playbook.failed")
        with anyio.fail_after(5):
            while not told:
                await anyio.sleep(0)
        tasks.cancel_scope.cancel()
    ((eid, place),) = told
    message = next(owned.broker.after(place - 1)).message
    (record,) = decode_append(message.data).records
    assert (eid, record.events[-1].type) == ("7001", "playbook.failed")


async def test_a_limit_that_ends_an_execution_is_counted() -> None:
    """RT-LIM-1."""
    owned = Owned(text=ENDLESS, limits=DriveLimits(visits_max=20))
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        await owned.start("7001")
        ended = await owned.until("7001", "playbook.failed")
        assert "visits_per_step" in ended.error
        assert owned.observer.counts["noetl_limit_hits_total.visits_per_step"] == 1
        tasks.cancel_scope.cancel()


async def test_a_child_that_cannot_go_on_answers_its_parent() -> None:
    """PB-603: a parent never waits for a child that has ended, however it ended."""
    owned = Owned(missing=True)
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        await owned.start(
            "7001",
            parent_execution_id="7000",
            parent_command_id="7000.start.1.1",
            call=CallMode(),
        )
        ended = await owned.until("7001", "playbook.failed")
        assert ended.code == "playbook_missing"
        (answer,) = owned.records("7000")
        assert answer.command_id == "7000.start.1.1" and answer.status == "FAILED"
        assert "no catalog entry 1" in answer.error
        tasks.cancel_scope.cancel()


async def test_who_waits_for_a_shard_is_woken_when_it_is_lost() -> None:
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        with anyio.fail_after(5):
            while not owned.ownership.ready:
                await anyio.sleep(0)
        shard = owned.ownership.shards[0]
        shard.epoch += 100
        shard.renewing = True
        told: list[bool] = []

        async def wait() -> None:
            told.append(await owned.ownership.catch_up(shard))

        tasks.start_soon(wait)
        with anyio.fail_after(5):
            while not owned.owner.watchers:
                await anyio.sleep(0)
            owned.owner.lose(shard, "another life")
            while not told:
                await anyio.sleep(0)
        assert told == [False]
        tasks.cancel_scope.cancel()


async def test_a_lease_being_renewed_is_nobody_elses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever is asked meanwhile is silent; he does not give up his shard."""
    owned = Owned()
    async with anyio.create_task_group() as tasks:
        await owned.open(tasks)
        with anyio.fail_after(5):
            while not owned.ownership.ready:
                await anyio.sleep(0)
        shard = owned.ownership.shards[0]

        answers: list[Any] = []
        newest = [shard.epoch + 1, shard.epoch - 1, shard.epoch + 1]

        async def lease(number: Shard) -> int:
            return newest.pop(0)

        async def hear(number: Shard, answer: Any) -> object:
            answers.append(answer)
            return None

        monkeypatch.setattr(owned.bus.log, "lease_sequence", lease)
        monkeypatch.setattr(owned.bus.signals, "answer", hear)
        ports = AnswerPorts(
            log=owned.bus.log, signals=owned.bus.signals, clock=owned.clock
        )
        await Answers(ports, owned.owner).open(shard)
        for renewing, lost in ((True, False), (False, False), (False, True)):
            shard.renewing = renewing
            assert await answers[0]({"kind": "command"}) is None
            assert shard.lost is lost
        tasks.cancel_scope.cancel()


async def test_a_damaged_snapshot_gives_way_to_the_one_before() -> None:
    """RT-IDX-4: whether its checksum or the store itself finds the damage."""
    clock = ManualClock()
    settings = BusSettings(shard_count=1)
    broker = MemoryBroker(clock, settings)
    broker.create(settings)
    bus = MemoryBus(broker)
    blobs = bus.blobs("s")
    index = ShardIndex(0, 0)
    older = await Snapshots(blobs, Counting()).write(index, 0)
    newer = await Snapshots(blobs, Counting()).write(index, 1)

    class Damaged(type(blobs)):  # type: ignore[misc]
        async def get(self, name: str) -> bytes | None:
            if name == str(newer):
                raise LostDataError("object is damaged")
            found: bytes | None = await blobs.get(name)
            return found

        async def names(self, prefix: str) -> list[str]:
            return [str(older), str(newer)]

    damaged = Damaged.__new__(Damaged)
    restored = await Snapshots(damaged, Counting()).restore(0, await bus.log.info())
    assert restored is not None and restored.position == 0
